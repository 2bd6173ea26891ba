package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/parley-mesh/parley/test/bench/load"
	"github.com/parley-mesh/parley/test/bench/report"
)

const (
	writeEvery   = 5 * time.Millisecond
	writeTimeout = 10 * time.Second
	calm         = time.Second // writes that are steady for so long again are back
	gapTimeout   = 30 * time.Second
)

// failover kills the leader several times while a client of another server writes every 5 ms, and notes the longest time
// between two acknowledgements around each.
func (b *bench) failover(ctx context.Context, what string, s side) error {
	c, err := s.kind.start(ctx, b.work)
	if err != nil {
		return err
	}
	var gaps []float64
	for range b.kills {
		gap, err := killLeader(ctx, c)
		if err != nil {
			return stopped(c, fmt.Errorf("%s, %s: %w", what, s.name, err))
		}
		gaps = append(gaps, report.Milliseconds(gap))
	}
	b.note(report.Measure{What: what, Side: s.name, Each: gaps, Values: map[string]float64{report.Took: report.Median(gaps)}})
	return c.Stop()
}

func killLeader(ctx context.Context, c cluster) (time.Duration, error) {
	if err := c.Whole(ctx); err != nil {
		return 0, err
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		return 0, err
	}
	via, err := c.Call((leader + 1) % servers)
	if err != nil {
		return 0, err
	}
	defer via.Close()
	gap, err := longestGap(ctx, via, func() error { return c.Kill(leader) })
	if err != nil {
		return 0, err
	}
	if err := c.Launch(ctx, leader); err != nil {
		return 0, err
	}
	return gap, nil
}

// longestGap writes steadily, breaks something after half a second, and returns the longest time between two
// acknowledgements until they have been steady again.
func longestGap(ctx context.Context, c caller, breakIt func() error) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, gapTimeout)
	defer cancel()
	acks := make(chan time.Time, 4096)
	var writes sync.WaitGroup
	writes.Go(func() { writeSteadily(ctx, c, acks, &writes) })
	defer writes.Wait()
	defer cancel()
	broken := make(chan error, 1)
	began, last, steady, longest := time.Now(), time.Time{}, time.Time{}, time.Duration(0)
	breaking := time.AfterFunc(calm/2, func() { broken <- breakIt() })
	defer breaking.Stop()
	for {
		select {
		case at := <-acks:
			if gap := at.Sub(last); !last.IsZero() && gap > longest {
				longest, steady = gap, at
			}
			last = at
			if at.Sub(began) > calm+calm/2 && at.Sub(steady) > calm {
				return longest, <-broken
			}
		case <-ctx.Done():
			return 0, fmt.Errorf("writes did not come back within %s", gapTimeout)
		}
	}
}

// writeSteadily starts a write every 5 ms, whatever became of those before, and tells when each is acknowledged.
func writeSteadily(ctx context.Context, c caller, acks chan<- time.Time, writes *sync.WaitGroup) {
	ticker := time.NewTicker(writeEvery)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		writes.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, writeTimeout)
			defer cancel()
			if c.Put(ctx, "bench/failover", strconv.AppendInt(nil, int64(n), 10)) != nil {
				return
			}
			select {
			case acks <- time.Now():
			case <-ctx.Done():
			}
		})
	}
}

// restart kills servers that hold many keys and notes how long they take from their start to a linearizable read: a
// follower alone, then all three.
func (b *bench) restart(ctx context.Context, s side) error {
	c, err := b.filled(ctx, s.kind, load.Keys(b.many))
	if err != nil {
		return err
	}
	usage, err := load.Processes(c.Pids())
	if err != nil {
		return stopped(c, err)
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		return stopped(c, err)
	}
	one, oneCPU, err := takeDown(ctx, c, []int{(leader + 1) % servers})
	if err != nil {
		return stopped(c, err)
	}
	if err := c.Whole(ctx); err != nil {
		return stopped(c, err)
	}
	all, allCPU, err := takeDown(ctx, c, []int{0, 1, 2})
	if err != nil {
		return stopped(c, err)
	}
	b.note(report.Measure{What: report.RestartOne, Side: s.name, Values: map[string]float64{
		report.Took: report.Milliseconds(one), report.CPUTime: report.Milliseconds(oneCPU), report.RSS: float64(usage.RSSBytes) / (1 << 20),
	}})
	b.note(report.Measure{What: report.RestartAll, Side: s.name, Values: map[string]float64{
		report.Took: report.Milliseconds(all), report.CPUTime: report.Milliseconds(allCPU),
	}})
	return c.Stop()
}

// takeDown kills servers at the same time, starts them, and waits until each has answered. It also returns the processor
// time that they have used until then.
func takeDown(ctx context.Context, c cluster, which []int) (took, cpu time.Duration, err error) {
	for _, i := range which {
		if err := c.Kill(i); err != nil {
			return 0, 0, err
		}
	}
	began := time.Now()
	for _, i := range which {
		if err := c.Launch(ctx, i); err != nil {
			return 0, 0, err
		}
	}
	for _, i := range which {
		if err := c.Serving(ctx, i); err != nil {
			return 0, 0, err
		}
	}
	took = time.Since(began)
	var pids []int
	for _, i := range which {
		pids = append(pids, c.Pids()[i])
	}
	used, err := load.Processes(pids)
	return took, used.CPU, err
}
