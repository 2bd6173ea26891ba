package agent

import (
	"fmt"
	"slices"
	"strings"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/state"
)

// What an agent says of its own starts and stops, in the messages of agent-started and agent-stopping. Others read
// them, because an epoch that grows does not tell an upgrade from a crash.
const (
	startMessage = "start %d, "
	startClean   = "after a clean stop"
	startAsThose = ", as the %d before it" // for starts that ended before they could tell
	startFirst   = "for the first time"
	stopMessage  = "of start %d"
)

// cleanStart is how an agent says that this start, and those right before it, came after a clean stop.
func cleanStart(run int) string {
	if run <= 1 {
		return startClean
	}
	return startClean + fmt.Sprintf(startAsThose, run-1)
}

// excuses are the starts that an agent has accounted for: those after a clean stop, and everything up to the first
// start of a data directory, before which another host had the name.
type excuses struct {
	clean map[uint64]bool
	upTo  uint64
}

// add takes in one event of the agent. What it does not understand excuses nothing.
func (x *excuses) add(e state.Event) {
	var epoch uint64
	switch e.Kind {
	case api.EventStopping:
		if _, err := fmt.Sscanf(e.Message, stopMessage, &epoch); err == nil {
			x.clean[epoch+1] = true
		}
	case api.EventStarted:
		if _, err := fmt.Sscanf(e.Message, startMessage, &epoch); err != nil {
			return
		}
		x.started(epoch, strings.TrimPrefix(e.Message, fmt.Sprintf(startMessage, epoch)))
	}
}

func (x *excuses) started(epoch uint64, how string) {
	if how == startFirst {
		x.upTo = max(x.upTo, epoch)
	}
	more, clean := strings.CutPrefix(how, startClean)
	if !clean {
		return
	}
	var before uint64
	if _, err := fmt.Sscanf(more, startAsThose, &before); err != nil {
		before = 0
	}
	for n := range min(before, maxSeenStarts, epoch) + 1 {
		x.clean[epoch-n] = true
	}
}

// crashesIn counts the starts that nothing excuses.
func (x *excuses) crashesIn(epochs []uint64) (n int) {
	for _, epoch := range epochs {
		if epoch > x.upTo && !x.clean[epoch] {
			n++
		}
	}
	return n
}

// crashesOf counts the starts of each member that the timeline does not excuse. The timeline of an agent is what it
// said itself: the leader lets it report in its own name only.
func crashesOf(starts map[string][]uint64, events func(func(state.Event) bool)) map[string]int {
	if len(starts) == 0 {
		return nil // nearly always: the timeline is not read then
	}
	said := make(map[string]*excuses, len(starts))
	for name := range starts {
		said[name] = &excuses{clean: make(map[uint64]bool)}
	}
	events(func(e state.Event) bool {
		if x := said[e.Node]; x != nil {
			x.add(e)
		}
		return true
	})
	crashes := make(map[string]int, len(starts))
	for name, epochs := range starts {
		crashes[name] = said[name].crashesIn(epochs)
	}
	return crashes
}

// crashStarts counts the starts in the last ten minutes that came after an end that was not clean: of this agent by its
// ledger, of the others by what gossip showed and the timeline does not excuse.
func (a *Agent) crashStarts() map[string]int {
	view := a.hub.View()
	crashes := crashesOf(a.starts.recent(clock.Boottime()), func(visit func(state.Event) bool) { view.Events(0, visit) })
	if crashes == nil {
		crashes = make(map[string]int, 1)
	}
	crashes[a.ids.Node] = 0
	if a.ledger != nil {
		crashes[a.ids.Node] = a.ledger.crashes()
	}
	return crashes
}

// worstCrasher is who has the most of them; the name is "" when nobody has any.
func worstCrasher(crashes map[string]int) (node string, most int) {
	names := make([]string, 0, len(crashes))
	for name := range crashes {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if crashes[name] > most {
			node, most = name, crashes[name]
		}
	}
	return node, most
}
