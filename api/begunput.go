package api

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api/wire"
	"github.com/parley-mesh/parley/state"
)

// Unanswered is a call that somebody waits for, and no goroutine here. One of its methods ends it, and neither waits.
type Unanswered interface {
	Answer(body []byte)
	// GoOn has the rest done in a goroutine of its own, with the context of the call.
	GoOn(rest func(ctx context.Context) []byte)
}

// begunPut is a put that is proposed by the goroutine that read it and answered by the one that applied it. To hand a put over and
// to be woken with what came of it was more of a leader's work than what it did for it in between.
//
// That is for the plain case alone: this agent leads, the put is valid and allowed, there is a place for it at once. Any other
// is not begun, and takes the way of all writes from its start. If what was begun comes to anything but an answer of the
// state, a goroutine goes on with it, in the same place, as if it had proposed it itself.
type begunPut struct {
	service *Service
	call    Unanswered
	ctx     context.Context //nolint:containedctx // of the call, which lasts as long as this
	order   order
	entered time.Duration // the gate
	counted func(status int, blocking bool)
	told    func(context.Context, error)
}

// BeginPut tries a put of a client before ClientHandler does, and waits for nothing. Nil: it did nothing, and leaves the put to that.
func (s *Service) BeginPut(ctx context.Context, caller Caller, body []byte, call Unanswered) (giveUp func(cause error)) {
	if _, self, known := s.local.Leader(); !self || !known || s.local.Begin == nil || caller.Kind == KindInternal || !endsWithin(ctx, s.options.OpTimeout) {
		return nil
	}
	req, err := parsePut(body)
	if err != nil || req.Session != "" || req.Release {
		return nil
	}
	put := state.Put{Key: req.Key, Value: req.Value, Flags: req.Flags, Compare: req.Compare}
	method := clientMethods[wire.MethodPut]
	if allow(caller, method.action) != nil || s.mayExecute(caller, put) != nil {
		return nil
	}
	p := &begunPut{service: s, call: call, ctx: ctx}
	p.order = order{service: s, caller: caller, envelope: state.Envelope{Caller: s.callerName(caller), Request: req.Request, Command: put}}
	if p.order.own = req.Request == [16]byte{}; p.order.own {
		p.order.envelope.Request = newRequestID(s.local.Hub.View().Index())
	}
	if !p.enter() {
		return nil
	}
	command, failed := s.encode(p.order.envelope)
	if failed != nil {
		p.leave()
		return nil
	}
	p.counted = func(int, bool) {}
	if observe := s.options.Observe.Request; observe != nil {
		p.counted = observe(method.route)
	}
	p.told = s.observeWrite(caller, put)
	return s.local.Begin(command, p.done)
}

// enter takes the places of a write, if there are any at once.
func (p *begunPut) enter() (entered bool) {
	s, who := p.service, p.order.caller.identity()
	if !s.concurrent.acquire(who) {
		return false
	}
	if p.entered, entered = s.gate.enterAtOnce(); !entered {
		s.concurrent.release(who)
	}
	return entered
}

func (p *begunPut) leave() {
	p.service.gate.leave(p.entered, p.ctx.Err() == nil)
	p.service.concurrent.release(p.order.caller.identity())
}

// done is told what came of it, by a goroutine that has other things to do.
func (p *begunPut) done(proposed Proposed, err error) {
	defer p.recovered()
	var done Applied
	failed := (*Error)(nil)
	if err != nil {
		failed = asWriteError(err)
	} else {
		done, failed = p.service.resultOf(proposed)
	}
	if failed != nil || p.order.own && done.Result.Code == state.CodeForgotten {
		p.call.GoOn(func(ctx context.Context) []byte { return p.goOn(ctx, failed) })
		return
	}
	p.call.Answer(p.finish(done, resultError(done.Result)))
}

// recovered keeps a panic from the goroutine that applies, of which it would look like one of the state.
func (p *begunPut) recovered() {
	if value := recover(); value != nil {
		p.service.log.Error("request panicked", zap.String("error", fmt.Sprint(value)), zap.String("stack", string(debug.Stack())))
		p.call.Answer(p.service.clientFailure(errPanickedWriting))
	}
}

// goOn is done by a goroutine that may wait.
func (p *begunPut) goOn(ctx context.Context, failed *Error) (answer []byte) {
	var done Applied
	err := error(errPanickedWriting) // stays if carryOut panics
	defer func() { answer = p.finish(done, err) }()
	if done, err = p.order.goOn(ctx, failed); err == nil {
		err = resultError(done.Result)
	}
	return nil
}

// finish gives the places back, tells the observers, and returns the answer.
func (p *begunPut) finish(done Applied, err error) []byte {
	p.leave()
	p.told(p.ctx, err)
	p.counted(statusOf(err), false)
	if err != nil {
		return p.service.clientFailure(AsError(err))
	}
	return writtenAnswer(writtenBy(done))
}
