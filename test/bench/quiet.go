package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/parley-mesh/parley/test/bench/load"
	"github.com/parley-mesh/parley/test/bench/report"
)

const (
	settle     = 3 * time.Second // after a start, before a cluster counts as idle
	watchEvery = 5 * time.Millisecond
)

// idle notes what a cluster takes that nobody asks anything.
func (b *bench) idle(ctx context.Context, s side) error {
	c, err := b.filled(ctx, s.kind, b.keys)
	if err != nil {
		return err
	}
	if err := pause(ctx, settle); err != nil {
		return stopped(c, err)
	}
	stopProfile, err := b.profile(ctx, c, report.Cell{What: report.Idle, Side: s.name})
	if err != nil {
		return stopped(c, err)
	}
	defer stopProfile()
	before, err := load.Processes(c.Pids())
	if err != nil {
		return stopped(c, err)
	}
	if err := pause(ctx, b.idleSpan); err != nil {
		return stopped(c, err)
	}
	after, err := load.Processes(c.Pids())
	if err != nil {
		return stopped(c, err)
	}
	b.note(report.Measure{What: report.Idle, Side: s.name, Values: map[string]float64{
		report.Share: 100 * after.Since(before).CPU.Seconds() / b.idleSpan.Seconds(),
		report.RSS:   float64(after.RSSBytes) / (1 << 20),
	}})
	return c.Stop()
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// watch notes how long after a put was acknowledged another client hears of it. One that hears first counts as 0.
func (b *bench) watch(ctx context.Context, s side) error {
	c, err := b.filled(ctx, s.kind, b.keys)
	if err != nil {
		return err
	}
	late, err := b.watchLeader(ctx, c)
	if err != nil {
		return stopped(c, fmt.Errorf("watch, %s: %w", s.name, err))
	}
	slices.Sort(late)
	b.note(report.Measure{What: report.Watch, Side: s.name, Values: map[string]float64{
		report.P50: report.Milliseconds(report.Quantile(late, 0.5)),
		report.P99: report.Milliseconds(report.Quantile(late, 0.99)),
	}})
	return c.Stop()
}

func (b *bench) watchLeader(ctx context.Context, c cluster) ([]time.Duration, error) {
	leader, err := c.Leader(ctx)
	if err != nil {
		return nil, err
	}
	writer, err := c.Call(leader)
	if err != nil {
		return nil, err
	}
	defer writer.Close()
	reader, err := c.Call(leader)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	const key = "bench/watched"
	if err := writer.Put(ctx, key, []byte("0")); err != nil {
		return nil, err
	}
	heard, stop, err := listen(ctx, reader, key)
	if err != nil {
		return nil, err
	}
	defer stop()
	acked, err := b.writeWatched(ctx, writer, key)
	if err != nil {
		return nil, err
	}
	var late []time.Duration
	last := len(acked)
	for len(late) < last {
		select {
		case e := <-heard:
			if n := e.n - 1; n >= 0 && n < last {
				late = append(late, max(0, e.at.Sub(acked[n])))
				if e.n == last {
					return late, nil // events that follow each other fast may come as one
				}
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(writeTimeout):
			return nil, fmt.Errorf("after %s without an event %d of %d have come", writeTimeout, len(late), last)
		}
	}
	return late, nil
}

type heardOf struct {
	n  int
	at time.Time
}

// listen watches a key whose values count up.
func listen(ctx context.Context, c caller, key string) (heard chan heardOf, stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	heard = make(chan heardOf, 1<<16) // more than are written
	ready := make(chan struct{})
	var once sync.Once
	ended := make(chan error, 1)
	go func() {
		ended <- c.Watch(ctx, key, func() { once.Do(func() { close(ready) }) }, func(value []byte) {
			if n, err := strconv.Atoi(string(value)); err == nil {
				heard <- heardOf{n, time.Now()}
			}
		})
	}()
	stop = func() {
		cancel()
		<-ended //nolint:errcheck // ended by us
	}
	select {
	case <-ready:
		return heard, stop, nil
	case err := <-ended:
		cancel()
		return nil, nil, fmt.Errorf("watch: %w", err)
	}
}

// writeWatched writes 1, 2, 3 .. and returns when each was acknowledged.
func (b *bench) writeWatched(ctx context.Context, c caller, key string) ([]time.Time, error) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	var acked []time.Time
	for end := time.Now().Add(2 * b.span); time.Now().Before(end); <-ticker.C {
		if err := c.Put(ctx, key, strconv.AppendInt(nil, int64(len(acked)+1), 10)); err != nil {
			return nil, err
		}
		acked = append(acked, time.Now())
	}
	return acked, nil
}
