package transport

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The context of a call is one as the standard library's are, to whoever makes others of it.
func TestCallContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &callContext{priority: PriorityRead}
		if _, has := c.Deadline(); has || c.Err() != nil || PriorityOf(c) != PriorityRead || c.Value("other") != nil {
			t.Errorf("at first: deadline %v, %v, priority %d", has, c.Err(), PriorityOf(c))
		}
		before := runtime.NumGoroutine()
		child, cancel := context.WithCancel(c)
		defer cancel()
		grandchild, cancel := context.WithTimeout(WithPriority(child, PriorityBulk), time.Hour)
		defer cancel()
		gone, cancel := context.WithCancel(c)
		cancel()
		called, kept := make(chan struct{}), true
		context.AfterFunc(c, func() { close(called) })
		stop := context.AfterFunc(c, func() { kept = false })
		if !stop() || stop() {
			t.Error("a function that did not run yet was not kept from it once")
		}
		if n := runtime.NumGoroutine(); n != before {
			t.Errorf("%d goroutines more watch the context", n-before)
		}
		if len(c.mu.after) != 2 {
			t.Errorf("%d are told of the end, want the child and the function", len(c.mu.after))
		}
		c.end(context.DeadlineExceeded)
		c.end(context.Canceled) // the first counts
		<-c.Done()
		<-child.Done()
		<-grandchild.Done()
		<-called
		for _, ctx := range []context.Context{c, child, grandchild} {
			if err := ctx.Err(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("ended by %v", err)
			}
		}
		late, cancel := context.WithCancel(c)
		defer cancel()
		if late.Err() == nil || !errors.Is(gone.Err(), context.Canceled) || !kept {
			t.Errorf("made after the end: %v, given up before: %v, kept from it: %v", late.Err(), gone.Err(), kept)
		}
		nobodyAsked := &callContext{}
		nobodyAsked.end(context.Canceled)
		<-nobodyAsked.Done()
	})
}

// A context may be made of one that ends in that moment: whoever makes it holds a lock then, which to be told of the end takes.
func TestContextsMadeAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &callContext{}
		c.end(context.DeadlineExceeded)
		var lock sync.Mutex // as that of the context which is made
		told := false
		lock.Lock()
		stop := c.AfterFunc(func() {
			lock.Lock()
			defer lock.Unlock()
			told = true
		})
		lock.Unlock()
		synctest.Wait()
		if !told || stop() {
			t.Errorf("told of an end that was before: %v", told)
		}
		for range 2000 {
			c, begin := &callContext{}, make(chan struct{})
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() {
					<-begin
					child, cancel := context.WithTimeout(c, time.Hour)
					defer cancel()
					<-child.Done()
					if err := child.Err(); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("ended by %v", err)
					}
				})
			}
			all.Go(func() {
				<-begin
				c.end(context.DeadlineExceeded)
			})
			close(begin)
			all.Wait()
		}
	})
}

// Each call ends at its own deadline, in whatever order they came.
func TestCallsEndAtTheirDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{})
		c, err := p.client(t.Context(), "n")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		calls := map[uint32]*call{}
		for _, ms := range []uint32{700, 30_000, 20, 500, 21, 9_000, 501, 100} {
			if calls[ms], err = c.begin(t.Context(), request{method: "wait", deadline: ms}, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		free, err := c.begin(t.Context(), request{method: "wait"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, ms := range []uint32{20, 21, 100, 500, 501, 700, 9_000, 30_000} {
			a := <-calls[ms].done
			wantCode(t, a.err, CodeOutcomeUnknown)
			// The calls began within 8 ms, and two looks are a millisecond apart.
			if took := time.Since(began); took < time.Duration(ms)*time.Millisecond || took > time.Duration(ms+10)*time.Millisecond {
				t.Errorf("number %d, of %d ms, was ended after %v", i, ms, took)
			}
		}
		select {
		case a := <-free.done:
			t.Errorf("a call without a deadline ended: %v", a.err)
		default:
		}
	})
}

// However many calls a connection answers, those of one limit cost one look in the time of that limit.
func TestCallsShareOneTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var e expiry
		looks := 0
		e.look = func() {
			mu.Lock()
			defer mu.Unlock()
			looks++
			e.stop()
		}
		expect := func(deadline time.Time) {
			mu.Lock()
			defer mu.Unlock()
			e.expect(deadline, time.Now())
		}
		seen := func() (int, bool) {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return looks, e.timer != nil
		}
		for range 100_000 { // a minute, in which each call is answered long before its time is up
			expect(time.Now().Add(10 * time.Second))
			time.Sleep(600 * time.Microsecond)
		}
		if n, _ := seen(); n != 5 {
			t.Errorf("%d looks in a minute, want 5", n)
		}
		expect(time.Now().Add(time.Microsecond)) // nearly due
		time.Sleep(expiryRest - time.Nanosecond)
		if n, more := seen(); n != 5 || !more {
			t.Errorf("%d looks before the rest was over, another is due: %v", n, more)
		}
		time.Sleep(time.Nanosecond)
		if n, more := seen(); n != 6 || more {
			t.Errorf("%d looks, another is due: %v", n, more)
		}
		expect(time.Time{})
		if _, more := seen(); more {
			t.Error("a call without a deadline is waited for")
		}
	})
}

// A connection that is lost ends the contexts of all its calls, and nothing looks for them afterwards.
func TestLostConnectionEndsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{})
		ends := make(chan error, 3)
		p.server.Handle("watchful", func(ctx context.Context, _ Peer, _ []byte) ([]byte, error) {
			child, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			<-child.Done()
			ends <- fmt.Errorf("%w, %w", child.Err(), ctx.Err())
			return nil, ctx.Err()
		})
		c, err := p.client(t.Context(), "n")
		if err != nil {
			t.Fatal(err)
		}
		for _, ms := range []uint32{0, 1000, 100_000} {
			if _, err := c.begin(t.Context(), request{method: "watchful", deadline: ms}, nil); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		began := time.Now()
		c.fail(errClosed)
		for range 3 {
			if err := <-ends; !errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("ended by %v", err)
			}
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("ended after %v", took)
		}
	})
}
