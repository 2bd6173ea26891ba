package consensus

import (
	"testing"
)

// withholding is a member of three that begins again alone, and applies nothing from an entry on before it has heard a leader: the
// last one, or the one behind the first checkpoint at which a snapshot is due.
func withholding(t *testing.T, snapshotEntries uint64, last bool) (n *simNode, at uint64) {
	s := provingSim(t)
	tune := s.tune
	s.tune = func(c *coreConfig) {
		tune(c)
		c.snapshotEntries, c.trailingEntries, c.maxLogBytes = snapshotEntries, 0, 1<<20
		c.guard = &Guard{Quarantinable: func([]byte) bool { return true }, Known: true}
		if c.id == 3 && at > 0 {
			c.guard.Crash = &GuardCrash{Index: at, Times: 1}
		}
	}
	for _, n := range s.nodes {
		n.crash(false)
		n.start()
	}
	s.elect()
	s.nodes[3].core.cfg.snapshotEntries = 1 << 20
	s.busy(t, 2)
	for _, id := range []uint64{1, 2} {
		s.nodes[id].crash(false)
	}
	n = s.nodes[3]
	at = n.core.commit
	commit := at
	for i := n.core.log.first() + 5; !last && i < at; i++ {
		if isCheckpoint(n.core.log.entries[i-n.core.log.first()]) {
			at = i + 1
		}
	}
	n.crash(false)
	n.log.now.hard.Commit = new(commit)
	n.start()
	if n.core.guard.withheld() != at || n.newest().Index > 1 {
		t.Fatalf("not prepared: it withholds %d, want %d, and has a snapshot of %d", n.core.guard.withheld(), at, n.newest().Index)
	}
	return n, at
}

// TestSnapshotOfWhatIsNotWithheld: a member that withholds what comes next saves a snapshot of what it has applied for those that
// ask for one. The simulator found a core in which a majority waited for that, and it for them: nobody led.
func TestSnapshotOfWhatIsNotWithheld(t *testing.T) {
	n, at := withholding(t, 1<<20, true)
	n.do(n.core.renewSnapshot)
	n.s.tick((proofTimeouts + 2) * defaultElectionTicks)
	if got := n.newest().Index; got != at-1 {
		t.Errorf("its newest snapshot is of %d, want %d", got, at-1)
	}
	n.s.sound(t)
}

// TestCaptureBehindWhatIsWithheld: a snapshot that is due behind what is withheld keeps nobody from saving one of what is applied.
// The simulator found a majority that waited for it for good.
func TestCaptureBehindWhatIsWithheld(t *testing.T) {
	_, first := withholding(t, 1<<20, false)
	n, at := withholding(t, first, false) // the checkpoint that it comes to is too early by one entry, the next one is not
	if !n.core.snaps.saving || n.core.snaps.last <= at {
		t.Fatalf("not prepared: it captures %d, and withholds %d", n.core.snaps.last, at)
	}
	n.do(n.core.renewSnapshot)
	n.s.tick((proofTimeouts + 2) * defaultElectionTicks)
	if got := n.newest().Index; got != at-1 {
		t.Errorf("its newest snapshot is of %d, want %d", got, at-1)
	}
	// What is withheld is dropped when a snapshot overtakes it. Another one can be captured then.
	_, first = withholding(t, 1<<20, false)
	n, _ = withholding(t, first, false)
	n.do(func() { n.core.overtake(n.core.commit) })
	if n.core.snaps.saving {
		t.Error("a snapshot is due behind entries that nobody applies any more")
	}
}

// TestRaftKnowsWhatIsCompacted: a snapshot may be of the midst of what raft gave out at once, and the rest be withheld. Raft hears
// of the part that is applied before the log is compacted: it once looked there for changes of the core, and panicked, when
// the member stood for election.
func TestRaftKnowsWhatIsCompacted(t *testing.T) {
	for _, last := range []bool{true, false} {
		n, at := withholding(t, 5, last)
		n.do(n.core.renewSnapshot)
		n.s.tick((proofTimeouts + 4) * defaultElectionTicks)
		if n.core.log.offset <= 1 || n.core.guard.withheld() != at {
			t.Fatalf("not prepared: its log begins behind %d, it withholds %d", n.core.log.offset, n.core.guard.withheld())
		}
		n.s.sound(t)
	}
}
