package transport

import (
	"bytes"
	"context"
	"errors"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// beginning is a method that takes calls until a test answers them.
type beginning struct {
	mu     sync.Mutex
	calls  []*Begun
	bodies [][]byte
	ends   []error // what giveUp was told
	refuse bool
	onEnd  func(call *Begun, cause error)
}

func (m *beginning) begin(_ context.Context, _ Peer, body []byte, call *Begun) (giveUp func(error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.refuse:
		return nil
	case string(body) == "panic":
		panic("index out of range")
	}
	m.calls, m.bodies = append(m.calls, call), append(m.bodies, body)
	return func(cause error) {
		m.mu.Lock()
		m.ends = append(m.ends, cause)
		m.mu.Unlock()
		if m.onEnd != nil {
			m.onEnd(call, cause)
		}
	}
}

func (m *beginning) taken() []*Begun {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.calls)
}

func byHandler(context.Context, Peer, []byte) ([]byte, error) { return []byte("by the handler"), nil }

// beginPair is a pair whose method "begin" is m.
func beginPair(t *testing.T, m *beginning, so ServerOptions) (*pair, *client) {
	t.Helper()
	p := newPair(t, so, PoolOptions{})
	p.server.HandleBegun(0, "begin", m.begin, byHandler)
	c, err := p.client(t.Context(), "n")
	if err != nil {
		t.Fatal(err)
	}
	return p, c
}

func mustBegin(t *testing.T, c *client, r request) *call {
	t.Helper()
	cl, err := c.begin(t.Context(), r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

// Calls that were begun have no goroutine, count among those in progress, and are answered in any order. The first answer counts.
func TestBegunCallsNeedNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &beginning{}
		_, c := beginPair(t, m, ServerOptions{MaxCalls: 200})
		mustBegin(t, c, request{method: "begin"})
		synctest.Wait()
		before := runtime.NumGoroutine()
		calls := []*call{nil}
		for i := range 150 {
			calls = append(calls, mustBegin(t, c, request{method: "begin", body: []byte{byte(i)}}))
		}
		synctest.Wait()
		taken := m.taken()
		if n := runtime.NumGoroutine(); n > before || len(taken) != 151 {
			t.Errorf("%d goroutines more for %d calls", n-before, len(taken))
		}
		for range 50 {
			mustBegin(t, c, request{method: "begin"})
		}
		a := <-mustBegin(t, c, request{method: "begin"}).done
		wantCode(t, a.err, CodeBusy)
		for i := 150; i > 0; i-- {
			taken[i].Answer([]byte{1, m.bodies[i][0]})
			taken[i].Answer([]byte("again"))
			taken[i].GoOn(byHandler)
			if a := <-calls[i].done; a.err != nil || !bytes.Equal(a.body, []byte{1, byte(i - 1)}) {
				t.Fatalf("call %d: %q, %v", i, a.body, a.err)
			}
		}
		for _, left := range m.taken() {
			left.Answer(nil)
		}
		synctest.Wait()
		sc := taken[0].conn
		sc.mu.Lock()
		defer sc.mu.Unlock()
		if len(sc.mu.calls) != 0 || sc.mu.bytes != 0 {
			t.Errorf("%d calls with %d bytes are still in progress", len(sc.mu.calls), sc.mu.bytes)
		}
	})
}

// What is not taken, goes on, is too large to be queued at once, or panics is a handler's.
func TestBegunCallsGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &beginning{refuse: true}
		p, c := beginPair(t, m, ServerOptions{})
		if got, err := p.Call(t.Context(), "n", "begin", nil); err != nil || string(got) != "by the handler" {
			t.Errorf("not taken: %q, %v", got, err)
		}
		m.refuse = false
		large := bytes.Repeat([]byte{7}, MaxBody)
		for what, end := range map[string]func(*Begun){
			"go on": func(b *Begun) {
				b.GoOn(func(ctx context.Context, _ Peer, body []byte) ([]byte, error) {
					time.Sleep(time.Second)
					return append(body, 'x'), ctx.Err()
				})
			},
			"large": func(b *Begun) { b.Answer(large) },
		} {
			cl := mustBegin(t, c, request{method: "begin", body: []byte("b")})
			synctest.Wait()
			taken := m.taken()
			end(taken[len(taken)-1])
			if a := <-cl.done; a.err != nil || len(a.body) != map[string]int{"go on": 2, "large": MaxBody}[what] {
				t.Errorf("%s: %d bytes, %v", what, len(a.body), a.err)
			}
		}
		a := <-mustBegin(t, c, request{method: "begin", body: []byte("panic")}).done
		wantCode(t, a.err, CodeInternal)
		if got, err := p.Call(t.Context(), "n", "echo", []byte("still there")); err != nil || string(got) != "still there" {
			t.Errorf("after a panic: %q, %v", got, err)
		}
	})
}

// A call that was begun ends at its deadline, when its caller gives up and with its connection, which waits until it has ended.
func TestBegunCallsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &beginning{}
		m.onEnd = func(call *Begun, cause error) {
			call.GoOn(func(ctx context.Context, _ Peer, _ []byte) ([]byte, error) { return nil, errors.Join(cause, ctx.Err()) })
		}
		p, c := beginPair(t, m, ServerOptions{})
		began := time.Now()
		cl := mustBegin(t, c, request{method: "begin", deadline: 300})
		wantCode(t, (<-cl.done).err, CodeOutcomeUnknown)
		if took := time.Since(began); took < 300*time.Millisecond || took > 310*time.Millisecond {
			t.Errorf("ended after %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		giveUp, over := context.WithCancel(ctx)
		go func() {
			time.Sleep(10 * time.Millisecond)
			over()
		}()
		if _, err := p.Call(giveUp, "n", "begin", nil); err == nil {
			t.Error("a caller that gave up has an answer")
		}
		synctest.Wait()
		for range 3 {
			mustBegin(t, c, request{method: "begin", deadline: 100_000})
		}
		synctest.Wait()
		began = time.Now()
		c.fail(errClosed)
		p.served.Wait()
		m.mu.Lock()
		defer m.mu.Unlock()
		want := []error{context.DeadlineExceeded, context.Canceled, context.Canceled, context.Canceled, context.Canceled}
		if !slices.Equal(m.ends, want) || time.Since(began) > 0 {
			t.Errorf("ended by %v after %v", m.ends, time.Since(began))
		}
	})
}

// An answer waits for nothing, though the peer reads nothing: then it is a goroutine that waits.
func TestBegunAnswerDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		s := NewServer(ServerOptions{WriteTimeout: time.Hour})
		c := newServerConn(s, there, Peer{})
		var served sync.WaitGroup
		served.Go(func() { c.run(context.Background()) })
		s.methods["begin"] = method{unary: byHandler}
		for range 2 { // the writer waits with the first, the second fills the queue
			if err := c.out.force(&outFrame{kind: kindItem, body: make([]byte, sendQueueBytes)}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		before := runtime.NumGoroutine()
		b := &Begun{conn: c, call: &serverCall{id: 1}, r: request{method: "begin"}}
		c.tasks.Add(1)
		b.Answer([]byte("x"))
		synctest.Wait()
		if n := runtime.NumGoroutine(); n != before+1 {
			t.Errorf("%d goroutines wait for room, want one", n-before)
		}
		_ = here.Close()
		served.Wait()
	})
}
