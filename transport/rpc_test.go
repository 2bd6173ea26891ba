package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// pair is a server and a pool that reaches it over in-memory connections. Used inside a synctest
// bubble, which fails the test when a goroutine outlives it: every test is a leak check.
type pair struct {
	*Pool
	server *Server
	mu     sync.Mutex
	ctx    context.Context // of ServeConn, by mu
	cancel context.CancelFunc
	served sync.WaitGroup
	dials  atomic.Int32
	// wrap changes the client's and the server's end of a new connection.
	wrap func(client, server net.Conn) (net.Conn, net.Conn)
}

// newPair ends with the test. Its methods: "echo"; "wait", until the context ends; "count", which
// streams as many items as the request has bytes.
func newPair(t *testing.T, so ServerOptions, po PoolOptions) *pair {
	t.Helper()
	p := &pair{server: NewServer(so)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.server.Handle("echo", func(_ context.Context, _ Peer, body []byte) ([]byte, error) { return body, nil })
	p.server.Handle("wait", func(ctx context.Context, _ Peer, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	p.server.HandleStream("count", func(_ context.Context, _ Peer, body []byte, send func([]byte) error) error {
		for i := range body {
			if err := send(fmt.Append(nil, i)); err != nil {
				return err
			}
		}
		return nil
	})
	if po.Dial == nil {
		po.Dial = func(context.Context, string) (net.Conn, error) {
			p.dials.Add(1)
			return p.connect(), nil
		}
	}
	p.Pool = NewPool(po)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		p.drain()
		p.served.Wait()
	})
	return p
}

// drain makes the server drain its connections. New ones are served.
func (p *pair) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cancel()
	p.ctx, p.cancel = context.WithCancel(context.Background())
}

func (p *pair) connect() net.Conn {
	client, server := net.Pipe()
	if p.wrap != nil {
		client, server = p.wrap(client, server)
	}
	p.mu.Lock()
	ctx := p.ctx
	p.mu.Unlock()
	p.served.Go(func() { p.server.ServeConn(ctx, server, Peer{Node: "caller"}) })
	return client
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if Code(err) != code {
		t.Errorf("got %v, want code %s", err, code)
	}
}

func TestCallReturnsTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{})
		for _, size := range []int{0, 1, readStep + 1, MaxBody} {
			body := bytes.Repeat([]byte{7}, size)
			got, err := p.Call(t.Context(), "n", "echo", body)
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes: got %d bytes, %v", size, len(got), err)
			}
		}
		if p.dials.Load() != 1 {
			t.Errorf("got %d dials, want 1", p.dials.Load())
		}
	})
}

func TestHandlerSeesThePeerAndItsErrorsArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.ErrorLevel)
		p := newPair(t, ServerOptions{Log: zap.New(core)}, PoolOptions{})
		p.server.Handle("coded", func(_ context.Context, peer Peer, _ []byte) ([]byte, error) {
			return nil, fmt.Errorf("wrapped: %w", &Error{Code: "not_leader", Message: "for " + peer.Node, Hint: "ask it", Leader: "a2"})
		})
		p.server.Handle("plain", func(context.Context, Peer, []byte) ([]byte, error) { return nil, errors.New("disk on fire") })
		p.server.Handle("panic", func(context.Context, Peer, []byte) ([]byte, error) { panic("oh no") })

		_, err := p.Call(t.Context(), "n", "coded", nil)
		var e *Error
		if !errors.As(err, &e) || *e != (Error{Code: "not_leader", Message: "for caller", Hint: "ask it", Leader: "a2"}) {
			t.Errorf("got %+v", err)
		}
		_, err = p.Call(t.Context(), "n", "plain", nil)
		wantCode(t, err, CodeInternal)
		_, err = p.Call(t.Context(), "n", "absent", nil)
		wantCode(t, err, CodeUnknownMethod)
		_, err = p.Call(t.Context(), "n", "count", nil)
		wantCode(t, err, CodeUnknownMethod) // a stream called as if it answered once
		wantCode(t, p.Stream(t.Context(), "n", "echo", nil, nil), CodeUnknownMethod)
		_, err = p.Call(t.Context(), "n", strings.Repeat("m", maxMethod+1), nil)
		wantCode(t, err, CodeUnknownMethod)
		_, err = p.Call(t.Context(), "n", "panic", nil)
		wantCode(t, err, CodeInternal)
		if strings.Contains(err.Error(), "oh no") {
			t.Errorf("the panic's text crossed the wire: %v", err)
		}
		if n := logs.FilterMessage("rpc handler panicked").Len(); n != 1 {
			t.Errorf("got %d log lines of the panic, want 1", n)
		}
		if _, err := p.Call(t.Context(), "n", "echo", nil); err != nil || p.dials.Load() != 1 {
			t.Errorf("after the panic: %v, %d dials", err, p.dials.Load())
		}
	})
}

func TestDeadlineAndPriorityReachTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{})
		p.server.Handle("left", func(ctx context.Context, _ Peer, _ []byte) ([]byte, error) {
			until, ok := ctx.Deadline()
			return fmt.Append(nil, ok, time.Until(until) > 0, time.Until(until), PriorityOf(ctx)), nil
		})
		ctx, cancel := context.WithTimeout(WithPriority(t.Context(), PriorityHealth), 3*time.Second)
		defer cancel()
		got, err := p.Call(ctx, "n", "left", nil)
		if want := "true true 3s 1"; string(got) != want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
		got, err = p.Call(t.Context(), "n", "left", nil)
		if err != nil || !strings.HasPrefix(string(got), "false false") || !strings.HasSuffix(string(got), " 2") {
			t.Errorf("without a deadline: got %q, %v", got, err)
		}
	})
}

// A method with a limit ends by it at the latest, whatever its caller allows; one without goes by its caller.
func TestMethodsHaveALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{})
		left := func(ctx context.Context, _ Peer, _ []byte) ([]byte, error) {
			until, ok := ctx.Deadline()
			return fmt.Append(nil, ok, " ", max(0, time.Until(until))), nil
		}
		p.server.Handle("free", left)
		p.server.HandleWithin(2*time.Second, "bounded", left)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		long, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		for _, c := range []struct {
			ctx          context.Context
			method, want string
		}{
			{t.Context(), "free", "false 0s"}, {long, "free", "true 3s"},
			{t.Context(), "bounded", "true 2s"}, {long, "bounded", "true 2s"}, {short, "bounded", "true 1s"},
		} {
			if got, err := p.Call(c.ctx, "n", c.method, nil); string(got) != c.want || err != nil {
				t.Errorf("%s: %q, %v, want %q", c.method, got, err, c.want)
			}
		}
	})
}

func TestCallThatEndsFirstHasAnUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{})
		ended := make(chan error, 1)
		p.server.Handle("watchful", func(ctx context.Context, _ Peer, _ []byte) ([]byte, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := p.Call(ctx, "n", "watchful", nil)
		wantCode(t, err, CodeOutcomeUnknown)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled in the chain", err)
		}
		if got := <-ended; !errors.Is(got, context.Canceled) {
			t.Errorf("the cancel did not reach the handler: %v", got)
		}
		if _, err := p.Call(t.Context(), "n", "echo", nil); err != nil || p.dials.Load() != 1 {
			t.Errorf("the connection did not survive a cancel: %v", err)
		}
		// A context that ended before anything was sent is no unknown outcome.
		_, err = p.Call(ctx, "n", "echo", nil)
		wantCode(t, err, CodeUnavailable)
	})
}

func TestServerEndsACallAtItsDeadlineByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{})
		c, err := p.client(t.Context(), "n")
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		cl, err := c.begin(t.Context(), request{method: "wait", deadline: 1500}, nil)
		if err != nil {
			t.Fatal(err)
		}
		a := <-cl.done
		wantCode(t, a.err, CodeOutcomeUnknown)
		if took := time.Since(begun); took != 1500*time.Millisecond {
			t.Errorf("got the answer after %v, want 1.5 s", took)
		}
	})
}

// gate is a connection whose writes are counted, take a millisecond, and vanish while it is shut.
type gate struct {
	net.Conn
	writes atomic.Int32
	shut   atomic.Bool
}

func (g *gate) Write(b []byte) (int, error) {
	g.writes.Add(1)
	time.Sleep(time.Millisecond) // of the bubble's time: whoever wants to write has queued by then
	if g.shut.Load() {
		return len(b), nil
	}
	return g.Conn.Write(b)
}

func TestConcurrentCallsShareWrites(t *testing.T) {
	// What queues while one Write is under way goes out in the next, in both directions: 500 calls
	// cost a few writes each way.
	const calls = 500
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{})
		var asks, answers *gate
		p.wrap = func(client, server net.Conn) (net.Conn, net.Conn) {
			asks, answers = &gate{Conn: client}, &gate{Conn: server}
			return asks, answers
		}
		release := make(chan struct{})
		p.server.Handle("gather", func(_ context.Context, _ Peer, body []byte) ([]byte, error) {
			<-release
			return body, nil
		})
		if _, err := p.Call(t.Context(), "n", "echo", nil); err != nil {
			t.Fatal(err)
		}
		asks.writes.Store(0)
		answers.writes.Store(0)
		var group sync.WaitGroup
		for i := range calls {
			group.Go(func() {
				got, err := p.Call(t.Context(), "n", "gather", fmt.Append(nil, i))
				if err != nil || string(got) != fmt.Sprint(i) {
					t.Errorf("call %d: got %q, %v", i, got, err)
				}
			})
		}
		synctest.Wait()
		close(release)
		group.Wait()
		if a, b := asks.writes.Load(), answers.writes.Load(); a > 5 || b > 5 {
			t.Errorf("%d calls took %d and %d writes", calls, a, b)
		}
	})
}

func TestSilentPeerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{KeepAlive: time.Second})
		var g *gate
		p.wrap = func(client, server net.Conn) (net.Conn, net.Conn) {
			g = &gate{Conn: server}
			return client, g
		}
		begun := time.Now()
		time.AfterFunc(10*time.Second, func() { g.shut.Store(true) }) // the peer falls silent
		_, err := p.Call(t.Context(), "n", "wait", nil)
		wantCode(t, err, CodeOutcomeUnknown)
		if !errors.Is(err, errSilent) {
			t.Errorf("got %v, want errSilent", err)
		}
		if took := time.Since(begun); took < 12*time.Second || took > 15*time.Second {
			t.Errorf("noticed after %v; silence began at 10 s, pings kept it alive before", took)
		}
	})
}

func TestPeerThatDoesNotReadIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{WriteTimeout: 2 * time.Second, Dial: func(context.Context, string) (net.Conn, error) {
			client, server := net.Pipe()
			t.Cleanup(func() { _ = server.Close() })
			go func() { // answers the first ping and never reads again
				_, _ = server.Read(make([]byte, headerBytes))
				_, _ = server.Write(appendHeader(nil, header{kind: kindPong}))
			}()
			return client, nil
		}})
		_, err := p.Call(t.Context(), "n", "echo", nil)
		wantCode(t, err, CodeOutcomeUnknown)
		// Both are in the queue when the first Write times out; the second was never handed over.
		first := make(chan error, 1)
		go func() {
			_, err := p.Call(t.Context(), "n", "echo", nil)
			first <- err
		}()
		synctest.Wait()
		c, err := p.client(t.Context(), "n")
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.call(t.Context(), "echo", nil)
		wantCode(t, err, CodeUnavailable)
		wantCode(t, <-first, CodeOutcomeUnknown)
	})
}
