package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/api/httpconn"
	"github.com/parley-mesh/parley/state/watch"
	"github.com/parley-mesh/parley/transport"
)

const (
	handOverGrace = 1500 * time.Millisecond
	stopGrace     = 2 * time.Second
	readyEvery    = 20 * time.Millisecond
	// certifiedPatience is how long the start waits for a certificate in place of an expired one. After
	// that the agent starts without: it serves its copy of the state while nobody can renew it.
	certifiedPatience = 20 * time.Second
)

// tiers lists the parts in the order in which they start. Each uses only those above it.
func (a *Agent) tiers(socks *sockets) []tier {
	rpc := transport.NewServer(transport.ServerOptions{DrainTimeout: stopGrace / 2, Log: a.log.Named("rpc")})
	a.registerRPC(rpc)
	a.control = a.controller()
	mesh := a.newMesh(socks, rpc)
	return slices.Concat([]tier{
		{"identity", a.renewIdentity, stopGrace},
		{"view", a.hub.Run, stopGrace},
		{"flight recorder", a.recordFlight, stopGrace},
		{"recordings", a.recordings.run, stopGrace},
		{"core", a.core.run, 2 * stopGrace},
		{"membership", a.gossip.Run, stopGrace},
		{"mesh", mesh.Run, stopGrace},
		{"recheck", a.recheck, stopGrace},
		{"denials", a.tellDenials, stopGrace},
		{"change stream", a.follower().run, stopGrace},
		{"issuer", a.issuer.run, stopGrace},
		{"trust", a.followTrust, stopGrace},
		{"rotation", a.rotor.run, stopGrace},
		{"seals", a.sealKeeper.run, stopGrace},
		{"generations", a.generations.run, stopGrace},
		{"tokens", a.jwtSigner.run, stopGrace},
		{"identities", a.identities.run, stopGrace},
		{"core status", a.followCore, stopGrace},
		{"links", a.dropDead, stopGrace},
		{"link matrix", a.watchLinks, stopGrace},
		{"digests", a.watchDigests, stopGrace},
		{"timeline", a.runTimeline, stopGrace},
		{"core controller", a.control.run, stopGrace},
		{"place", a.keepPlace, stopGrace},
		{"sessions", a.sessions.run, stopGrace},
		{"admin socket", a.serveHTTP(socks.admin, api.Socket), stopGrace},
		{"http", a.serveHTTP(socks.http, api.Loopback), stopGrace},
		{"https", a.serveHTTPS(socks.https), stopGrace},
		{"scrub", a.scrubber.run, stopGrace},
		{"space", a.space.run, stopGrace},
		{"pace", a.yielder.run, stopGrace},
		{"backups", a.backups.run, stopGrace},
		{"canaries", a.canaries.run, stopGrace},
		{"readiness", a.announce, stopGrace},
		{"founder", a.callOn, stopGrace},
		{"ops", a.watcher.run, stopGrace},
		{"safe mode", a.watchSafeMode, stopGrace},
	}, a.workloadAPI.tiers())
}

func (a *Agent) follower() *follower {
	return &follower{
		dir: a.dir, views: a.views, epochs: a.epochs, book: a.book, pool: a.pool, log: a.log.Named("stream"),
		replica: watch.NewReplica(publicOnly...), met: a.membersChanged,
	}
}

func (a *Agent) controller() *controller {
	return &controller{
		cfg:  controllerConfig{replaceAfter: a.cfg.Core.ReplaceAfter, eligible: a.cfg.Core.Eligible},
		self: a.ids.Node, core: a.core, members: a.memberList, service: a.service, issuer: a.issuer, call: a.pool.Call,
		log: a.log.Named("core"), proofs: proofs{of: make(map[uint64]proof)}, silent: make(map[uint64]time.Duration),
		willing: make(map[string]willingness), report: a.timeline.report, leaves: a.leaver.wants,
		quiet: a.safe.quiet,
	}
}

// handler serves the native API and the /v1 dialect on one listener.
func (a *Agent) handler(kind api.Listener) http.Handler {
	return a.service.Handler(kind)
}

func (a *Agent) newMesh(socks *sockets, rpc *transport.Server) *transport.Mesh {
	mesh := transport.NewMesh(transport.MeshOptions{
		Listener: socks.meshTCP,
		TLS:      a.source.ServerTLS(transport.ALPNRPC, transport.ALPNRaft, transport.ALPNJoin, transport.ALPNRekey, transport.ALPNGossip),
		Identify: a.source.Identify,
		Standing: a.source.Standing,
		Live:     a.live,
		Grace:    stopGrace / 2,
		Log:      a.log.Named("mesh"),
	})
	mesh.Handle(transport.ALPNRPC, a.greeted(false, func(ctx context.Context, conn *tls.Conn, peer transport.Peer) { rpc.ServeConn(ctx, conn, peer) }))
	mesh.Handle(transport.ALPNRaft, a.greeted(true, func(ctx context.Context, conn *tls.Conn, peer transport.Peer) { a.core.servePeer(ctx, conn, peer) }))
	mesh.Handle(transport.ALPNGossip, func(ctx context.Context, conn *tls.Conn, peer transport.Peer) { a.gossip.ServeTCP(ctx, conn, peer) })
	mesh.Handle(transport.ALPNJoin, a.issuer.serveJoin)
	mesh.Handle(transport.ALPNRekey, a.issuer.serveJoin)
	return mesh
}

// serveHTTP answers on one listener until ctx ends, then lets requests in progress finish.
func (a *Agent) serveHTTP(l net.Listener, kind api.Listener) func(context.Context) error {
	return func(ctx context.Context) error {
		server := api.NewHTTPServer(a.handler(kind), a.log.Named("http"))
		if kind == api.HTTPS {
			a.guardHTTPS(server)
		}
		failed := make(chan error, 1)
		go func() { failed <- server.Serve(httpconn.NewListener(l)) }()
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
		}
		grace, cancel := context.WithTimeout(context.Background(), stopGrace/2)
		defer cancel()
		if err := server.Shutdown(grace); err != nil {
			_ = server.Close() // watches would wait for ever
		}
		if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

// serveHTTPS is serveHTTP behind mutual TLS; without a listener it only waits.
func (a *Agent) serveHTTPS(l net.Listener) func(context.Context) error {
	if l == nil {
		return func(ctx context.Context) error { <-ctx.Done(); return nil }
	}
	return a.serveHTTP(tls.NewListener(l, a.source.HTTPSTLS()), api.HTTPS)
}

// announce waits until this agent knows its cluster, then says once that it is ready.
func (a *Agent) announce(ctx context.Context) error {
	if a.safe.static() { // it is up, and not ready
		a.opts.Ready()
		<-ctx.Done()
		return nil
	}
	if !await(ctx, func() bool { return a.hub.View().Index() > 0 }) {
		return nil
	}
	a.ready.Store(true)
	patience, cancel := context.WithTimeout(ctx, certifiedPatience)
	defer cancel()
	fields := []zap.Field{zap.String("node", a.ids.Node), zap.String("spiffe_id", a.source.ID().String()), zap.String("addr", a.cfg.HTTP.Bind)}
	if await(patience, a.certified) {
		a.log.Info("agent is ready", append(fields, zap.Time("svid_not_after", a.source.NotAfter()))...)
	} else if ctx.Err() == nil {
		a.log.Warn("agent serves what it knows, and is not ready until its certificate is renewed",
			append(fields, zap.Time("svid_not_after", a.source.NotAfter()))...)
	}
	a.opts.Ready()
	<-ctx.Done()
	return nil
}

// await looks until holds does, or ctx ends.
func await(ctx context.Context, holds func() bool) bool {
	ticker := time.NewTicker(readyEvery)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
	}
	return true
}
