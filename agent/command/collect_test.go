package command

import (
	"context"
	"runtime/debug"
	"testing"
	"time"
)

// The heap of an agent that rests grows as Go has it, and so does one that is large; a small one under load has room.
func TestCollectPercent(t *testing.T) {
	for _, c := range []struct {
		allocated, live uint64
		want            int
	}{
		{0, 4 << 20, 100},
		{collectBusy - 1, 4 << 20, 100},
		{collectBusy, 0, collectMost},
		{collectBusy, 4 << 20, collectMost},
		{collectBusy, 32 << 20, 200},
		{collectBusy, 64 << 20, 100},
		{1 << 40, 1 << 30, 100},
	} {
		if got := collectPercent(c.allocated, c.live); got != c.want {
			t.Errorf("%d bytes allocated, %d live: %d percent, want %d", c.allocated, c.live, got, c.want)
		}
	}
}

// A start ends a second after the agent was ready, and before that when the heap is large or it takes too long.
func TestStarting(t *testing.T) {
	for _, c := range []struct {
		heap              uint64
		since, sinceReady time.Duration
		want              bool
	}{
		{4 << 20, 0, 0, true},
		{startBytes - 1, startMost - 1, collectEvery - 1, true},
		{startBytes, 0, 0, false},
		{4 << 20, startMost, 0, false},
		{4 << 20, 2 * time.Second, collectEvery, false},
	} {
		if got := starting(c.heap, c.since, c.sinceReady); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// What the collector goes by during a start is Go's default after it, and also when the agent ends amid it.
func TestCollectAtStart(t *testing.T) {
	before := debug.SetGCPercent(collectUsual)
	defer debug.SetGCPercent(before)
	for _, ends := range []bool{true, false} {
		ctx, cancel := context.WithCancel(t.Context())
		ready := make(chan struct{})
		close(ready)
		if ends {
			cancel()
		}
		collectAtStart(ctx, ready)
		cancel()
		if got := debug.SetGCPercent(collectUsual); got != collectUsual {
			t.Errorf("ended %v: the collector goes by %d percent afterwards", ends, got)
		}
	}
}
