package api

import (
	"context"
	"time"

	"github.com/parley-mesh/parley/state/watch"
)

// Blocking is the waiting half of a blocking read of what every agent holds.
type Blocking struct {
	// Wait is how long to wait for a change, at most 10 minutes.
	Wait time.Duration
	// Select names the rows whose changes are looked at, in one or two parts.
	Select []watch.Selector
	// Also returns a channel that is closed at the next change of something outside the View; nil for nothing.
	Also func() <-chan struct{}
	// Done is asked first, and again after each change.
	Done func() bool
}

// Block returns once b.Done holds, or after b.Wait without an error: the reader then answers with things as they are.
// It counts as a watch of the caller. Errors are *Error.
func (s *Service) Block(ctx context.Context, caller Caller, b Blocking) error {
	who := caller.identity()
	if !s.watches.acquire(who) {
		return Errorf(CodeTooMany, "%d watches are open for this caller", s.watches.each)
	}
	defer s.watches.release(who)
	woken, end, err := s.subscribe(b.Select)
	defer end()
	if err != nil {
		return hubError(err)
	}
	over := time.NewTimer(min(max(b.Wait, 0), maxWait))
	defer over.Stop()
	for {
		var also <-chan struct{}
		if b.Also != nil {
			also = b.Also() // before Done looks: a change in between is seen by one of them
		}
		if b.Done() {
			return nil
		}
		select {
		case <-woken[0]:
		case <-woken[1]:
		case <-also:
		case <-over.C:
			return nil
		case <-ctx.Done():
			return AsError(ctx.Err())
		}
	}
}

// subscribe wakes by one channel for each part; that of a part that is not there is nil, and never ready. end is to be
// called in any case.
func (s *Service) subscribe(parts []watch.Selector) (woken [2]<-chan struct{}, end func(), err error) {
	var subs []*watch.Subscription
	end = func() {
		for _, sub := range subs {
			sub.Close()
		}
	}
	for i, rows := range parts {
		sub, err := s.local.Hub.Subscribe(rows)
		if err != nil {
			return woken, end, err
		}
		subs = append(subs, sub)
		woken[i] = sub.C()
	}
	return woken, end, nil
}

// CatchUp returns when this agent's View contains every write that was acknowledged before the call. Errors are *Error.
func (s *Service) CatchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.options.OpTimeout)
	defer cancel()
	if err := s.catchUp(ctx); err != nil {
		return AsError(err)
	}
	return nil
}
