package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// serverConn is one connection's end that answers. Goroutines: the reader (run's caller), the
// writer, the drainer, and one for each call in progress that was not begun.
type serverConn struct {
	*wire
	server  *Server
	peer    Peer
	log     *zap.Logger
	tasks   sync.WaitGroup
	answers atomic.Int64 // bytes of those that wait for the peer to read
	workers workers

	// mu guards the calls. Nothing waits, sends or calls out while it is held.
	mu struct {
		sync.Mutex
		calls    map[uint64]*serverCall
		bytes    int // request bodies held by calls
		lastID   uint64
		draining bool
		expiry   expiry
	}
}

// serverCall is a call in progress.
type serverCall struct {
	id     uint64
	size   int     // bytes of the request body
	window *window // nil for a unary call
	ctx    callContext
}

func newServerConn(s *Server, conn net.Conn, peer Peer) *serverConn {
	c := &serverConn{
		wire:   newWire(conn, s.options.WriteTimeout),
		server: s,
		peer:   peer,
		log:    s.options.Log.With(zap.String("peer", peer.Node)),
	}
	c.mu.calls = make(map[uint64]*serverCall)
	c.mu.expiry.look = c.expire
	return c
}

func (c *serverConn) run(ctx context.Context) {
	c.tasks.Go(func() { c.write(c.server.options.KeepAlive) })
	c.tasks.Go(func() { c.drainWhen(ctx) })
	err := c.read()
	c.fail(err)
	c.endCalls()
	c.workers.end()
	c.tasks.Wait()
	if err := c.err; !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, errClosed) {
		c.log.Info("rpc connection ended", zap.Error(err))
	}
}

// endCalls ends the contexts of all calls: the connection is over, and takes no more.
func (c *serverConn) endCalls() {
	c.mu.Lock()
	c.mu.expiry.stop()
	calls := slices.Collect(maps.Values(c.mu.calls))
	c.mu.Unlock()
	for _, call := range calls {
		call.ctx.end(context.Canceled)
	}
}

// drainWhen waits for ctx, says goaway, and gives the calls in progress their time. The peer closes
// the connection when it has all its answers.
func (c *serverConn) drainWhen(ctx context.Context) {
	select {
	case <-c.done:
		return
	case <-ctx.Done():
	}
	c.mu.Lock()
	c.mu.draining = true
	last := c.mu.lastID
	var streams []*serverCall
	for _, call := range c.mu.calls {
		if call.window != nil {
			streams = append(streams, call)
		}
	}
	c.mu.Unlock()
	for _, call := range streams {
		call.ctx.end(context.Canceled)
	}
	if err := c.out.force(&outFrame{kind: kindGoaway, id: last}); err != nil {
		c.fail(err)
		return
	}
	timeout := time.NewTimer(c.server.options.DrainTimeout)
	defer timeout.Stop()
	select {
	case <-c.done:
	case <-timeout.C:
		c.fail(errClosed)
	}
}

// read is the reader. It never waits for the writer.
func (c *serverConn) read() error {
	for {
		h, err := c.in.next()
		if err != nil {
			return err
		}
		switch h.kind {
		case kindRequest:
			err = c.request(h)
		case kindCancel:
			c.cancelCall(h.id)
		case kindCredit:
			err = c.credit(h)
		case kindPing:
			c.out.answerPing(h.id)
		case kindPong:
		default:
			err = fmt.Errorf("%w: a caller sent a frame of kind %d", errProtocol, h.kind)
		}
		if err != nil {
			return err
		}
	}
}

// request admits a call or refuses it, and in the second case reads past its body.
func (c *serverConn) request(h header) error {
	call, refusal, draining, err := c.admit(h)
	if err != nil {
		return err
	}
	if refusal != nil || draining {
		if err := c.in.skip(h.payload); err != nil || draining {
			return err // the peer knows from the goaway that this call was not accepted
		}
		return c.out.force(&outFrame{kind: kindError, id: h.id, failure: refusal})
	}
	payload, err := c.in.payload(h.payload)
	if err != nil {
		return err
	}
	r, err := parseRequest(payload)
	if err != nil {
		return err
	}
	if refusal := c.refuse(r); refusal != nil {
		c.release(call)
		return c.out.force(&outFrame{kind: kindError, id: h.id, failure: refusal})
	}
	c.start(call, r)
	return nil
}

// admit reserves a place for the call. Its limits hold before a byte of the body is read.
func (c *serverConn) admit(h header) (call *serverCall, refusal *Error, draining bool, err error) {
	o := &c.server.options
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.id <= c.mu.lastID {
		return nil, nil, false, fmt.Errorf("%w: call id %d after %d", errProtocol, h.id, c.mu.lastID)
	}
	places := o.MaxCalls
	if Priority(h.flags) > PriorityHealth {
		places -= o.MaxCalls / 8
	}
	switch {
	case c.mu.draining:
		return nil, nil, true, nil
	case h.payload > o.MaxBody+maxRequestHead:
		refusal = errTooLarge("request", h.payload, o.MaxBody)
	case len(c.mu.calls) >= places:
		refusal = errBusy("%d calls in progress on this connection", len(c.mu.calls))
	case c.mu.bytes+h.payload > o.MaxBytes:
		refusal = errBusy("%d bytes of calls in progress on this connection", c.mu.bytes)
	default:
		call = &serverCall{id: h.id, size: h.payload}
		call.ctx.priority = Priority(h.flags)
		c.mu.calls[h.id] = call
		c.mu.bytes += h.payload
	}
	c.mu.lastID = h.id
	return call, refusal, false, nil
}

// refuse says what is wrong with a request that was read.
func (c *serverConn) refuse(r request) *Error {
	if len(r.body) > c.server.options.MaxBody {
		return errTooLarge("request", len(r.body), c.server.options.MaxBody)
	}
	m, ok := c.server.methods[r.method]
	if !ok || (m.stream != nil) != (r.window > 0) {
		return &Error{
			Code:    CodeUnknownMethod,
			Message: fmt.Sprintf("no method %q of this form here", r.method),
			Hint:    "compare the versions of the two agents",
		}
	}
	return nil
}

// start has an admitted call begun, or runs its handler in a goroutine that has nothing else to do meanwhile.
func (c *serverConn) start(call *serverCall, r request) {
	c.setDeadline(call, r)
	if r.window > 0 {
		c.mu.Lock()
		call.window = newWindow(int(r.window))
		draining := c.mu.draining
		c.mu.Unlock()
		if draining {
			call.ctx.end(context.Canceled) // the drainer came between admit and here
		}
	}
	if begin := c.server.methods[r.method].begin; begin != nil && c.begin(call, r, begin) {
		return
	}
	c.hand(job{call: call, r: r})
}

// setDeadline gives a call the time that its caller allows it, or its method if that is less.
func (c *serverConn) setDeadline(call *serverCall, r request) {
	left := time.Duration(r.deadline) * time.Millisecond
	if limit := c.server.methods[r.method].limit; limit > 0 && (left == 0 || left > limit) {
		left = limit
	}
	if left == 0 {
		return
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	call.ctx.deadline = now.Add(left)
	c.mu.expiry.expect(call.ctx.deadline, now)
}

// expire ends the contexts of the calls whose time is up.
func (c *serverConn) expire() {
	now := time.Now()
	var over []*serverCall
	var next time.Time
	c.mu.Lock()
	for _, call := range c.mu.calls {
		switch at := call.ctx.deadline; {
		case at.IsZero():
		case !at.After(now):
			over = append(over, call)
		case next.IsZero() || at.Before(next):
			next = at
		}
	}
	c.mu.expiry.stop()
	c.mu.expiry.expect(next, now)
	c.mu.Unlock()
	for _, call := range over {
		call.ctx.end(context.DeadlineExceeded)
	}
}

// answer runs the handler and queues what it returned.
func (c *serverConn) answer(j job) {
	call, r := j.call, j.r
	f := &outFrame{id: call.id}
	if call.window != nil {
		f.kind = kindEnd
		if err := c.runStream(call, r); err != nil {
			f.kind, f.failure = kindError, c.streamFailure(err)
		}
	} else {
		body, err := c.runUnary(j)
		if err == nil && len(body) > c.server.options.MaxBody {
			err = errTooLarge("response", len(body), c.server.options.MaxBody)
		}
		held, room := c.hold(body)
		defer c.letGo(held)
		if err == nil && !room {
			body, err = nil, errOutcomeUnknown(nil, "the answer of %d bytes found no room beside those that wait to be read", len(body))
		}
		if err != nil {
			f.kind, f.failure = kindError, wireError(err)
		} else {
			f.kind, f.body = kindResponse, body
		}
	}
	// The call's own context may have ended; its answer is still owed. A connection that is stuck
	// ends by the writer's timeout.
	_ = c.send(f, nil) // fails only with the connection, which its reader reports
	c.release(call)
}

// smallAnswer is not counted: as many as there may be calls take less than the frames that wait for the writer.
const smallAnswer = 1 << 10

// hold counts an answer until letGo, or reports that there is no room for it. A peer that asks for much and does not read
// makes its answers wait, each in the goroutine of its call.
func (c *serverConn) hold(body []byte) (held int64, room bool) {
	if len(body) <= smallAnswer {
		return 0, true
	}
	held = int64(len(body))
	mine, all := c.answers.Add(held), c.server.answers.Add(held)
	if mine <= int64(c.server.options.MaxBytes) && all <= int64(c.server.options.MaxAnswers) {
		return held, true
	}
	c.letGo(held)
	return 0, false
}

func (c *serverConn) letGo(held int64) {
	c.answers.Add(-held)
	c.server.answers.Add(-held)
}

// streamFailure replaces the error of a stream that ended because the server drains.
func (c *serverConn) streamFailure(err error) *Error {
	c.mu.Lock()
	draining := c.mu.draining
	c.mu.Unlock()
	if draining && errors.Is(err, context.Canceled) {
		return errUnavailable(nil, "the agent is stopping")
	}
	return wireError(err)
}

func (c *serverConn) runUnary(j job) (body []byte, err error) {
	defer c.recoverAs(j.r.method, &err)
	handle := j.rest
	if handle == nil {
		handle = c.server.methods[j.r.method].unary
	}
	return handle(&j.call.ctx, c.peer, j.r.body)
}

func (c *serverConn) runStream(call *serverCall, r request) (err error) {
	defer c.recoverAs(r.method, &err)
	send := func(item []byte) error { return c.sendItem(&call.ctx, call, item) }
	return c.server.methods[r.method].stream(&call.ctx, c.peer, r.body, send)
}

// recoverAs turns a handler's panic into an internal error: one bad request must not end the agent.
func (c *serverConn) recoverAs(method string, err *error) {
	if p := recover(); p != nil {
		c.log.Error("rpc handler panicked", zap.String("method", method),
			zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
		*err = &Error{Code: CodeInternal, Message: "the handler panicked", Hint: "see the log of the agent that answered"}
	}
}

func (c *serverConn) cancelCall(id uint64) {
	c.mu.Lock()
	call := c.mu.calls[id]
	c.mu.Unlock()
	if call != nil {
		call.ctx.end(context.Canceled)
	}
}

func (c *serverConn) release(call *serverCall) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.bytes -= call.size
	delete(c.mu.calls, call.id)
}
