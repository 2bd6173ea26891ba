package workload

import (
	"context"
	"crypto"
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
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

var testTD = spiffeid.RequireTrustDomainFromString("test.example")

// entry gives an identity to processes for which all selectors are found.
type entry struct {
	id   string
	hint string
	want []Selector
	with []spiffeid.TrustDomain // to federate with
}

// fakeSource is a certificate authority with entries.
type fakeSource struct {
	t      testing.TB
	td     spiffeid.TrustDomain
	caKey  *ecdsa.PrivateKey
	ca     *x509.Certificate
	jwtKey *ecdsa.PrivateKey

	mu       sync.Mutex
	entries  []entry
	issued   map[string]Identity
	serial   int64
	bundles  Bundles
	changed  chan struct{}
	notReady bool
}

func newFakeSource(t testing.TB, td spiffeid.TrustDomain) *fakeSource {
	s := &fakeSource{t: t, td: td, caKey: newKey(t), jwtKey: newKey(t), issued: map[string]Identity{}, changed: make(chan struct{})}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root of " + td.Name()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs: []*url.URL{td.ID().URL()},
	}
	s.ca = sign(t, template, template, &s.caKey.PublicKey, s.caKey)
	own := spiffebundle.New(td)
	own.AddX509Authority(s.ca)
	if err := own.AddJWTAuthority("key-1", s.jwtKey.Public()); err != nil {
		t.Fatal(err)
	}
	own.SetSequenceNumber(1)
	own.SetRefreshHint(time.Minute)
	s.bundles = Bundles{Own: own, Federated: map[spiffeid.TrustDomain]*spiffebundle.Bundle{}}
	return s
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// issue makes a new certificate for an identity.
func (s *fakeSource) issue(id, hint string) Identity {
	s.serial++
	key := newKey(s.t)
	parsed := spiffeid.RequireFromString(id)
	leaf := sign(s.t, &x509.Certificate{
		SerialNumber: big.NewInt(100 + s.serial), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{parsed.URL()}, DNSNames: []string{"localhost"}, BasicConstraintsValid: true,
	}, s.ca, key.Public(), s.caKey)
	return Identity{ID: parsed, Hint: hint, Chain: []*x509.Certificate{leaf}, Key: key}
}

// change does something and tells everybody to look again.
func (s *fakeSource) change(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *fakeSource) entitle(entries ...entry) { s.change(func() { s.entries = entries }) }

// rotate gives every identity a new certificate.
func (s *fakeSource) rotate() { s.change(func() { clear(s.issued) }) }

func (s *fakeSource) federate(bundles ...*spiffebundle.Bundle) {
	s.change(func() {
		s.bundles.Federated = map[spiffeid.TrustDomain]*spiffebundle.Bundle{}
		for _, b := range bundles {
			s.bundles.Federated[b.TrustDomain()] = b
		}
	})
}

func (s *fakeSource) Identities(_ context.Context, found []Selector) ([]Identity, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.notReady {
		return nil, s.changed, ErrNotReady
	}
	var got []Identity
	for _, e := range s.entries {
		if !slices.ContainsFunc(e.want, func(want Selector) bool { return !slices.Contains(found, want) }) {
			if _, ok := s.issued[e.id]; !ok {
				s.issued[e.id] = s.issue(e.id, e.hint)
			}
			got = append(got, s.issued[e.id])
		}
	}
	if len(got) == 0 {
		return nil, s.changed, ErrNoIdentity
	}
	return got, s.changed, nil
}

func (s *fakeSource) FederatesWith(found []Selector) (domains []spiffeid.TrustDomain) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		if !slices.ContainsFunc(e.want, func(want Selector) bool { return !slices.Contains(found, want) }) {
			domains = append(domains, e.with...)
		}
	}
	return domains
}

func (s *fakeSource) Bundles() (Bundles, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.notReady {
		return Bundles{}, s.changed, ErrNotReady
	}
	return s.bundles, s.changed, nil
}

func (s *fakeSource) MintJWT(ctx context.Context, found []Selector, id spiffeid.ID, audience []string) (string, error) {
	identities, _, err := s.Identities(ctx, found)
	if err != nil {
		return "", err
	}
	if !slices.ContainsFunc(identities, func(i Identity) bool { return i.ID == id }) {
		return "", ErrNoIdentity
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: s.jwtKey, KeyID: "key-1"}}, nil)
	if err != nil {
		return "", err
	}
	return jwt.Signed(signer).Claims(jwt.Claims{
		Subject: id.String(), Audience: audience, Expiry: jwt.NewNumericDate(time.Now().Add(time.Minute)),
		IssuedAt: jwt.NewNumericDate(time.Now()),
	}).Serialize()
}

// ownUID is a selector of this test's processes.
func ownUID() Selector { return selector(KindUID, strconv.Itoa(os.Geteuid())) }

// serve runs a server for a test, and returns it with its socket's path.
func serve(t testing.TB, source Source, adjust ...func(*Server)) (*Server, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "wl") // shorter than t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // for other users
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s", SocketName)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Source: source, Now: time.Now, Log: zaptest.NewLogger(t)})
	for _, f := range adjust {
		f(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s, path
}

// dial connects to a workload socket.
func dial(t testing.TB, path string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// dialOver uses a connection that is there already.
func dialOver(conn net.Conn) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///socket", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return conn, nil }))
}

// asked is a context with the security header, of a test that does not wait for ever.
func asked(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, securityHeader, "true")
}

func sortedTimes(times []time.Duration) []time.Duration {
	sorted := slices.Clone(times)
	slices.Sort(sorted)
	return sorted
}
