package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Defaults of MeshOptions.
const (
	DefaultMaxHandshakes    = 256
	DefaultHandshakeTimeout = 5 * time.Second
	DefaultMaxConns         = 16384
	DefaultMeshGrace        = 10 * time.Second
	DefaultLogInterval      = 30 * time.Second
)

// MeshOptions configures a Mesh. Listener, TLS and Identify have no default.
type MeshOptions struct {
	Listener net.Listener
	// TLS comes from security: TLS 1.3, client certificates verified where one is sent.
	TLS *tls.Config
	// Identify says who a verified certificate belongs to, or refuses it.
	Identify func(tls.ConnectionState) (Peer, error)
	// Standing judges a connection while it is open. It needs Live, whose owner rechecks. Nil: once accepted, a
	// connection stays whatever becomes of its peer.
	Standing func(tls.ConnectionState) Standing
	Live     *Live
	// MaxHandshakes limits the connections that have not shown who they are. Beyond it a new one
	// is closed at once: a flood then costs an accept and a close each.
	MaxHandshakes int
	// MaxHandshakesPerSource limits the same for one IPv4 address or IPv6 /64, so that one flooding
	// host does not keep the others out. A quarter of MaxHandshakes by default.
	MaxHandshakesPerSource int
	// HandshakeTimeout ends a handshake that is not finished.
	HandshakeTimeout time.Duration
	// MaxConns limits all connections, handshakes included.
	MaxConns int
	// Grace is how long Run waits for handlers once its context has ended; then it closes their
	// connections.
	Grace time.Duration
	// LogInterval is how often the same kind of refusal is logged; a count tells of the others.
	LogInterval time.Duration
	Log         *zap.Logger
}

// ConnHandler serves an authenticated connection until it ends or ctx does. The mesh closes conn
// when it returns.
type ConnHandler = func(ctx context.Context, conn *tls.Conn, peer Peer)

// Mesh owns the mesh TCP port. It accepts, shakes hands within limits, and gives each connection
// to the handler of its ALPN protocol. A connection without a protocol, or with one that has no
// handler, is refused, and so is one without a certificate, except for ALPNJoin and ALPNRekey.
type Mesh struct {
	options  MeshOptions
	handlers map[string]ConnHandler
	pending  *pending
	refusals *refusals
	tasks    sync.WaitGroup // connections

	accepted, refused, failed atomic.Uint64

	// mu guards the table. Connections are closed outside it.
	mu struct {
		sync.Mutex
		conns map[net.Conn]struct{}
	}
}

// MeshStats counts connections since the start, and those that are open now.
type MeshStats struct {
	Accepted uint64 // by the listener
	Refused  uint64 // closed at once, over a limit
	Failed   uint64 // handshakes that did not end in an authenticated peer
	Pending  int    // handshakes under way
	Open     int    // connections, Pending included
}

// NewMesh returns a mesh without handlers. It panics when Listener, TLS or Identify is missing.
func NewMesh(o MeshOptions) *Mesh {
	if o.Listener == nil || o.TLS == nil || o.Identify == nil || o.Standing != nil && o.Live == nil {
		panic("transport: mesh without Listener, TLS, Identify, or Live for its Standing")
	}
	setDefault(&o.MaxHandshakes, DefaultMaxHandshakes)
	setDefault(&o.MaxHandshakesPerSource, max(1, o.MaxHandshakes/4))
	setDefault(&o.HandshakeTimeout, DefaultHandshakeTimeout)
	setDefault(&o.MaxConns, DefaultMaxConns)
	setDefault(&o.Grace, DefaultMeshGrace)
	setDefault(&o.LogInterval, DefaultLogInterval)
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	m := &Mesh{
		options:  o,
		handlers: make(map[string]ConnHandler),
		pending:  newPending(o.MaxHandshakes, o.MaxHandshakesPerSource),
		refusals: newRefusals(o.Log),
	}
	m.mu.conns = make(map[net.Conn]struct{})
	return m
}

// Handle registers the handler of a protocol. It panics when the protocol has one. Not to be called
// once Run has been.
func (m *Mesh) Handle(alpn string, handle ConnHandler) {
	if _, taken := m.handlers[alpn]; taken || alpn == "" {
		panic(fmt.Sprintf("transport: protocol %q is registered twice or empty", alpn))
	}
	m.handlers[alpn] = handle
}

// Stats returns the counts. Safe at any time.
func (m *Mesh) Stats() MeshStats {
	m.mu.Lock()
	open := len(m.mu.conns)
	m.mu.Unlock()
	return MeshStats{
		Accepted: m.accepted.Load(), Refused: m.refused.Load(), Failed: m.failed.Load(),
		Pending: m.pending.count(), Open: open,
	}
}

// Run accepts until ctx ends, then closes the listener, waits for the handlers and returns nil. The
// error is that of a listener which broke.
func (m *Mesh) Run(ctx context.Context) error {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	var own sync.WaitGroup
	own.Go(func() { m.refusals.run(inner, m.options.LogInterval) })
	stop := context.AfterFunc(ctx, func() { _ = m.options.Listener.Close() })
	defer stop()

	err := m.accept(inner)
	_ = m.options.Listener.Close() // its error would say that it was closed
	cancel()
	m.finish()
	own.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("accept on the mesh port: %w", err)
}

// accept is the accept loop. Running out of file descriptors must not end it.
func (m *Mesh) accept(ctx context.Context) error {
	const restMin, restMax = 5 * time.Millisecond, time.Second
	rest := restMin
	for {
		conn, err := m.options.Listener.Accept()
		if err == nil {
			rest = restMin
			m.admit(ctx, Quick(conn))
			continue
		}
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return err
		}
		m.refusals.note(refusal{reason: "the mesh port cannot accept", hint: "raise the limit on open files (LimitNOFILE)"}, nil, err)
		timer := time.NewTimer(rest)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		rest = min(2*rest, restMax)
	}
}

// admit starts a connection's goroutine, or closes it where a limit is reached.
func (m *Mesh) admit(ctx context.Context, conn net.Conn) {
	m.accepted.Add(1)
	source := sourceOf(conn.RemoteAddr())
	if !m.pending.enter(source) {
		m.refuse(conn, "too many unfinished handshakes")
		return
	}
	if !m.track(conn) {
		m.pending.leave(source)
		m.refuse(conn, "too many connections")
		return
	}
	m.tasks.Go(func() {
		defer m.untrack(conn)
		defer m.recoverConn(conn)
		m.serve(ctx, conn, sync.OnceFunc(func() { m.pending.leave(source) }))
	})
}

func (m *Mesh) refuse(conn net.Conn, reason string) {
	m.refused.Add(1)
	m.refusals.note(refusal{reason: reason, hint: "look for a flooding host, or raise the limit"}, conn.RemoteAddr(), nil)
	_ = conn.Close() // we never used it
}

// serve shakes hands and runs the handler. left must be called when the handshake is over.
func (m *Mesh) serve(ctx context.Context, conn net.Conn, left func()) {
	defer left()
	secured, peer, err := m.handshake(ctx, conn)
	if err != nil {
		m.failed.Add(1)
		if ctx.Err() == nil {
			m.refusals.note(explain(err), conn.RemoteAddr(), err)
		}
		linger(conn)
		return
	}
	left()
	release, err := m.guard(secured, peer)
	if err != nil {
		m.failed.Add(1)
		m.refusals.note(explain(err), conn.RemoteAddr(), err)
		return
	}
	defer release()
	m.handlers[secured.ConnectionState().NegotiatedProtocol](ctx, secured, peer)
}

// linger lets a refused peer read the TLS alert that says why: closing while its bytes are unread
// would reset the connection and lose the alert on the way.
func linger(conn net.Conn) {
	const limit, timeout = 16 << 10, 200 * time.Millisecond
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || conn.SetReadDeadline(time.Now().Add(timeout)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, conn, limit) // however it ends, the connection is closed next
}

func (m *Mesh) handshake(ctx context.Context, conn net.Conn) (*tls.Conn, Peer, error) {
	if err := conn.SetDeadline(time.Now().Add(m.options.HandshakeTimeout)); err != nil {
		return nil, Peer{}, err
	}
	secured := tls.Server(conn, m.options.TLS)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, Peer{}, err
	}
	state := secured.ConnectionState()
	peer, err := m.identify(state)
	if err != nil {
		return nil, Peer{}, err
	}
	return secured, peer, conn.SetDeadline(time.Time{})
}

var (
	errNoProtocol    = errors.New("no protocol was agreed on")
	errNoCertificate = errors.New("no certificate was sent")
)

// identify decides whether the connection has a handler and a known peer.
func (m *Mesh) identify(state tls.ConnectionState) (Peer, error) {
	if _, ok := m.handlers[state.NegotiatedProtocol]; !ok {
		return Peer{}, fmt.Errorf("%w: %q", errNoProtocol, state.NegotiatedProtocol)
	}
	if len(state.PeerCertificates) == 0 {
		if Bare(state.NegotiatedProtocol) {
			return Peer{}, nil
		}
		return Peer{}, errNoCertificate
	}
	peer, err := m.options.Identify(state)
	if err != nil {
		return Peer{}, fmt.Errorf("identify peer: %w", err)
	}
	return peer, nil
}

func (m *Mesh) recoverConn(conn net.Conn) {
	if p := recover(); p != nil {
		m.failed.Add(1)
		m.options.Log.Error("mesh connection handler panicked", zap.Stringer("addr", conn.RemoteAddr()),
			zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
	}
}

func (m *Mesh) track(conn net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.mu.conns) >= m.options.MaxConns {
		return false
	}
	m.mu.conns[conn] = struct{}{}
	return true
}

func (m *Mesh) untrack(conn net.Conn) {
	m.mu.Lock()
	delete(m.mu.conns, conn)
	m.mu.Unlock()
	_ = conn.Close() // handlers close theirs; a second close is no news
}

// finish waits for the connections, and after the grace closes what is left.
func (m *Mesh) finish() {
	ended := make(chan struct{})
	go func() {
		m.tasks.Wait()
		close(ended)
	}()
	timer := time.NewTimer(m.options.Grace)
	defer timer.Stop()
	select {
	case <-ended:
		return
	case <-timer.C:
	}
	m.mu.Lock()
	left := make([]net.Conn, 0, len(m.mu.conns))
	for conn := range m.mu.conns {
		left = append(left, conn)
	}
	m.mu.Unlock()
	m.options.Log.Warn("mesh connections outlived their grace", zap.Int("count", len(left)))
	for _, conn := range left {
		_ = conn.Close()
	}
	<-ended
}
