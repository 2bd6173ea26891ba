package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/parley-mesh/parley/test/bench/load"
	"github.com/parley-mesh/parley/test/bench/report"
)

const (
	fillBatch   = 128 // what both take in one transaction
	fillWorkers = 8
	warm        = 500 * time.Millisecond
)

// fill writes all keys through a caller, in transactions.
func fill(ctx context.Context, c caller, keys []string, value []byte) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	batches := make(chan []string)
	var wait sync.WaitGroup
	for range fillWorkers {
		wait.Go(func() {
			for batch := range batches {
				if err := c.PutAll(ctx, batch, value); err != nil {
					cancel(fmt.Errorf("fill: %w", err))
				}
			}
		})
	}
	for len(keys) > 0 && ctx.Err() == nil {
		n := min(fillBatch, len(keys))
		batches <- keys[:n]
		keys = keys[n:]
	}
	close(batches)
	wait.Wait()
	return context.Cause(ctx)
}

// filled starts a cluster that has all keys.
func (b *bench) filled(ctx context.Context, k kind, keys []string) (cluster, error) {
	c, err := k.start(ctx, b.work)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", k.name, err)
	}
	if err := fillLeader(ctx, c, keys, b.value); err != nil {
		return nil, stopped(c, err)
	}
	return c, nil
}

func fillLeader(ctx context.Context, c cluster, keys []string, value []byte) error {
	leader, err := c.Leader(ctx)
	if err != nil {
		return err
	}
	caller, err := c.Call(leader)
	if err != nil {
		return err
	}
	defer caller.Close()
	return fill(ctx, caller, keys, value)
}

// loads measures one operation at one side, by every path and number of clients.
func (b *bench) loads(ctx context.Context, what string, op load.Op, s side) error {
	c, err := b.filled(ctx, s.kind, b.keys)
	if err != nil {
		return err
	}
	for _, p := range c.Paths() {
		name, wanted := s.paths[p.name]
		if !wanted || b.quick && p.name == "https" {
			continue
		}
		for _, n := range b.clients {
			if err := b.loop(ctx, c, p, n, report.Cell{What: what, Clients: n, Side: name}, op); err != nil {
				return stopped(c, err)
			}
		}
	}
	return c.Stop()
}

// loop is one cell.
func (b *bench) loop(ctx context.Context, c cluster, p path, n int, cell report.Cell, op load.Op) error {
	clients, closeAll, err := p.connect(ctx, n)
	if err != nil {
		return fmt.Errorf("%s: connect: %w", cell, err)
	}
	defer closeAll()
	stopProfile, err := b.profile(ctx, c, cell)
	if err != nil {
		return fmt.Errorf("%s: profile: %w", cell, err)
	}
	defer stopProfile()
	s, err := load.Closed(ctx, load.Loop{Clients: clients, Op: op, Keys: b.keys, Warm: warm, Span: b.span, Pids: c.Pids()})
	if err != nil {
		return fmt.Errorf("%s: %w", cell, err)
	}
	b.note(report.Measure{What: cell.What, Clients: n, Side: cell.Side, Values: map[string]float64{
		report.PerSecond: s.PerSecond(),
		report.P50:       report.Milliseconds(report.Quantile(s.Latencies, 0.5)),
		report.P99:       report.Milliseconds(report.Quantile(s.Latencies, 0.99)),
		report.CPU:       float64(s.CPUPerOp().Nanoseconds()) / 1000,
		report.ClientCPU: float64(s.ClientCPUPerOp().Nanoseconds()) / 1000,
		report.RSS:       float64(s.Servers.PeakBytes) / (1 << 20),
	}})
	return nil
}

// overload measures what is done when ten times as much is asked for as can be. Servers and load generator each have a
// processor of their own, at the peak and beyond it: else the generator takes from the servers what it asks with.
func (b *bench) overload(ctx context.Context, s side) error {
	c, err := b.filled(ctx, s.kind, b.keys)
	if err != nil {
		return err
	}
	release, err := separate(c.Pids())
	if err != nil {
		return stopped(c, err)
	}
	defer release()
	for _, p := range c.Paths() {
		if name, wanted := s.paths[p.name]; wanted && p.name != "https" {
			if err := b.overloadPath(ctx, c, p, name); err != nil {
				return stopped(c, err)
			}
		}
	}
	return c.Stop()
}

const (
	saturating = 512 // clients that saturate a core in a closed loop
	factor     = 10
)

func (b *bench) overloadPath(ctx context.Context, c cluster, p path, name string) error {
	op := load.Put(b.value)
	few, closeFew, err := p.connect(ctx, saturating)
	if err != nil {
		return fmt.Errorf("overload, %s: connect: %w", name, err)
	}
	peak, err := load.Closed(ctx, load.Loop{Clients: few, Op: op, Keys: b.keys, Warm: warm, Span: b.span, Pids: c.Pids()})
	closeFew()
	if err != nil {
		return fmt.Errorf("overload, %s: peak: %w", name, err)
	}
	clients, closeAll, err := p.connect(ctx, saturating*factor)
	if err != nil {
		return fmt.Errorf("overload, %s: connect: %w", name, err)
	}
	defer closeAll()
	before, err := load.Processes(c.Pids())
	if err != nil {
		return err
	}
	began, own := time.Now(), load.Self()
	out, err := load.Open(ctx, load.Arrivals{Clients: clients, Op: op, Keys: b.keys, Rate: factor * peak.PerSecond(), Warm: 2 * warm, Span: 2 * b.span})
	if err != nil {
		return fmt.Errorf("overload, %s: %w", name, err)
	}
	after, err := load.Processes(c.Pids())
	if err != nil {
		return err
	}
	seconds, generator := out.Elapsed.Seconds(), load.Self().Since(own)
	note := fmt.Sprintf("peak %.0f/s by %d clients; %.0f/s came due, %.0f/s found a free one of %d clients, %.0f/s were refused as busy, %.0f/s failed; "+
		"the servers used %.0f %% of a core at the peak and %.0f %% beyond it, the load generator %.0f and %.0f %%",
		peak.PerSecond(), saturating, float64(out.Due)/seconds, float64(out.Sent)/seconds, len(clients), float64(out.Busy)/seconds, float64(out.Failed)/seconds,
		100*peak.Servers.CPU.Seconds()/peak.Elapsed.Seconds(), 100*after.Since(before).CPU.Seconds()/time.Since(began).Seconds(),
		100*peak.Client.CPU.Seconds()/peak.Elapsed.Seconds(), 100*generator.CPU.Seconds()/time.Since(began).Seconds())
	if out.First != nil {
		note += fmt.Sprintf(" (%v)", out.First)
	}
	b.note(report.Measure{What: report.Overload, Side: name, Note: note, Values: map[string]float64{
		report.Kept:      out.Goodput() / peak.PerSecond(),
		report.PerSecond: out.Goodput(),
		report.P50:       report.Milliseconds(report.Quantile(out.Accepted, 0.5)),
		report.P99:       report.Milliseconds(report.Quantile(out.Accepted, 0.99)),
	}})
	return nil
}
