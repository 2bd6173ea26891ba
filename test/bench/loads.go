package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
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

// rounds of peak and overload, one after the other: a machine that gives the servers less for a while gives less to both.
const rounds = 3

// beyond is what was measured of a path at the peak and beyond it, in all rounds together.
type beyond struct {
	peak, over    spent
	out           load.Outcome
	kept, keptCPU []float64 // of each round
}

// spent is what processes took in some time, in which so many writes were done. What they waited is how long their threads wanted to
// run and did not: where the load generator did, other programs had its processor, and what is measured is not the servers.
type spent struct {
	servers, own, serversWaited, ownWaited, span time.Duration
	done                                         int
}

func (s *spent) add(other spent) {
	s.servers += other.servers
	s.own += other.own
	s.serversWaited += other.serversWaited
	s.ownWaited += other.ownWaited
	s.span += other.span
	s.done += other.done
}

// perCPU is how many writes were done in a second of the servers' processor time.
func (s spent) perCPU() float64 { return float64(s.done) / max(s.servers, time.Microsecond).Seconds() }

func (s spent) String() string {
	share := func(d time.Duration) float64 { return 100 * d.Seconds() / s.span.Seconds() }
	return fmt.Sprintf("%.0f/s, %.0f us of processor each (servers run %.0f %% of the time and wait for a processor %.0f %%, the load generator %.0f and %.0f %%)",
		float64(s.done)/s.span.Seconds(), 1e6*s.servers.Seconds()/float64(max(s.done, 1)),
		share(s.servers), share(s.serversWaited), share(s.own), share(s.ownWaited))
}

func (b *bench) overloadPath(ctx context.Context, c cluster, p path, name string) error {
	var sum beyond
	for n := range rounds {
		peak, err := b.peak(ctx, c, p)
		if err != nil {
			return fmt.Errorf("overload, %s: peak: %w", name, err)
		}
		over, out, err := b.beyondPeak(ctx, c, p, float64(peak.done)/peak.span.Seconds(), report.Cell{What: report.Overload, Clients: n + 1, Side: name})
		if err != nil {
			return fmt.Errorf("overload, %s: %w", name, err)
		}
		sum.add(peak, over, out)
	}
	b.note(sum.measure(name))
	return nil
}

// peak is what so many clients do that the core is busy all the time.
func (b *bench) peak(ctx context.Context, c cluster, p path) (spent, error) {
	clients, closeAll, err := b.led(ctx, p, saturating)
	if err != nil {
		return spent{}, err
	}
	defer closeAll()
	servers, own := load.Waited(c.Pids()...), load.Waited(os.Getpid())
	s, err := load.Closed(ctx, load.Loop{Clients: clients, Op: load.Put(b.value), Keys: b.keys, Warm: warm, Span: b.span / 2, Pids: c.Pids()})
	return spent{s.Servers.CPU, s.Client.CPU, load.Waited(c.Pids()...) - servers, load.Waited(os.Getpid()) - own, s.Elapsed, len(s.Latencies)}, err
}

// led connects once there is a leader: one that was overloaded may have lost the lead.
func (b *bench) led(ctx context.Context, p path, n int) (clients []load.Client, closeAll func(), err error) {
	err = until(ctx, "no leader takes connections", func() error {
		clients, closeAll, err = p.connect(ctx, n)
		return err
	})
	return clients, closeAll, err
}

// beyondPeak asks for so many times as much as is done at the peak.
func (b *bench) beyondPeak(ctx context.Context, c cluster, p path, peak float64, cell report.Cell) (over spent, out load.Outcome, err error) {
	clients, closeAll, err := b.led(ctx, p, saturating*factor)
	if err != nil {
		return over, out, err
	}
	defer closeAll()
	stopProfile, err := b.profile(ctx, c, cell)
	if err != nil {
		return over, out, fmt.Errorf("profile: %w", err)
	}
	defer stopProfile()
	var edges []load.Usage    // of the servers, then of this process
	var waits []time.Duration // as edges
	var at []time.Time
	var failed error
	out, err = load.Open(ctx, load.Arrivals{
		Clients: clients, Op: load.Put(b.value), Keys: b.keys, Rate: factor * peak, Warm: 2 * warm, Span: b.span,
		Edge: func() {
			servers, err := load.Processes(c.Pids())
			failed = errors.Join(failed, err)
			edges, waits, at = append(edges, servers, load.Self()), append(waits, load.Waited(c.Pids()...), load.Waited(os.Getpid())), append(at, time.Now())
		},
	})
	if err := errors.Join(err, failed); err != nil {
		return over, out, err
	}
	return spent{edges[2].Since(edges[0]).CPU, edges[3].Since(edges[1]).CPU, waits[2] - waits[0], waits[3] - waits[1], at[1].Sub(at[0]), out.Done}, out, nil
}

func (s *beyond) add(peak, over spent, out load.Outcome) {
	s.peak.add(peak)
	s.over.add(over)
	s.out.Add(out)
	s.kept = append(s.kept, float64(over.done)/over.span.Seconds()/(float64(peak.done)/peak.span.Seconds()))
	s.keptCPU = append(s.keptCPU, over.perCPU()/peak.perCPU())
}

func (s *beyond) measure(name string) report.Measure {
	slices.Sort(s.out.Accepted)
	seconds := s.out.Elapsed.Seconds()
	note := fmt.Sprintf("peak by %d clients %v; beyond it %v; %.0f/s came due, %.0f/s found a free one of %d clients, %.0f/s were refused as busy, %.0f/s failed",
		saturating, s.peak, s.over, float64(s.out.Due)/seconds, float64(s.out.Sent)/seconds, saturating*factor, float64(s.out.Busy)/seconds, float64(s.out.Failed)/seconds)
	if s.out.First != nil {
		note += fmt.Sprintf(" (%v)", s.out.First)
	}
	return report.Measure{What: report.Overload, Side: name, Note: note, Values: map[string]float64{
		report.Kept:      report.Median(s.kept),
		report.KeptCPU:   report.Median(s.keptCPU),
		report.PerSecond: float64(s.over.done) / s.over.span.Seconds(),
		report.P50:       report.Milliseconds(report.Quantile(s.out.Accepted, 0.5)),
		report.P99:       report.Milliseconds(report.Quantile(s.out.Accepted, 0.99)),
	}}
}
