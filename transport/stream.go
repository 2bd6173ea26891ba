package transport

import (
	"context"
	"fmt"
)

// stream is the reader's side of a stream: what has arrived and was not consumed. Guarded by its
// client's mu, except ready.
type stream struct {
	items  [][]byte
	queued int           // credit that the items hold
	used   int           // credit of consumed items that was not returned yet
	window int           // credit that the peer started with
	ready  chan struct{} // capacity 1, a level: items has some
	closed bool          // nobody reads any more
}

func itemCost(item []byte) int { return len(item) + itemOverhead }

// close drops what is queued and returns how much that was.
func (s *stream) close() (dropped int) {
	dropped, s.queued, s.items, s.closed = s.queued, 0, nil, true
	return dropped
}

// item queues an item for the stream's reader.
func (c *client) item(h header, body []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl, err := c.lookupLocked(h)
	if err != nil || cl == nil {
		return err
	}
	s := cl.stream
	if s == nil || s.queued+s.used >= s.window {
		return fmt.Errorf("%w: item without credit on call %d", errProtocol, h.id)
	}
	if s.closed {
		return nil
	}
	if c.mu.bytes+itemCost(body) > c.options.MaxBytes {
		c.mu.bytes -= s.close()
		c.settle(cl, answer{err: errBusy("streams from this node hold %d bytes that nobody reads", c.mu.bytes)})
		return c.out.force(&outFrame{kind: kindCancel, id: cl.id})
	}
	s.items = append(s.items, body)
	s.queued += itemCost(body)
	c.mu.bytes += itemCost(body)
	select {
	case s.ready <- struct{}{}:
	default:
	}
	return nil
}

// stream makes a streaming call; recv runs in the caller's goroutine. started reports whether recv
// was called: such a stream must not be repeated by the pool.
func (c *client) stream(ctx context.Context, method string, body []byte, recv func([]byte) error) (started bool, err error) {
	st := &stream{window: c.options.Window, ready: make(chan struct{}, 1)}
	cl, err := c.begin(ctx, request{method: method, body: body, window: uint32(st.window)}, st) // NewPool checks it
	if err != nil {
		return false, err
	}
	defer c.forget(cl)
	var end *answer
	for {
		if ctx.Err() != nil {
			return started, c.abandon(ctx, cl)
		}
		item, ok := c.takeItem(cl)
		switch {
		case ok:
			started = true
			if err := recv(item); err != nil {
				c.queue(&outFrame{kind: kindCancel, id: cl.id})
				return started, err
			}
		case end != nil && end.err != nil && ctx.Err() != nil: // the peer knows the same deadline, and was first
			return started, c.abandon(ctx, cl)
		case end != nil:
			return started, end.err
		default:
			end = waitItem(ctx, cl)
		}
	}
}

// waitItem waits for an item, the stream's end, which it returns, or the context's.
func waitItem(ctx context.Context, cl *call) *answer {
	select {
	case <-cl.stream.ready:
	case end := <-cl.done:
		return &end
	case <-ctx.Done():
	}
	return nil
}

// takeItem takes the oldest item and returns the credit of those before it once that is half the
// window: less would cost a frame for each item, more would make the peer wait.
func (c *client) takeItem(cl *call) (item []byte, ok bool) {
	c.mu.Lock()
	st := cl.stream
	if ok = len(st.items) > 0; ok {
		item, st.items[0] = st.items[0], nil
		st.items = st.items[1:]
		st.queued -= itemCost(item)
		st.used += itemCost(item)
		c.mu.bytes -= itemCost(item)
	}
	grant := 0
	if st.used >= st.window/2 {
		grant, st.used = st.used, 0
	}
	c.mu.Unlock()
	if grant > 0 {
		c.queue(&outFrame{kind: kindCredit, id: cl.id, grant: uint32(grant)}) // a window and an item at most
	}
	return item, ok
}

// queue queues a small frame that never waits.
func (c *client) queue(f *outFrame) {
	if err := c.out.force(f); err != nil {
		c.fail(err)
	}
}
