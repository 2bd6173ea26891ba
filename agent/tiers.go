package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// A tier is one part of the agent that runs until its context ends. Tiers start in order and stop in
// reverse, so that a part outlives everything that uses it.
type tier struct {
	name  string
	run   func(context.Context) error
	grace time.Duration // how long a stop may take before the agent goes on without it
}

type runningTier struct {
	tier
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// runTiers starts tiers in order and blocks until ctx ends or one of them returns. Then it calls
// beforeStop, and stops them in reverse. It returns the first error that was not caused by stopping.
func runTiers(ctx context.Context, log *zap.Logger, tiers []tier, beforeStop func()) error {
	ended := make(chan *runningTier, len(tiers))
	running := make([]*runningTier, 0, len(tiers))
	for _, t := range tiers {
		running = append(running, startTier(t, ended))
	}
	var first error
	select {
	case <-ctx.Done():
	case t := <-ended:
		first = fmt.Errorf("%s: %w", t.name, orUnexpected(t.err))
	}
	beforeStop()
	for i := len(running) - 1; i >= 0; i-- {
		running[i].stop(log)
	}
	return first
}

func startTier(t tier, ended chan<- *runningTier) *runningTier {
	// Each tier has its own context: the parent's end must not stop all of them at once.
	ctx, cancel := context.WithCancel(context.Background())
	r := &runningTier{tier: t, cancel: cancel, done: make(chan struct{})}
	go func() {
		r.err = t.run(ctx)
		close(r.done)
		ended <- r
	}()
	return r
}

func (r *runningTier) stop(log *zap.Logger) {
	r.cancel()
	select {
	case <-r.done:
	case <-time.After(r.grace):
		log.Warn("part did not stop in time, going on without it", zap.String("part", r.name), zap.Duration("duration", r.grace))
	}
}

func orUnexpected(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return errors.New("stopped by itself")
	}
	return err
}
