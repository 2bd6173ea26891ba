package load

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Arrivals is an open loop: requests become due at Rate, whatever became of those before. Each takes a free client; one
// that finds none is not sent, and counts as such, as if a caller had given up before it called.
type Arrivals struct {
	Clients []Client
	Op      Op
	Keys    []string
	Rate    float64 // a second
	Warm    time.Duration
	Span    time.Duration
	// Edge is called when the span begins and when it ends, to read what the servers have used; nil is not called.
	Edge func()
}

// Outcome is what became of an open loop's requests that were due in its span.
type Outcome struct {
	Elapsed time.Duration
	Due     int
	Sent    int
	Done    int // acknowledged within the span, whenever they were due
	Busy    int // refused at once
	Failed  int // anything else: no answer in time, for instance
	// Accepted has how long each acknowledged request took from the moment when it was due.
	Accepted []time.Duration
	First    error // the first failure
}

// Goodput is how many requests a second were done.
func (o Outcome) Goodput() float64 { return float64(len(o.Accepted)) / o.Elapsed.Seconds() }

// pace is how often arrivals are handed out.
const pace = time.Millisecond

// Open runs an open loop.
func Open(ctx context.Context, a Arrivals) (Outcome, error) {
	asked := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	due := make(chan time.Time) // no queue: who is free takes it, else it is not sent
	var phase atomic.Int32
	tallies := make([]Outcome, len(a.Clients))
	var wait sync.WaitGroup
	for i, c := range a.Clients {
		wait.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 2)) //nolint:gosec // the same keys for all
			for at := range due {
				counts := phase.Load() == measuring
				err := a.Op(ctx, c, a.Keys[random.IntN(len(a.Keys))])
				if err == nil && phase.Load() == measuring {
					tallies[i].Done++
				}
				if counts && ctx.Err() == nil {
					tallies[i].count(err, time.Since(at))
				}
			}
		})
	}
	sum := a.handOut(ctx, due, &phase)
	close(due)
	late := time.AfterFunc(a.Span, cancel) // no answer within another span is none
	wait.Wait()
	late.Stop()
	for _, t := range tallies {
		sum.Add(t)
	}
	slices.Sort(sum.Accepted)
	return sum, context.Cause(asked)
}

// handOut makes requests due until warm-up and span are over.
func (a Arrivals) handOut(ctx context.Context, due chan<- time.Time, phase *atomic.Int32) (sum Outcome) {
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	began := time.Now()
	end := began.Add(a.Warm + a.Span)
	made := 0
	for ctx.Err() == nil {
		now := <-ticker.C
		if now.After(end) {
			break
		}
		if now.Sub(began) >= a.Warm && phase.CompareAndSwap(warming, measuring) {
			a.edge()
		}
		wanted := int(a.Rate * now.Sub(began).Seconds())
		for ; made < wanted; made++ {
			counts := phase.Load() == measuring
			if counts {
				sum.Due++
			}
			select {
			case due <- began.Add(time.Duration(float64(made) / a.Rate * float64(time.Second))):
				if counts {
					sum.Sent++
				}
			default:
			}
		}
	}
	phase.Store(over)
	a.edge()
	sum.Elapsed = a.Span
	return sum
}

func (a Arrivals) edge() {
	if a.Edge != nil {
		a.Edge()
	}
}

func (o *Outcome) count(err error, took time.Duration) {
	switch {
	case err == nil:
		o.Accepted = append(o.Accepted, took)
	case errors.Is(err, ErrBusy):
		o.Busy++
	default:
		o.Failed++
		if o.First == nil {
			o.First = err
		}
	}
}

// Add takes another one in, of the same loop or of one like it. The latencies are no longer in order.
func (o *Outcome) Add(other Outcome) {
	o.Elapsed += other.Elapsed
	o.Due += other.Due
	o.Sent += other.Sent
	o.Done += other.Done
	o.Busy += other.Busy
	o.Failed += other.Failed
	o.Accepted = append(o.Accepted, other.Accepted...)
	if o.First == nil {
		o.First = other.First
	}
}
