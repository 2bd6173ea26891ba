package transport

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Defaults of PoolOptions, beside those it shares with ServerOptions.
const (
	DefaultMaxNodes    = 8192
	DefaultWindow      = 256 << 10
	DefaultDialTimeout = 5 * time.Second
	DefaultBackoffMin  = 50 * time.Millisecond
	DefaultBackoffMax  = 2 * time.Second
)

// PoolOptions configures a Pool. Each zero field but Dial takes its default.
type PoolOptions struct {
	// Dial connects to a node's mesh port and finishes the TLS handshake for ALPNRPC.
	Dial func(ctx context.Context, node string) (net.Conn, error)
	// MaxBody limits a request's body in bytes; MaxBody by default and at most.
	MaxBody int
	// MaxCalls limits the calls and streams in progress to one node.
	MaxCalls int
	// MaxBytes limits the stream items from one node that wait for their readers, in bytes. The
	// stream whose item does not fit ends with CodeBusy.
	MaxBytes int
	// MaxNodes limits the nodes that the pool remembers; Drop forgets one.
	MaxNodes int
	// Window is what a stream's sender may have under way to a reader that does not read, in
	// bytes, beside one item. Larger helps on links with a large bandwidth-delay product.
	Window int
	// KeepAlive is as in ServerOptions.
	KeepAlive time.Duration
	// WriteTimeout is as in ServerOptions.
	WriteTimeout time.Duration
	// DialTimeout limits Dial and the first answer from the peer together.
	DialTimeout time.Duration
	// After a failed dial the next one waits BackoffMin, doubled by each failure up to BackoffMax,
	// less a random part of up to a half. Calls meanwhile fail at once with CodeUnavailable.
	BackoffMin, BackoffMax time.Duration
	Log                    *zap.Logger
}

// Pool keeps one RPC connection to each node that is called. Safe for concurrent use. It starts
// goroutines when it is called first and ends them in Close.
type Pool struct {
	options PoolOptions
	base    context.Context // of dials; ends in Close
	cancel  context.CancelFunc
	tasks   sync.WaitGroup // dials, readers, writers

	// mu guards the table. Nothing is dialled, sent or waited for while it is held.
	mu struct {
		sync.Mutex
		links  map[string]*link
		closed bool
	}
}

// NewPool returns a pool without connections. It panics when Dial is missing or an option is out of
// range.
func NewPool(o PoolOptions) *Pool {
	setDefault(&o.MaxBody, MaxBody)
	setDefault(&o.MaxCalls, DefaultMaxCalls)
	setDefault(&o.MaxBytes, DefaultMaxBytes)
	setDefault(&o.MaxNodes, DefaultMaxNodes)
	setDefault(&o.Window, DefaultWindow)
	setDefault(&o.KeepAlive, DefaultKeepAlive)
	setDefault(&o.WriteTimeout, DefaultWriteTimeout)
	setDefault(&o.DialTimeout, DefaultDialTimeout)
	setDefault(&o.BackoffMin, DefaultBackoffMin)
	setDefault(&o.BackoffMax, DefaultBackoffMax)
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Dial == nil || o.MaxBody > MaxBody || o.Window < 0 || o.Window > math.MaxInt32/2 {
		panic(fmt.Sprintf("transport: pool with Dial %v, MaxBody %d, Window %d", o.Dial != nil, o.MaxBody, o.Window))
	}
	p := &Pool{options: o}
	p.base, p.cancel = context.WithCancel(context.Background())
	p.mu.links = make(map[string]*link)
	return p
}

// Call sends a request to node and waits for its answer. The error is an *[Error]: the handler's
// own, or one of this package's codes. When ctx ends after the request was queued the code is
// CodeOutcomeUnknown and errors.Is finds the context's error. body must not change before Call
// returns; the result is the caller's.
func (p *Pool) Call(ctx context.Context, node, method string, body []byte) ([]byte, error) {
	var answer []byte
	err := p.withClient(ctx, node, method, func(c *client) (err error) {
		answer, err = c.call(ctx, method, body)
		return err
	})
	return answer, err
}

// Stream sends a request to node and calls recv with each item of the answer, in order, in the
// caller's goroutine; items are recv's to keep. It returns nil when the peer ended the stream
// well, and recv's own error, unchanged, after telling the peer to stop. While recv does not
// return, the peer waits and other calls go on.
func (p *Pool) Stream(ctx context.Context, node, method string, body []byte, recv func(item []byte) error) error {
	return p.withClient(ctx, node, method, func(c *client) error {
		started, err := c.stream(ctx, method, body, recv)
		if started && errors.Is(err, errNotStarted) {
			return errUnavailable(nil, "the stream ended: %v", err)
		}
		return err
	})
}

// withClient runs a call on the node's connection, and once more on a new connection when the first
// turned out to be closing and the peer never started on it. That hides a peer's restart or
// drain from its callers.
func (p *Pool) withClient(ctx context.Context, node, method string, run func(*client) error) error {
	if method == "" || len(method) > maxMethod {
		return &Error{Code: CodeUnknownMethod, Message: fmt.Sprintf("bad method name %q", method)}
	}
	c, err := p.client(ctx, node)
	if err != nil {
		return err
	}
	if err = run(c); !errors.Is(err, errNotStarted) {
		return err
	}
	if c, err = p.client(ctx, node); err != nil {
		return err
	}
	return run(c)
}

// Drop closes the connection to node at once and forgets it, its back-off included. Calls in
// progress end with CodeUnavailable or CodeOutcomeUnknown; the next call dials.
func (p *Pool) Drop(node string) {
	p.mu.Lock()
	l := p.mu.links[node]
	delete(p.mu.links, node)
	p.mu.Unlock()
	if l != nil {
		l.close()
	}
}

// Close ends all connections and waits for the pool's goroutines. Calls in progress and later ones
// fail. Safe twice.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.mu.closed = true
	links := p.mu.links
	p.mu.links = nil
	p.mu.Unlock()
	p.cancel()
	for _, l := range links {
		l.close()
	}
	p.tasks.Wait()
	return nil
}
