package consensus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/clock"
)

// mesh connects nodes of one process by pipes, inside a synctest bubble: time is virtual, and the
// bubble fails if a goroutine is left behind.
type mesh struct {
	t     *testing.T
	mu    sync.Mutex
	nodes map[uint64]*shell
	cut   map[uint64]bool
	dials int
}

// shell is one running Node and its disks.
type shell struct {
	*Node
	m      *mesh
	id     uint64
	log    *fakeLog
	snaps  *fakeSnapshots
	mach   *fakeMachine
	cancel context.CancelFunc
	ended  chan error
	serve  sync.WaitGroup
}

func newMesh(t *testing.T) *mesh {
	return &mesh{t: t, nodes: map[uint64]*shell{}, cut: map[uint64]bool{}}
}

// add starts a node; with voters its disk holds the genesis snapshot.
func (m *mesh) add(id uint64, tune func(*Options), voters ...uint64) *shell {
	m.t.Helper()
	s := &shell{m: m, id: id, log: newFakeLog(), snaps: newFakeSnapshots()}
	if len(voters) > 0 {
		if err := genesis(s.log, s.snaps, voters...); err != nil {
			m.t.Fatal(err)
		}
	}
	s.start(tune)
	return s
}

func (s *shell) start(tune func(*Options)) {
	m := s.m
	clk, err := clock.New(clock.Options{Physical: time.Now})
	if err != nil {
		m.t.Fatal(err)
	}
	s.mach = newFakeMachine()
	o := Options{
		ID: s.id, Clock: clk, Log: s.log, Recovered: s.log.recovered(s.snaps), Snapshots: s.snaps, Machine: s.mach,
		MachineStamp: s.mach.stamp, Fetch: m.fetch, Elapsed: bubbleTime,
		Peers: PeerOptions{
			Dial:   func(_ context.Context, to uint64) (net.Conn, error) { return m.dial(s.id, to) },
			NodeOf: func(id uint64) (string, bool) { return fmt.Sprint("node", id), id < 10 },
		},
	}
	if tune != nil {
		tune(&o)
	}
	n, err := New(o)
	if err != nil {
		m.t.Fatal(err)
	}
	s.Node = n
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.ended = cancel, make(chan error, 1)
	m.mu.Lock()
	m.nodes[s.id] = s
	m.mu.Unlock()
	go func() { s.ended <- n.Run(ctx) }()
}

func (m *mesh) dial(from, to uint64) (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dials++
	s := m.nodes[to]
	if s == nil || m.cut[from] || m.cut[to] {
		return nil, errors.New("unreachable")
	}
	here, there := net.Pipe()
	s.serve.Go(func() { s.ServePeer(context.Background(), there, fmt.Sprint("node", from)) })
	return here, nil
}

func (m *mesh) fetch(_ context.Context, id uint64, hash [32]byte) ([]byte, error) {
	m.mu.Lock()
	s := m.nodes[id]
	m.mu.Unlock()
	if s == nil {
		return nil, errors.New("unreachable")
	}
	return s.snaps.chunk(hash)
}

// stop ends a node and waits for it.
func (s *shell) stop() error {
	s.m.mu.Lock()
	delete(s.m.nodes, s.id)
	s.m.mu.Unlock()
	s.cancel()
	err := <-s.ended
	s.serve.Wait()
	return err
}

func (m *mesh) stopAll() {
	m.mu.Lock()
	var all []*shell
	for _, s := range m.nodes {
		all = append(all, s)
	}
	m.mu.Unlock()
	for _, s := range all {
		if err := s.stop(); err != nil {
			m.t.Errorf("node %d: %v", s.id, err)
		}
	}
}

// leader waits for a confirmed leader among the running nodes.
func (m *mesh) leader() *shell {
	m.t.Helper()
	for range 400 {
		m.mu.Lock()
		for _, s := range m.nodes {
			if st := s.Status(); st.Confirmed && !m.cut[s.id] {
				m.mu.Unlock()
				return s
			}
		}
		m.mu.Unlock()
		time.Sleep(10 * time.Millisecond) // virtual
	}
	m.t.Fatal("no leader in 4 s")
	return nil
}

func three(t *testing.T, tune func(*Options)) *mesh {
	m := newMesh(t)
	for id := uint64(1); id <= 3; id++ {
		m.add(id, tune, 1, 2, 3)
	}
	return m
}

func mustPropose(t *testing.T, s *shell, command string) Proposed {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done, err := s.Propose(ctx, []byte(command))
	if err != nil {
		t.Fatalf("propose %q: %v", command, err)
	}
	return done
}

// TestNodeWritesAndReads: a write is acknowledged with what the machine said, seen by a read behind
// the read index, and reaches every node; followers name the leader; nothing is left running.
func TestNodeWritesAndReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := three(t, nil)
		defer m.stopAll()
		l := m.leader()
		done := mustPropose(t, l, "a=1")
		if string(done.Data) != "did a=1" || done.Index == 0 || done.Stamp == 0 || done.Term != l.Status().Term {
			t.Errorf("got %+v", done)
		}
		index, err := l.ReadIndex(t.Context())
		if err != nil || index < done.Index {
			t.Errorf("read index %d, %v; want at least %d", index, err, done.Index)
		}
		for _, s := range m.nodes {
			if err := s.WaitApplied(t.Context(), done.Index); err != nil || s.mach.get("a") != "1" {
				t.Errorf("node %d: %v, a=%q", s.id, err, s.mach.get("a"))
			}
			var not *NotLeaderError
			if _, err := s.Propose(t.Context(), []byte("x=1")); s != l && (!errors.As(err, &not) || not.Leader != l.id) {
				t.Errorf("node %d: got %v, want the leader named", s.id, err)
			}
		}
	})
}

// TestNodeGroupCommit: while one sync runs, everything else gathers: many concurrent writes share
// few entries and few syncs.
func TestNodeGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		defer m.stopAll()
		l := m.add(1, nil, 1)
		l.log.before(func() { time.Sleep(time.Millisecond) }) // a disk
		m.leader()
		_, before, _ := l.log.counts()
		const writes = 1000
		var wg sync.WaitGroup
		var failed atomic.Int64
		for i := range writes {
			wg.Go(func() {
				if _, err := l.Propose(t.Context(), fmt.Appendf(nil, "k%d=v", i)); err != nil {
					failed.Add(1)
				}
			})
		}
		wg.Wait()
		_, after, _ := l.log.counts()
		if failed.Load() > 0 || after-before > writes/50 {
			t.Errorf("%d writes took %d syncs, %d failed", writes, after-before, failed.Load())
		}
		t.Logf("%d writes, %d syncs", writes, after-before)
	})
}

// TestNodeMergesAppends: appends that queue up while a sync runs become one write, on a follower
// too, and an overlapping one replaces what it overlaps.
func TestNodeMergesAppends(t *testing.T) {
	entry := func(i, term uint64) *raftpb.Entry { return &raftpb.Entry{Index: new(i), Term: new(term)} }
	var g group
	g.add(&appendTask{entries: []*raftpb.Entry{entry(5, 1), entry(6, 1), entry(7, 1)}, sync: true})
	g.add(&appendTask{entries: []*raftpb.Entry{entry(6, 2)}})
	g.add(&appendTask{entries: []*raftpb.Entry{entry(7, 2), entry(8, 2)}})
	got := ""
	for _, e := range g.entries {
		got += fmt.Sprintf("%d/%d ", e.GetIndex(), e.GetTerm())
	}
	if want := "5/1 6/2 7/2 8/2 "; got != want || !g.sync || g.tasks != 3 {
		t.Errorf("got %q, sync %v, %d tasks; want %q", got, g.sync, g.tasks, want)
	}
	g.add(&appendTask{entries: []*raftpb.Entry{entry(4, 3)}})
	if len(g.entries) != 1 || g.entries[0].GetIndex() != 4 {
		t.Errorf("overlap before the group: %v", g.entries)
	}
}

// TestNodeInboxLimit: a full inbox refuses at once instead of making callers wait.
func TestNodeInboxLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		defer m.stopAll()
		stall := make(chan struct{})
		l := m.add(1, func(o *Options) { o.InboxSize, o.MaxBatchCommands, o.MaxInflightBatches = 8, 4, 1 }, 1)
		m.leader()
		l.log.before(func() { <-stall })
		var wg sync.WaitGroup
		var busy, ok atomic.Int64
		for i := range 100 {
			wg.Go(func() {
				switch _, err := l.Propose(t.Context(), fmt.Appendf(nil, "k%d=v", i)); {
				case errors.Is(err, ErrBusy):
					busy.Add(1)
				case err == nil:
					ok.Add(1)
				default:
					t.Errorf("got %v", err)
				}
			})
		}
		synctest.Wait()
		if busy.Load() < 70 {
			t.Errorf("only %d of 100 were refused while the disk stalls", busy.Load())
		}
		close(stall)
		wg.Wait()
		if ok.Load()+busy.Load() != 100 || ok.Load() < 8 {
			t.Errorf("%d acknowledged, %d refused", ok.Load(), busy.Load())
		}
		if _, err := l.Propose(t.Context(), make([]byte, 2<<20)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("2 MiB: got %v", err)
		}
	})
}

// TestNodeOutcomeUnknown: a caller that leaves while its write is on its way must not be told that
// it failed; one that leaves before it was proposed must not be left in doubt.
func TestNodeOutcomeUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		defer m.stopAll()
		stall := make(chan struct{})
		l := m.add(1, func(o *Options) { o.MaxInflightBatches = 1 }, 1)
		m.leader()
		l.log.before(func() { <-stall })
		ctx, cancel := context.WithCancel(t.Context())
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { _, err := l.Propose(ctx, []byte("a=1")); first <- err }()
		synctest.Wait()
		go func() { _, err := l.Propose(ctx, []byte("b=1")); second <- err }()
		synctest.Wait()
		cancel()
		var unknown *OutcomeUnknownError
		if err := <-first; !errors.As(err, &unknown) || !errors.Is(err, context.Canceled) {
			t.Errorf("on its way: got %v", err)
		}
		if err := <-second; errors.As(err, &unknown) || !errors.Is(err, ErrGivenUp) || !errors.Is(err, context.Canceled) {
			t.Errorf("waiting: got %v", err)
		}
		l.log.before(nil)
		close(stall)
		synctest.Wait()
		mustPropose(t, l, "c=1")
		if a, b := l.mach.get("a"), l.mach.get("b"); a != "1" || b != "" {
			t.Errorf("a=%q b=%q; want the first applied and the second never proposed", a, b)
		}
	})
}

var errFull = errors.New("disk is full")

// TestNodeDiskFull: a full disk refuses writes with a reason that says nothing happened, loses
// nothing, and heals without a restart.
func TestNodeDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		defer m.stopAll()
		l := m.add(1, func(o *Options) { o.Retryable = func(err error) bool { return errors.Is(err, errFull) } }, 1)
		m.leader()
		mustPropose(t, l, "a=1")
		time.Sleep(time.Second) // what is left to write of it is not to meet the full disk first
		synctest.Wait()
		var full atomic.Bool
		full.Store(true)
		l.log.mu.Lock()
		l.log.fail = func() error {
			if full.Load() {
				return errFull
			}
			return nil
		}
		l.log.mu.Unlock()
		first := make(chan error, 1)
		go func() { _, err := l.Propose(t.Context(), []byte("b=1")); first <- err }()
		time.Sleep(time.Second)
		var unavailable *UnavailableError
		if _, err := l.Propose(t.Context(), []byte("c=1")); !errors.As(err, &unavailable) || !errors.Is(err, errFull) {
			t.Errorf("got %v, want UnavailableError with the cause", err)
		}
		full.Store(false)
		if err := <-first; err != nil {
			t.Errorf("the write that met the full disk: %v", err)
		}
		mustPropose(t, l, "d=1")
	})
}

// TestNodeFatal: any other error of the log ends the process by Fatal, and nothing that was not
// synced is acknowledged.
func TestNodeFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		fatal := make(chan error, 4)
		l := m.add(1, func(o *Options) { o.Fatal = func(err error) { fatal <- err } }, 1)
		m.leader()
		broken := errors.New("fsync: input/output error")
		l.log.mu.Lock()
		l.log.fail = func() error { return broken }
		l.log.mu.Unlock()
		var unknown *OutcomeUnknownError
		if _, err := l.Propose(t.Context(), []byte("a=1")); !errors.As(err, &unknown) {
			t.Errorf("got %v", err)
		}
		if err := <-l.ended; !errors.Is(err, broken) {
			t.Errorf("Run returned %v", err)
		}
		if err := <-fatal; !errors.Is(err, broken) || len(fatal) > 0 {
			t.Errorf("Fatal got %v, and %d more", err, len(fatal))
		}
		if st := l.Status(); !errors.Is(st.Stopped, broken) {
			t.Errorf("status says %v", st.Stopped)
		}
		if _, err := l.Propose(t.Context(), []byte("a=1")); !errors.Is(err, ErrStopped) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// TestNodeHandOver: a leader that stops hands over first; the next leads long before an election
// timeout, and the write that was on its way is not lost.
func TestNodeHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := three(t, nil)
		defer m.stopAll()
		l := m.leader()
		mustPropose(t, l, "a=1")
		start := time.Now()
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
		next := m.leader()
		if took := time.Since(start); took > 300*time.Millisecond {
			t.Errorf("hand-over took %v; an election timeout is 500 ms at least", took)
		}
		mustPropose(t, next, "b=1")
		if got := next.mach.get("a"); got != "1" {
			t.Errorf("a=%q", got)
		}
	})
}

// TestNodeHandOverIsBounded: with nobody to take over, stopping takes a second, not for ever.
func TestNodeHandOverIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := three(t, nil)
		defer m.stopAll()
		l := m.leader()
		m.mu.Lock()
		m.cut[l.id] = true
		for _, s := range m.nodes {
			if s != l {
				m.cut[s.id] = true
			}
		}
		m.mu.Unlock()
		for _, s := range m.nodes {
			s.peers.mu.Lock()
			for _, c := range s.peers.mu.in {
				_ = c.Close()
			}
			s.peers.mu.Unlock()
		}
		start := time.Now()
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 1500*time.Millisecond {
			t.Errorf("stopping took %v", took)
		}
	})
}

// TestNodeGrows: one node becomes a core of three under load: learners catch up from a snapshot
// taken on demand, one joint change, no write lost.
func TestNodeGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		defer m.stopAll()
		tune := func(o *Options) { o.SnapshotEntries, o.TrailingEntries = 50, 10 }
		l := m.add(1, tune, 1)
		m.leader()
		for i := range 200 {
			mustPropose(t, l, fmt.Sprintf("before%d=1", i))
		}
		m.add(2, tune)
		m.add(3, tune)
		load, stopLoad := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var written atomic.Int64
		wg.Go(func() {
			for i := 0; load.Err() == nil; i++ {
				if _, err := l.Propose(t.Context(), fmt.Appendf(nil, "during%d=1", i)); err != nil {
					t.Errorf("write %d: %v", i, err)
				}
				written.Add(1)
				time.Sleep(5 * time.Millisecond)
			}
		})
		change := func(kind raftpb.ConfChangeType) {
			cc := &raftpb.ConfChangeV2{Transition: raftpb.ConfChangeTransitionJointImplicit.Enum()}
			for id := uint64(2); id <= 3; id++ {
				cc.Changes = append(cc.Changes, &raftpb.ConfChangeSingle{Type: kind.Enum(), NodeId: new(id)})
			}
			for errors.Is(l.ChangeCore(t.Context(), cc), ErrChangePending) {
				time.Sleep(50 * time.Millisecond)
			}
		}
		change(raftpb.ConfChangeAddLearnerNode)
		for l.Status().Progress[2].Match+50 < l.Status().Commit || l.Status().Progress[3].Match+50 < l.Status().Commit {
			time.Sleep(50 * time.Millisecond)
		}
		change(raftpb.ConfChangeAddNode)
		time.Sleep(time.Second)
		stopLoad()
		wg.Wait()
		st := l.Status()
		if len(st.Voters) != 3 || len(st.Outgoing) != 0 || len(st.Learners) != 0 {
			t.Fatalf("core is %+v", st)
		}
		last := mustPropose(t, l, "last=1")
		want := l.mach.view()
		for _, id := range []uint64{2, 3} {
			s := m.nodes[id]
			if err := s.WaitApplied(t.Context(), last.Index); err != nil {
				t.Fatal(err)
			}
			if got := s.mach.view(); got.Digest != want.Digest || len(got.Values) != len(want.Values) {
				t.Errorf("node %d differs: %d values, want %d", id, len(got.Values), len(want.Values))
			}
		}
		t.Logf("%d writes during the change", written.Load())
	})
}

// TestNodeApplyStops: an unknown command stops applying on this replica for good: no skip, no
// crash, no doubt for the caller, and the reason in the status.
func TestNodeApplyStops(t *testing.T) {
	for _, poison := range []string{"unknown=1", "panic"} {
		synctest.Test(t, func(t *testing.T) {
			m := newMesh(t)
			defer m.stopAll()
			l := m.add(1, nil, 1)
			l.mach.refuse = "unknown=1"
			m.leader()
			at := mustPropose(t, l, "a=1").Index
			var unknown *OutcomeUnknownError
			if _, err := l.Propose(t.Context(), []byte(poison)); !errors.As(err, &unknown) {
				t.Errorf("%s: got %v", poison, err)
			}
			synctest.Wait()
			if st := l.Status(); st.Stopped == nil || st.Applied != at {
				t.Errorf("%s: stopped %v at %d, want %d", poison, st.Stopped, st.Applied, at)
			}
			if _, err := l.Propose(t.Context(), []byte("b=1")); !errors.Is(err, ErrStopped) {
				t.Errorf("%s: then got %v", poison, err)
			}
			if err := l.WaitApplied(t.Context(), at+1); !errors.Is(err, ErrStopped) {
				t.Errorf("%s: wait got %v", poison, err)
			}
		})
	}
}

// TestNodePanicStops: a panic in the core stops the node with an error that names the message.
func TestNodePanicStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		l := m.add(1, nil, 1)
		m.leader()
		l.events.put(input{kind: inputLook, look: func(*core) { panic("a bug") }})
		var p *PanicError
		if err := <-l.ended; !errors.As(err, &p) || p.Value != "a bug" || len(p.Stack) == 0 {
			t.Errorf("Run returned %v", err)
		}
		if _, err := l.ReadIndex(t.Context()); !errors.Is(err, ErrStopped) {
			t.Errorf("read got %v", err)
		}
	})
}
