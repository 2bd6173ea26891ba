package api

import (
	"context"
	"sync"
	"time"

	"github.com/parley-mesh/parley/state"
)

// pending is a write that was begun on this agent, and whose caller waits for it. It is used again by the next: a context of its own
// for the time that a write may take would cost each a timer, a channel, and a place among what the end of its request ends.
type pending struct {
	told     chan struct{} // capacity 1
	timer    *time.Timer
	proposed Proposed
	err      error
}

var pendings = sync.Pool{New: func() any {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return &pending{told: make(chan struct{}, 1), timer: timer}
}}

func (p *pending) tell(proposed Proposed, err error) {
	p.proposed, p.err = proposed, err
	p.told <- struct{}{}
}

// wait waits until it was told. Who gives up is told at once.
func (p *pending) wait(ctx context.Context, limit time.Duration, giveUp func(cause error)) (Proposed, error) {
	p.timer.Reset(limit)
	defer p.timer.Stop()
	select {
	case <-p.told:
		return p.proposed, p.err
	case <-ctx.Done():
		giveUp(ctx.Err())
	case <-p.timer.C:
		giveUp(context.DeadlineExceeded)
	}
	<-p.told
	return p.proposed, p.err
}

// enterHere takes a place at the gate for a write in the plain case: this agent leads, and there is a place at once.
func (s *Service) enterHere(caller Caller, cmd state.Command) (began time.Duration, entered bool) {
	if _, self, known := s.local.Leader(); !self || !known || s.local.Begin == nil || caller.Kind == KindInternal || !countsOnce(cmd) {
		return 0, false
	}
	return s.gate.enterAtOnce()
}

// executeHere is execute for a write that has such a place. If the state does not answer it goes on as any other does.
func (s *Service) executeHere(ctx context.Context, o *order, began time.Duration) (Applied, error) {
	left := func() time.Duration { return s.options.OpTimeout - (s.gate.now() - began) }
	defer func() { s.gate.leave(began, ctx.Err() == nil && left() > 0) }()
	if o.own = o.envelope.Request == [16]byte{}; o.own {
		o.envelope.Request = newRequestID(s.local.Hub.View().Index())
	}
	command, failed := s.encode(o.envelope)
	if failed != nil {
		return Applied{}, failed
	}
	done, failed := s.proposeHere(ctx, command)
	if failed == nil && !(o.own && done.Result.Code == state.CodeForgotten) {
		return done, nil
	}
	rest, cancel := context.WithTimeout(ctx, left())
	defer cancel()
	return o.goOn(rest, failed)
}

func (s *Service) proposeHere(ctx context.Context, command []byte) (Applied, *Error) {
	p, _ := pendings.Get().(*pending)
	proposed, err := p.wait(ctx, s.options.OpTimeout, s.local.Begin(command, p.tell))
	p.proposed = Proposed{}
	pendings.Put(p)
	if err != nil {
		return Applied{}, asWriteError(err)
	}
	return s.resultOf(proposed)
}
