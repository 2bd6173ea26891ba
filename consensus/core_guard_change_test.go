package consensus

import (
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// behindPoison has a change of the core committed right behind a command on which members crash, before any of them applies
// it, and returns the index of the command. Who crashes does so only once the appliers go on.
func (s *sim) behindPoison(t *testing.T, leader uint64, change *raftpb.ConfChangeV2) (at uint64) {
	t.Helper()
	n := s.nodes[leader]
	for _, other := range s.nodes {
		other.stopped = true // its applier is slow
	}
	n.propose("bad", "1")
	at = n.core.log.last()
	n.ask(&request{change: change}, (*core).changeCore)
	s.settle()
	if n.core.commit != at+1 || n.core.log.entries[n.core.commit-n.core.log.first()].GetType() == raftpb.EntryNormal {
		t.Fatalf("not prepared: %s", s.describe())
	}
	return at
}

// startAgain starts members anew, with a journal that says that they ended while they applied the command.
func (s *sim) startAgain(at uint64, ids ...uint64) {
	tune := s.tune
	s.tune = func(c *coreConfig) { tune(c); c.guard.Crash = &GuardCrash{Index: at, Times: 2} }
	for _, id := range ids {
		s.nodes[id].crash(false)
	}
	for _, id := range ids {
		s.nodes[id].start()
	}
	s.tune = tune
}

func change(kind raftpb.ConfChangeType, id uint64) *raftpb.ConfChangeV2 {
	return &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: kind.Enum(), NodeId: new(id)}}}
}

// TestChangeBehindPoison: all members are killed by a command behind which a change of the core is committed, and started
// again. The change takes effect before the command is applied, once, so that there is a leader, and the command is left out.
// It took none before, and there was no leader for ever.
func TestChangeBehindPoison(t *testing.T) {
	for _, joint := range []bool{false, true} {
		s := guardSim(t, 3, 1, 2, 3)
		s.add(4)
		s.nodes[4].crashes = s.nodes[1].crashes
		if out := *s.nodes[1].ask(&request{change: change(raftpb.ConfChangeAddLearnerNode, 4)}, (*core).changeCore); out != nil && out.err != nil {
			t.Fatal(out.err)
		}
		s.tick(20)
		behind, want := change(raftpb.ConfChangeAddNode, 4), []uint64{1, 2, 3, 4}
		if joint {
			behind.Changes = append(behind.Changes, change(raftpb.ConfChangeAddLearnerNode, 3).Changes...)
			want = []uint64{1, 2, 4}
		}
		at := s.behindPoison(t, 1, behind)
		s.startAgain(at, 1, 2, 3, 4)
		s.tick(200)
		if left, did := s.leftOut(); left != 4 || did != 0 {
			t.Fatalf("joint %v: %d left it out, %d did it:\n%s", joint, left, did, s.describe())
		}
		if out := *s.nodes[s.elect()].propose("more", "1"); out != nil && out.err != nil {
			t.Error("the core does not go on:", out.err)
		}
		s.tick(5)
		s.sameStates(t)
		for _, n := range s.nodes {
			if st := n.core.status(); !slices.Equal(st.Voters, want) || len(st.Outgoing) > 0 {
				t.Errorf("joint %v: node %d has the voters %v, outgoing %v", joint, n.id, st.Voters, st.Outgoing)
			}
		}
		s.sound(t)
	}
}

// TestRemovedVoterIsAsked: a voter that a change behind the command has removed may have applied it, and told its client. The
// others have a leader, and do not leave it out without that one's word.
func TestRemovedVoterIsAsked(t *testing.T) {
	s := guardSim(t, 3, 1, 2)
	s.nodes[1].ask(&request{target: 3}, (*core).transferTo)
	s.tick(5)
	if s.current() != 3 {
		t.Fatalf("not prepared: %s", s.describe())
	}
	at := s.behindPoison(t, 3, change(raftpb.ConfChangeRemoveNode, 3))
	s.nodes[3].stopped = false // it does it, and is removed
	s.settle()
	s.tick(1) // the others write that the command and the change are committed
	if s.nodes[3].machine.get("bad") != "1" || len(s.nodes[3].core.conf.GetVoters()) != 2 {
		t.Fatalf("not prepared: %s", s.describe())
	}
	s.startAgain(at, 1, 2)
	s.tick(200)
	leader := s.current()
	if leader != 1 && leader != 2 {
		t.Fatalf("there is no leader:\n%s", s.describe())
	}
	if left, did := s.leftOut(); left != 0 || did != 1 {
		t.Errorf("%d left it out, %d did it: what a client was told is undone", left, did)
	}
	cases := s.nodes[leader].core.status().Cases
	if len(cases) != 1 || cases[0].Answers[3] != "none" {
		t.Errorf("the leader says %+v", cases)
	}
	out := *s.nodes[leader].ask(&request{leaveOut: &quarantine{index: at}}, (*core).forceQuarantine)
	if s.tick(20); out == nil || out.err != nil {
		t.Errorf("an operator got %+v", out)
	}
	if left, _ := s.leftOut(); left != 2 {
		t.Errorf("an operator has decided, and %d left it out:\n%s", left, s.describe())
	}
	s.sound(t)
}

// TestNoSnapshotWithALaterConfiguration: what is captured while a change took effect ahead would name the wrong members, and
// is given up; as a control, it is written when there was no such change.
func TestNoSnapshotWithALaterConfiguration(t *testing.T) {
	for _, ahead := range []uint64{0, 1} {
		s := guardSim(t, 3)
		c := s.nodes[1].core
		c.log.confIndex, c.snaps.saving = c.applied+ahead, true
		c.captured(&applyTask{index: c.applied, term: c.term, capture: true})
		if saves := len(c.take().saves); saves != 1-int(ahead) || c.snaps.saving == (ahead > 0) || c.snaps.renew != (ahead > 0) {
			t.Errorf("a change %d ahead: %d snapshots, saving %v, another one wanted %v", ahead, saves, c.snaps.saving, c.snaps.renew)
		}
	}
}
