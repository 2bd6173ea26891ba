package consensus

import (
	"testing"
	"testing/synctest"
	"time"
)

// A core at rest lets its loop sleep from one heartbeat to the next, and a follower's a little longer; with anything under way
// that goes by ticks it does not, and neither does a follower that has missed two heartbeats.
func TestRestEndsWithTheFirstSurprise(t *testing.T) {
	s, l := leased(t)
	for range leaseLength / defaultTick { // until the lease is over that nobody uses
		s.tick(1)
	}
	for l.core.ticks != l.core.beat {
		s.tick(1)
	}
	f := s.nodes[2]
	if got := l.core.restTicks(); got != defaultHeartbeatTicks {
		t.Errorf("a leader that has sent its heartbeats sleeps over %d ticks", got)
	}
	if got, slack := f.core.restTicks(), f.core.restSlack(); got != 2*defaultHeartbeatTicks || slack <= 0 || slack >= defaultTick {
		t.Errorf("a follower that has heard its leader sleeps over %d ticks and %v", got, slack)
	}
	f.do(func() { f.core.reads.waiting = []*request{{reply: func(outcome) {}}} })
	if got := f.core.restTicks(); got != 1 {
		t.Errorf("with a read that waits: %d ticks", got)
	}
	f.core.reads.waiting = nil

	l.crash(false)
	s.net = nil
	for range 2 * defaultHeartbeatTicks {
		s.tick(1)
	}
	if got, slack := f.core.restTicks(), f.core.restSlack(); got != 1 || slack != 0 {
		t.Errorf("two heartbeats are missing and the follower sleeps over %d ticks and %v", got, slack)
	}
}

// The loop makes up for the ticks that it chose to sleep over and for no more: a process that was stopped does not find
// its leader silent for a time in which it heard nobody.
func TestSleeperMakesUpForWhatItSleptOver(t *testing.T) {
	now := time.Hour
	n := &Node{opts: Options{Tick: 50 * ms, HeartbeatTicks: 2}, leases: &leaseReads{now: func() time.Duration { return now }}}
	s := newSleeper(n)
	defer s.timer.Stop()
	s.rest = 2
	for _, step := range []struct {
		passes time.Duration
		timer  bool
		ticks  int
	}{
		{30 * ms, false, 0}, {30 * ms, false, 1}, {40 * ms, false, 1}, // at 0, 60 and 100 ms
		{110 * ms, false, 2}, // two were slept over
		{time.Second, false, 2}, {49 * ms, false, 0}, {ms, false, 1},
		{0, true, 2}, // a timer that ends says that its time is over
	} {
		now += step.passes
		if got := s.due(s.now(step.timer), step.timer); got != step.ticks {
			t.Errorf("%v after the last event: %d ticks, want %d", step.passes, got, step.ticks)
		}
	}
}

// A follower's loop sleeps over more than one heartbeat. If it was stopped meanwhile it is told of one, as a loop that sleeps
// no longer than that; if it was not, of all.
func TestSleeperForgivesAStop(t *testing.T) {
	for _, c := range []struct {
		passes time.Duration
		ticks  int
	}{{225 * ms, 4}, {299 * ms, 4}, {300 * ms, 2}, {5 * time.Second, 2}} {
		now := time.Hour
		n := &Node{opts: Options{Tick: 50 * ms, HeartbeatTicks: 2}, leases: &leaseReads{now: func() time.Duration { return now }}}
		s := newSleeper(n)
		s.rest = 4
		now += c.passes
		if got := s.due(s.now(true), true); got != c.ticks {
			t.Errorf("awake after %v: %d ticks, want %d", c.passes, got, c.ticks)
		}
		s.timer.Stop()
	}
}

// The end of a timer that a reader's turn has set anew just then is not taken for the end of the new one.
func TestSleeperTellsAnOldEndOfItsTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, l := leased(t)
		n := &Node{opts: Options{Tick: 50 * ms, HeartbeatTicks: 2}, leases: &leaseReads{now: bubbleTime}, core: l.core}
		w := newSleeper(n)
		defer w.timer.Stop()
		old := <-w.timer.C // the loop has it, and waits for its turn
		w.due(w.now(false), false)
		w.set() // a reader had the turn
		if w.ended(old) {
			t.Error("an old end counts")
		}
		if !w.again {
			t.Error("a timer that may have ended is not set again")
		}
		w.set()
		if at := <-w.timer.C; !w.ended(at) {
			t.Error("the end of the timer as it stands does not count")
		}
		if w.ended(time.Time{}) {
			t.Error("no end counts")
		}
	})
}
