package api

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowCore does one write after the other, each in the same time, whether its caller still waits or not.
type slowCore struct {
	queue chan chan struct{}
	each  time.Duration
}

const (
	corePerSecond = 1000
	coreEach      = time.Second / corePerSecond
	callerWaits   = time.Second // then a caller has given up, and what is done for it is done in vain
)

func newSlowCore(ctx context.Context) *slowCore {
	c := &slowCore{queue: make(chan chan struct{}, 1<<20), each: coreEach}
	go c.run(ctx)
	return c
}

func (c *slowCore) run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case done := <-c.queue:
			time.Sleep(c.each)
			close(done)
		case <-ctx.Done():
		}
	}
}

// write is one write by way of a gate, or without one; it reports whether it was done in time.
func (c *slowCore) write(ctx context.Context, g *gate, who string) bool {
	ctx, cancel := context.WithTimeout(ctx, callerWaits)
	defer cancel()
	if g != nil {
		began, busy := g.enter(ctx, who)
		if busy != nil {
			return false
		}
		defer func() { g.leave(began, ctx.Err() == nil) }()
	}
	done := make(chan struct{})
	c.queue <- done
	select {
	case <-done:
		return true
	case <-ctx.Done():
		if g != nil {
			<-done // a place is held for as long as the core works
		}
		return false
	}
}

// offered lets callers come at a rate for some seconds, and returns how many a second were served in the last half, and how long
// the slowest of these took.
func offered(g *gate, perSecond int) (good float64, slowest time.Duration) {
	const seconds = 4
	ctx, cancel := context.WithCancel(context.Background())
	core := newSlowCore(ctx)
	var served atomic.Int64
	var longest atomic.Int64
	var callers sync.WaitGroup
	for i := range perSecond * seconds {
		if i%(perSecond/1000) == 0 {
			time.Sleep(time.Millisecond)
		}
		counts := i > perSecond*seconds/2
		callers.Go(func() {
			began := time.Now()
			if core.write(ctx, g, "one") && counts {
				served.Add(1)
				for took := time.Since(began); took > time.Duration(longest.Load()); {
					longest.Store(int64(took))
				}
			}
		})
	}
	callers.Wait()
	cancel()
	time.Sleep(coreEach) // the core ends
	return float64(served.Load()) / (seconds / 2), time.Duration(longest.Load())
}

// Ten times as many writes as can be done: with the gate as many are done in time as at the peak, but for a fifth, and none
// of these takes long. The control without it does hardly any in time: it works for callers that have given up.
func TestGateKeepsGoodput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		g := newGate(func() time.Duration { return time.Since(began) })
		good, slowest := offered(g, 10*corePerSecond)
		t.Logf("with the gate %.0f of %d a second are done in time, the slowest in %v", good, corePerSecond, slowest)
		if good < 0.8*corePerSecond {
			t.Errorf("%.0f a second, want four fifths of %d", good, corePerSecond)
		}
		if slowest > callerWaits {
			t.Errorf("the slowest took %v", slowest)
		}
		if g.mu.open != 0 || g.mu.waiting != 0 || len(g.mu.lines) != 0 || len(g.mu.turn) != 0 {
			t.Errorf("%d open, %d waiting, %d lines are left", g.mu.open, g.mu.waiting, len(g.mu.lines))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		if good, _ := offered(nil, 10*corePerSecond); good > 0.3*corePerSecond {
			t.Errorf("control: %.0f a second are done in time without a gate, the test proves nothing", good)
		}
	})
}

// While one identity asks for ten times what can be done, another that asks now and then is served as if it were alone.
func TestGateIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		g := newGate(func() time.Duration { return time.Since(began) })
		ctx, cancel := context.WithCancel(t.Context())
		coreCtx, endCore := context.WithCancel(t.Context())
		core := newSlowCore(coreCtx)
		var flood sync.WaitGroup
		flood.Go(func() {
			for ctx.Err() == nil {
				for range 10 * corePerSecond / 1000 {
					flood.Go(func() { core.write(ctx, g, "flood") })
				}
				time.Sleep(time.Millisecond)
			}
		})
		time.Sleep(time.Second)
		served := 0
		for range 100 {
			time.Sleep(20 * time.Millisecond)
			if core.write(ctx, g, "victim") {
				served++
			}
		}
		if served < 99 {
			t.Errorf("%d of 100 writes of the other were done", served)
		}
		cancel()
		flood.Wait()
		endCore()
		time.Sleep(coreEach)
	})
}

// The gate has room for so many waiters and refuses the next at once; who waited in vain is refused as well, and told so
// before the client's own patience ends.
func TestGateLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		g := newGate(func() time.Duration { return time.Since(began) })
		g.mu.limit = 1
		var told, longest atomic.Int64 // what is counted
		g.waited = func(d time.Duration, refused bool) {
			if !refused {
				t.Error("a refusal counts as let in")
			}
			told.Add(1)
			longest.Store(max(longest.Load(), int64(d)))
		}
		held, busy := g.enter(t.Context(), "holder")
		if busy != nil {
			t.Fatal(busy)
		}
		var waiters sync.WaitGroup
		var refused atomic.Int64
		for i := range maxGateWaits {
			waiters.Go(func() {
				if _, busy := g.enter(t.Context(), fmt.Sprint(i%7)); busy != nil && busy.Code == CodeBusy {
					refused.Add(1)
				}
			})
		}
		synctest.Wait()
		at := time.Now()
		if _, busy := g.enter(t.Context(), "late"); busy == nil || busy.Code != CodeBusy || time.Since(at) > 0 {
			t.Errorf("beyond all places: %v after %v", busy, time.Since(at))
		}
		waiters.Wait()
		if n := refused.Load(); n != maxGateWaits || time.Since(at) > gatePatienceMax {
			t.Errorf("%d of %d refused within %v", n, maxGateWaits, time.Since(at))
		}
		g.leave(held, true)
		if g.mu.open != 0 || g.mu.waiting != 0 || len(g.mu.lines) != 0 {
			t.Errorf("%d open, %d waiting, %d lines are left", g.mu.open, g.mu.waiting, len(g.mu.lines))
		}
		if n, d := told.Load(), time.Duration(longest.Load()); n != maxGateWaits+1 || d < gatePatience || d > gatePatienceMax {
			t.Errorf("%d refusals were counted, after %v at the most", n, d)
		}
	})
}
