package api

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-mesh/parley/api/wire"
	"github.com/parley-mesh/parley/transport"
)

// An overload of a whole agent, from the bytes that clients send to the entry, in time that does not depend on the machine:
// what is measured is who waits for whom, not how fast a processor is.
const (
	overCore    = 200 // writes a second that the core does
	overPeak    = 64  // clients that saturate it, and factor times as many that overload it
	overFactor  = 10
	overSpan    = 12 * time.Second
	overWarm    = 4 * time.Second // of that, before it counts
	overPatient = 3 * time.Second // a client waits no longer, and asks again
)

// overWrite asks for one write, and reports whether it was done.
type overWrite func(ctx context.Context, client int) bool

// overloaded has so many clients write in a loop, each at once again. It returns how many writes a second were done in their
// clients' time, and how long the slowest hundredth of them took at least.
func overloaded(clients int, write overWrite) (perSecond float64, p99 time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), overSpan)
	defer cancel()
	began := time.Now()
	took := make([][]time.Duration, clients)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			time.Sleep(time.Duration(i) * overWarm / time.Duration(2*clients))
			for ctx.Err() == nil {
				at := time.Now()
				patience, done := context.WithTimeout(ctx, overPatient)
				ok := write(patience, i)
				done()
				if ok && at.Sub(began) > overWarm {
					took[i] = append(took[i], time.Since(at))
				}
			}
		})
	}
	all.Wait()
	sum := slices.Concat(took...)
	slices.Sort(sum)
	if len(sum) == 0 {
		return 0, math.MaxInt64
	}
	return float64(len(sum)) / (overSpan - overWarm).Seconds(), sum[len(sum)*99/100]
}

// overloadedAgent is one whose core does overCore writes a second, each in its turn, whether its caller still waits or not.
func overloadedAgent(t *testing.T, gated bool) *fakeAgent {
	a := newFake(t, 1, 1).agents["a1"]
	began := time.Now()
	now := func() time.Duration { return time.Since(began) }
	if !gated {
		now = func() time.Duration { return 0 } // no window ends
	}
	a.service.gate = newGate(now)
	core := &slowCore{queue: make(chan chan struct{}, 1<<20), each: time.Second / overCore}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { core.run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	a.propose = func(ctx context.Context, command []byte) (Proposed, error) {
		done := make(chan struct{})
		core.queue <- done
		select {
		case <-done:
		case <-ctx.Done():
			return Proposed{}, ctx.Err()
		}
		return a.apply(command)
	}
	return a
}

// overRPC writes by framed RPC, all clients over one connection.
func overRPC(t *testing.T, a *fakeAgent) overWrite {
	server := transport.NewServer(transport.ServerOptions{})
	answer := a.service.ClientHandler()
	server.Handle(wire.MethodPut, func(ctx context.Context, _ transport.Peer, body []byte) ([]byte, error) {
		return answer(ctx, operator, wire.MethodPut, body), nil
	})
	var serving sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	pool := transport.NewPool(transport.PoolOptions{Dial: func(context.Context, string) (net.Conn, error) {
		near, far := net.Pipe()
		serving.Go(func() { server.ServeConn(ctx, far, transport.Peer{Node: "clients"}) })
		return near, nil
	}})
	t.Cleanup(func() { pool.Close(); cancel(); serving.Wait() })
	return func(ctx context.Context, client int) bool {
		put := wire.Put{Key: fmt.Sprint("k", client), Value: []byte("v")}
		raw, err := pool.Call(ctx, "agent", wire.MethodPut, put.Append(nil))
		if err != nil {
			return false
		}
		_, failed, err := wire.ParseWritten(raw)
		return err == nil && failed == nil
	}
}

// overHTTP writes by HTTP/1.1, each client over a connection of its own.
func overHTTP(t *testing.T, a *fakeAgent) overWrite {
	ln := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: a.service.Handler(Loopback), ReadHeaderTimeout: time.Minute}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ln) })
	pool := &http.Transport{MaxIdleConnsPerHost: overPeak * overFactor, DialContext: ln.dial}
	t.Cleanup(func() { pool.CloseIdleConnections(); _ = server.Close(); serving.Wait() })
	caller := &http.Client{Transport: pool}
	return func(ctx context.Context, client int) bool {
		r, err := http.NewRequestWithContext(ctx, http.MethodPut, fmt.Sprintf("http://127.0.0.1:8500/parley/v1/kv/k%d", client), strings.NewReader("v"))
		if err != nil {
			return false
		}
		answer, err := caller.Do(r)
		if err != nil {
			return false
		}
		defer func() { _ = answer.Body.Close() }()
		_, err = io.Copy(io.Discard, answer.Body)
		return err == nil && answer.StatusCode == http.StatusOK
	}
}

// pipeListener connects without a network.
type pipeListener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error { l.once.Do(func() { close(l.closed) }); return nil }

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8500} }

// Ten times as many clients as saturate a slow core, from the agent's start on, by each way to ask: as many writes are done
// as at the peak but for a fifth, and none of a hundred takes five times as long. The control, a gate that never learns,
// lets all in; its core only works for clients that have gone. (A gate that was above what the core can do, and had nobody
// waiting, did not learn either.)
func TestOverload(t *testing.T) {
	ways := map[string]func(*testing.T, *fakeAgent) overWrite{"rpc": overRPC, "http": overHTTP}
	for name, way := range ways {
		measure := func(t *testing.T, gated bool, clients int) (perSecond float64, p99 time.Duration) {
			synctest.Test(t, func(t *testing.T) {
				perSecond, p99 = overloaded(clients, way(t, overloadedAgent(t, gated)))
			})
			t.Logf("gate %v, %d clients: %.0f a second, p99 %v", gated, clients, perSecond, p99)
			return perSecond, p99
		}
		t.Run(name, func(t *testing.T) {
			peak, usual := measure(t, true, overPeak)
			good, p99 := measure(t, true, overPeak*overFactor)
			if good < 0.8*peak {
				t.Errorf("%.0f a second are done, the peak is %.0f", good, peak)
			}
			if p99 > 5*usual {
				t.Errorf("one in a hundred takes %v or longer, and %v at the peak", p99, usual)
			}
			if bad, _ := measure(t, false, overPeak*overFactor); bad > 0.3*peak {
				t.Errorf("control: %.0f of %.0f a second are done without a gate, the test proves nothing", bad, peak)
			}
		})
	}
}

// The more wait for each place, the longer is their patience: as many are refused as are a quarter of what is done, while
// the bounds allow it.
func TestGatePatience(t *testing.T) {
	for _, c := range []struct {
		waiting   int
		perSecond float64
		want      time.Duration
	}{
		{1, 10_000, gatePatience},
		{2500, 10_000, time.Second},
		{maxGateWaits, 10_000, gatePatienceMax},
		{1, 0, time.Second},
		{5, 0, gatePatienceMax},
	} {
		if got := patience(c.waiting, c.perSecond); got != c.want {
			t.Errorf("of %d where %v a second are done each waits %v, want %v", c.waiting, c.perSecond, got, c.want)
		}
	}
}
