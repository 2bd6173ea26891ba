package consensus

import "testing"

// electionAfterDeath ends the leader of a core of three, tells those voters that its host refuses connections, and returns
// after how many ticks another leads.
func electionAfterDeath(t *testing.T, told ...uint64) (ticks int) {
	t.Helper()
	s, l := leased(t)
	s.tick(1)
	l.crash(false)
	s.net = nil
	for _, id := range told {
		s.nodes[id].do(func() { s.nodes[id].core.refused(1) })
	}
	for ; s.current() == 0; ticks++ {
		if ticks > 100 {
			t.Fatal("nobody leads")
		}
		s.tick(1)
	}
	return ticks
}

// A hint of the leader's death ends the wait of an election timeout when the voters' promise is over, and not before.
func TestHintEndsTheWaitWithThePromise(t *testing.T) {
	promise := int(leaseLength / defaultTick)
	if got := electionAfterDeath(t, 2, 3); got < promise || got > promise+2 {
		t.Errorf("with hints another led after %d ticks, want %d", got, promise)
	}
	if got := electionAfterDeath(t, 3); got > 3*defaultElectionTicks {
		t.Errorf("with a hint to one voter another led after %d ticks", got)
	}
	if got := electionAfterDeath(t); got < defaultElectionTicks {
		t.Errorf("without hints another led after %d ticks", got)
	}
}

// A hint about a leader that lives deposes nobody, whoever gets it: the next heartbeat ends it, and where the leader is
// not heard the others give no pre-vote.
func TestFalseHint(t *testing.T) {
	s, l := leased(t)
	term := l.core.term
	s.cut[[2]uint64{1, 2}], s.cut[[2]uint64{2, 1}] = true, true
	for range 4 * defaultElectionTicks {
		for _, id := range []uint64{2, 3} {
			s.nodes[id].do(func() { s.nodes[id].core.refused(1) })
		}
		s.tick(1)
		if !l.core.leads() || l.core.term != term {
			t.Fatalf("the leader was deposed: %s", s.describe())
		}
	}
}
