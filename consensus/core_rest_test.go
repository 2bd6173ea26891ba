package consensus

import (
	"testing"
	"time"
)

// A core at rest lets its loop sleep from one heartbeat to the next; with anything under way that goes by ticks it does not,
// and neither does a follower that has missed a heartbeat.
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
	if got, slack := f.core.restTicks(), f.core.restSlack(); got != defaultHeartbeatTicks || slack <= 0 || slack >= defaultTick {
		t.Errorf("a follower that has heard its leader sleeps over %d ticks and %v", got, slack)
	}
	f.do(func() { f.core.reads.waiting = []*request{{reply: func(outcome) {}}} })
	if got := f.core.restTicks(); got != 1 {
		t.Errorf("with a read that waits: %d ticks", got)
	}
	f.core.reads.waiting = nil

	l.crash(false)
	s.net = nil
	for range defaultHeartbeatTicks {
		s.tick(1)
	}
	if got, slack := f.core.restTicks(), f.core.restSlack(); got != 1 || slack != 0 {
		t.Errorf("a heartbeat is missing and the follower sleeps over %d ticks and %v", got, slack)
	}
}

// The loop makes up for the ticks that it chose to sleep over and for no more: a process that was stopped does not find
// its leader silent for a time in which it heard nobody.
func TestSleeperMakesUpForWhatItSleptOver(t *testing.T) {
	now := time.Hour
	n := &Node{opts: Options{Tick: 50 * ms}, leases: &leaseReads{now: func() time.Duration { return now }}}
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
