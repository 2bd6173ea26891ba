package storage

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

const (
	// anchorDelay lets one anchor write serve many appends; with the write itself the anchor is at
	// most 20 ms behind the log.
	anchorDelay = 15 * time.Millisecond

	// spaceRetry is how long the background work waits after it found no space.
	spaceRetry = 5 * time.Second
)

// Run writes the anchor soon after each sync and prepares the next segment, until ctx ends (nil) or
// the log has failed (*FatalError). Without Run the log works, with a weaker anchor and slower rolls.
func (l *Log) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.loop(ctx, l.anchorDue, l.refreshAnchor) })
	group.Go(func() error { return l.loop(ctx, l.spareDue, l.prepareSpare) })
	return group.Wait()
}

// loop does step whenever due is raised, and again a while after it found no space.
func (l *Log) loop(ctx context.Context, due chan struct{}, step func(context.Context) error) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.broken:
			return l.usable()
		case <-due:
		}
		err := step(ctx)
		switch {
		case ctx.Err() != nil || errors.Is(err, ErrClosed):
			return nil
		case errors.Is(err, ErrNoSpace):
			l.log.Warn("log could not prepare for its next writes, trying again", zap.Error(err))
			raise(due)
			if pause(ctx, spaceRetry) != nil {
				return nil
			}
		case err != nil:
			return l.fail(err)
		}
	}
}

// refreshAnchor waits for appends to gather, then records how far the log is durable.
func (l *Log) refreshAnchor(ctx context.Context) error {
	if err := pause(ctx, anchorDelay); err != nil {
		return err
	}
	return l.syncAnchor()
}

// syncAnchor records how far the log is durable.
func (l *Log) syncAnchor() error {
	if err := l.usable(); err != nil {
		return err
	}
	return l.fail(l.anchor.write(l.durable(), false))
}

// RewriteAnchor writes both slots of the anchor, one after the other: one of them was damaged.
func (l *Log) RewriteAnchor() error {
	for range 2 {
		if err := l.syncAnchor(); err != nil {
			return err
		}
	}
	return nil
}

// prepareSpare makes a segment ready if there is none, so that a full disk or a slow one is met here
// and not in Append.
func (l *Log) prepareSpare(ctx context.Context) error {
	l.mu.Lock()
	ready := len(l.mu.spares) > 0
	l.mu.Unlock()
	if err := l.usable(); ready || err != nil {
		return err
	}
	path, err := l.spares.make(ctx, l.spareCount.Add(1))
	if err == nil {
		l.putSpare(path)
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Background does once what Run does for ever, for an owner without goroutines: the anchor is written if it is
// due, and the next segment made if there is none.
func (l *Log) Background(ctx context.Context) error {
	select {
	case <-l.anchorDue:
		if l.rarely(rareAnchor) {
			raise(l.anchorDue)
			return nil
		}
		if err := l.syncAnchor(); err != nil {
			return err
		}
	default:
	}
	select {
	case <-l.spareDue:
		return l.fail(l.prepareSpare(ctx))
	default:
		return nil
	}
}

// Close writes what was held back, marks the log as cleanly closed and releases its files. End Run
// first. A second Close does nothing.
func (l *Log) Close() error {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	err := l.usable()
	if errors.Is(err, ErrClosed) {
		return nil
	}
	if err == nil {
		err = l.fail(l.flush())
	}
	l.mu.Lock()
	l.mu.closed = true
	l.mu.Unlock()
	return errors.Join(err, l.closeFiles())
}

// flush leaves a clean log. A hard state that finds no space was never promised to be durable.
func (l *Log) flush() error {
	if err := l.writeEntries(nil, l.hard); err != nil && !errors.Is(err, ErrNoSpace) {
		return err
	}
	if err := l.sync(); err != nil {
		return err
	}
	return l.anchor.write(l.tip, true)
}

func (l *Log) closeFiles() error {
	var errs []error
	if l.active != nil {
		errs = append(errs, l.active.file.Close())
	}
	if l.anchor != nil {
		errs = append(errs, l.anchor.close())
	}
	return errors.Join(errs...)
}

// fail remembers a fatal error, so that everything after it is refused, and returns err.
func (l *Log) fail(err error) error {
	var fatal *FatalError
	if !errors.As(err, &fatal) {
		return err
	}
	l.mu.Lock()
	first := l.mu.failed == nil
	if first {
		l.mu.failed = fatal
	}
	l.mu.Unlock()
	if first {
		close(l.broken)
	}
	return err
}
