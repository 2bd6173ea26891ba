package consensus

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// TestHandOverPrefersTheHealthy: a leader that stops applying gives the lead to a voter that can serve, although another
// one is as far in the log and has a smaller id. Each reason is met alone; without one the first voter is taken.
func TestHandOverPrefersTheHealthy(t *testing.T) {
	for _, c := range []struct {
		name    string
		against func(s *sim)
		want    uint64
	}{
		{"control", func(*sim) {}, 2},
		{"its state differs", func(s *sim) { s.nodes[1].core.digests.diverged = []uint64{2} }, 3},
		{"it stopped at a command", func(s *sim) {
			n := s.nodes[1].core
			n.resetInquiries()
			n.noteStop(2, applyStop{index: 99})
		}, 3},
		{"it is held", func(s *sim) { s.nodes[1].core.cfg.held = func(id uint64) bool { return id == 2 } }, 3},
		{"its disk takes nothing", func(s *sim) {
			n := s.nodes[1].core
			n.moved[2] = advance{at: 0}
			n.ticks += 1000
			n.moved[3] = advance{at: n.ticks}
		}, 3},
		{"all are held", func(s *sim) { s.nodes[1].core.cfg.held = func(uint64) bool { return true } }, 2},
	} {
		s := newSim(t, 7)
		for id := range uint64(3) {
			s.add(id+1, 1, 2, 3)
		}
		s.lead(1)
		s.nodes[1].propose("k", "v")
		s.tick(4)
		s.nodes[1].do(func() {
			c.against(s)
			s.nodes[1].core.handOver()
		})
		s.settle()
		if got := s.current(); got != c.want {
			t.Errorf("%s: %d leads, want %d", c.name, got, c.want)
		}
	}
}

// TestHandOverTriesAnother: a voter whose end of the log is in doubt takes no lead, and tells nobody. A leader that cannot
// serve does not offer it to that one for ever.
func TestHandOverTriesAnother(t *testing.T) {
	s := newSim(t, 7)
	for id := range uint64(3) {
		s.add(id+1, 1, 2, 3)
	}
	s.lead(1)
	s.nodes[1].propose("k", "v")
	s.tick(4)
	s.nodes[2].core.tails.floor = &tail{lastTerm: 1 << 40} // not reached
	s.nodes[1].do(func() { s.nodes[1].core.halt(errors.New("its applier has ended")) })
	s.settle()
	if s.nodes[1].core.transfer == nil || s.nodes[1].core.transfer.to != 2 {
		t.Fatal("not prepared: the lead was not offered to 2 first")
	}
	s.tick(4 * defaultElectionTicks)
	if got := s.current(); got != 3 {
		t.Errorf("%d leads\n%s", got, s.describe())
	}
	s.sound(t)
}

// TestDoubtedHeirs: who stops is told by the leader's status whom it should not give the lead to.
func TestDoubtedHeirs(t *testing.T) {
	s := guardSim(t, 3, 2)
	s.cut[[2]uint64{1, 3}], s.cut[[2]uint64{3, 1}] = true, true // or it would be fenced
	s.nodes[1].stopped = true
	s.nodes[1].propose("bad", "1")
	s.tick(8)
	st := s.nodes[1].core.status()
	if !st.Progress[2].Doubted || st.Progress[3].Doubted {
		t.Errorf("%+v", st.Progress)
	}
}

// TestClaimsOverManyReplacements: a member keeps the claims of its core, however many others were in their places before.
func TestClaimsOverManyReplacements(t *testing.T) {
	s, _ := tailSim(t)
	c := s.nodes[2].core
	hear := func(id uint64) {
		m := claim{term: 5, index: id}
		if err := c.hear(note{peer: id, kind: noteClaim, body: m.append(nil)}); err != nil {
			t.Fatal(err)
		}
	}
	for id := uint64(10); id < 10+3*maxPeers; id++ {
		c.conf = &raftpb.ConfState{Voters: []uint64{1, 2, id}}
		hear(1)
		hear(id)
		for _, kept := range []uint64{1, id} {
			if _, ok := c.claims[kept]; !ok {
				t.Fatalf("after %d replacements the claim of %d is not kept", id-10, kept)
			}
		}
		if len(c.claims) > maxPeers {
			t.Fatalf("%d claims are kept", len(c.claims))
		}
	}
}
