// Package externaltest is, for tests, an authority outside of the cluster with its Workload API. Its certificates are as SPIRE
// makes them: below an intermediate, with the uses of the key that SPIRE gives.
package externaltest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	api "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/parley-mesh/parley/clock"
)

// Authority certifies one trust domain. Safe for concurrent use.
type Authority struct {
	t  testing.TB
	td string

	mu      sync.Mutex
	roots   []*x509.Certificate // the newest last, which signs
	signer  *x509.Certificate
	key     *ecdsa.PrivateKey
	changed chan struct{} // closed and replaced at each change
}

// New makes the authority of a trust domain.
func New(t testing.TB, td string) *Authority {
	a := &Authority{t: t, td: td, changed: make(chan struct{})}
	a.Rotate()
	return a
}

// Rotate begins to sign below a new root. The old ones stay in the bundle.
func (a *Authority) Rotate() {
	a.t.Helper()
	root := a.template("", 24*time.Hour)
	rootKey := newKey(a.t)
	root = a.sign(root, root, &rootKey.PublicKey, rootKey)
	key := newKey(a.t)
	signer := a.sign(a.template("", 12*time.Hour), root, &key.PublicKey, rootKey)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.roots, a.signer, a.key = append(slices.Clone(a.roots), root), signer, key
	a.changeLocked()
}

// DropOld takes all roots but the newest out of the bundle.
func (a *Authority) DropOld() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.roots = a.roots[len(a.roots)-1:]
	a.changeLocked()
}

func (a *Authority) changeLocked() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// template is a signing certificate's without an id, and a leaf's with one.
func (a *Authority) template(id string, ttl time.Duration) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		a.t.Error(err)
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}, SerialNumber: serial.String()},
		NotBefore: clock.System().Add(-10 * time.Second), NotAfter: clock.System().Add(ttl), BasicConstraintsValid: true,
	}
	if id == "" {
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: a.td}}
		return c
	}
	at, err := url.Parse(id)
	if err != nil {
		a.t.Error(err)
	}
	c.URIs = []*url.URL{at}
	c.KeyUsage = x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement | x509.KeyUsageDigitalSignature
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return c
}

func (a *Authority) sign(c, by *x509.Certificate, key *ecdsa.PublicKey, byKey *ecdsa.PrivateKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, c, by, key, byKey)
	if err != nil {
		a.t.Error(err)
		return c
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Error(err)
	}
	return signed
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Error(err)
	}
	return key
}

// issue makes the answer that has one certificate for each id.
func (a *Authority) issue(ids []string, ttl time.Duration) *api.X509SVIDResponse {
	a.mu.Lock()
	defer a.mu.Unlock()
	var bundle []byte
	for _, r := range a.roots {
		bundle = append(bundle, r.Raw...)
	}
	out := &api.X509SVIDResponse{}
	for _, id := range ids {
		key := newKey(a.t)
		leaf := a.sign(a.template(id, ttl), a.signer, &key.PublicKey, a.key)
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			a.t.Error(err)
		}
		out.Svids = append(out.Svids, &api.X509SVID{SpiffeId: id, X509Svid: slices.Concat(leaf.Raw, a.signer.Raw), X509SvidKey: pkcs8, Bundle: bundle})
	}
	return out
}

// Server is the Workload API of one host, which holds whoever asks for the same process.
type Server struct {
	api.UnimplementedSpiffeWorkloadAPIServer
	Addr string // unix:///path

	authority *Authority
	path      string
	grpc      *grpc.Server

	mu      sync.Mutex
	ids     []string
	ttl     time.Duration
	changed chan struct{}
}

// Serve starts a Workload API that gives these identities, until the test ends.
func (a *Authority) Serve(ids ...string) *Server {
	a.t.Helper()
	dir, err := os.MkdirTemp("", "parley-api-") // short enough for a socket
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &Server{authority: a, path: filepath.Join(dir, "agent.sock"), ids: ids, ttl: time.Hour, changed: make(chan struct{})}
	s.Addr = "unix://" + s.path
	s.Start()
	a.t.Cleanup(s.Stop)
	return s
}

// Start serves again after Stop.
func (s *Server) Start() {
	s.authority.t.Helper()
	l, err := net.Listen("unix", s.path)
	if err != nil {
		s.authority.t.Fatal(err)
	}
	s.grpc = grpc.NewServer()
	api.RegisterSpiffeWorkloadAPIServer(s.grpc, s)
	go s.grpc.Serve(l) //nolint:errcheck // it ends with Stop
}

// Stop ends all streams and takes the socket away.
func (s *Server) Stop() { s.grpc.Stop() }

// Give pushes these identities, with new keys, which last for ttl. None is as if the registration were gone.
func (s *Server) Give(ttl time.Duration, ids ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids, s.ttl = ids, ttl
	close(s.changed)
	s.changed = make(chan struct{})
}

// FetchX509SVID answers at once, and at each change of identity or bundle.
func (s *Server) FetchX509SVID(_ *api.X509SVIDRequest, stream grpc.ServerStreamingServer[api.X509SVIDResponse]) error {
	if md, _ := metadata.FromIncomingContext(stream.Context()); !slices.Equal(md.Get("workload.spiffe.io"), []string{"true"}) {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	for {
		s.mu.Lock()
		ids, ttl, changed := s.ids, s.ttl, s.changed
		s.mu.Unlock()
		s.authority.mu.Lock()
		rotated := s.authority.changed
		s.authority.mu.Unlock()
		if len(ids) == 0 {
			return status.Error(codes.PermissionDenied, "no identity issued")
		}
		if err := stream.Send(s.authority.issue(ids, ttl)); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-changed:
		case <-rotated:
		}
	}
}
