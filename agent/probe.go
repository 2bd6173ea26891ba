package agent

import (
	"context"
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

// probe sends writes that change nothing, one at a time, so that there is always a measurement of how
// writes go. It begins once this agent serves: what a start takes is no failure.
func (w *watcher) probe(ctx context.Context) {
	a := w.agent
	for ctx.Err() == nil {
		pause(ctx, w.hasten(probeEvery(a.core.node() != nil, len(a.memberList()))))
		if ctx.Err() != nil || !a.ready.Load() {
			continue
		}
		probeCtx, cancel := context.WithTimeout(ctx, probeTimeout)
		_, _ = a.service.Execute(probeCtx, api.Internal(a.ids.Node), state.Probe{}) // the observer counts how it ended
		cancel()
	}
}
