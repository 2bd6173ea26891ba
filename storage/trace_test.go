package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// The trace: a fixed program of appends, overwrites, rolls, snapshots, compactions and a reset that
// runs on a Mem, beside a model of what was acknowledged.

const (
	traceSegment = 8 * pageBytes
	traceSteps   = 76
	dataDir      = "/data"
)

var traceCluster = [16]byte{1, 2, 3}

// logState is what a log may be found to hold.
type logState struct {
	base      uint64 // entries begin after it
	compacted uint64 // the log may begin anywhere from base to here
	entries   []*raftpb.Entry
	hard      hardState
}

func (s logState) last() uint64 { return s.base + uint64(len(s.entries)) }

// snapState is the newest snapshot; index 0 is none.
type snapState struct {
	index uint64
	body  string
}

// world runs the trace and knows what recovery may find.
type world struct {
	fs    *Mem
	log   *Log
	snaps *Snapshots

	// history has every state the log was in or was asked to go to; from allowed on it may be found
	// after an honest crash. From anchored on it may be found whatever the disk did, short of a lie
	// about the anchor itself.
	history  []logState
	allowed  int
	anchored int

	snapHistory []snapState
	snapAllowed int
}

func logOptions(fsys FS) LogOptions {
	return LogOptions{FS: fsys, Dir: dataDir, ClusterID: traceCluster, RaftID: 7, SegmentBytes: traceSegment}
}

func snapOptions(fsys FS) SnapshotOptions {
	return SnapshotOptions{FS: fsys, Dir: dataDir, ClusterID: traceCluster, chunkBytes: 256}
}

func newWorld(fsys *Mem) *world {
	return &world{fs: fsys, history: []logState{{}}, snapHistory: []snapState{{}}}
}

// run opens everything and runs the trace until an error, which it returns. With retry a step that
// found no space is made once more.
func (w *world) run(retry bool) (err error) {
	if err := w.again(retry, func() (err error) { w.log, _, err = OpenLog(logOptions(w.fs)); return err }); err != nil {
		return err
	}
	if err := w.again(retry, func() (err error) { w.snaps, err = OpenSnapshots(snapOptions(w.fs)); return err }); err != nil {
		return err
	}
	for step := range traceSteps {
		random := rand.New(rand.NewPCG(uint64(step), 42))
		if err := w.step(step, random, retry); err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
	}
	if err := w.again(retry, w.log.Close); err != nil {
		return err
	}
	w.allowed = len(w.history) - 1
	w.anchored = w.allowed
	return nil
}

func (w *world) again(retry bool, call func() error) error {
	err := call()
	if retry && errors.Is(err, ErrNoSpace) {
		return call()
	}
	return err
}

// step does one thing. What it does depends on the number alone.
func (w *world) step(step int, random *rand.Rand, retry bool) error {
	now := w.history[len(w.history)-1]
	switch {
	case step == 50:
		return w.install(now.last()+10, retry)
	case step%19 == 11:
		return w.snapshot(now.last()-1, retry)
	case step%6 == 4:
		if err := w.again(retry, w.log.syncAnchor); err != nil {
			return err
		}
		w.anchored = w.allowed
		return nil
	case step%17 == 9:
		return w.append(now, hardState{now.hard.term + 1, 3, now.hard.commit}, nil, true, retry)
	case step%13 == 8 && len(now.entries) > 2: // a new leader overwrites the tail
		next := now
		next.entries = slices.Clone(now.entries[:len(now.entries)-2])
		return w.append(next, hardState{now.hard.term + 1, 2, now.hard.commit}, random, true, retry)
	}
	return w.append(now, hardState{max(now.hard.term, 1), now.hard.vote, now.last()}, random, step%5 != 0, retry)
}

// append adds entries (none without random) to state and gives them to the log.
func (w *world) append(state logState, hard hardState, random *rand.Rand, sync, retry bool) error {
	var added []*raftpb.Entry
	if random != nil {
		for i := range 1 + random.IntN(3) {
			data := bytes.Repeat([]byte{byte(random.Uint32())}, random.IntN(4000))
			added = append(added, newEntry(hard.term, state.last()+1+uint64(i), data))
		}
	}
	next := logState{state.base, state.compacted, append(slices.Clip(state.entries), added...), hard}
	w.history = append(w.history, next)
	hs := &raftpb.HardState{Term: &hard.term, Vote: &hard.vote, Commit: &hard.commit}
	if err := w.again(retry, func() error { return w.log.Append(added, hs, sync) }); err != nil {
		return err
	}
	if sync {
		w.allowed = len(w.history) - 1
	}
	return nil
}

func newEntry(term, index uint64, data []byte) *raftpb.Entry {
	return &raftpb.Entry{Term: &term, Index: &index, Type: raftpb.EntryNormal.Enum(), Data: data}
}

func body(index uint64) string {
	random := rand.New(rand.NewPCG(index, 1))
	text := bytes.Repeat([]byte("the same beginning "), 20) // shared chunks
	for range 500 {
		text = append(text, byte(random.Uint32()))
	}
	return string(text)
}

func writeBody(index uint64) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, body(index)); return err }
}

func testMeta(index uint64, chain [32]byte) SnapshotMeta {
	return SnapshotMeta{Index: index, Term: 1, Chain: chain, ConfState: &raftpb.ConfState{Voters: []uint64{7}}}
}

func (w *world) snapshot(index uint64, retry bool) error {
	chain, ok := w.log.Chain(index)
	if !ok {
		return fmt.Errorf("no chain at %d", index)
	}
	w.snapHistory = append(w.snapHistory, snapState{index, body(index)})
	err := w.again(retry, func() error { _, err := w.snaps.Save(testMeta(index, chain), writeBody(index)); return err })
	if err != nil {
		return err
	}
	w.snapAllowed = len(w.snapHistory) - 1
	next := w.history[len(w.history)-1]
	next.compacted = index
	w.history = append(w.history, next)
	for i, state := range w.history { // the same content, of which more may be gone
		if state.base <= index {
			w.history[i].compacted = index
		}
	}
	return w.again(retry, func() error { return w.log.Compact(index) })
}

// install takes over the snapshot of a peer and resets the log to it.
func (w *world) install(index uint64, retry bool) error {
	peer, err := OpenSnapshots(snapOptions(NewMem()))
	if err != nil {
		return err
	}
	chain := [32]byte{9}
	manifest, err := peer.Save(testMeta(index, chain), writeBody(index))
	if err != nil {
		return err
	}
	w.snapHistory = append(w.snapHistory, snapState{index, body(index)})
	fetch := func(_ context.Context, name [32]byte) ([]byte, error) { return peer.Chunk(name) }
	if err := w.again(retry, func() error { return w.snaps.Install(context.Background(), manifest, fetch) }); err != nil {
		return err
	}
	w.snapAllowed = len(w.snapHistory) - 1
	hard := w.history[len(w.history)-1].hard
	hard.commit = index
	w.history = append(w.history, logState{base: index, compacted: index, hard: hard})
	hs := &raftpb.HardState{Term: &hard.term, Vote: &hard.vote, Commit: &hard.commit}
	if err := w.again(retry, func() error { return w.log.Reset(index, 1, chain, hs) }); err != nil {
		return err
	}
	w.allowed = len(w.history) - 1
	return nil
}

// found is what a start of the agent sees on a disk.
type found struct {
	recovered Recovered
	logErr    error
	meta      SnapshotMeta
	body      string
	snapErr   error
}

func restart(fsys *Mem) (f found) {
	log, recovered, err := OpenLog(logOptions(fsys))
	f.recovered, f.logErr = recovered, err
	if err == nil {
		_ = log.closeFiles()
	}
	snaps, err := OpenSnapshots(snapOptions(fsys))
	if err != nil {
		f.snapErr = err
		return f
	}
	meta, manifest, ok := snaps.Latest()
	if !ok {
		return f
	}
	f.meta = meta
	r, err := snaps.Open(manifest)
	if err != nil {
		f.snapErr = err
		return f
	}
	content, err := io.ReadAll(r)
	f.body, f.snapErr = string(content), errors.Join(err, r.Close())
	return f
}

// matchLog returns the latest state of the history, from on, that was found; -1 for none.
func (w *world) matchLog(r Recovered, from int) int {
	for i := len(w.history) - 1; i >= from; i-- {
		if w.history[i].matches(r) {
			return i
		}
	}
	return -1
}

func (s logState) matches(r Recovered) bool {
	var hard hardState
	if h := r.HardState; h != nil {
		hard = hardState{h.GetTerm(), h.GetVote(), h.GetCommit()}
	}
	if hard != s.hard || r.LastIndex != s.last() || r.FirstIndex <= s.base || r.FirstIndex > max(s.compacted, s.base)+1 {
		return false
	}
	if uint64(len(r.Entries)) != r.LastIndex+1-r.FirstIndex {
		return false
	}
	for _, entry := range r.Entries {
		want := s.entries[entry.GetIndex()-s.base-1]
		if entry.GetTerm() != want.GetTerm() || entry.GetIndex() != want.GetIndex() || !bytes.Equal(entry.GetData(), want.GetData()) {
			return false
		}
	}
	return true
}

func (w *world) matchSnap(f found, from int) int {
	for i := len(w.snapHistory) - 1; i >= from; i-- {
		if s := w.snapHistory[i]; s.index == f.meta.Index && s.body == f.body {
			return i
		}
	}
	return -1
}

// mustHold fails unless a restart on fsys finds all that was acknowledged, and nothing else.
func (w *world) mustHold(t *testing.T, fsys *Mem, what string) {
	t.Helper()
	f := restart(fsys)
	if f.logErr != nil || f.snapErr != nil {
		t.Fatalf("%s: log %v, snapshot %v", what, f.logErr, f.snapErr)
	}
	if w.matchLog(f.recovered, w.allowed) < 0 {
		t.Fatalf("%s: found entries %d to %d, hard state %v; want one of %s", what,
			f.recovered.FirstIndex, f.recovered.LastIndex, f.recovered.HardState, w.describe())
	}
	if w.matchSnap(f, w.snapAllowed) < 0 {
		t.Fatalf("%s: found snapshot %d (%d bytes), want one of %d", what, f.meta.Index, len(f.body), w.snapHistory[w.snapAllowed].index)
	}
}

func (w *world) describe() (text string) {
	for _, s := range w.history[w.allowed:] {
		text += fmt.Sprintf("{%d(%d)..%d %+v} ", s.base+1, s.compacted+1, s.last(), s.hard)
	}
	return text
}

// traceOps runs the trace without a fault and returns its operations.
func traceOps(t *testing.T) []Op {
	t.Helper()
	w := newWorld(NewMem())
	if err := w.run(false); err != nil {
		t.Fatal(err)
	}
	ops := w.fs.Ops()
	w.mustHold(t, w.fs, "no fault")
	return ops
}

func TestTraceIsWorthIt(t *testing.T) {
	// The fault tests are as good as the trace: it must roll, recycle, overwrite, snapshot and reset.
	kinds := map[string]int{}
	w := newWorld(NewMem())
	if err := w.run(false); err != nil {
		t.Fatal(err)
	}
	ops := w.fs.Ops()
	for _, op := range ops {
		kinds[op.Kind]++
	}
	if len(ops) < 300 || w.log.active.number < 8 || kinds["remove"] < 3 || len(w.snapHistory) < 4 {
		t.Errorf("%d operations %v, %d segments, %d snapshots", len(ops), kinds, w.log.active.number, len(w.snapHistory))
	}
	t.Logf("%d operations %v, %d segments, %d snapshots", len(ops), kinds, w.log.active.number, len(w.snapHistory))
	f := restart(w.fs)
	if f.recovered.Unclean {
		t.Error("Unclean after Close")
	}
	if proto.Equal(f.meta.ConfState, &raftpb.ConfState{}) {
		t.Error("snapshot without its configuration")
	}
}
