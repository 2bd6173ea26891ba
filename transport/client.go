package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// errNotStarted is in the chain of errors of calls which the peer has not seen or not begun: the
// pool may send them again by itself.
var errNotStarted = errors.New("the peer never started on it")

// client is one connection's end that asks. Goroutines: a reader and a writer, both in tasks of
// its pool. Calls run in their callers' goroutines.
type client struct {
	*wire
	options *PoolOptions
	ponged  chan struct{} // capacity 1, a level: the peer has answered a ping
	calls   sync.Pool     // of unary calls that are over, for reuse with their channels

	// mu guards the calls. While it is held the send queue's own lock may be taken, never the
	// other way round; nothing waits or calls out under it.
	mu struct {
		sync.Mutex
		calls    map[uint64]*call
		lastID   uint64
		bytes    int  // items received and not consumed yet
		draining bool // the peer takes no more calls
		ended    bool // no more calls: the connection is over
	}
}

// call is a call or stream in progress. Its fields under the client's mu, except done.
type call struct {
	id     uint64
	offset uint64 // of its request in what was queued to the writer
	// done has capacity 1 and gets the answer of a unary call, or the end of a stream.
	done   chan answer
	stream *stream // nil for a unary call
}

// answer ends a call. A nil err and body end a stream well.
type answer struct {
	body []byte
	err  error
}

func newClient(conn net.Conn, o *PoolOptions) *client {
	c := &client{wire: newWire(conn, o.WriteTimeout), options: o, ponged: make(chan struct{}, 1)}
	c.calls.New = func() any { return &call{done: make(chan answer, 1)} }
	c.mu.calls = make(map[uint64]*call)
	return c
}

// begin queues a request and registers its call, waiting for room in the queue. Id and place in
// the queue are taken together, so that ids arrive in order.
func (c *client) begin(ctx context.Context, r request, st *stream) (*call, error) {
	if len(r.body) > c.options.MaxBody {
		return nil, errTooLarge("request", len(r.body), c.options.MaxBody)
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, errUnavailable(err, "the caller gave up before the request was sent: %v", err)
		}
		if until, ok := ctx.Deadline(); ok {
			r.deadline = remaining(time.Until(until))
		}
		cl, full, err := c.tryBegin(r, PriorityOf(ctx), st)
		if full == nil {
			return cl, err
		}
		select {
		case <-full:
		case <-ctx.Done():
		}
	}
}

func (c *client) tryBegin(r request, p Priority, st *stream) (*call, <-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.ended || c.mu.draining {
		return nil, nil, errUnavailable(errNotStarted, "the connection is closing")
	}
	if len(c.mu.calls) >= c.options.MaxCalls {
		return nil, nil, errBusy("%d calls to this node in progress", len(c.mu.calls))
	}
	id := c.mu.lastID + 1
	offset, full, err := c.out.put(&outFrame{kind: kindRequest, id: id, priority: p, request: r})
	if err != nil {
		return nil, nil, errUnavailable(errNotStarted, "the connection is lost: %v", err)
	}
	if full != nil {
		return nil, full, nil
	}
	cl := c.calls.Get().(*call)
	cl.id, cl.offset, cl.stream = id, offset, st
	c.mu.lastID = id
	c.mu.calls[id] = cl
	return cl, nil, nil
}

// call makes a unary call.
func (c *client) call(ctx context.Context, method string, body []byte) ([]byte, error) {
	cl, err := c.begin(ctx, request{method: method, body: body}, nil)
	if err != nil {
		return nil, err
	}
	select {
	case a := <-cl.done:
		c.free(cl)
		return a.body, a.err
	case <-ctx.Done():
		err := c.abandon(ctx, cl)
		c.free(cl)
		return nil, err
	}
}

// free gives a unary call back that its client does not know any more: whoever answers finds it there under the client's
// mu first, so no answer is on its way.
func (c *client) free(cl *call) {
	select {
	case <-cl.done: // it came while the caller gave up
	default:
	}
	c.calls.Put(cl)
}

// abandon gives up on a call whose context ended and tells the peer.
func (c *client) abandon(ctx context.Context, cl *call) error {
	c.forget(cl)
	c.queue(&outFrame{kind: kindCancel, id: cl.id})
	return errOutcomeUnknown(ctx.Err(), "no answer yet: %v", ctx.Err())
}

// forget removes a call. The last one of a draining connection closes it.
func (c *client) forget(cl *call) {
	c.mu.Lock()
	c.removeLocked(cl)
	idle := c.idleLocked()
	c.mu.Unlock()
	if idle {
		c.fail(errClosed)
	}
}

func (c *client) removeLocked(cl *call) {
	if _, ok := c.mu.calls[cl.id]; !ok {
		return
	}
	delete(c.mu.calls, cl.id)
	if cl.stream != nil {
		c.mu.bytes -= cl.stream.close()
	}
}

func (c *client) idleLocked() bool { return c.mu.draining && len(c.mu.calls) == 0 }

// usable reports whether new calls can start here.
func (c *client) usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.mu.draining && !c.mu.ended
}

// read is the reader goroutine. When it returns, every call has been told.
func (c *client) read() {
	for {
		err := c.readFrame()
		if err != nil {
			c.fail(err)
			c.finishAll()
			return
		}
	}
}

func (c *client) readFrame() error {
	h, err := c.in.next()
	if err != nil {
		return err
	}
	payload, err := c.in.payload(h.payload)
	if err != nil {
		return err
	}
	switch h.kind {
	case kindResponse, kindEnd:
		return c.finish(h, answer{body: payload})
	case kindError:
		e, err := parseError(payload)
		if err != nil {
			return err
		}
		return c.finish(h, answer{err: e})
	case kindItem:
		return c.item(h, payload)
	case kindPing:
		c.out.answerPing(h.id)
		return nil
	case kindPong:
		select {
		case c.ponged <- struct{}{}:
		default:
		}
		return nil
	case kindGoaway:
		return c.goaway(h.id)
	default:
		return fmt.Errorf("%w: a server sent a frame of kind %d", errProtocol, h.kind)
	}
}

// lookupLocked finds the call of a frame: nil when it was given up, an error when it never was.
func (c *client) lookupLocked(h header) (*call, error) {
	if h.id == 0 || h.id > c.mu.lastID {
		return nil, fmt.Errorf("%w: answer to call %d of %d", errProtocol, h.id, c.mu.lastID)
	}
	return c.mu.calls[h.id], nil
}

func (c *client) finish(h header, a answer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl, err := c.lookupLocked(h)
	if err != nil || cl == nil {
		return err
	}
	if h.kind == kindResponse && cl.stream != nil || h.kind == kindEnd && cl.stream == nil {
		return fmt.Errorf("%w: call %d ended by a frame of kind %d", errProtocol, h.id, h.kind)
	}
	if cl.stream == nil {
		delete(c.mu.calls, cl.id)
	}
	c.settle(cl, a)
	if c.idleLocked() {
		return errClosed
	}
	return nil
}

// settle gives a call its answer. A stream's reader takes it after the items that came before; the
// stream stays registered until then.
func (c *client) settle(cl *call, a answer) {
	select {
	case cl.done <- a:
	default: // a second answer to a stream: the first stands
	}
}

// goaway ends the calls that the peer did not accept and takes no new ones.
func (c *client) goaway(last uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.draining = true
	for id, cl := range c.mu.calls {
		if id > last {
			c.settle(cl, answer{err: errUnavailable(errNotStarted, "the agent is stopping")})
			if cl.stream == nil {
				delete(c.mu.calls, id)
			}
		}
	}
	if c.idleLocked() {
		return errClosed
	}
	return nil
}

// finishAll tells every call in progress that the connection is lost, and whether its request may
// have reached the peer.
func (c *client) finishAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.ended = true
	for id, cl := range c.mu.calls {
		a := answer{err: errUnavailable(errNotStarted, "the connection was lost before the request was sent: %v", c.err)}
		if c.out.written(cl.offset) {
			a.err = errOutcomeUnknown(c.err, "the connection was lost before the answer: %v", c.err)
		}
		c.settle(cl, a)
		if cl.stream == nil {
			delete(c.mu.calls, id)
		}
	}
}
