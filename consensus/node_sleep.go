package consensus

import "time"

// sleeper is when the loop wakes by itself: at the next tick, or after some that the core can do without (restTicks). Whatever
// wakes the loop before, it first makes up for the ticks that have passed.
type sleeper struct {
	n     *Node
	timer *time.Timer

	last  time.Duration // when the newest tick was due, by boottime
	rest  int           // ticks that may be slept over
	until time.Duration // the timer's end
	armed time.Time     // when the timer was set
	again bool          // it may have ended, and has to be set once more
	ahead time.Duration // of the timers before boottime: in tests they go by another clock
}

func newSleeper(n *Node) *sleeper {
	s := &sleeper{n: n, timer: time.NewTimer(n.opts.Tick), last: n.leases.now(), rest: 1}
	s.until = s.last + n.opts.Tick
	return s
}

// ended reports whether the loop was woken by the end of the timer as it stands; at is the time that the timer told, zero if
// something else woke it. A reader that took a turn just then has set the timer anew, and has made up for the ticks.
func (s *sleeper) ended(at time.Time) bool {
	if at.IsZero() {
		return false
	}
	if !at.After(s.armed) {
		s.again = true
		return false
	}
	return true
}

// now is boottime, and at least the end of a timer that has ended.
func (s *sleeper) now(ended bool) time.Duration {
	now := s.n.leases.now() + s.ahead
	if ended && now < s.until {
		s.ahead += s.until - now
		now = s.until
	}
	return now
}

// due returns how many ticks are to be made up for, the timer's end counting as all that were slept over. A loop that was
// late for longer is not told of more, just as it would have slept through them: a process that was stopped must not find
// its leader silent for ticks in which it heard nobody. Of a long sleep that ended late no more counts than the time of one
// heartbeat.
func (s *sleeper) due(now time.Duration, timer bool) int {
	tick, rest := s.n.opts.Tick, s.rest
	if now-s.last >= time.Duration(rest+2)*tick {
		rest = min(rest, max(1, s.n.opts.HeartbeatTicks))
	}
	ticks := min(int((now-s.last)/tick), rest)
	if timer {
		ticks = rest
	}
	if ticks <= 0 {
		return 0
	}
	s.last += time.Duration(ticks) * tick
	if now-s.last >= tick {
		s.last = now
	}
	return ticks
}

// set has the loop sleep for as long as the core now allows.
func (s *sleeper) set() {
	c, tick := s.n.core, s.n.opts.Tick
	s.rest = c.restTicks()
	until := s.last + time.Duration(s.rest)*tick + c.restSlack()
	if until == s.until && !s.again {
		return
	}
	s.until, s.armed, s.again = until, time.Now(), false
	s.timer.Reset(max(1, until-s.now(false)))
}

// wake tells the core the time and the ticks that have passed, and reports whether there were any.
func (n *Node) wake(s *sleeper, timer bool) (ticked bool) {
	planned := s.until - s.last
	ticks := s.due(s.now(timer), timer)
	if ticks > 0 {
		n.paces.tick(planned)
	}
	n.tellTime()
	for range ticks {
		n.tick()
	}
	return ticks > 0
}
