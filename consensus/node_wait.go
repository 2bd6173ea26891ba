package consensus

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/parley-mesh/parley/mutant"
)

// appliedWaits lets callers wait until the machine has reached an index, and lends the others channels to wait at.
type appliedWaits struct {
	applied  atomic.Uint64
	answered sync.Pool // of channels whose callers got their answers; that of one who gave up may get one yet, and never comes here
	mu       struct {
		sync.Mutex // nothing is called under it; closing a channel never blocks
		waiting    map[chan struct{}]uint64
		failed     error
		begun      *begun // the newest of those without an answer, each in front of the one before
		ended      bool   // nobody is told anything any more
	}
}

func newAppliedWaits(index uint64) *appliedWaits {
	w := &appliedWaits{}
	w.applied.Store(index)
	w.mu.waiting = make(map[chan struct{}]uint64)
	return w
}

// channel returns one for a single outcome, capacity 1.
func (w *appliedWaits) channel() chan outcome {
	if used, ok := w.answered.Get().(chan outcome); ok {
		return used
	}
	return make(chan outcome, 1)
}

// add keeps b until it has its answer. False: the node has stopped.
func (w *appliedWaits) add(b *begun) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.ended {
		return false
	}
	if b.next = w.mu.begun; b.next != nil {
		b.next.prev = b
	}
	w.mu.begun = b
	return true
}

func (w *appliedWaits) remove(b *begun) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case b.prev != nil:
		b.prev.next = b.next
	case w.mu.begun == b:
		w.mu.begun = b.next
	}
	if b.next != nil {
		b.next.prev = b.prev
	}
	b.next, b.prev = nil, nil
}

// end gives everything up that has no answer, and takes no more: the node has stopped.
func (w *appliedWaits) end(cause error) {
	w.fail(cause)
	var left []*begun
	w.mu.Lock()
	w.mu.ended = true
	for b := w.mu.begun; b != nil; b = b.next {
		left = append(left, b)
	}
	w.mu.Unlock()
	for _, b := range left {
		b.giveUp(cause)
	}
}

// advance wakes everybody who waits for index or less.
func (w *appliedWaits) advance(index uint64) {
	w.applied.Store(index)
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch, want := range w.mu.waiting {
		if want <= index {
			delete(w.mu.waiting, ch)
			close(ch)
		}
	}
}

// fail wakes everybody: the index will not move again.
func (w *appliedWaits) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.failed == nil {
		w.mu.failed = err
	}
	for ch := range w.mu.waiting {
		delete(w.mu.waiting, ch)
		close(ch)
	}
}

// resume takes a failure back: the index moves again. Who was woken by it has failed.
func (w *appliedWaits) resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.failed = nil
}

// reached reports whether a reader that needs index may read.
func (w *appliedWaits) reached(index uint64) bool {
	return w.applied.Load() >= index || mutant.On(mutant.ReadIndexWithoutApplied)
}

func (w *appliedWaits) wait(ctx context.Context, index uint64) error {
	if w.reached(index) {
		return nil
	}
	ch := make(chan struct{})
	w.mu.Lock()
	switch {
	case w.applied.Load() >= index:
		w.mu.Unlock()
		return nil
	case w.mu.failed != nil:
		defer w.mu.Unlock()
		return w.mu.failed
	}
	w.mu.waiting[ch] = index
	w.mu.Unlock()
	select {
	case <-ch:
	case <-ctx.Done():
		w.mu.Lock()
		delete(w.mu.waiting, ch)
		w.mu.Unlock()
		return fmt.Errorf("consensus: wait until index %d is applied: %w", index, ctx.Err())
	}
	if w.applied.Load() >= index {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.failed == nil {
		return ErrStopped // it was stopped for a moment
	}
	return w.mu.failed
}
