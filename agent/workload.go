package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"sync"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/federation"
	"github.com/parley-mesh/parley/security/invocation"
	"github.com/parley-mesh/parley/security/workload"
)

const (
	federatedDir = "federated" // below the data directory
	socketOff    = "off"
	hostDataDir  = "/var/lib/parley" // of the host's own agent, whoever it runs as
)

// WorkloadSocket is where the agent of a data directory serves identities unless it is configured otherwise; of "", where the
// host's own agent does.
func WorkloadSocket(dataDir string) string {
	if dataDir == "" {
		return workload.SystemSocket
	}
	return filepath.Join(dataDir, workload.SocketName)
}

// workloadAPI serves identities to the programs of this host, and bundles to other trust domains.
type workloadAPI struct {
	own       workload.Source
	source    *federatedSource
	server    *workload.Server // nil when off
	socket    net.Listener
	federated *federation.Client
	endpoint  net.Listener // nil when off
	tls       *tls.Config
	log       *zap.Logger
}

// newWorkloadAPI opens the listeners. source is where identities come from.
func (a *Agent) newWorkloadAPI(source workload.Source) (_ *workloadAPI, err error) {
	w := &workloadAPI{own: source, log: a.log.Named("workload")}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.federated, err = a.newFederation(); err != nil {
		return nil, err
	}
	w.source = newFederatedSource(source, w.federated.Bundles)
	if err := a.openWorkloadSocket(w, w.source); err != nil {
		return nil, err
	}
	if a.cfg.Identity.BundleEndpoint == "" {
		return w, nil
	}
	if w.tls, err = a.bundleTLS(); err != nil {
		return nil, err
	}
	w.endpoint, err = listen("identity.bundle_endpoint", "tcp", a.cfg.Identity.BundleEndpoint)
	return w, err
}

// openWorkloadSocket opens the configured socket, or the one that programs look for. Where the latter cannot be there the agent
// runs without it and says so.
func (a *Agent) openWorkloadSocket(w *workloadAPI, source workload.Source) error {
	path := a.cfg.Identity.WorkloadSocket
	if path == socketOff || a.certifiedOutside() {
		return nil
	}
	var l net.Listener
	var err error
	if path != "" {
		l, err = workload.Listen(path)
	} else {
		l, err = a.openUsualSocket()
		if err != nil {
			w.log.Warn("programs of this host get no identities", zap.Error(err),
				zap.String("hint", "set identity.workload_socket to a path, or to off"))
			return nil
		}
	}
	if err != nil {
		return withHint(err, "correct identity.workload_socket in the configuration, or set it to off")
	}
	w.socket = l
	w.server = workload.New(workload.Options{
		Source: source, Denied: a.denials.id, Now: clock.System, Log: w.log, Bus: invocation.SystemBus,
	})
	w.log.Info("serving identities to programs of this host", zap.String("path", l.Addr().String()))
	return nil
}

// openUsualSocket opens the system's socket for an agent with the host's data directory, and one in the data directory for any
// other: several may run on one host.
func (a *Agent) openUsualSocket() (net.Listener, error) {
	if a.cfg.DataDir == hostDataDir || a.cfg.DataDir == config.DefaultDataDir() {
		if l, err := workload.Listen(workload.SystemSocket); err == nil {
			return l, nil
		}
	}
	return workload.Listen(filepath.Join(a.dir.path, workload.SocketName))
}

func (a *Agent) newFederation() (*federation.Client, error) {
	td, err := spiffeid.TrustDomainFromString(a.ids.TrustDomain)
	if err != nil {
		return nil, err
	}
	var peers []federation.Peer
	for _, text := range a.cfg.Identity.FederateWith {
		p, err := federation.LoadPeer(text)
		if err != nil {
			return nil, withHint(fmt.Errorf("identity.federate_with: %w", err), "correct it in the configuration")
		}
		peers = append(peers, p)
	}
	return federation.NewClient(federation.Options{
		Own: td, Peers: peers, Dir: filepath.Join(a.dir.path, federatedDir), Log: a.log.Named("federation"),
	})
}

// bundleTLS is by the certificate in files if there is one, else by this agent's own.
func (a *Agent) bundleTLS() (*tls.Config, error) {
	certFile, keyFile := a.cfg.Identity.BundleCertFile, a.cfg.Identity.BundleKeyFile
	if certFile == "" && keyFile == "" {
		return a.source.BundleTLS(), nil
	}
	c, err := security.WebTLS(certFile, keyFile)
	if err != nil {
		return nil, withHint(fmt.Errorf("certificate of the bundle endpoint: %w", err),
			"set both identity.bundle_cert_file and identity.bundle_key_file to PEM files that the agent can read, or neither")
	}
	return c, nil
}

// close ends what was opened, for when it is not run.
func (w *workloadAPI) close() {
	for _, l := range []net.Listener{w.socket, w.endpoint} {
		if l != nil {
			_ = l.Close()
		}
	}
}

func (w *workloadAPI) tiers() []tier {
	return []tier{
		{"federation", w.federated.Run, stopGrace},
		{"bundles", w.source.run, stopGrace},
		{"workload socket", w.serve, stopGrace},
		{"bundle endpoint", w.serveBundle, 2 * stopGrace},
	}
}

func (w *workloadAPI) serve(ctx context.Context) error {
	if w.server == nil {
		<-ctx.Done()
		return nil
	}
	return w.server.Serve(ctx, w.socket)
}

// serveBundle serves this trust domain's own bundle only: others speak for themselves.
func (w *workloadAPI) serveBundle(ctx context.Context) error {
	if w.endpoint == nil {
		<-ctx.Done()
		return nil
	}
	return federation.Serve(ctx, w.endpoint, w.tls, federation.Handler(func() (*spiffebundle.Bundle, error) {
		bundles, _, err := w.own.Bundles()
		return bundles.Own, err
	}), w.log)
}

// federatedSource adds the bundles of other trust domains to those of a source.
type federatedSource struct {
	workload.Source
	others func() (map[spiffeid.TrustDomain]*spiffebundle.Bundle, <-chan struct{})
	mu     struct {
		sync.Mutex // nothing is asked of others under it
		changed    chan struct{}
	}
}

func newFederatedSource(source workload.Source, others func() (map[spiffeid.TrustDomain]*spiffebundle.Bundle, <-chan struct{})) *federatedSource {
	f := &federatedSource{Source: source, others: others}
	f.mu.changed = make(chan struct{})
	return f
}

// Bundles gives both. The channel is taken first, so that no change goes unseen.
func (f *federatedSource) Bundles() (workload.Bundles, <-chan struct{}, error) {
	f.mu.Lock()
	changed := f.mu.changed
	f.mu.Unlock()
	bundles, _, err := f.Source.Bundles()
	if err != nil {
		return bundles, changed, err
	}
	others, _ := f.others()
	maps.Copy(others, bundles.Federated)
	bundles.Federated = others
	return bundles, changed, nil
}

// run tells of changes of either. It listens for the next change before it tells of one: what changes after somebody has looked
// again is then heard.
func (f *federatedSource) run(ctx context.Context) error {
	_, own, _ := f.Source.Bundles()
	_, others := f.others()
	for {
		f.tell() // of what came before it listened, too
		select {
		case <-own:
			_, own, _ = f.Source.Bundles()
		case <-others:
			_, others = f.others()
		case <-ctx.Done():
			return nil
		}
	}
}

func (f *federatedSource) tell() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.mu.changed)
	f.mu.changed = make(chan struct{})
}
