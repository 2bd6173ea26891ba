package transport

import (
	"context"
	"time"
)

// idleWorker is how long the goroutine of a handler waits for another call of its connection. A stack that has grown is
// worth keeping under load; a connection that rests keeps none.
const idleWorker = time.Second

// job is an admitted call with its context, which its call cancels.
type job struct {
	ctx  context.Context
	call *serverCall
	r    request
}

// hand gives a call to a goroutine that is idle, or to a new one. There are never more than calls in progress, but for
// those that are idle, which were.
func (c *serverConn) hand(j job) {
	select {
	case c.jobs <- j:
	default:
		c.tasks.Go(func() { c.work(j) })
	}
}

// work answers calls until there has been none for idleWorker, or the connection ends.
func (c *serverConn) work(j job) {
	idle := time.NewTimer(idleWorker)
	defer idle.Stop()
	for {
		c.answer(j.ctx, j.call, j.r)
		j.call.cancel()
		j = job{} // its body is not kept
		idle.Reset(idleWorker)
		select {
		case j = <-c.jobs:
		case <-idle.C:
			return
		case <-c.base.Done():
			return
		}
	}
}
