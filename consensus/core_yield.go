package consensus

import (
	"fmt"
	"slices"
	"time"
)

// Pace is how fast a member was lately, as it measured itself: the 99th percentile over the last paceFor. 0 means fast,
// or that there was nothing to measure.
type Pace struct {
	Fsync time.Duration // of the syncs of its log, with the one under way
	Late  time.Duration // of how late its loop saw its ticks
}

const (
	// paceFor is how far back a Pace looks, paceSamples how many of the newest measurements it counts. Of so many the
	// 99th percentile is over a bound when three are.
	paceFor     = 5 * time.Second
	paceSamples = 256
	// paceOutliers is how many of the largest never count on their own: with few samples a percentile is the largest, and
	// one hiccup says nothing about a disk.
	paceOutliers = 2

	// yieldAfter is how long a leader has to be slow without a break before it looks for another one, and yieldRetry how
	// long it waits when there was none.
	yieldAfter = 2 * time.Second
	yieldRetry = 2 * time.Second
	// yieldPauseMin is the least time between two hand-overs of one member. It doubles with each, up to yieldPauseMax, and
	// starts again after so long without one: where the load of leading is what makes members slow, the lead must not go
	// round for ever.
	yieldPauseMin = 30 * time.Second
	yieldPauseMax = 16 * time.Minute
	// betterBy is how many times faster another has to be.
	betterBy = 2
)

// paceMeter collects one kind of measurements. Times are those of one clock that never steps.
type paceMeter struct {
	samples []paceSample // a ring of at most paceSamples
	next    int          // where the next one goes once the ring is full
}

type paceSample struct{ at, took time.Duration }

// add notes a measurement that ended at the time at.
func (m *paceMeter) add(at, took time.Duration) {
	if len(m.samples) < paceSamples {
		m.samples = append(m.samples, paceSample{at, took})
		return
	}
	m.samples[m.next] = paceSample{at, took}
	m.next = (m.next + 1) % paceSamples
}

// p99 is the 99th percentile at a time, 0 of no more measurements than paceOutliers. What is under way for so long (0 =
// nothing) counts once for each bound that it has lasted: a disk that hangs ends nothing that could be counted.
func (m *paceMeter) p99(now, underWay, bound time.Duration) time.Duration {
	var took []time.Duration
	for _, s := range m.samples {
		if now-s.at <= paceFor {
			took = append(took, s.took)
		}
	}
	for over := underWay; over >= bound && bound > 0 && len(took) < 2*paceSamples; over -= bound {
		took = append(took, underWay)
	}
	if len(took) <= paceOutliers {
		return 0
	}
	slices.Sort(took)
	rank := (99*len(took) + 99) / 100 // nearest rank, from 1
	return took[min(rank, len(took)-paceOutliers)-1]
}

// PaceBounds is what a leader may need at most: half of an election timeout for a sync, and a quarter for its loop to see
// a tick: a heartbeat that is so late is heard when half of the timeout is over.
func PaceBounds(tick time.Duration, electionTicks int) Pace {
	election := tick * time.Duration(electionTicks)
	return Pace{Fsync: election / 2, Late: election / 4}
}

// Slowness is how many times over its worse bound a member is; up to 1 is well.
func (p Pace) Slowness(bounds Pace) float64 {
	return max(float64(p.Fsync)/float64(bounds.Fsync), float64(p.Late)/float64(bounds.Late))
}

// yields reports whether a leader of pace p should hand over to o: to one that is betterBy times faster as a whole, or that
// is within the bounds and so much faster in whatever p is not.
func (p Pace) yields(o, bounds Pace) bool {
	if o.Slowness(bounds) <= p.Slowness(bounds)/betterBy {
		return true
	}
	return o.Slowness(bounds) <= 1 && (p.Fsync <= bounds.Fsync || o.Fsync <= p.Fsync/betterBy) &&
		(p.Late <= bounds.Late || o.Late <= p.Late/betterBy)
}

// String says both for people.
func (p Pace) String() string {
	return fmt.Sprintf("99 %% of its syncs within %v and of its ticks within %v",
		p.Fsync.Round(time.Millisecond), p.Late.Round(time.Millisecond))
}

// A Heir is a voter that could lead.
type Heir struct {
	ID      uint64
	Healthy bool   // Progress.Healthy
	Match   uint64 // Progress.Match
	Held    bool   // an operator does maintenance there
	Doubted bool   // Progress.Doubted
	Known   bool   // it said that it would serve, and how fast it is
	Pace    Pace
}

// Successor returns the voter that should lead in place of a leader that is that slow: of those that are much faster the
// one that is furthest in the log, and of those the fastest. ok is false when nobody is: a slow leader is better than
// another slow one, because a change costs writes too.
func Successor(self, bounds Pace, heirs []Heir) (id uint64, ok bool) {
	var best *Heir
	for i := range heirs {
		h := &heirs[i]
		if !h.Healthy || h.Held || h.Doubted || !h.Known || !self.yields(h.Pace, bounds) {
			continue
		}
		if best == nil || h.Match > best.Match || h.Match == best.Match && h.Pace.Slowness(bounds) < best.Pace.Slowness(bounds) {
			best = h
		}
	}
	if best == nil {
		return 0, false
	}
	return best.ID, true
}

// BestHeir returns the voter to hand the lead to when this node stops, whatever its speed: one that is not doubted before one
// that is, then one that said that it would serve, then one that is not held, and of those the one that is furthest in the
// log. ok is false when none is healthy.
func BestHeir(heirs []Heir) (id uint64, ok bool) {
	var best *Heir
	for i := range heirs {
		h := &heirs[i]
		if h.Healthy && (best == nil || h.before(best)) {
			best = h
		}
	}
	if best == nil {
		return 0, false
	}
	return best.ID, true
}

// before reports whether h is the better heir of a leader that stops.
func (h *Heir) before(o *Heir) bool {
	switch {
	case h.Doubted != o.Doubted:
		return o.Doubted
	case h.Known != o.Known:
		return h.Known
	case h.Held != o.Held:
		return o.Held
	}
	return h.Match > o.Match
}

// Yielding is what a member remembers about being slow while it leads. The zero value has just begun to lead.
//
// A hand-over costs a round trip in which nobody takes writes, so it has to be worth it: the member is slow for yieldAfter
// without a break, another one is much faster (see Successor), and its last hand-over is long enough ago.
type Yielding struct {
	since time.Duration // when it was first seen slow; only while slow
	slow  bool
	next  time.Duration // no look for a successor before
	pause time.Duration // after the last hand-over, 0 = there was none lately
	quiet time.Duration // when pause starts again
}

// Follows says that the member does not lead.
func (y *Yielding) Follows() { y.slow = false }

// Due looks at the pace of the leader and reports whether it is time to look for another one.
func (y *Yielding) Due(now time.Duration, self, bounds Pace) bool {
	if self.Slowness(bounds) <= 1 {
		y.slow = false
		return false
	}
	if !y.slow {
		y.slow, y.since = true, now
	}
	return now-y.since >= yieldAfter && now >= y.next
}

// Vain says that nobody is better.
func (y *Yielding) Vain(now time.Duration) { y.next = now + yieldRetry }

// Yielded says that a hand-over was tried, with or without success.
func (y *Yielding) Yielded(now time.Duration) {
	if y.pause = min(2*y.pause, yieldPauseMax); y.pause == 0 || now >= y.quiet {
		y.pause = yieldPauseMin
	}
	y.slow, y.next, y.quiet = false, now+y.pause, now+y.pause+yieldPauseMax
}
