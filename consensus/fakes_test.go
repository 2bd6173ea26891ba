package consensus

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/parley-mesh/parley/clock"
)

// image is what a log holds: in memory of the disk, or on its platter.
type image struct {
	base, baseTerm uint64
	chains         [][32]byte // chains[i] is at base+i
	entries        []*raftpb.Entry
	hard           *raftpb.HardState
}

func (i image) clone() image {
	i.chains, i.entries = slices.Clone(i.chains), slices.Clone(i.entries)
	return i
}

func (i image) last() uint64 { return i.base + uint64(len(i.entries)) }

// fakeLog is a Log whose unsynced writes can be lost.
type fakeLog struct {
	mu       sync.Mutex
	now      image
	synced   image
	appends  int
	syncs    int
	largest  int // entries in one append
	settled  int
	fail     func() error
	onAppend atomic.Pointer[func()] // called before each append, without mu
}

// before makes f run before each append; nil ends that.
func (l *fakeLog) before(f func()) {
	if f == nil {
		l.onAppend.Store(nil)
		return
	}
	l.onAppend.Store(&f)
}

func newFakeLog() *fakeLog {
	i := image{chains: make([][32]byte, 1)}
	return &fakeLog{now: i, synced: i.clone()}
}

func (l *fakeLog) Append(entries []*raftpb.Entry, hs *raftpb.HardState, sync bool) error {
	if f := l.onAppend.Load(); f != nil {
		(*f)()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		if err := l.fail(); err != nil {
			return err
		}
	}
	l.appends++
	l.largest = max(l.largest, len(entries))
	for _, e := range entries {
		at := e.GetIndex() - l.now.base
		if e.GetIndex() <= l.now.base || at > uint64(len(l.now.entries))+1 {
			return fmt.Errorf("append of %d to a log of (%d,%d]", e.GetIndex(), l.now.base, l.now.last())
		}
		l.now.entries = append(l.now.entries[:at-1:at-1], e)
		l.now.chains = append(l.now.chains[:at:at], link(l.now.chains[at-1], e))
	}
	if hs != nil {
		l.now.hard = hs
	}
	if sync {
		l.syncs++
		l.synced = l.now.clone()
	}
	return nil
}

func link(prev [32]byte, e *raftpb.Entry) [32]byte {
	b := binary.BigEndian.AppendUint64(prev[:], e.GetTerm())
	b = binary.BigEndian.AppendUint64(b, e.GetIndex())
	return sha256.Sum256(append(append(b, byte(e.GetType())), e.GetData()...))
}

func (l *fakeLog) Chain(index uint64) ([32]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if index < l.now.base || index > l.now.last() {
		return [32]byte{}, false
	}
	return l.now.chains[index-l.now.base], true
}

func (l *fakeLog) Compact(index uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range []*image{&l.now, &l.synced} {
		if n := index - i.base; index > i.base && n <= uint64(len(i.entries)) {
			i.baseTerm = i.entries[n-1].GetTerm()
			i.base, i.entries, i.chains = index, slices.Clone(i.entries[n:]), slices.Clone(i.chains[n:])
		}
	}
	return nil
}

func (l *fakeLog) Settled() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settled++
	return nil
}

func (l *fakeLog) Reset(index, term uint64, chain [32]byte, hs *raftpb.HardState) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if hs == nil {
		hs = l.now.hard
	}
	l.now = image{base: index, baseTerm: term, chains: [][32]byte{chain}, hard: hs}
	l.synced = l.now.clone()
	return nil
}

// crash loses what was not synced, or keeps it: both happen.
func (l *fakeLog) crash(loseTail bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if loseTail {
		l.now = l.synced.clone()
	} else {
		l.synced = l.now.clone()
	}
}

func (l *fakeLog) counts() (appends, syncs, largest int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.appends, l.syncs, l.largest
}

func (l *fakeLog) recovered(s *fakeSnapshots) Recovered {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := Recovered{FirstIndex: l.now.base + 1, PrevTerm: l.now.baseTerm, Entries: slices.Clone(l.now.entries), HardState: proto.CloneOf(l.now.hard)}
	if ref, ok := s.latest(); ok {
		r.Snapshot = &ref
	}
	return r
}

// fakeSnapshots keeps snapshots in memory; a manifest is JSON with the hash of the data.
type fakeSnapshots struct {
	mu    sync.Mutex
	data  map[[32]byte][]byte
	refs  []SnapshotRef
	saves int
	fail  error
}

type fakeManifest struct {
	Index, Term uint64
	Chain       [32]byte
	ConfState   []byte
	Hash        [32]byte
}

func newFakeSnapshots() *fakeSnapshots { return &fakeSnapshots{data: make(map[[32]byte][]byte)} }

func (s *fakeSnapshots) Save(ref SnapshotRef, write func(io.Writer) error) ([]byte, error) {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return nil, s.fail
	}
	cs, err := proto.Marshal(ref.ConfState)
	if err != nil {
		return nil, err
	}
	m := fakeManifest{Index: ref.Index, Term: ref.Term, Chain: ref.Chain, ConfState: cs, Hash: sha256.Sum256(b.Bytes())}
	if ref.Manifest, err = json.Marshal(m); err != nil {
		return nil, err
	}
	s.data[m.Hash] = b.Bytes()
	s.saves++
	s.keep(ref)
	return ref.Manifest, nil
}

func (s *fakeSnapshots) keep(ref SnapshotRef) {
	s.refs = append(s.refs, ref)
	slices.SortFunc(s.refs, func(a, b SnapshotRef) int { return int(a.Index) - int(b.Index) })
}

func (s *fakeSnapshots) latest() (SnapshotRef, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.refs) == 0 {
		return SnapshotRef{}, false
	}
	return s.refs[len(s.refs)-1], true
}

func (s *fakeSnapshots) Parse(manifest []byte) (SnapshotRef, error) {
	var m fakeManifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return SnapshotRef{}, err
	}
	cs := &raftpb.ConfState{}
	if err := proto.Unmarshal(m.ConfState, cs); err != nil {
		return SnapshotRef{}, err
	}
	return SnapshotRef{Index: m.Index, Term: m.Term, Chain: m.Chain, ConfState: cs, Manifest: manifest}, nil
}

func (s *fakeSnapshots) Open(manifest []byte) (io.ReadCloser, error) {
	var m fakeManifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return nil, err
	}
	b, err := s.chunk(m.Hash)
	return io.NopCloser(bytes.NewReader(b)), err
}

func (s *fakeSnapshots) chunk(hash [32]byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.data[hash]
	if !ok {
		return nil, errors.New("no such chunk")
	}
	return b, nil
}

func (s *fakeSnapshots) Install(ctx context.Context, manifest []byte, fetch func(context.Context, [32]byte) ([]byte, error)) error {
	ref, err := s.Parse(manifest)
	if err != nil {
		return err
	}
	var m fakeManifest
	_ = json.Unmarshal(manifest, &m) // Parse did
	b, err := fetch(ctx, m.Hash)
	if err != nil {
		return err
	}
	if sha256.Sum256(b) != m.Hash {
		return errors.New("chunk does not match its hash")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data[m.Hash] = b
	s.keep(ref)
	return nil
}

// fakeMachine is a map that remembers what was applied where.
type fakeMachine struct {
	mu      sync.Mutex
	state   machineState
	applied []string // "index/term command", since the last restore
	refuse  string   // a command that is unknown
}

type machineState struct {
	Index, Term uint64
	Stamp       clock.Stamp
	Values      map[string]string
	Digest      [32]byte // over all commands ever applied, in order
}

func newFakeMachine() *fakeMachine {
	return &fakeMachine{state: machineState{Values: make(map[string]string)}}
}

func (m *fakeMachine) Apply(index, term uint64, at clock.Stamp, commands [][]byte) ([][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if index != m.state.Index+1 {
		return nil, fmt.Errorf("entry %d after %d", index, m.state.Index)
	}
	var results [][]byte
	for _, c := range commands {
		if m.refuse != "" && string(c) == m.refuse {
			return nil, fmt.Errorf("unknown command %q", c)
		}
	}
	for _, c := range commands {
		if string(c) == "panic" {
			panic("poison")
		}
		key, value, _ := strings.Cut(string(c), "=")
		m.state.Values[key] = value
		m.state.Digest = sha256.Sum256(append(append(m.state.Digest[:], byte(index)), c...))
		m.applied = append(m.applied, fmt.Sprintf("%d/%d %s", index, term, c))
		results = append(results, append([]byte("did "), c...))
	}
	m.state.Index, m.state.Term = index, term
	if at > 0 {
		if at <= m.state.Stamp {
			return nil, fmt.Errorf("stamp %v after %v", at, m.state.Stamp)
		}
		m.state.Stamp = at
	}
	return results, nil
}

func (m *fakeMachine) Capture() func(io.Writer) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state
	s.Values = maps.Clone(s.Values)
	return func(w io.Writer) error { return json.NewEncoder(w).Encode(s) }
}

func (m *fakeMachine) Restore(r io.Reader, index, term uint64) error {
	s := machineState{}
	if err := json.NewDecoder(r).Decode(&s); err != nil {
		return err
	}
	if s.Index != index {
		return fmt.Errorf("snapshot of %d holds %d", index, s.Index)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state, m.applied = s, nil
	return nil
}

func (m *fakeMachine) stamp() clock.Stamp {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Stamp
}

func (m *fakeMachine) get(key string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Values[key]
}

func (m *fakeMachine) view() machineState {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state
	s.Values = maps.Clone(s.Values)
	return s
}

// genesis gives the first voters' disks a snapshot at index 1 that names them.
func genesis(log *fakeLog, snaps *fakeSnapshots, voters ...uint64) error {
	ref := SnapshotRef{Index: 1, Term: 1, ConfState: &raftpb.ConfState{Voters: voters, AutoLeave: new(false)}}
	state := machineState{Index: 1, Term: 1, Values: map[string]string{}}
	if _, err := snaps.Save(ref, func(w io.Writer) error { return json.NewEncoder(w).Encode(state) }); err != nil {
		return err
	}
	snaps.saves = 0
	return log.Reset(1, 1, [32]byte{}, &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(1))})
}
