package consensus

import "testing"

// electionAfterStart ends all members of a core of three, starts those given together again, each so many ticks after the
// one before, and returns after how many ticks from the last start one of them leads.
func electionAfterStart(t *testing.T, apart int, ids ...uint64) (ticks int) {
	t.Helper()
	s, _ := tailSim(t)
	clear(s.cut)
	s.tick(5)
	for _, n := range s.nodes {
		n.crash(false)
	}
	s.net = nil
	for i, id := range ids {
		if i > 0 {
			s.tick(apart)
		}
		s.nodes[id].start()
		s.settle()
	}
	for ; s.current() == 0; ticks++ {
		if ticks > 100 {
			t.Fatalf("nobody leads:\n%s", s.describe())
		}
		s.tick(1)
	}
	for _, b := range s.broken {
		t.Error(b)
	}
	return ticks
}

// Members that are all started together have a leader when the promise is over that each keeps after its start, and do not
// wait for raft's election timeout, which is what two of three have to do: the third may be a leader that is cut off.
func TestAllStartTogether(t *testing.T) {
	promise := int(leaseLength / defaultTick)
	for _, apart := range []int{0, 1, 3} {
		if got := electionAfterStart(t, apart, 1, 2, 3); got < promise-apart || got > promise+4 {
			t.Errorf("started %d ticks apart a leader came after %d ticks, want %d to %d", apart, got, promise-apart, promise+4)
		}
	}
	if got := electionAfterStart(t, 0, 3, 1, 2); got > promise+4 {
		t.Errorf("in another order a leader came after %d ticks", got)
	}
	if got := electionAfterStart(t, 0, 1, 2); got < defaultElectionTicks {
		t.Errorf("the control without the third has a leader after %d ticks", got)
	}
}

// A member that is started again while the others have a leader deposes nobody, also if it does not hear that leader.
func TestStartDeposesNobody(t *testing.T) {
	s, _ := tailSim(t)
	clear(s.cut)
	s.tick(5)
	term := s.nodes[1].core.term
	s.nodes[3].crash(false)
	s.net = nil
	s.nodes[3].start()
	s.settle() // every tail is heard
	if s.nodes[3].core.tails.asking {
		t.Fatalf("not prepared:\n%s", s.describe())
	}
	s.cut[[2]uint64{1, 3}], s.cut[[2]uint64{3, 1}] = true, true
	s.nodes[3].core.leader = 0
	for range 3 * defaultElectionTicks {
		s.tick(1)
		if l := s.nodes[1].core; !l.leads() || l.term != term {
			t.Fatalf("the leader was deposed:\n%s", s.describe())
		}
	}
}

// Members whose promises are over when they start, as what they had to load took longer, have a leader as soon as all have heard each other,
// without a tick. As long as the promise lasts nobody leads.
func TestNobodyWaitsForATickAfterThePromise(t *testing.T) {
	for _, over := range []bool{true, false} {
		s, _ := tailSim(t)
		clear(s.cut)
		s.tick(5)
		for _, n := range s.nodes {
			n.crash(false)
		}
		s.net = nil
		end := s.now.Sub(simBegan)
		s.tune = func(cc *coreConfig) { cc.ended = end }
		s.now = s.now.Add(leaseLength)
		if !over {
			s.now = s.now.Add(-1)
		}
		for _, id := range []uint64{3, 1, 2} {
			s.nodes[id].start()
			s.settle()
		}
		if leads := s.current() != 0; leads != over {
			t.Errorf("promises over: %v, somebody leads: %v\n%s", over, leads, s.describe())
		}
		for _, b := range s.broken {
			t.Error(b)
		}
	}
}
