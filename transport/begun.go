package transport

import (
	"context"
	"sync/atomic"
)

// Beginner starts on a call in the goroutine that reads its connection, so it must not wait. It returns nil for a call that it does
// not take, having done nothing: that goes to the method's Handler. One that it takes is ended by call, by whoever knows its answer
// and perhaps before it returns: no goroutine waits for that, where a Handler has one for each call. giveUp is called with the
// reason when ctx ends first, and may be called afterwards too. It must not wait either.
type Beginner func(ctx context.Context, peer Peer, body []byte, call *Begun) (giveUp func(cause error))

// Begun is a call that a Beginner has taken. It counts among those in progress until one of its methods ends it, which wait for
// nothing; the first counts.
type Begun struct {
	conn *serverConn
	call *serverCall
	r    request
	over atomic.Bool
}

// Answer ends the call with its response.
func (b *Begun) Answer(body []byte) {
	if b.over.Swap(true) {
		return
	}
	defer b.conn.tasks.Done()
	if len(body) <= smallAnswer {
		_, full, err := b.conn.out.put(&outFrame{kind: kindResponse, id: b.call.id, body: body})
		if full == nil || err != nil { // an error is the connection's end, which its reader reports
			b.conn.release(b.call)
			b.call.ctx.end(context.Canceled)
			return
		}
	}
	b.hand(func(context.Context, Peer, []byte) ([]byte, error) { return body, nil })
}

// GoOn has the rest done by a Handler, in a goroutine of its own.
func (b *Begun) GoOn(rest Handler) {
	if !b.over.Swap(true) {
		defer b.conn.tasks.Done()
		b.hand(rest)
	}
}

func (b *Begun) hand(rest Handler) { b.conn.hand(job{b.call, b.r, rest}) }

// begin reports whether the call's method has taken it.
func (c *serverConn) begin(call *serverCall, r request, begin Beginner) (taken bool) {
	b := &Begun{conn: c, call: call, r: r}
	c.tasks.Add(1)
	giveUp, err := c.runBeginner(b, begin)
	switch {
	case err != nil: // it panicked, and what it did is not known
		b.GoOn(func(context.Context, Peer, []byte) ([]byte, error) { return nil, err })
		return true
	case giveUp == nil:
		c.tasks.Done()
		return false
	}
	call.ctx.onEnd(giveUp)
	return true
}

func (c *serverConn) runBeginner(b *Begun, begin Beginner) (giveUp func(error), err error) {
	defer c.recoverAs(b.r.method, &err)
	return begin(&b.call.ctx, c.peer, b.r.body, b), nil
}
