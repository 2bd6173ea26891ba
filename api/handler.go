package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api/httpconn"
	"github.com/parley-mesh/parley/security/policy"
)

// Listener says by which door a request came.
type Listener uint8

// The doors.
const (
	Loopback Listener = iota + 1 // http on a loopback address: no credentials
	Socket                       // the admin socket: SO_PEERCRED
	HTTPS                        // mutual TLS with an SVID
	RPC                          // requests of clients on the mesh port: whoever accepts the connection says who calls
)

const (
	headerTimeout  = 5 * time.Second
	idleTimeout    = 2 * time.Minute
	writeTimeout   = maxWait + time.Minute // a whole response, blocking reads included
	maxHeaderBytes = 16 << 10
	headerSlack    = 4 << 10 // what net/http adds to its limit by itself
)

// NewHTTPServer returns a server with the limits and timeouts that all our listeners share. It starts nothing. There
// is no ReadTimeout: net/http would cancel every blocking read that outlasts it; Exchange.Body sets a deadline while
// it reads a body.
func NewHTTPServer(handler http.Handler, log *zap.Logger) *http.Server {
	if log == nil {
		log = zap.NewNop()
	}
	errorLog, _ := zap.NewStdLogAt(log, zap.DebugLevel) // fails for unknown levels only
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		WriteTimeout:      writeTimeout,
		MaxHeaderBytes:    maxHeaderBytes - headerSlack,
		ErrorLog:          errorLog,
		ConnContext:       withPeer,
	}
}

// peerKey finds, in a request's context, who is at the other end of its connection.
type peerKey struct{}

// peer is the uid of the process that connected, as the kernel says.
type peer struct {
	uid uint32
	err error
}

// withPeer asks once, when the connection is accepted. The context is that of connections from httpconn as well, which agents listen with.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	ctx = httpconn.Context(ctx, conn)
	var p peer
	switch c := httpconn.Inner(conn).(type) {
	case *net.UnixConn:
		p.uid, p.err = peerUID(c)
	case *net.TCPConn:
		p.uid, p.err = tcpPeerUID(c)
	default: // TLS: the certificate says who it is
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, p)
}

// Mount adds the endpoints of a dialect to every Handler made afterwards. It must not be called beside Handler.
func (s *Service) Mount(routes ...Route) { s.extra = append(s.extra, routes...) }

// Routes returns all endpoints, the mounted ones included.
func (s *Service) Routes() []Route {
	return slices.Concat(s.nativeRoutes(), historyRoutes(), s.sessionRoutes(), s.opsRoutes(), eventRoutes(), clusterRoutes(), debugRoutes(), checkRoutes(), applyRoutes(),
		runbookRoutes(), snapshotRoutes(), operatorRoutes(), caRoutes(), evictRoutes(), identityRoutes(), admissionRoutes(), denyRoutes(), s.extra)
}

// Handler serves every endpoint to the callers of one listener. The connections must come from NewHTTPServer: its
// ConnContext finds out who is behind the admin socket.
func (s *Service) Handler(kind Listener) http.Handler {
	h := &handler{service: s, kind: kind, router: newRouter(s.Routes())}
	var prefix [4]byte
	_, _ = rand.Read(prefix[:])
	h.prefix = hex.EncodeToString(prefix[:]) + "-"
	return h
}

type handler struct {
	service *Service
	kind    Listener
	router  *router
	prefix  string // of request ids: tells two starts and two listeners apart
	count   atomic.Uint64
}

// ServeHTTP puts every request through the same gates, in this order: the endpoint exists, the request is from no web
// page, the caller is known, has room, may do this, and says what it wants in parameters that the endpoint knows.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &Exchange{W: w, R: r, service: h.service, status: http.StatusOK, RequestID: h.prefix + strconv.FormatUint(h.count.Add(1), 36)}
	w.Header()[headerRequestID] = []string{x.RequestID}
	route, rest, allowed := h.router.find(r.Method, r.URL.Path)
	x.Rest = rest
	answered := h.service.observeRequest(route)
	defer answered(x)
	defer h.recovered(x, route)
	if err := h.serve(x, route, allowed); err != nil {
		h.fail(x, route, AsError(err))
	}
}

func (h *handler) serve(x *Exchange, route *Route, allowed []string) error {
	if err := checkOrigin(h.kind, h.service.local.Node, x.R); err != nil {
		return err
	}
	if route == nil {
		return noRoute(x, allowed)
	}
	caller, failed := h.identify(x.R, route.Own)
	if failed != nil {
		return failed
	}
	x.Caller = caller
	if caller.Ending {
		x.W.Header().Set("Connection", "close")
	}
	if route.Action != policy.Livez && route.Action != policy.Ready { // these must answer on a full agent too
		if !h.service.concurrent.acquire(caller.identity()) {
			return Errorf(CodeTooMany, "%d requests are open for this caller", h.service.concurrent.each)
		}
		defer h.service.concurrent.release(caller.identity())
	}
	if err := allow(caller, route.Action); err != nil {
		return err
	}
	if err := checkReadOnly(route, x.R); err != nil {
		return err
	}
	if err := checkParameters(route, x); err != nil {
		return err
	}
	if err := x.takeRequestID(route); err != nil {
		return err
	}
	return route.Serve(x)
}

func noRoute(x *Exchange, allowed []string) error {
	if len(allowed) == 0 {
		return Errorf(CodeNoEndpoint, "no endpoint %q", x.R.URL.Path)
	}
	x.W.Header().Set("Allow", strings.Join(allowed, ", "))
	return Errorf(CodeMethod, "%s is not for %q", x.R.Method, x.R.URL.Path)
}

// fail logs what is our fault, once, and answers.
func (h *handler) fail(x *Exchange, route *Route, e *Error) {
	if e.Code == CodeInternal {
		h.service.log.Error("request failed", zap.String("request_id", x.RequestID),
			zap.String("path", x.R.URL.Path), zap.String("error", e.Message))
	}
	h.answer(x, route, e)
}

// answer writes the error in the endpoint's dialect.
func (h *handler) answer(x *Exchange, route *Route, e *Error) {
	if e.RequestID != "" { // what to ask again with
		x.setRequestID(e.RequestID)
	}
	if e.Leader == "" && e.Retryable() {
		if leader, _, known := h.service.local.Leader(); known {
			e = e.WithLeader(leader)
		}
	}
	if e.Status() == http.StatusTooManyRequests {
		x.W.Header()[headerRetryAfter] = []string{strconv.Itoa(retryAfterSeconds())}
	}
	if route != nil && route.Fail != nil {
		route.Fail(x, e)
		return
	}
	failNative(x, e)
}

// identify finds out who calls. own asks for the rights over this agent alone, which the admin socket has in full.
func (h *handler) identify(r *http.Request, own bool) (Caller, *Error) {
	switch h.kind {
	case Loopback:
		return h.identifyLoopback(r), nil
	case Socket:
		return h.identifySocket(r, own)
	case HTTPS:
		return h.identifyTLS(r)
	case RPC:
		if caller, ok := r.Context().Value(callerKey{}).(Caller); ok {
			return caller, nil
		}
	}
	return Caller{}, Errorf(CodeDenied, "no callers on this listener")
}

// identifyLoopback gives every caller the same role. The uid, where it is known, keeps one user's requests from taking
// all the room, and goes into the log.
func (h *handler) identifyLoopback(r *http.Request) Caller {
	caller := Caller{Role: h.service.options.AnonymousRole, Kind: KindAnonymous}
	if p, ok := r.Context().Value(peerKey{}).(peer); ok && p.err == nil {
		caller.Name = uidName(p.uid)
	}
	return caller
}

func uidName(uid uint32) string { return "uid:" + strconv.FormatUint(uint64(uid), 10) }

// identifySocket lets in root and the agent's own uid. The file mode keeps the others out already; this holds when
// someone has changed it.
func (h *handler) identifySocket(r *http.Request, own bool) (Caller, *Error) {
	p, ok := r.Context().Value(peerKey{}).(peer)
	if !ok || p.err != nil {
		return Caller{}, Errorf(CodeDenied, "the kernel does not say who is calling")
	}
	if p.uid != 0 && int64(p.uid) != int64(os.Geteuid()) {
		return Caller{}, Errorf(CodeDenied, "the admin socket is not for uid %d", p.uid).
			WithHint("run the command as root or as the user that the agent runs as")
	}
	role := policy.Operator
	if !own {
		role = h.service.local.RoleOf(h.service.local.Node)
	}
	return Caller{Role: role, Name: uidName(p.uid), Kind: KindSocket}, nil
}

func (h *handler) identifyTLS(r *http.Request) (Caller, *Error) {
	if r.TLS == nil || h.service.options.IdentifyTLS == nil {
		return Caller{}, Errorf(CodeDenied, "this listener needs a client certificate")
	}
	caller, err := h.service.options.IdentifyTLS(*r.TLS)
	if err != nil {
		return Caller{}, Errorf(CodeDenied, "the client certificate names no agent and no operator of this cluster").
			WithHint("present the SVID of an agent that has joined this trust domain, or of an operator: parley operator add")
	}
	return caller, nil
}
