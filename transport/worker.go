package transport

import (
	"context"
	"sync"
	"time"
)

// idleWorker is how long the goroutine of a handler waits at least for another call of its connection, and at most twice as
// long. A stack that has grown is worth keeping under load; a connection that rests keeps none.
const idleWorker = time.Second

// job is an admitted call.
type job struct {
	call *serverCall
	r    request
	rest Handler // nil: the method's own
}

// workers are the goroutines of a connection's handlers that have nothing to do. The one that was busy last goes first: what it
// needs is still in a cache, and those that are not needed are found at the other end. Each waits at a channel of its own and
// at nothing else, neither a timer nor the end of the connection, so that to wait and to be woken is cheap.
type workers struct {
	mu struct {
		sync.Mutex // nothing is called or waited for under it
		idle       []*worker
		round      int         // counts the looks for those that are idle for long
		look       *time.Timer // the next one, nil while nobody is idle
		ended      bool
	}
}

type worker struct {
	jobs  chan job // capacity 1, closed when it is not needed any more
	round int      // since when it is idle
}

// take returns one, or nil.
func (w *workers) take() *worker {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.mu.idle)
	if n == 0 {
		return nil
	}
	one := w.mu.idle[n-1]
	w.mu.idle[n-1], w.mu.idle = nil, w.mu.idle[:n-1]
	return one
}

// rest takes one back. False: the connection has ended.
func (w *workers) rest(one *worker) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.ended {
		return false
	}
	one.round = w.mu.round
	w.mu.idle = append(w.mu.idle, one)
	if w.mu.look == nil {
		w.mu.look = time.AfterFunc(idleWorker, w.dismiss)
	}
	return true
}

// dismiss ends those that nobody has needed since the look before.
func (w *workers) dismiss() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.ended {
		return
	}
	n := 0
	for n < len(w.mu.idle) && w.mu.idle[n].round < w.mu.round {
		close(w.mu.idle[n].jobs)
		n++
	}
	w.mu.idle = append([]*worker(nil), w.mu.idle[n:]...)
	w.mu.round++
	if w.mu.look = nil; len(w.mu.idle) > 0 {
		w.mu.look = time.AfterFunc(idleWorker, w.dismiss)
	}
}

// end dismisses all, now and later.
func (w *workers) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.ended = true
	for _, one := range w.mu.idle {
		close(one.jobs)
	}
	w.mu.idle = nil
	if w.mu.look != nil {
		w.mu.look.Stop()
	}
}

// hand gives a call to a goroutine that is idle, or to a new one. There are never more than calls in progress, but for
// those that are idle, which were.
func (c *serverConn) hand(j job) {
	if one := c.workers.take(); one != nil {
		one.jobs <- j // it waits, or is about to
		return
	}
	c.tasks.Go(func() { c.work(j) })
}

// work answers calls until there has been none for idleWorker, or the connection ends.
func (c *serverConn) work(j job) {
	self, more := &worker{jobs: make(chan job, 1)}, true
	for more {
		c.answer(j)
		j.call.ctx.end(context.Canceled) // whoever still does something for it stops
		j = job{}                        // its body is not kept
		if !c.workers.rest(self) {
			return
		}
		j, more = <-self.jobs
	}
}
