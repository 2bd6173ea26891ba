package command

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
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

// collectPercent says by how much of itself the live heap may grow.
func collectPercent(allocated, live uint64) int {
	if allocated < collectBusy {
		return collectUsual
	}
	return int(min(max(collectRoom*100/max(live, 1), collectUsual), collectMost)) //nolint:gosec // at most 400
}

// paceCollections sets what the collector goes by until ctx ends. Who has set GOGC knows better.
func (a *app) paceCollections(ctx context.Context) {
	if a.getenv("GOGC") != "" {
		return
	}
	defer debug.SetGCPercent(collectUsual)
	read := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(read)
	before, now := read[0].Value.Uint64(), collectUsual
	ticker := time.NewTicker(collectEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
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
