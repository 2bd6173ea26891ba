package consensus

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// TestUnusedSnapshot: a snapshot that is on the disk although raft did not take it, because its sender's term had passed,
// answers the next leader's offer of one that is no newer. The disk would refuse that one for ever.
func TestUnusedSnapshot(t *testing.T) {
	s := newSim(t, 3)
	s.tune = func(c *coreConfig) { c.snapshotEntries, c.trailingEntries = 10, 2 }
	for id := uint64(1); id <= 3; id++ {
		s.add(id, 1, 2, 3)
	}
	leader := s.elect()
	away := leader%3 + 1
	other := 6 - leader - away
	for _, id := range []uint64{leader, other} {
		s.cut[[2]uint64{id, away}], s.cut[[2]uint64{away, id}] = true, true
	}
	for range 40 {
		s.nodes[leader].propose("k", "v")
		s.settle()
	}
	clear(s.cut)
	offer := offered(s, away)
	if offer == nil {
		t.Fatal("no snapshot was offered")
	}

	// It is fetched, and meanwhile another leads the next term.
	n := s.nodes[away]
	task := &installTask{from: leader, msg: offer, ref: SnapshotRef{
		Index: offer.GetSnapshot().GetMetadata().GetIndex(), Term: offer.GetSnapshot().GetMetadata().GetTerm(),
		ConfState: offer.GetSnapshot().GetMetadata().GetConfState(), Manifest: offer.GetSnapshot().GetData(),
	}}
	if err := n.install(task); err != nil {
		t.Fatal(err)
	}
	next := offer.GetTerm() + 1
	n.do(func() {
		_ = n.core.step(&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: new(other), To: new(away), Term: new(next)})
	})
	n.do(func() { n.core.installed(task, nil) })
	if n.core.log.snap.Index >= task.ref.Index || n.core.snaps.unused.Index != task.ref.Index {
		t.Fatalf("the snapshot of a term that has passed was taken: %d", n.core.log.snap.Index)
	}

	again := proto.CloneOf(offer)
	again.From, again.Term = new(other), new(next)
	again.Snapshot.Metadata.Index = new(task.ref.Index - 1) // an older one than that on the disk
	n.do(func() { _ = n.core.step(again) })
	if n.core.log.snap.Index != task.ref.Index || len(n.instQ) > 0 || n.core.snaps.unused.Index != 0 {
		t.Errorf("the log begins behind %d, wanted %d; %d fetches are under way", n.core.log.snap.Index, task.ref.Index, len(n.instQ))
	}
}

// TestFetchingLearner: a learner that answers, and for which only a snapshot will do, is no stalled member while a large one may
// be written and fetched. It was: the plan dropped it as dead, and added it again, which called for a newer snapshot; one of
// 1 GiB was never ready in time. The patience ends, and one that gets entries has none of it.
func TestFetchingLearner(t *testing.T) {
	s, leader := alone(t, func(c *coreConfig) { c.snapshotEntries, c.trailingEntries = 1000, 1 })
	const learner = 2
	s.add(learner)
	changed := leader.ask(&request{change: &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{
		{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: new(uint64(learner))},
	}}}, (*core).changeCore)
	s.settle()
	s.tick(4 * leader.core.cfg.electionTicks)
	if *changed == nil || (*changed).err != nil || !leader.core.status().Progress[learner].caughtUp(leader.core.commit) {
		t.Fatalf("a learner was added: %s, %+v", describeOutcome(*changed), leader.core.status().Progress[learner])
	}
	wait := func(timeouts int) Progress {
		for range timeouts * leader.core.cfg.electionTicks {
			leader.core.heard[learner] = leader.core.ticks + 1 // as if it answered heartbeats
			s.tick(1)
		}
		return leader.core.status().Progress[learner]
	}
	write := func(times int) {
		for range times {
			leader.propose("k", "v")
			s.settle()
		}
	}
	s.cut[[2]uint64{leader.id, learner}] = true
	write(1)
	if p := wait(2 * stalledTimeouts); p.Healthy() {
		t.Errorf("control: entries would do, and it takes none: %+v", p)
	}
	leader.core.cfg.snapshotEntries = 5
	write(20)
	if p := wait(2 * stalledTimeouts); !p.Healthy() || p.Match >= leader.core.log.offset {
		t.Errorf("only a snapshot does, the log begins behind %d: %+v", leader.core.log.offset, p)
	}
	if p := wait(fetchTimeouts); p.Healthy() {
		t.Errorf("it fetches for ever: %+v", p)
	}
	clear(s.cut)
	if p := wait(4); !p.Healthy() || !p.caughtUp(leader.core.commit) {
		t.Errorf("it has caught up: %+v", p)
	}
}

// TestLongReplay: a start that applied a long log again is followed by a snapshot, so that the next start does not have to:
// a member that ends again and again is back as fast as the first time. A short log is left as it is.
func TestLongReplay(t *testing.T) {
	for _, tt := range []struct {
		entries int
		want    bool
	}{{10, false}, {40, true}} {
		s, n := alone(t, func(c *coreConfig) { c.longReplay, c.snapshotEntries = 30, 1000 })
		for range tt.entries {
			n.propose("k", "v")
			s.settle()
		}
		before := n.core.log.snap.Index
		again := n.core.commit - before
		n.crash(false)
		n.start()
		s.settle()
		n.crash(false)
		n.start()
		left := n.core.commit - n.core.log.snap.Index
		if tt.want != (left < again/2) || tt.want != (n.core.log.snap.Index > before) {
			t.Errorf("%d entries: the first start applied %d again, the second %d", tt.entries, again, left)
		}
		s.settle()
		if got := n.machine.get("k"); got != "v" {
			t.Errorf("after both starts k is %q", got)
		}
	}
}

// TestCoreIsKnownBeforeTheReplayEnds: a restarted member knows who votes before it has applied a long log again. One that
// learned it at the end could neither vote nor stand for election until then, and five that were killed at once had no
// leader for as long as the slowest took.
func TestCoreIsKnownBeforeTheReplayEnds(t *testing.T) {
	s := newSim(t, 3)
	s.add(1, 1)
	s.settle()
	s.add(2)
	n := s.nodes[1]
	changed := n.ask(&request{change: &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{
		{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: new(uint64(2))},
	}}}, (*core).changeCore)
	s.settle()
	s.tick(4)
	if *changed == nil || (*changed).err != nil {
		t.Fatalf("the core did not grow: %s", describeOutcome(*changed))
	}
	for i := range 8 {
		n.propose(fmt.Sprint("k", i), strings.Repeat("x", 900<<10))
		s.settle()
		s.tick(2)
	}
	commit := n.core.commit
	n.crash(false)
	n.start()
	n.applyNext()
	if n.core.applied >= commit || !slices.Equal(n.core.conf.GetVoters(), []uint64{1, 2}) {
		t.Errorf("%d of %d entries applied again, and the voters are %v", n.core.applied, commit, n.core.conf.GetVoters())
	}
}

// offered lets time pass until a snapshot is on its way to a node, and takes it off the net.
func offered(s *sim, to uint64) *raftpb.Message {
	for range 60 {
		for _, id := range s.ids {
			n := s.nodes[id]
			n.do(func() { n.core.tick() })
			for len(n.logQ) > 0 {
				n.writeLog()
			}
			for len(n.applyQ) > 0 {
				n.applyNext()
			}
			n.background()
		}
		for range len(s.net) {
			i := slices.IndexFunc(s.net, func(p packet) bool { return p.m != nil && p.m.GetType() == raftpb.MsgSnap && p.to == to })
			if i >= 0 {
				return s.net[i].m
			}
			s.deliver(0)
		}
	}
	return nil
}

// TestSnapshotAtRest: under load a snapshot is due when as much came as the state has, and at rest for an eighth of that. One
// for less is not due however long the rest is.
func TestSnapshotAtRest(t *testing.T) {
	const most = 8 << 20
	for _, test := range []struct {
		name      string
		size      uint64 // of the state in the snapshot before
		bytes     int    // written since
		busy, due bool
	}{
		{"an eighth at rest", 0, most / restShare, false, true},
		{"less at rest", 0, most/restShare - 1<<14, false, false},
		{"an eighth under load", 0, most / 2, true, false},
		{"all of it under load", 0, most, true, true},
		{"an eighth of a larger state", 2 * most, most / restShare, false, false},
		{"a quarter, of a larger state", 2 * most, most / 4, false, true},
		{"as much as a smaller state", 2 * most, most, true, false},
		{"as much as a larger state", 2 * most, 2 * most, true, true},
		{"twice as much, of a state that is far larger", 1 << 40, 2 * most, true, true},
	} {
		s, n := alone(t, func(c *coreConfig) {
			c.snapshotEntries, c.snapshotBytes = 1<<20, most
		})
		n.core.log.snap.Size = test.size
		const step = 1 << 17
		value := strings.Repeat("v", step)
		at := n.core.log.snap.Index
		look := restTimeouts * n.core.cfg.electionTicks
		for written := 0; written < test.bytes; written += step {
			n.propose("k", value[:min(step, test.bytes-written)])
			s.settle()
			if test.busy {
				s.tick(look / 2)
			}
		}
		if !test.busy {
			s.tick(3 * look)
		}
		n.propose("k", "v") // the next entry brings it
		s.settle()
		if due := n.newest().Index > at; due != test.due {
			t.Errorf("%s: a snapshot: %v, want %v", test.name, due, test.due)
		}
	}
}
