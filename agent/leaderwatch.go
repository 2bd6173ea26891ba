package agent

import (
	"sync/atomic"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
)

// longestLook is how much of the time since the last look counts at most: an agent that was stopped saw nothing meanwhile.
const longestLook = 2 * time.Second

// leaderWatch is how long this agent has seen the core without a leader, look by look, and whether one can come. One goroutine looks.
type leaderWatch struct {
	forNanos atomic.Int64
	hopeless atomic.Bool

	last time.Duration // boottime of the last look
}

// look counts the time since the last look if nobody led then and nobody leads now.
func (l *leaderWatch) look(now time.Duration, led, hopeless bool) {
	passed := min(now-l.last, longestLook)
	first := l.last == 0
	l.last = now
	switch {
	case led:
		l.forNanos.Store(0)
	case first:
	default:
		l.forNanos.Add(int64(passed))
	}
	l.hopeless.Store(hopeless && !led)
}

// get is what api.Local.Leaderless wants.
func (l *leaderWatch) get() (since time.Duration, hopeless bool) {
	return time.Duration(l.forNanos.Load()), l.hopeless.Load()
}

// lookForLeader asks nobody: toldLed is what a core member has just said, for an agent outside the core.
func (a *Agent) lookForLeader(toldLed bool) {
	led := toldLed
	if n := a.core.member(); n != nil {
		led = n.Status().Leader != 0
	}
	a.leaderWatch.look(clock.Boottime(), led, !led && fewerThanQuorum(a.coreStatus().Voters, a.aliveNodes()))
}

// fewerThanQuorum tells whether gossip holds so few voters alive that none can be elected. Of no voters nothing is known.
func fewerThanQuorum(voters []api.CoreMember, alive map[string]bool) bool {
	n := 0
	for _, v := range voters {
		if alive[v.Name] {
			n++
		}
	}
	return len(voters) > 0 && n <= len(voters)/2
}
