package command

import (
	"context"
	"runtime"
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

// A start ends a second after the agent was ready, and before that when memory had to be collected or it takes too long.
func TestStarting(t *testing.T) {
	for _, c := range []struct {
		collections       uint64
		since, sinceReady time.Duration
		want              bool
	}{
		{0, 0, 0, true},
		{0, startMost - 1, collectEvery - 1, true},
		{1, 0, 0, false},
		{0, startMost, 0, false},
		{0, 2 * time.Second, collectEvery, false},
	} {
		if got := starting(c.collections, c.since, c.sinceReady); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// What the collector goes by during a start is Go's default after it, and also when the agent ends amid it.
func TestCollectAtStart(t *testing.T) {
	before := debug.SetGCPercent(collectUsual)
	defer debug.SetGCPercent(before)
	limit := debug.SetMemoryLimit(-1)
	for _, ends := range []bool{true, false} {
		ctx, cancel := context.WithCancel(t.Context())
		ready := make(chan struct{})
		close(ready)
		if ends {
			cancel()
		}
		collectAtStart(ctx, ready, startBytes)
		cancel()
		if got := debug.SetGCPercent(collectUsual); got != collectUsual {
			t.Errorf("ended %v: the collector goes by %d percent afterwards", ends, got)
		}
		if got := debug.SetMemoryLimit(-1); got != limit {
			t.Errorf("ended %v: memory is limited to %d bytes afterwards", ends, got)
		}
	}
}

// A start that needs more memory than it may take is over at once, although nothing is ready.
func TestLargeStart(t *testing.T) {
	before := debug.SetGCPercent(collectUsual)
	defer debug.SetGCPercent(before)
	began := time.Now()
	end := make(chan struct{})
	defer close(end)
	go func() { // memory is collected when somebody asks for more
		for piece := []byte(nil); ; runtime.KeepAlive(piece) {
			select {
			case <-end:
				return
			case <-time.After(time.Millisecond):
				piece = make([]byte, 64<<10)
			}
		}
	}()
	collectAtStart(t.Context(), make(chan struct{}), 1<<20) // less than any process has
	if took := time.Since(began); took > startMost/2 {
		t.Errorf("it lasted %v", took)
	}
}
