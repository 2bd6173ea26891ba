package agent

import (
	"math/rand/v2"
	"time"

	"github.com/parley-mesh/parley/clock"
)

// beat is a ticker whose ticks fall on the multiples of its period, counted from a moment that all of a process share. All loops of this agent that look
// at something several times a second go by beats: they wake at the same moments, so the processor sleeps in between. An
// idle host pays for each time that it wakes, and hardly for how much is looked at then. Agents that share a host look at
// different moments.
type beat struct {
	C <-chan time.Time

	every time.Duration
	timer *time.Timer
}

// beatPhase is what is added to boottime.
var beatPhase = rand.N(time.Minute)

func newBeat(every time.Duration) *beat {
	timer := time.NewTimer(nextBeat(every))
	return &beat{C: timer.C, every: every, timer: timer}
}

// again has it tick once more. Whoever took a tick calls it.
func (b *beat) again() { b.timer.Reset(nextBeat(b.every)) }

func (b *beat) stop() { b.timer.Stop() }

// NextBeat is how long it is until a moment at which an agent of this process wakes anyway, once in so long a period.
func NextBeat(every time.Duration) time.Duration { return nextBeat(every) }

// nextBeat is how long it is until the next beat of that period.
func nextBeat(every time.Duration) time.Duration { return untilBeat(clock.Boottime()+beatPhase, every) }

// untilBeat is how long it is until the next multiple of a period, at least a tenth of it: a tick that came a little early is
// not followed by itself.
func untilBeat(now, every time.Duration) time.Duration {
	d := every - now%every
	if d < every/10 {
		d += every
	}
	return d
}
