package transport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"go.uber.org/zap"
)

// link is the pool's one way to a node. The pool's mu guards attempt and failures.
type link struct {
	node     string
	ctx      context.Context // of its dials and rests; ends in close
	cancel   context.CancelFunc
	attempt  *attempt // the newest; nil before the first and after a rest
	failures int      // dials failed in a row
}

// attempt is one dial, shared by all who want the node, and then its result. A failed attempt
// stays for its rest, during which everyone gets its error.
type attempt struct {
	done   chan struct{} // closed when client or err is set
	client *client
	err    *Error
}

// client returns a connection to node on which calls can start.
func (p *Pool) client(ctx context.Context, node string) (*client, error) {
	a, err := p.attemptTo(node)
	if err != nil {
		return nil, err
	}
	select {
	case <-a.done:
	case <-ctx.Done():
		return nil, errUnavailable(ctx.Err(), "no connection to %s yet: %v", node, ctx.Err())
	}
	if a.err != nil {
		return nil, a.err
	}
	return a.client, nil
}

// attemptTo joins the attempt that is usable or under way, or starts one.
func (p *Pool) attemptTo(node string) (*attempt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.closed {
		return nil, errUnavailable(net.ErrClosed, "this agent is stopping")
	}
	l := p.mu.links[node]
	if l == nil {
		if len(p.mu.links) >= p.options.MaxNodes {
			return nil, errBusy("connections to %d nodes", len(p.mu.links))
		}
		l = &link{node: node}
		l.ctx, l.cancel = context.WithCancel(p.base)
		p.mu.links[node] = l
	}
	if l.attempt == nil || l.attempt.over() {
		a := &attempt{done: make(chan struct{})}
		l.attempt = a
		p.tasks.Go(func() { p.run(l, a) })
	}
	return l.attempt, nil
}

// over reports whether the attempt succeeded and its connection has ended since.
func (a *attempt) over() bool {
	select {
	case <-a.done:
		return a.err == nil && !a.client.usable()
	default:
		return false
	}
}

// run dials, and serves the connection or rests.
func (p *Pool) run(l *link, a *attempt) {
	c, err := p.dial(l)
	if err == nil {
		p.mu.Lock()
		l.failures = 0
		p.mu.Unlock()
		a.client = c
		close(a.done)
		select {
		case <-c.done:
		case <-l.ctx.Done():
			c.fail(errClosed)
		}
		p.options.Log.Debug("rpc connection ended", zap.String("peer", l.node), zap.Error(c.err))
		return
	}
	p.mu.Lock()
	l.failures++
	rest := p.backoff(l.failures)
	p.mu.Unlock()
	a.err = errUnavailable(err, "no connection to %s: %v", l.node, err)
	close(a.done)
	p.options.Log.Debug("rpc dial failed", zap.String("peer", l.node), zap.Duration("duration", rest), zap.Error(err))
	timer := time.NewTimer(rest)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.attempt == a {
		l.attempt = nil
	}
}

// backoff is how long to rest after so many failures in a row.
func (p *Pool) backoff(failures int) time.Duration {
	rest := p.options.BackoffMax
	if shift := failures - 1; shift < 16 {
		rest = min(rest, p.options.BackoffMin<<shift)
	}
	return rest/2 + rand.N(rest/2+1) // jitter
}

// dial connects and waits for the peer's first answer. In TLS 1.3 our handshake ends before the
// peer has judged our certificate; without the round trip a refused connection would look like one
// that was lost under a request.
func (p *Pool) dial(l *link) (*client, error) {
	ctx, cancel := context.WithTimeout(l.ctx, p.options.DialTimeout)
	defer cancel()
	conn, err := p.options.Dial(ctx, l.node)
	if err != nil {
		return nil, err
	}
	c := newClient(conn, &p.options)
	p.tasks.Go(c.read)
	p.tasks.Go(func() { c.write(p.options.KeepAlive) })
	if err := c.ready(ctx); err != nil {
		c.fail(err)
		return nil, err
	}
	return c, nil
}

// ready pings and waits for the pong.
func (c *client) ready(ctx context.Context) error {
	c.queue(&outFrame{kind: kindPing})
	select {
	case <-c.ponged:
		return nil
	case <-c.done:
		return fmt.Errorf("the peer closed the connection: %w", c.err)
	case <-ctx.Done():
		return errors.New("the peer does not answer")
	}
}

// close ends the connection and whatever the link is doing.
func (l *link) close() { l.cancel() }
