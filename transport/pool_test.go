package transport

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestOneDialServesAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p *pair
		p = newPair(t, ServerOptions{}, PoolOptions{Dial: func(context.Context, string) (net.Conn, error) {
			p.dials.Add(1)
			time.Sleep(time.Second)
			return p.connect(), nil
		}})
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				if _, err := p.Call(t.Context(), "n", "echo", nil); err != nil {
					t.Error(err)
				}
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := p.Call(ctx, "n", "echo", nil) // gives up alone; the dial goes on for the others
		wantCode(t, err, CodeUnavailable)
		group.Wait()
		if p.dials.Load() != 1 {
			t.Errorf("got %d dials, want 1", p.dials.Load())
		}
	})
}

func TestFailedDialsBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		refused := errors.New("connection refused")
		p := newPair(t, ServerOptions{}, PoolOptions{Dial: func(context.Context, string) (net.Conn, error) {
			dials++
			return nil, refused
		}})
		for range 600 { // a caller every 100 ms for a minute
			_, err := p.Call(t.Context(), "n", "echo", nil)
			wantCode(t, err, CodeUnavailable)
			if !errors.Is(err, refused) {
				t.Fatalf("got %v, want the dial's error in the chain", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if dials < 30 || dials > 70 { // one in 1 to 2 s, and a few at first
			t.Errorf("got %d dials in a minute", dials)
		}
	})
}

func TestPeerThatRefusesUsIsUnavailable(t *testing.T) {
	// In TLS 1.3 a refused client certificate shows only after the dial. It must not look like a
	// request with an unknown outcome.
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{Dial: func(context.Context, string) (net.Conn, error) {
			client, server := net.Pipe()
			return client, server.Close()
		}})
		_, err := p.Call(t.Context(), "n", "echo", nil)
		wantCode(t, err, CodeUnavailable)
	})
}

func TestMutePeerIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{Dial: func(context.Context, string) (net.Conn, error) {
			client, server := net.Pipe()
			t.Cleanup(func() { _ = server.Close() })
			go func() { _, _ = server.Read(make([]byte, 1)) }()
			return client, nil
		}})
		begun := time.Now()
		_, err := p.Call(t.Context(), "n", "echo", nil)
		wantCode(t, err, CodeUnavailable)
		if took := time.Since(begun); took != DefaultDialTimeout {
			t.Errorf("got the error after %v, want %v", took, DefaultDialTimeout)
		}
	})
}

func TestConnectionLostUnderACallIsAnUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{})
		servers := make(chan net.Conn, 3)
		p.wrap = func(c, s net.Conn) (net.Conn, net.Conn) {
			servers <- s
			return c, s
		}
		for _, call := range []func() error{
			func() error {
				_, err := p.Call(t.Context(), "n", "wait", nil)
				return err
			},
			func() error {
				return p.Stream(t.Context(), "n", "count", make([]byte, 1<<20), func([]byte) error {
					time.Sleep(time.Hour) // the connection is lost meanwhile
					return nil
				})
			},
		} {
			time.AfterFunc(time.Second, func() { _ = (<-servers).Close() })
			wantCode(t, call(), CodeOutcomeUnknown)
		}
		if _, err := p.Call(t.Context(), "n", "echo", nil); err != nil || p.dials.Load() != 3 {
			t.Errorf("the next call: %v, %d dials, want 3", err, p.dials.Load())
		}
	})
}

func TestDrainFailsNoCall(t *testing.T) {
	// The server drains while calls are in progress and others keep coming: those in progress get
	// their answers, the others move to a new connection, and no caller sees an error.
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{})
		p.server.Handle("slow", func(context.Context, Peer, []byte) ([]byte, error) {
			time.Sleep(2 * time.Second)
			return nil, nil
		})
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				for range 5 {
					if _, err := p.Call(t.Context(), "n", "slow", nil); err != nil {
						t.Error(err)
					}
				}
			})
			time.Sleep(50 * time.Millisecond)
		}
		p.drain()
		group.Wait()
		if p.dials.Load() != 2 {
			t.Errorf("got %d dials, want 2", p.dials.Load())
		}
	})
}

func TestDrainEndsStreamsAndStuckCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{DrainTimeout: 3 * time.Second}, PoolOptions{})
		p.server.HandleStream("follow", func(ctx context.Context, _ Peer, _ []byte, send func([]byte) error) error {
			if err := send(nil); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		})
		time.AfterFunc(time.Second, p.drain)
		begun := time.Now()
		stuck := make(chan error, 1)
		go func() {
			_, err := p.Call(t.Context(), "n", "wait", nil)
			stuck <- err
		}()
		err := p.Stream(t.Context(), "n", "follow", nil, func([]byte) error { return nil })
		wantCode(t, err, CodeUnavailable)
		if took := time.Since(begun); took != time.Second {
			t.Errorf("the stream ended after %v, want 1 s", took)
		}
		wantCode(t, <-stuck, CodeOutcomeUnknown)
		if took := time.Since(begun); took != 4*time.Second {
			t.Errorf("the stuck call ended after %v, want 4 s", took)
		}
	})
}

func TestDropAndCloseEndCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{})
		p.Drop("never seen")
		for _, end := range []func(){func() { p.Drop("n") }, func() { _ = p.Close() }} {
			time.AfterFunc(time.Second, end)
			_, err := p.Call(t.Context(), "n", "wait", nil)
			wantCode(t, err, CodeOutcomeUnknown)
		}
		_, err := p.Call(t.Context(), "n", "echo", nil)
		wantCode(t, err, CodeUnavailable)
	})
}

func TestCallThatAGoawayExcludesMovesToANewConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p *pair
		p = newPair(t, ServerOptions{}, PoolOptions{Dial: func(context.Context, string) (net.Conn, error) {
			if p.dials.Add(1) > 1 {
				return p.connect(), nil
			}
			client, server := net.Pipe()
			go hostileServer(server, []outFrame{{kind: kindGoaway, id: 0}})
			return client, nil
		}})
		got, err := p.Call(t.Context(), "n", "echo", []byte("once"))
		if err != nil || string(got) != "once" || p.dials.Load() != 2 {
			t.Errorf("got %q, %v after %d dials, want the answer of the second", got, err, p.dials.Load())
		}
	})
}

func TestDrainingConnectionTakesNoNewCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, ServerOptions{}, PoolOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = p.Call(ctx, "n", "wait", nil) }() // keeps the connection open
		synctest.Wait()
		c, err := p.client(t.Context(), "n")
		if err != nil {
			t.Fatal(err)
		}
		p.drain()
		synctest.Wait()
		if _, err := c.call(t.Context(), "echo", nil); !errors.Is(err, errNotStarted) {
			t.Errorf("got %v, want errNotStarted", err)
		}
		cancel()
		synctest.Wait()
		select {
		case <-c.done:
		default:
			t.Error("the caller did not close the connection after its last call")
		}
	})
}
