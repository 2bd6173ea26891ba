package consensus

import (
	"testing"
)

// TestLostPromiseIsNotBroken: a voter that has promised not to apply a command loses its journal with the power while the case
// is open. It applies nothing before it has heard the leader, and the leader takes its old answer for nothing, so that the
// command is never left out by some and applied by others. Control: a voter that takes its empty journal for the truth breaks
// its promise, and finds that out afterwards.
func TestLostPromiseIsNotBroken(t *testing.T) {
	for _, honest := range []bool{true, false} {
		s := guardSim(t, 5, 1, 2, 3, 5) // 5 is away at first, 4 could apply it
		n := s.nodes[4]
		n.stopped = true // its applier is slow
		for id := range uint64(4) {
			s.cut[[2]uint64{5, id + 1}], s.cut[[2]uint64{id + 1, 5}] = true, true
		}
		s.nodes[1].propose("bad", "1")
		s.settle()
		at := n.core.log.last()
		n.crash(false)
		n.log.now.hard.Commit = new(at - 1) // it has not heard that it is committed
		n.start()
		n.do(func() { n.core.hasApplied(at, true) })
		s.tick(20)
		if n.journal.hold != at || n.core.commit < at {
			t.Fatalf("not prepared: it has promised %d, want %d\n%s", n.journal.hold, at, s.describe())
		}
		n.crash(false)
		n.journal = simJournal{applied: n.journal.applied, lost: honest}
		n.start()
		for n.applies() {
			n.applyNext()
		}
		if did := n.machine.get("bad") != ""; did == honest {
			t.Errorf("honest %v: before it has heard anybody it applied the command: %v", honest, did)
		}
		s.tick(30)
		for _, open := range s.nodes[s.current()].core.status().Cases {
			if honest && open.Answers[4] == "not applied" {
				t.Error("the leader counts on a promise that is lost")
			}
		}
		clear(s.cut)
		s.tick(60)
		left, did := s.leftOut()
		if broken := left > 0 && did > 0 || n.core.rebuild() != nil; broken == honest {
			t.Errorf("honest %v: %d left it out, %d did it, rebuild %v\n%s", honest, left, did, n.core.rebuild(), s.describe())
		}
		if honest {
			s.sound(t)
		}
	}
}

// TestLostJournalsWaitForNobody: after a loss of power of all of them the members elect a leader, and all is applied.
func TestLostJournalsWaitForNobody(t *testing.T) {
	s := guardSim(t, 3)
	for range 3 {
		s.nodes[1].propose("k", "v")
		s.tick(2)
	}
	for _, n := range s.nodes {
		n.crash(false)
		n.journal = simJournal{lost: true}
	}
	for _, n := range s.nodes {
		n.start()
		if n.core.guard.withheld() == 0 {
			t.Errorf("node %d withholds nothing", n.id)
		}
	}
	s.tick(80)
	s.sameStates(t)
	for _, n := range s.nodes {
		if n.machine.get("k") != "v" || n.core.guard.withheld() != 0 {
			t.Errorf("node %d: %q, withholds %d", n.id, n.machine.get("k"), n.core.guard.withheld())
		}
	}
	s.sound(t)
}
