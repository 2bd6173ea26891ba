// Package load puts a cluster under load and measures what it does and what that costs.
//
// The common case is
//
//	sample, err := load.Closed(ctx, load.Loop{Clients: clients, Op: op, Warm: w, Span: s, Pids: pids})
//
// Closed has each client send one request after the other, as a program does that waits for its answer. Open sends at a
// rate, whatever the answers do, as many programs together do. Both sides of a comparison get the same loop; only the
// Client differs, because it speaks the server's own protocol.
//
// The functions start goroutines and end them before they return. A Client is used by one goroutine at a time.
package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrBusy is what a Client returns, wrapped, when the server refused a request because it has too much to do.
var ErrBusy = errors.New("the server is busy")

// Client is one caller with one request at a time.
type Client interface {
	// Put writes and returns once the write is acknowledged.
	Put(ctx context.Context, key string, value []byte) error
	// Get reads linearizably, Stale whatever the asked server has. Both return the size of the value.
	Get(ctx context.Context, key string) (sizeBytes int, err error)
	Stale(ctx context.Context, key string) (sizeBytes int, err error)
}

// Op is one request of a loop.
type Op func(ctx context.Context, c Client, key string) error

// Put writes value.
func Put(value []byte) Op {
	return func(ctx context.Context, c Client, key string) error { return c.Put(ctx, key, value) }
}

// Get reads linearizably, and checks that what was written is there.
func Get(sizeBytes int) Op {
	return func(ctx context.Context, c Client, key string) error {
		n, err := c.Get(ctx, key)
		return checked(key, n, sizeBytes, err)
	}
}

// Stale reads what the asked server has.
func Stale(sizeBytes int) Op {
	return func(ctx context.Context, c Client, key string) error {
		n, err := c.Stale(ctx, key)
		return checked(key, n, sizeBytes, err)
	}
}

func checked(key string, got, want int, err error) error {
	if err == nil && got != want {
		err = fmt.Errorf("%s has %d bytes, and %d were written", key, got, want)
	}
	return err
}

// Keys are n keys, the same ones for every cluster.
func Keys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("bench/%08d", i)
	}
	return keys
}

// Sample is what a loop measured. Latencies are in order. A request counts if it was answered within the span.
type Sample struct {
	Elapsed   time.Duration
	Latencies []time.Duration
	Servers   Usage // what the servers took in the span
	Client    Usage // what this process took
}

// CPUPerOp is what all servers together took for one request.
func (s Sample) CPUPerOp() time.Duration { return per(s.Servers.CPU, len(s.Latencies)) }

// ClientCPUPerOp is what the load generator took for one request.
func (s Sample) ClientCPUPerOp() time.Duration { return per(s.Client.CPU, len(s.Latencies)) }

// PerSecond is how many requests were answered.
func (s Sample) PerSecond() float64 { return float64(len(s.Latencies)) / s.Elapsed.Seconds() }

func per(d time.Duration, n int) time.Duration {
	if n == 0 {
		return 0
	}
	return d / time.Duration(n)
}

// Loop is a closed loop: every client sends Op on a random one of Keys, waits for the answer, and begins again.
type Loop struct {
	Clients []Client
	Op      Op
	Keys    []string
	Warm    time.Duration // not measured
	Span    time.Duration
	Pids    []int // the servers' processes
}

// phases of a loop.
const (
	warming int32 = iota
	measuring
	over
)

// Closed runs a closed loop. One request that fails ends it: a server that answers errors is not measured.
func Closed(ctx context.Context, l Loop) (Sample, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var phase atomic.Int32
	took := make([][]time.Duration, len(l.Clients))
	var wait sync.WaitGroup
	for i, c := range l.Clients {
		wait.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 1)) //nolint:gosec // the same keys for both sides
			for phase.Load() != over && ctx.Err() == nil {
				began := time.Now()
				if err := l.Op(ctx, c, l.Keys[random.IntN(len(l.Keys))]); err != nil {
					cancel(fmt.Errorf("client %d of %d: %w", i+1, len(l.Clients), err))
					return
				}
				if phase.Load() == measuring {
					took[i] = append(took[i], time.Since(began))
				}
			}
		})
	}
	var s Sample
	err := sleep(ctx, l.Warm)
	if err == nil {
		s, err = l.measure(ctx, &phase)
	}
	phase.Store(over)
	wait.Wait()
	if err != nil {
		return Sample{}, err
	}
	if ctx.Err() != nil {
		return Sample{}, context.Cause(ctx)
	}
	s.Latencies = slices.Concat(took...)
	slices.Sort(s.Latencies)
	if len(s.Latencies) == 0 {
		return Sample{}, fmt.Errorf("no request of %d clients was answered within %s", len(l.Clients), l.Span)
	}
	return s, nil
}

// measure lets the loop run for its span, and reads before and after what the processes have used.
func (l Loop) measure(ctx context.Context, phase *atomic.Int32) (Sample, error) {
	servers, err := Processes(l.Pids)
	if err != nil {
		return Sample{}, err
	}
	own, began := Self(), time.Now()
	phase.Store(measuring)
	if err := sleep(ctx, l.Span); err != nil {
		return Sample{}, err
	}
	phase.Store(over)
	s := Sample{Elapsed: time.Since(began), Client: Self().Since(own)}
	after, err := Processes(l.Pids)
	s.Servers = after.Since(servers)
	return s, err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
