package agent

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
	"github.com/parley-mesh/parley/storage"
	"github.com/parley-mesh/parley/transport"
)

// change applies one command to a machine.
func change(t *testing.T, m *state.Machine, c state.Command) {
	t.Helper()
	command, err := state.Encode(state.Envelope{Command: c}, state.Version)
	if err != nil {
		t.Fatal(err)
	}
	v := m.View()
	results, _, err := m.Apply(v.Index()+1, 1, v.Stamp()+1, [][]byte{command})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := state.DecodeResult(results[0]); err != nil || res.Code != state.CodeOK {
		t.Fatalf("%+v: %+v, %v", c, res, err)
	}
}

// testRunner is the runner of a1, whose View is the machine's and which has a small disk in memory.
func testRunner(t *testing.T, m *state.Machine, disk *storage.Mem) *coreRunner {
	t.Helper()
	dir, err := openDataDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if disk != nil {
		dir.fs = disk
	}
	hlc, err := clock.New(clock.Options{Physical: clock.System, Persist: func(clock.Stamp) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	room := &coreRoom{free: func() (uint64, bool) { return 0, false }, now: clock.Boottime, log: zap.NewNop()}
	return &coreRunner{
		cfg: config.Default().Core, dir: dir, views: &viewSwitch{hub: watch.NewHub(m.View())}, clock: hlc, digests: &digestRing{}, room: room,
		self: "a1", ids: clusterIDs{ClusterID: "00112233445566778899aabbccddeeff", TrustDomain: "agent.test", Node: "a1"},
		log: zap.NewNop(), changed: make(chan struct{}, 1),
	}
}

// TestRetiredIDIsNotRunAgain: after a member has given its Raft id up its View may be older than the
// retirement, and still name the id. It must not run it again: its log is gone, and it would vote.
func TestRetiredIDIsNotRunAgain(t *testing.T) {
	m := testMachine()
	c := testRunner(t, m, nil)
	if c.ids.RaftID, _ = c.assignedID(); c.ids.RaftID != 1 {
		t.Fatalf("the View gives a1 the Raft id %d", c.ids.RaftID)
	}
	if err := c.discharge(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if id, _ := c.assignedID(); id != 0 {
		t.Errorf("it would run the Raft id %d again", id)
	}
	ids, err := c.dir.readCluster()
	if err != nil || ids.RaftID != 0 || ids.PastRaftID != 1 {
		t.Errorf("cluster.toml: %+v, %v", ids, err)
	}
	change(t, m, state.CoreRetire{RaftID: 1})
	change(t, m, state.CoreAssign{Node: "a1"})
	c.views.fromStream(m.View(), state.Touched{All: true})
	if id, _ := c.assignedID(); id != 2 {
		t.Errorf("its next Raft id is %d, want 2", id)
	}
}

// TestRetiredIDIsNotFenced: the fence of a Raft id ends with it. It lasted before, so that the next id of the same agent, which
// begins with nothing, answered nothing either.
func TestRetiredIDIsNotFenced(t *testing.T) {
	c := testRunner(t, testMachine(), nil)
	c.ids.RaftID, c.beyond, c.gate, c.sources = 1, 7, 7, []string{"a2"}
	if err := c.setFencing(&fencing{Index: 7, Reason: "memory", Tries: rebuildTries}); err != nil {
		t.Fatal(err)
	}
	if err := c.discharge(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if c.fencing.hopeless() || !c.mayServe() || c.beyond != 0 || c.gate != 0 || c.sources != nil {
		t.Errorf("it is still fenced: %+v, from %v beyond %d", c.fencing, c.sources, c.beyond)
	}
	if c.loadFencing(); c.fencing != nil {
		t.Errorf("it is fenced after a restart: %+v", c.fencing)
	}
}

// TestNoRoomForALog: no space for a log of the core does not end the agent. It waits, longer each time,
// says no to the leader meanwhile, leaves no id in cluster.toml, and is a member once there is room.
func TestNoRoomForALog(t *testing.T) {
	disk := storage.NewMem()
	disk.Limit(1 << 20)
	m := testMachine()
	c := testRunner(t, m, disk)
	if err := disk.MkdirAll(c.dir.path, 0o700); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		lines, seen := observer.New(zap.InfoLevel)
		began := time.Now()
		c.room.now, c.room.log = func() time.Duration { return time.Since(began) + time.Hour }, zap.New(lines)
		for i, want := range []time.Duration{roomPauseMin, 2 * roomPauseMin, 4 * roomPauseMin} {
			began := time.Now()
			running, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- c.step(running, nil) }()
			synctest.Wait()
			if c.room.willing() || c.ids.RaftID != 0 {
				t.Errorf("attempt %d: willing %t, Raft id %d", i, c.room.willing(), c.ids.RaftID)
			}
			if err := <-ended; err != nil || time.Since(began) != want {
				t.Errorf("attempt %d: %v after %v, want to wait %v", i, err, time.Since(began), want)
			}
			stop()
		}
		if n := seen.FilterMessage("no room for a log, staying outside the core").Len(); n != 3 {
			t.Errorf("%d lines about three attempts", n)
		}
	})
	disk.Limit(0)
	n, err := c.enlist(1, state.Epoch{Counter: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.store.close(); err != nil || c.ids.RaftID != 1 || !c.room.willing() || c.room.pause != 0 {
		t.Errorf("with room: %v, Raft id %d, willing %t, pause %v", err, c.ids.RaftID, c.room.willing(), c.room.pause)
	}
}

// TestRoomForALog: what is free decides for an agent without a log, and nothing for one that has one.
func TestRoomForALog(t *testing.T) {
	for _, test := range []struct {
		name string
		free uint64
		held bool
		lack string
	}{
		{"enough", coreRoomBytes, false, ""},
		{"too little", coreRoomBytes - 1, false, "127 MiB are free for a log of the core, which takes 128 MiB"},
		{"a member", 0, true, ""},
	} {
		r := &coreRoom{free: func() (uint64, bool) { return test.free, true }, now: func() time.Duration { return 0 }, log: zap.NewNop()}
		r.has(test.held)
		if got := r.lack(); !strings.HasPrefix(got, test.lack) || r.willing() != (test.lack == "") {
			t.Errorf("%s: %q, willing %t", test.name, got, r.willing())
		}
	}
}

// TestFrozenAgentsHoldNobodyUp: agents that take a question and never answer cost one askTimeout
// together, and nothing where another gives the answer.
func TestFrozenAgentsHoldNobodyUp(t *testing.T) {
	frozen := func(ctx context.Context) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ask := func(ctx context.Context, node string) ([]byte, error) {
			if node == "awake" {
				return []byte(standingRetired), nil
			}
			return frozen(ctx)
		}
		if !anyAnswers(t.Context(), []string{"f1", "f2", "awake", "f3"}, standingRetired, ask) || time.Since(began) != 0 {
			t.Errorf("the answer of one took %v", time.Since(began))
		}
		if anyAnswers(t.Context(), []string{"f1", "f2", "f3"}, standingRetired, ask) || time.Since(began) != askTimeout {
			t.Errorf("three frozen agents took %v, want %v", time.Since(began), askTimeout)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := &controller{
			self: "a1", log: zap.NewNop(), proofs: proofs{of: map[uint64]proof{}}, willing: map[string]willingness{},
			call: func(ctx context.Context, node, _ string, _ []byte) ([]byte, error) {
				if node == "awake" {
					return []byte(answerNo), nil
				}
				return frozen(ctx)
			},
		}
		members := []consensus.PlanMember{{Node: "a1", Alive: true}, {Node: "awake", Alive: true}}
		st := consensus.Status{Progress: map[uint64]consensus.Progress{}}
		for i := range uint64(10) {
			members = append(members, consensus.PlanMember{Node: fmt.Sprint("f", i), RaftID: i + 2, Alive: true})
			st.Progress[i+2] = consensus.Progress{Active: true}
		}
		began := time.Now()
		c.hear(t.Context(), members, st)
		if took := time.Since(began); took != askTimeout {
			t.Errorf("ten frozen learners took %v, want %v", took, askTimeout)
		}
		// Silence keeps a member in the core, and another out of it.
		for m, want := range map[consensus.PlanMember]bool{
			{Node: "awake"}: false, {Node: "awake", RaftID: 9}: false, {Node: "f0", RaftID: 2}: true, {Node: "f0"}: false,
		} {
			if got := c.isWilling(m); got != want {
				t.Errorf("%s with the Raft id %d is willing: %t", m.Node, m.RaftID, got)
			}
		}
		for id := range st.Progress {
			if c.proofs.ready(id) {
				t.Errorf("%d is proven without an answer", id)
			}
		}
	})
}

// TestPeersWaitForTheNode: a peer's connection that comes while this member asks whether its Raft id counts is served by the node once
// it runs; it does not wait where no node was prepared, for longer than startPatience, or beside too many others.
func TestPeersWaitForTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node, began := &coreNode{raftID: 1}, time.Now()
		c := &coreRunner{}
		if c.soonRunning(t.Context()) != nil || time.Since(began) != 0 {
			t.Errorf("without a node that was prepared it took %v", time.Since(began))
		}

		c = &coreRunner{starting: make(chan struct{})}
		if c.soonRunning(t.Context()) != nil || time.Since(began) != startPatience {
			t.Errorf("a node that does not come took %v", time.Since(began))
		}

		served := make(chan *coreNode, maxAwaited)
		for range maxAwaited {
			go func() { served <- c.soonRunning(t.Context()) }()
		}
		synctest.Wait()
		if began = time.Now(); c.soonRunning(t.Context()) != nil || time.Since(began) != 0 {
			t.Errorf("one too many waited for %v", time.Since(began))
		}
		c.current.Store(node)
		c.started()
		c.started()
		for range maxAwaited {
			if got := <-served; got != node || time.Since(began) != 0 {
				t.Errorf("%p is served after %v, want %p at once", got, time.Since(began), node)
			}
		}
		if n := c.awaited.Load(); n != 0 {
			t.Errorf("%d still wait", n)
		}
	})
}

// TestStanding: each agent is told about its own Raft ids alone, also about one that is so old that the
// state has forgotten its row.
func TestStanding(t *testing.T) {
	m := testMachine()
	change(t, m, state.CoreRetire{RaftID: 1})
	for range state.MaxRetired + 1 {
		id := m.View().Cluster().NextRaftID
		change(t, m, state.CoreAssign{Node: "a1"})
		change(t, m, state.CoreRetire{RaftID: id})
	}
	change(t, m, state.CoreAssign{Node: "a1"})
	current := m.View().Cluster().NextRaftID - 1
	a := &Agent{hub: watch.NewHub(m.View())}
	for _, test := range []struct {
		node string
		id   uint64
		want string
	}{
		{"a1", current, standingCurrent},
		{"a1", current - 1, standingRetired},
		{"a1", 1, standingRetired}, // forgotten
		{"a1", current + 1, standingUnknown},
		{"a1", 0, standingUnknown},
		{"a2", current, standingUnknown},
		{"a2", current - 1, standingUnknown},
	} {
		got, err := a.serveStanding(t.Context(), transport.Peer{Node: test.node}, fmt.Appendf(nil, "%x", test.id))
		if err != nil || string(got) != test.want {
			t.Errorf("%s asks about %d: %q, %v, want %q", test.node, test.id, got, err, test.want)
		}
	}
	if _, listed := m.View().CoreByID(1); listed {
		t.Error("the oldest id is still listed: nothing is tested")
	}
}
