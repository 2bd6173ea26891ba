package agent

import (
	"context"
	"sync"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/state"
)

const (
	// probeTimeout is the longest that a good write takes.
	probeTimeout = time.Second
	// Core members probe often enough for the fastest burn-rate rule. The others share a load on the
	// log that does not grow with their number until there are very many.
	probeCore       = time.Second
	probeOutsideMin = 10 * time.Second
	probeOutsideMax = 150 * time.Second
	probeShare      = 100 * time.Millisecond
)

// probeEvery is how long an agent waits between probes in a cluster of that many.
func probeEvery(inCore bool, members int) time.Duration {
	if inCore {
		return probeCore
	}
	return min(probeOutsideMax, max(probeOutsideMin, time.Duration(members)*probeShare))
}

// probe sends writes that change nothing, so that there is always a measurement of how writes go. It begins
// once this agent serves: what a start takes is no failure. A probe is over before the next is due, but for
// labs in haste: so many may be under way as there are within a probe's timeout.
func (w *watcher) probe(ctx context.Context) {
	a := w.agent
	var sent sync.WaitGroup
	defer sent.Wait()
	places := make(chan struct{}, w.scale)
	for ctx.Err() == nil {
		pause(ctx, w.untilProbe())
		if ctx.Err() != nil || !a.ready.Load() {
			continue
		}
		select {
		case places <- struct{}{}:
			sent.Go(func() {
				w.probeOnce(ctx)
				<-places
			})
		default: // the one before is late, and will say so
		}
	}
}

// untilProbe is how long to wait for the next probe. Core members probe at the same moment, by the clocks that hosts have, so
// that a core at rest is woken, and its disks are, once a second and not once for each member.
func (w *watcher) untilProbe() time.Duration {
	inCore := w.agent.core.node() != nil
	every := w.hasten(probeEvery(inCore, len(w.agent.memberList())))
	if !inCore {
		return every
	}
	return untilBeat(time.Duration(w.agent.now().UnixNano()), every)
}

// probeOnce leaves it to the observer to count how the probe ended.
func (w *watcher) probeOnce(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, _ = w.agent.service.Execute(ctx, api.Internal(w.agent.ids.Node), state.Probe{})
}
