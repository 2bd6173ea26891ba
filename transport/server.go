package transport

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Defaults of ServerOptions and PoolOptions.
const (
	DefaultMaxCalls     = 8192
	DefaultMaxBytes     = 64 << 20
	DefaultMaxAnswers   = 256 << 20
	DefaultKeepAlive    = 5 * time.Second
	DefaultWriteTimeout = 10 * time.Second
	DefaultDrainTimeout = 5 * time.Second
)

// ServerOptions configures a Server. Each zero field takes its default.
type ServerOptions struct {
	// MaxBody limits the body of a request in bytes, and of a response or an item; MaxBody by
	// default and at most.
	MaxBody int
	// MaxCalls limits the calls in progress on one connection. Each holds a goroutine, about 8 KiB.
	// The last eighth is for PriorityHealth and better.
	MaxCalls int
	// MaxBytes limits the request bodies in progress on one connection, in bytes, and as much of answers that wait for
	// the peer to read.
	MaxBytes int
	// MaxAnswers limits the answers that wait on all connections together, in bytes.
	MaxAnswers int
	// KeepAlive is how long the peer may be silent before it is asked whether it is there; after
	// three times that the connection ends. Shorter finds dead hosts sooner and wakes idle agents
	// more often.
	KeepAlive time.Duration
	// WriteTimeout limits one Write to a peer that does not read.
	WriteTimeout time.Duration
	// DrainTimeout is how long ServeConn waits for calls in progress once its context has ended.
	DrainTimeout time.Duration
	Log          *zap.Logger
}

// Handler answers a call. It owns body, must return soon after ctx ends, and returns an *[Error] to
// choose the code that the caller sees. ctx has the caller's deadline and priority and ends when
// the caller cancels or its connection is lost.
type Handler = func(ctx context.Context, peer Peer, body []byte) ([]byte, error)

// StreamHandler answers with any number of items. send waits while the caller has not consumed
// what it was sent before; it is not safe for concurrent use and keeps nothing of the item. When
// the server drains, ctx ends: the caller is told to come back elsewhere.
type StreamHandler = func(ctx context.Context, peer Peer, body []byte, send func(item []byte) error) error

// Server answers RPC connections. Register methods first, then serve.
type Server struct {
	options ServerOptions
	methods map[string]method
	answers atomic.Int64 // bytes of those that wait for their peers to read
}

// method is one of the two.
type method struct {
	begin  Beginner // nil: each call has a goroutine from its start
	unary  Handler
	stream StreamHandler
	limit  time.Duration // of a unary call; 0: the caller's deadline alone
}

// NewServer returns a server without methods. It panics when an option is out of range.
func NewServer(o ServerOptions) *Server {
	setDefault(&o.MaxBody, MaxBody)
	setDefault(&o.MaxCalls, DefaultMaxCalls)
	setDefault(&o.MaxBytes, DefaultMaxBytes)
	setDefault(&o.MaxAnswers, DefaultMaxAnswers)
	setDefault(&o.KeepAlive, DefaultKeepAlive)
	setDefault(&o.WriteTimeout, DefaultWriteTimeout)
	setDefault(&o.DrainTimeout, DefaultDrainTimeout)
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.MaxBody > MaxBody {
		panic(fmt.Sprintf("transport: MaxBody %d is over %d", o.MaxBody, MaxBody))
	}
	return &Server{options: o, methods: make(map[string]method)}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Handle registers a method that answers once. It panics on a name that is taken, empty or longer
// than 255 bytes. Not to be called once ServeConn has been.
func (s *Server) Handle(name string, handle Handler) {
	s.HandleWithin(0, name, handle)
}

// HandleWithin is Handle for a method whose calls are given so long at most, or as long as their callers like when that is 0.
func (s *Server) HandleWithin(limit time.Duration, name string, handle Handler) {
	s.register(name, method{unary: handle, limit: limit})
}

// HandleBegun is HandleWithin for a method whose calls begin tries first.
func (s *Server) HandleBegun(limit time.Duration, name string, begin Beginner, handle Handler) {
	s.register(name, method{unary: handle, limit: limit, begin: begin})
}

// HandleStream registers a method that answers with a stream. As Handle otherwise.
func (s *Server) HandleStream(name string, handle StreamHandler) {
	s.register(name, method{stream: handle})
}

func (s *Server) register(name string, m method) {
	if _, taken := s.methods[name]; taken || name == "" || len(name) > maxMethod {
		panic(fmt.Sprintf("transport: method %q is registered twice or has a bad name", name))
	}
	s.methods[name] = m
}

// ServeConn answers peer's calls on conn until the peer leaves or ctx ends, closes conn, and
// returns when every handler has. When ctx ends it drains: the peer is told to send no more, calls
// in progress get DrainTimeout, streams end at once.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn, peer Peer) {
	newServerConn(s, conn, peer).run(ctx)
}
