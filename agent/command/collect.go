package command

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/parley-mesh/parley/agent"
)

// A core member's heap is small, so under load Go would collect it several times a second, which takes a tenth of the
// processor. While much is allocated the heap may grow by collectRoom between two collections. An agent that rests, and
// one whose heap is larger than that anyway, keep Go's default.
const (
	collectEvery = time.Second
	collectBusy  = 16 << 20 // bytes allocated in that time
	collectRoom  = 64 << 20
	collectUsual = 100 // percent of the live heap: Go's default
	collectMost  = 400
)

// A start keeps most of what it allocates, and each collection marks all of it again, for which a load that uses every
// processor waits. So nothing is collected while one starts, as long as it needs little memory; what it needed besides goes
// back to the system afterwards.
const (
	startLook  = 50 * time.Millisecond
	startBytes = 512 << 20        // beyond, memory is collected, and the start is one as any other time
	startMost  = 10 * time.Second // one that is not ready by then waits for something else
)

// starting says whether a start is still under way: until a second after the agent was ready, as it then applies its log.
// collections are those since its beginning: there is one when memory came to startBytes.
func starting(collections uint64, since, sinceReady time.Duration) bool {
	return collections == 0 && since < startMost && sinceReady < collectEvery
}

// collectAtStart sets what the collector goes by during a start that may take so many bytes, and returns after it, or when ctx
// ends. Who has set GOMEMLIMIT to less knows better.
func collectAtStart(ctx context.Context, ready <-chan struct{}, most int64) {
	limit := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(limit)
	debug.SetMemoryLimit(min(limit, most))
	debug.SetGCPercent(-1)
	defer debug.SetGCPercent(collectUsual)
	began, readyAt, before := time.Now(), time.Now(), collections()
	ticker := time.NewTicker(startLook)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := time.Now()
		if !closed(ready) {
			readyAt = now
		}
		if !starting(collections()-before, now.Sub(began), now.Sub(readyAt)) {
			return
		}
	}
}

// collections is how often memory was collected.
func collections() uint64 {
	cycles := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
	metrics.Read(cycles)
	return cycles[0].Value.Uint64()
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// collectPercent says by how much of itself the live heap may grow.
func collectPercent(allocated, live uint64) int {
	if allocated < collectBusy {
		return collectUsual
	}
	return int(min(max(collectRoom*100/max(live, 1), collectUsual), collectMost)) //nolint:gosec // at most 400
}

// paceCollections sets what the collector goes by until ctx ends; ready is closed when the agent is. Who has set GOGC
// knows better.
func (a *app) paceCollections(ctx context.Context, ready <-chan struct{}) {
	if a.getenv("GOGC") != "" {
		return
	}
	collectAtStart(ctx, ready, startBytes)
	defer debug.SetGCPercent(collectUsual)
	read := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(read)
	before, now, givenBack := read[0].Value.Uint64(), collectUsual, false
	timer := time.NewTimer(agent.NextBeat(collectEvery))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(agent.NextBeat(collectEvery))
		}
		if !givenBack && closed(ready) {
			givenBack = true
			debug.FreeOSMemory() // in this goroutine: the others go on
		}
		metrics.Read(read)
		allocated := read[0].Value.Uint64()
		// Setting it stops the process for a moment, so small differences are left alone.
		if next := collectPercent(allocated-before, read[1].Value.Uint64()); next != now && (next == collectUsual || next > now+now/4 || next < now-now/4) {
			debug.SetGCPercent(next)
			now = next
		}
		before = allocated
	}
}
