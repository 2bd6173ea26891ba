package consensus

import (
	"slices"
	"testing"
)

// outrunSim is three nodes of which two have stopped at what the first has applied, which saves no snapshot for now. It returns
// the index of that entry.
func outrunSim(t *testing.T) (s *sim, index uint64) {
	s = guardSim(t, 3, 2, 3)
	n := s.nodes[1]
	n.core.snaps.retryAt = 1 << 60
	out := n.propose("bad", "1")
	s.tick(60)
	if *out == nil || (*out).err != nil {
		t.Fatalf("the leader has not done it: %+v", *out)
	}
	index = (*out).done.Index
	for _, id := range []uint64{2, 3} {
		c := s.nodes[id].core
		if c.guard.behind.index != index || c.rebuild() != nil || !slices.Equal(c.guard.behind.appliers, []uint64{1}) {
			t.Fatalf("not prepared: node %d waits for %+v, and begins again with %+v", id, c.guard.behind, c.rebuild())
		}
	}
	return s, index
}

// begunBehind wants the nodes that stopped to begin again with a snapshot at or behind an entry, which they have on the disk.
func (s *sim) begunBehind(t *testing.T, index uint64) {
	t.Helper()
	for _, id := range []uint64{2, 3} {
		n := s.nodes[id]
		need := n.core.rebuild()
		if need == nil || need.Beyond == 0 || !slices.Equal(need.From, []uint64{1}) || n.newest().Index < index {
			t.Errorf("node %d begins again with %+v, its newest snapshot is of %d, want one of %d", id, need, n.newest().Index, index)
		}
	}
	s.sound(t)
}

// TestOutrunVotesUntilItHasTheSnapshot: a majority stopped at what the third has applied, which loses its power with all that it
// knows of that before it has saved a snapshot. They go on voting, so that there is a leader that tells it what is committed, it
// applies the entry anew, and they get their snapshot. They once ended at once: then nobody led, for good.
func TestOutrunVotesUntilItHasTheSnapshot(t *testing.T) {
	s, index := outrunSim(t)
	n := s.nodes[1]
	n.journal = simJournal{lost: true}
	n.crash(false)
	s.tick(100) // the others elect one of them
	if l := s.current(); l != 2 && l != 3 {
		t.Fatalf("%d leads:\n%s", l, s.describe())
	}
	n.start()
	s.tick(200)
	if left, did := s.leftOut(); left != 0 || did != 1 {
		t.Errorf("%d left it out, %d did it", left, did)
	}
	s.begunBehind(t, index)
}

// TestStoppedMemberShowsWhatItHasApplied: who has applied what others stopped at has stopped itself, further on. A snapshot of
// what it has applied is all that they need. Its own next one was due behind that.
func TestStoppedMemberShowsWhatItHasApplied(t *testing.T) {
	s, index := outrunSim(t)
	n := s.nodes[1]
	n.crashes = map[string]bool{"worse": true}
	n.propose("between", "1")
	n.propose("worse", "1")
	s.tick(20)
	stop := n.core.guard.stop
	if stop == nil {
		t.Fatalf("not prepared:\n%s", s.describe())
	}
	n.core.snaps.retryAt, n.core.snaps.saving, n.core.snaps.last = 0, true, stop.index+1
	s.tick(60)
	s.begunBehind(t, index)
	if got := s.nodes[2].newest().Index; got != stop.index-1 {
		t.Errorf("the snapshot is of %d, want %d", got, stop.index-1)
	}
}

// TestBehindTakesNothingElse: a snapshot from somebody who was not named, one that is too old, and one that makes no sense are not
// fetched, and nobody outside the core is given one. Who gets to know that it has to be fetched otherwise begins again.
func TestBehindTakesNothingElse(t *testing.T) {
	s, index := outrunSim(t)
	c := s.nodes[2].core
	ask := encodePair(index, 0)[:8]
	for what, refused := range map[string]error{
		"no snapshot":       c.hearBehind(1, append(slices.Clone(ask), 0xff)),
		"no index":          c.hearBehind(1, nil),
		"a question":        c.hearBehindAsk(1, nil),
		"one from outside":  c.hearBehindAsk(77, ask),
		"one that is empty": c.hearBehind(1, append(slices.Clone(ask), 0x0a, 0)),
	} {
		if refused == nil {
			t.Errorf("%s is taken", what)
		}
	}
	for what, err := range map[string]error{
		"who was not named":   c.hearBehind(3, ask),
		"about another entry": c.hearBehind(1, encodePair(index+1, 0)[:8]),
	} {
		if err != nil || c.snaps.installing || c.rebuild() != nil {
			t.Errorf("%s: %v, %+v", what, err, c.rebuild())
		}
	}
	s.nodes[2].do(func() { _ = c.hearBehind(1, ask) })
	if need := c.rebuild(); need == nil || need.Beyond != index {
		t.Errorf("it begins again with %+v", need)
	}
}

// TestBehindPausesAfterFailures: who cannot fetch the snapshot that it is offered asks again, more and more seldom, until it can.
// (It once began the next fetch with the next question, four times an election timeout.)
func TestBehindPausesAfterFailures(t *testing.T) {
	s, index := outrunSim(t)
	s.nodes[1].core.snaps.retryAt = 0
	s.withheld = map[uint64]int{}
	timeouts := func(n int) { s.tick(n * s.nodes[2].core.cfg.electionTicks) }
	timeouts(64)
	for id, n := range s.withheld {
		if n < 3 || n > 9 { // after 1, 2, 4, 8, 16 and 32 election timeouts
			t.Errorf("node %d fetched %d times within 64 election timeouts", id, n)
		}
	}
	if len(s.withheld) != 2 {
		t.Fatalf("not prepared: these have fetched: %v", s.withheld)
	}
	clear(s.withheld)
	timeouts(3 * behindPauses)
	for _, id := range []uint64{2, 3} {
		if n := s.withheld[id]; n < 2 || n > 4 {
			t.Errorf("node %d fetched %d times within three of the longest pauses", id, n)
		}
	}
	s.withheld = nil
	timeouts(behindPauses + 4)
	s.begunBehind(t, index)
}

// TestOutrunByNobody: a note that names nobody but its reader does not take the place of one that names somebody. (It once did, and
// the reader had nobody to ask from then on.)
func TestOutrunByNobody(t *testing.T) {
	s, index := outrunSim(t)
	s.nodes[2].do(func() {
		c := s.nodes[2].core
		if err := c.hearOutrun(c.leader, encodeOutrun(index, []uint64{2, 0})); err != nil {
			t.Error(err)
		}
		c.outrun(index, nil)
		if got := c.guard.behind.appliers; !slices.Equal(got, []uint64{1}) {
			t.Errorf("it asks %v", got)
		}
	})
	s.nodes[1].core.snaps.retryAt = 0
	s.tick(200)
	s.begunBehind(t, index)
}

// TestProbationGivesInTheEnd: a majority stopped at what the third has applied, and that one is on probation, which only a majority
// could end. It gives its snapshot once it was asked for longer than a probation takes, and not before, nor if its state was wrong
// each time it was rebuilt. (It once gave none, and a majority stayed stopped for good.)
func TestProbationGivesInTheEnd(t *testing.T) {
	for _, hopeless := range []bool{false, true} {
		s, index := outrunSim(t)
		c := s.nodes[1].core
		c.digests.probation, c.cfg.fenced = probationMarks, hopeless
		c.snaps.retryAt = 0
		patience := int(max(uint64(proofTimeouts*c.cfg.electionTicks), c.probationTicks())) //nolint:gosec // few
		s.tick(patience - c.cfg.electionTicks)
		for _, id := range []uint64{2, 3} {
			if need := s.nodes[id].core.rebuild(); need != nil {
				t.Errorf("hopeless %v: node %d begins again already: %+v", hopeless, id, need)
			}
		}
		s.tick(patience)
		if !hopeless {
			s.begunBehind(t, index)
		} else if need := s.nodes[2].core.rebuild(); need != nil {
			t.Errorf("control: node 2 begins again with a state that is wrong each time: %+v", need)
		}
	}
}
