package api

import (
	"context"
	"encoding/binary"
	"sync"
	"time"
)

// barrier lets all linearizable reads of a follower that wait at the same time share one question to the leader.
//
// A read may only use an index that was asked for after the read began. So a reader joins the round that has not
// started yet, never the one on its way. One reader of each round, whoever takes the baton first, asks for all; it
// asks with its own time limit and not its own context, so that a reader that gives up takes nobody with it. There
// is no goroutine besides the readers'.
type barrier struct {
	limit time.Duration // of one question
	mu    struct {
		sync.Mutex
		next    *round // not started; nil when nobody waits
		running bool   // a round is on its way; whoever runs it hands the baton to next. No call is made under mu
	}
}

// round is one question; index and err are set before done is closed.
type round struct {
	baton chan struct{} // capacity 1: holds the right and duty to ask
	done  chan struct{}
	index uint64
	err   *Error
}

// wait returns an index that ask gave after wait was called.
func (b *barrier) wait(ctx context.Context, ask func(context.Context) (uint64, *Error)) (uint64, *Error) {
	r := b.join()
	select {
	case <-r.baton:
		b.run(ctx, r, ask)
	case <-r.done:
	case <-ctx.Done():
		return 0, AsError(ctx.Err())
	}
	return r.index, r.err
}

func (b *barrier) join() *round {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.next == nil {
		b.mu.next = &round{baton: make(chan struct{}, 1), done: make(chan struct{})}
		if !b.mu.running {
			b.mu.running = true
			b.mu.next.baton <- struct{}{}
		}
	}
	return b.mu.next
}

func (b *barrier) run(ctx context.Context, r *round, ask func(context.Context) (uint64, *Error)) {
	b.mu.Lock()
	b.mu.next = nil // from here on readers are too late for r
	b.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.limit)
	r.index, r.err = ask(ctx)
	cancel()

	b.mu.Lock()
	if b.mu.next != nil {
		b.mu.next.baton <- struct{}{}
	} else {
		b.mu.running = false
	}
	b.mu.Unlock()
	close(r.done)
}

// askReadIndex is one question to the leader, which may be this agent.
func (s *Service) askReadIndex(ctx context.Context) (uint64, *Error) {
	var index uint64
	err := s.withLeader(ctx, func(leader string, self bool) *Error {
		if self {
			var err error
			index, err = s.local.ReadIndex(ctx)
			return AsError(err)
		}
		answer, err := s.local.Call(ctx, leader, methodReadIndex, nil)
		if err != nil {
			return asReadError(err)
		}
		if len(answer) != 8 {
			return Errorf(CodeInternal, "read index of %s has %d bytes", leader, len(answer))
		}
		index = binary.BigEndian.Uint64(answer)
		return nil
	})
	return index, AsError(err)
}
