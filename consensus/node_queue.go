package consensus

import (
	"sync"
	"sync/atomic"
)

// queue passes work between two of a node's goroutines without ever blocking the giver, so that
// the loop and the log writer cannot wait for each other in a circle. It has no capacity of its
// own: what is in it is bounded by what raft lets be in flight (512 messages or 32 MiB to a
// follower, 64 MiB uncommitted on a leader, 16 MiB being applied), by one snapshot at a time, and
// by one answer for each of these.
type queue[T any] struct {
	signal chan struct{} // level, capacity 1: there is something to take
	some   atomic.Bool   // the same, for who only looks; set under mu
	mu     struct {
		sync.Mutex
		items []T // nothing is called under mu
	}
}

func newQueue[T any]() *queue[T] { return &queue[T]{signal: make(chan struct{}, 1)} }

// put adds items in order. Never blocks.
func (q *queue[T]) put(items ...T) {
	if len(items) == 0 {
		return
	}
	q.mu.Lock()
	q.mu.items = append(q.mu.items, items...)
	q.some.Store(true)
	q.mu.Unlock()
	notify(q.signal)
}

// take removes everything, in order.
func (q *queue[T]) take() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.mu.items
	q.mu.items = nil
	q.some.Store(false)
	return items
}

// swap is take for who has done with what it took last: that room is used for what is put next.
func (q *queue[T]) swap(done []T) []T {
	clear(done)
	if cap(done) > maxSpare {
		done = nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.mu.items
	q.mu.items = done[:0]
	q.some.Store(false)
	return items
}

// maxSpare is for how many items an empty queue keeps room.
const maxSpare = 1 << 8

// putFirst gives back items that were taken and not worked on.
func (q *queue[T]) putFirst(items []T) {
	q.mu.Lock()
	q.mu.items = append(items[:len(items):len(items)], q.mu.items...)
	q.some.Store(len(q.mu.items) > 0)
	q.mu.Unlock()
	notify(q.signal)
}

// waits reports whether there is something to take.
func (q *queue[T]) waits() bool { return q.some.Load() }

// notify raises a level signal.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
