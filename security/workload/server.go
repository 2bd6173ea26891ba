package workload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	api "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/parley-mesh/parley/security/invocation"
)

// The limits of what the processes of a host may ask. Those of a user are shared by all of its processes, so that no user
// takes what the others need.
const (
	maxConns        = 4096     // at a time
	maxUserConns    = 512      // of them for one user
	maxUserCalls    = 1024     // at a time, streams included
	maxConnStreams  = 100      // calls at a time on one connection
	maxRequestBytes = 64 << 10 // of one message
	maxHeaderBytes  = 16 << 10
	idleConn        = 15 * time.Minute
	maxLines        = 5 // of a kind, logged in a second
	pingAfter       = 30 * time.Second
	pingWithin      = 10 * time.Second
	clientPings     = 10 * time.Second // at most so often
	handshakeWithin = 10 * time.Second
	securityHeader  = "workload.spiffe.io" // which no browser and no fooled HTTP client sends along
	workloadAPI     = "/SpiffeWorkloadAPI/"
)

// Options are what a Server needs.
type Options struct {
	Source Source
	Now    func() time.Time // the host's clock
	// Denied tells whether tokens of an identity are refused. nil: none are.
	Denied func(spiffeid.ID) bool
	Log    *zap.Logger // nil: silent
	Bus    string      // the socket of the host's D-Bus, to ask systemd for the runs of units; "": it is not asked
}

// Server answers the processes of this host. New starts nothing; Serve blocks until its context ends, and owns all goroutines.
type Server struct {
	source Source
	denied func(spiffeid.ID) bool
	look   lookups
	log    *zap.Logger
	checks checks // of tests
	users  users
	limits limits
}

// lookups are what is asked for a process besides the kernel, and remembered.
type lookups struct {
	hashes *hashes
	runs   *invocation.Asker // nil: nobody
}

// limits are numbers that tests make small.
type limits struct{ conns, userConns, userCalls int }

// New returns a server.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Denied == nil {
		o.Denied = func(spiffeid.ID) bool { return false }
	}
	s := &Server{
		source: o.Source, denied: o.Denied, look: lookups{hashes: newHashes(o.Now)}, log: o.Log.WithOptions(zap.WrapCore(paced)),
		users:  users{of: make(map[uint32]*use)},
		limits: limits{conns: maxConns, userConns: maxUserConns, userCalls: maxUserCalls},
	}
	if o.Bus != "" {
		s.look.runs = invocation.New(o.Bus, o.Now)
	}
	return s
}

// paced lets so many of the same lines through in a second: any process can cause them.
func paced(core zapcore.Core) zapcore.Core {
	return zapcore.NewSamplerWithOptions(core, time.Second, maxLines, 0)
}

// Serve answers on a socket that Listen opened until ctx ends. It closes the socket.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := grpc.NewServer(
		grpc.Creds(attesting{}),
		grpc.MaxRecvMsgSize(maxRequestBytes), grpc.MaxHeaderListSize(maxHeaderBytes), grpc.MaxConcurrentStreams(maxConnStreams),
		grpc.ConnectionTimeout(handshakeWithin),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleConn, Time: pingAfter, Timeout: pingWithin}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: clientPings, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(s.admitUnary), grpc.ChainStreamInterceptor(s.admitStream),
	)
	api.RegisterSpiffeWorkloadAPIServer(server, &workloadServer{server: s})
	discovery.RegisterSecretDiscoveryServiceServer(server, &secretServer{server: s})
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(&attestingListener{Listener: l, server: s}) }()
	var err error
	select {
	case err = <-failed:
		server.Stop()
		return err
	case <-ctx.Done():
	}
	server.Stop() // streams have no end of their own to wait for
	if err := <-failed; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve identities: %w", err)
	}
	return nil
}

// attestingListener wraps each connection into one that knows who is at the other end.
type attestingListener struct {
	net.Listener
	server *Server
}

// Accept returns the next connection that there is room for. A process that is gone already, or a user that has too many, is
// no reason to stop listening.
func (l *attestingListener) Accept() (net.Conn, error) {
	for {
		socket, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c, err := l.server.admit(socket)
		if err == nil {
			return c, nil
		}
		_ = socket.Close() // it was told nothing yet
		l.server.log.Warn("connection to the workload socket refused", zap.Error(err))
	}
}

func (s *Server) admit(socket net.Conn) (net.Conn, error) {
	unixSocket, ok := socket.(*net.UnixConn)
	if !ok {
		return nil, errors.New("it is not of a Unix socket")
	}
	p, err := newPeer(unixSocket)
	if err != nil {
		return nil, err
	}
	p.unwatched = s.checks.noPidfd
	if err := s.users.connect(p.uid, s.limits); err != nil {
		p.close()
		return nil, err
	}
	return newConn(socket, p, receiver(unixSocket), func() { s.users.disconnect(p.uid) }), nil
}

// users counts what each user has in use.
type users struct {
	sync.Mutex // nothing is called under it
	of         map[uint32]*use
	conns      int
}

type use struct{ conns, calls int }

func (u *users) connect(uid uint32, l limits) error {
	u.Lock()
	defer u.Unlock()
	n := u.of[uid]
	if n == nil {
		n = &use{}
	}
	switch {
	case u.conns >= l.conns:
		return fmt.Errorf("%d connections are open, which is all there may be", u.conns)
	case n.conns >= l.userConns:
		return fmt.Errorf("user %d has %d connections, which is all it may have", uid, n.conns)
	}
	n.conns++
	u.conns++
	u.of[uid] = n
	return nil
}

func (u *users) disconnect(uid uint32) {
	u.Lock()
	defer u.Unlock()
	u.conns--
	u.of[uid].conns--
	u.forget(uid)
}

func (u *users) begin(uid uint32, l limits) error {
	u.Lock()
	defer u.Unlock()
	n := u.of[uid]
	if n == nil {
		n = &use{}
		u.of[uid] = n
	}
	if n.calls >= l.userCalls {
		return status.Errorf(codes.ResourceExhausted, "user %d has %d calls open, which is all it may have: end some", uid, n.calls)
	}
	n.calls++
	return nil
}

func (u *users) end(uid uint32) {
	u.Lock()
	defer u.Unlock()
	u.of[uid].calls--
	u.forget(uid)
}

func (u *users) forget(uid uint32) {
	if *u.of[uid] == (use{}) {
		delete(u.of, uid)
	}
}

// attesting hands the connection to the calls that come over it. There is nothing to encrypt: nothing leaves the host.
type attesting struct {
	credentials.TransportCredentials
}

// callInfo is what a call knows about its connection.
type callInfo struct {
	credentials.CommonAuthInfo
	conn *conn
}

func (callInfo) AuthType() string { return "attested process" }

func (attesting) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := raw.(*conn)
	if !ok {
		return nil, nil, errors.New("not a connection of the workload socket")
	}
	return c, callInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, conn: c}, nil
}

func (attesting) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "attested process"}
}
func (a attesting) Clone() credentials.TransportCredentials { return a }
func (attesting) OverrideServerName(string) error           { return nil } //nolint:staticcheck // of the interface
func (attesting) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("the workload socket is a server's")
}

// connOf is the connection that a call came over.
func connOf(ctx context.Context) (*conn, error) {
	if p, ok := grpcpeer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(callInfo); ok {
			return info.conn, nil
		}
	}
	return nil, status.Error(codes.Internal, "the call has no connection")
}

func (s *Server) admitUnary(ctx context.Context, r any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	end, err := s.begin(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	defer end()
	return handle(ctx, r)
}

func (s *Server) admitStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	end, err := s.begin(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	defer end()
	return handle(srv, stream)
}

// begin admits a call, and returns what ends it.
func (s *Server) begin(ctx context.Context, method string) (end func(), err error) {
	if strings.HasPrefix(method, workloadAPI) {
		md, _ := metadata.FromIncomingContext(ctx)
		if values := md.Get(securityHeader); len(values) != 1 || values[0] != "true" {
			return nil, status.Error(codes.InvalidArgument, "security header missing from request: set the metadata "+securityHeader+" to true")
		}
	}
	c, err := connOf(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.users.begin(c.peer.uid, s.limits); err != nil {
		return nil, err
	}
	return func() { s.users.end(c.peer.uid) }, nil
}

// prove returns the selectors of the process that a call comes from.
func (s *Server) prove(ctx context.Context) ([]Selector, error) {
	c, err := connOf(ctx)
	if err != nil {
		return nil, err
	}
	found, err := c.prove(ctx, s.checks, s.look)
	if err != nil {
		s.log.Info("caller of the workload socket not attested", zap.Int32("pid", c.peer.pid), zap.Error(err))
	}
	return found, err
}

// refusal is a source's error as an answer.
func refusal(err error) error {
	switch {
	case errors.Is(err, ErrNoIdentity):
		return status.Error(codes.PermissionDenied, "no identity issued: "+ErrNoIdentity.Error())
	case errors.Is(err, ErrDenied):
		return status.Error(codes.PermissionDenied, "no identity issued: "+ErrDenied.Error())
	case errors.Is(err, ErrNotReady):
		return status.Error(codes.Unavailable, ErrNotReady.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Unavailable, "identities cannot be given now: ask again")
}

// held is what a process has a right to, at one moment.
type held struct {
	identities []Identity
	bundles    Bundles
	changed    [2]<-chan struct{} // closed when asking again may give something else
}

// identitiesOf proves who asks and returns what it has a right to.
func (s *Server) identitiesOf(ctx context.Context) (held, []Selector, error) {
	found, err := s.prove(ctx)
	if err != nil {
		return held{}, nil, err
	}
	var h held
	if h.bundles, h.changed[0], err = s.source.Bundles(); err != nil {
		return held{}, nil, s.sourceFailed(err)
	}
	if h.identities, h.changed[1], err = s.source.Identities(ctx, found); err != nil {
		return held{}, nil, s.sourceFailed(err)
	}
	h.bundles = h.bundles.only(s.source.FederatesWith(found)) // after the channel was taken: what changes from here on is told
	return h, found, nil
}

// only leaves out the bundles of other trust domains than these.
func (b Bundles) only(domains []spiffeid.TrustDomain) Bundles {
	some := make(map[spiffeid.TrustDomain]*spiffebundle.Bundle, len(domains))
	for _, td := range domains {
		if bundle := b.Federated[td]; bundle != nil {
			some[td] = bundle
		}
	}
	return Bundles{Own: b.Own, Federated: some}
}

func (s *Server) sourceFailed(err error) error {
	answer := refusal(err)
	if status.Code(answer) == codes.Unavailable && !errors.Is(err, ErrNotReady) {
		s.log.Warn("identities cannot be given", zap.Error(err))
	}
	return answer
}

// wait blocks until something may have changed, or returns how the call ends.
func (h held) wait(ctx context.Context) error {
	select {
	case <-h.changed[0]:
	case <-h.changed[1]:
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	return nil
}

// Inspect returns the selectors of a running process, to explain what it would be given.
func (s *Server) Inspect(ctx context.Context, pid int) ([]Selector, error) {
	p, err := openPeer(pid)
	if err != nil {
		return nil, err
	}
	defer p.close()
	return p.selectors(ctx, s.look)
}
