package consensus

import "sync/atomic"

// bell wakes the writer of a peer. Whoever puts something into the peer's queue raises it, and rings it once for all that
// was put: a writer that was woken for the first of several things would write them in several frames, or be woken for
// nothing.
type bell struct {
	c   chan struct{} // level, capacity 1
	due atomic.Bool
}

func newBell() *bell { return &bell{c: make(chan struct{}, 1)} }

func (b *bell) raise() { b.due.Store(true) }

func (b *bell) ring() {
	if b.due.Load() && b.due.Swap(false) {
		notify(b.c)
	}
}
