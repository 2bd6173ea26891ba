package consensus

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// resting is a core of three with a leader and nothing under way.
func resting(t *testing.T) (s *sim, leader *simNode) {
	s = newSim(t, 1)
	for id := range uint64(3) {
		s.add(id+1, 1, 2, 3)
	}
	leader = s.nodes[s.elect()]
	s.tick(10)
	return s, leader
}

// TestCommitIsNotAcknowledged: a follower answers an entry, and not the commit after it. As a control, it answers both where the
// leader's mark is taken off.
func TestCommitIsNotAcknowledged(t *testing.T) {
	for _, marked := range []bool{true, false} {
		s, leader := resting(t)
		acks := 0
		s.dropped = func(p packet) bool {
			switch {
			case p.m == nil:
			case p.m.GetType() == raftpb.MsgAppResp:
				acks++
			case p.m.GetType() == raftpb.MsgApp && !marked:
				p.m.RejectHint = nil
			}
			return false
		}
		out := leader.propose("a", "1")
		s.settle()
		if *out == nil || (*out).err != nil {
			t.Fatalf("marked %v: the outcome is %v", marked, *out)
		}
		for _, n := range s.nodes {
			if n.machine.get("a") != "1" {
				t.Errorf("marked %v: node %d has not applied it", marked, n.id)
			}
		}
		if want := map[bool]int{true: 2, false: 4}[marked]; acks != want {
			t.Errorf("marked %v: %d acknowledgements, want %d", marked, acks, want)
		}
		s.sound(t)
	}
}

// TestCommitTravelsWithEntries: while entries are under way a commit is told by theirs. Two writes, one after the other without a pause,
// take four appends with entries and one round of a commit alone, not two.
func TestCommitTravelsWithEntries(t *testing.T) {
	s, leader := resting(t)
	full, empty := 0, 0
	s.dropped = func(p packet) bool {
		if p.m != nil && p.m.GetType() == raftpb.MsgApp {
			if len(p.m.GetEntries()) > 0 {
				full++
			} else {
				empty++
			}
		}
		return false
	}
	leader.propose("a", "1")
	leader.propose("b", "2")
	s.settle()
	if full != 4 || empty != 2 {
		t.Errorf("%d appends with entries and %d without, want 4 and 2", full, empty)
	}
	s.sameStates(t)
	s.sound(t)
}

// TestLostAcknowledgementIsFound: no acknowledgement of an entry arrives. The next heartbeat's answer makes the leader ask again, and
// that answer is not left out.
func TestLostAcknowledgementIsFound(t *testing.T) {
	s, leader := resting(t)
	s.dropped = func(p packet) bool { return p.m.GetType() == raftpb.MsgAppResp }
	out := leader.propose("a", "1")
	s.settle()
	if s.dropped = nil; *out != nil {
		t.Fatalf("not prepared: the outcome is %v", *out)
	}
	s.tick(2 * leader.core.cfg.heartbeatTicks)
	if *out == nil || (*out).err != nil {
		t.Errorf("the outcome is %v", *out)
	}
	s.sound(t)
}

// TestProbeIsAnswered: a leader that lost messages to a follower probes its log, and gets its answer though the follower has
// acknowledged everything before.
func TestProbeIsAnswered(t *testing.T) {
	s, leader := resting(t)
	for id := range s.nodes {
		if id == leader.id {
			continue
		}
		leader.do(func() { leader.core.unreachable(id) })
		if leader.core.replicates(id) {
			t.Fatalf("not prepared: %d is not probed", id)
		}
		s.tick(2 * leader.core.cfg.heartbeatTicks)
		if !leader.core.replicates(id) {
			t.Errorf("%d is still probed", id)
		}
	}
	s.sound(t)
}

// TestCommitIsWrittenOnce: the commit that follows an entry is written at the next tick, and at the ticks after it nothing is.
func TestCommitIsWrittenOnce(t *testing.T) {
	s, leader := resting(t)
	leader.propose("a", "1")
	s.settle()
	for id, n := range s.nodes {
		if on := n.log.now.hard.GetCommit(); on >= n.core.commit {
			t.Errorf("node %d wrote the commit of %d apart", id, on)
		}
	}
	s.tick(1)
	for id, n := range s.nodes {
		if on := n.log.now.hard.GetCommit(); on != n.core.commit {
			t.Errorf("node %d has committed %d, and its disk says %d", id, n.core.commit, on)
		}
	}
	wrote := leader.core.written
	if s.tick(1); leader.core.written != wrote {
		t.Error("an idle tick wrote the commit again")
	}
	s.sound(t)
}
