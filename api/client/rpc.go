package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/parley-mesh/parley/api/wire"
	"github.com/parley-mesh/parley/transport"
)

// RPCProtocol is what both ends of an rpc address name in the handshake of TLS (ALPN). WithTLS needs it only where the
// configuration verifies by itself what was agreed on.
const RPCProtocol = transport.ALPNRPC

const codeUnsupported = "unsupported"

// maxConnections bounds WithConnections: more is no faster, and each costs the agent 100 KiB.
const maxConnections = 64

// WithConnections spreads the calls over n connections of an rpc address, 1 by default and 64 at most. One carries
// thousands of calls at a time; several spread the work of TLS over the processors.
func WithConnections(n int) Option { return func(c *Client, _ *http.Transport) { c.connections = n } }

// rpcLinks are the connections to one agent's mesh port. Each is dialled when it is first needed and again after it was
// lost.
type rpcLinks struct {
	addr  string
	tls   *tls.Config
	pool  *transport.Pool
	links []string // their names in the pool
	turn  atomic.Uint32
}

func newRPCLinks(addr string, config *tls.Config, n int) (*rpcLinks, error) {
	if config == nil {
		return nil, errors.New("an rpc address needs WithTLS: the mesh port takes mutual TLS alone")
	}
	if n == 0 {
		n = 1
	}
	if n < 0 || n > maxConnections {
		return nil, fmt.Errorf("%d connections: at least 1 and at most %d", n, maxConnections)
	}
	l := &rpcLinks{addr: addr, tls: config.Clone()}
	if !slices.Contains(l.tls.NextProtos, transport.ALPNRPC) {
		l.tls.NextProtos = []string{transport.ALPNRPC}
	}
	for i := range n {
		l.links = append(l.links, strconv.Itoa(i))
	}
	l.pool = transport.NewPool(transport.PoolOptions{Dial: l.dial, MaxNodes: n})
	return l, nil
}

// greetBytes is what both ends say before the first frame: a version and the epoch of the cluster that they live in. A
// client lives in none, which is all zeros; the agent's is read and not judged.
const (
	greetBytes   = 1 + 8 + 16
	greetVersion = 1
)

func (l *rpcLinks) dial(ctx context.Context, _ string) (net.Conn, error) {
	conn, err := (&tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: l.tls}).DialContext(ctx, "tcp", l.addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // long ago: what is under way ends
	hello := make([]byte, greetBytes)
	hello[0] = greetVersion
	if _, err = conn.Write(hello); err == nil {
		_, err = io.ReadFull(conn, hello)
	}
	if err == nil && hello[0] != greetVersion {
		err = fmt.Errorf("the agent greets in version %d, this program knows %d", hello[0], greetVersion)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close() // nothing was asked over it
		return nil, err
	}
	return conn, nil
}

func (l *rpcLinks) drop() {
	for _, link := range l.links {
		l.pool.Drop(link)
	}
}

// link is the connection for the next call.
func (l *rpcLinks) link() string { return l.links[l.turn.Add(1)%uint32(len(l.links))] } //nolint:gosec // maxConnections at most

// invoke calls a method. The error is an *Error: there is no answer.
func (c *Client) invoke(ctx context.Context, priority transport.Priority, method string, write bool, body []byte) ([]byte, error) {
	return c.invokeOver(ctx, c.rpc.link(), priority, method, write, body)
}

// invokeOver is invoke over one of the connections.
func (c *Client) invokeOver(ctx context.Context, link string, priority transport.Priority, method string, write bool, body []byte) ([]byte, error) {
	if priority != transport.PriorityWrite { // which is the default
		ctx = transport.WithPriority(ctx, priority)
	}
	answer, err := c.rpc.pool.Call(ctx, link, method, body)
	if err != nil {
		return nil, c.uncalled(write, err)
	}
	return answer, nil
}

// uncalled makes an Error of a call by RPC without an answer.
func (c *Client) uncalled(write bool, err error) *Error {
	var failed *transport.Error
	if !errors.As(err, &failed) {
		return c.unanswered(write, err)
	}
	e := &Error{Code: failed.Code, Message: failed.Message, Hint: failed.Hint, Leader: failed.Leader, exit: exitFailed, cause: failed.Unwrap()}
	switch failed.Code {
	case transport.CodeUnavailable: // nothing was done
		if e.cause != nil {
			return c.unanswered(false, err)
		}
		e.Status, e.exit, e.Retryable = http.StatusServiceUnavailable, exitNoAgent, true // the agent says so itself
	case transport.CodeOutcomeUnknown:
		return c.unanswered(write, err)
	case transport.CodeBusy:
		e.Status, e.exit, e.Retryable = http.StatusTooManyRequests, exitNoAgent, true
	case transport.CodeTooLarge:
		e.Status = http.StatusRequestEntityTooLarge
	case transport.CodeUnknownMethod:
		e.Code, e.Status = codeUnsupported, http.StatusNotImplemented
		e.Hint = "the agent is older than this program: use https or the admin socket"
	case codeUnsupported:
		e.Status = http.StatusNotImplemented
	case "too_many":
		e.Status, e.exit, e.Retryable = http.StatusTooManyRequests, exitNoAgent, true
	case "denied":
		e.Status, e.exit = http.StatusForbidden, exitDenied
	default:
		if write { // its handler died over it
			return c.unanswered(true, err)
		}
		e.Status = http.StatusInternalServerError
	}
	return e
}

// failed makes an Error of an answer that is one.
func (c *Client) failed(f *wire.Failure) *Error {
	c.noteIndex(f.Place.Index)
	return &Error{
		Code: f.Code, Message: f.Message, Hint: f.Hint, Leader: f.Leader, RequestID: f.RequestID,
		Status: int(f.Status), Retryable: f.Retryable, RetryAfter: f.RetryAfter, exit: int(f.ExitCode), //nolint:gosec // small numbers
	}
}

// tunnel is exchange over RPC.
func (c *Client) tunnel(ctx context.Context, id, method, path string, query url.Values, body []byte) (status int, answer []byte, err error) {
	target := path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	write := method != http.MethodGet
	priority := transport.PriorityWrite
	if !write {
		priority = transport.PriorityRead
	}
	call := wire.Call{Method: method, Target: target, RequestID: id, ReadOnly: c.readOnly, Body: body}
	raw, err := c.invoke(ctx, priority, wire.MethodCall, write, call.Append(nil))
	if err != nil {
		return 0, nil, err
	}
	reply, failed, err := wire.ParseReply(raw)
	switch {
	case err != nil:
		return 0, nil, c.unreadable(0, err)
	case failed != nil:
		return 0, nil, c.failed(failed)
	}
	c.note(reply.Receipt)
	return int(reply.Status), reply.Body, nil //nolint:gosec // a status
}
