package federation

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
)

var (
	ours   = spiffeid.RequireTrustDomainFromString("ours.example")
	theirs = spiffeid.RequireTrustDomainFromString("theirs.example")
)

// domain is a trust domain with a root, a bundle, and a certificate for its endpoint, which is one for 127.0.0.1 as well.
type domain struct {
	bundle   *spiffebundle.Bundle
	root     *x509.Certificate
	endpoint spiffeid.ID
	tls      *tls.Config
}

func newDomain(t testing.TB, td spiffeid.TrustDomain) *domain {
	t.Helper()
	rootKey, key := newKey(t), newKey(t)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: td.Name()}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		URIs: []*url.URL{td.ID().URL()},
	}
	root = sign(t, root, root, &rootKey.PublicKey, rootKey)
	d := &domain{root: root, endpoint: spiffeid.RequireFromPath(td, "/parley/agent/a1"), bundle: spiffebundle.New(td)}
	leaf := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		URIs: []*url.URL{d.endpoint.URL()}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, root, &key.PublicKey, rootKey)
	d.tls = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}}
	d.bundle.AddX509Authority(root)
	if err := d.bundle.AddJWTAuthority("key-1", newKey(t).Public()); err != nil {
		t.Fatal(err)
	}
	d.bundle.SetSequenceNumber(5)
	d.bundle.SetRefreshHint(time.Minute)
	return d
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, c, parent *x509.Certificate, public *ecdsa.PublicKey, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}

func (d *domain) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(d.root)
	return pool
}

// serve runs a handler at an address, and returns that.
func serve(t testing.TB, d *domain, handler http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, d.tls.Clone(), handler, zap.NewNop()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "https://" + l.Addr().String() + "/"
}

func (d *domain) handler() http.Handler {
	return Handler(func() (*spiffebundle.Bundle, error) { return d.bundle, nil })
}

// SPIFFE's own client takes our bundle, by both profiles, and refuses it from somebody else.
func TestGoSPIFFEFetchesOurs(t *testing.T) {
	d := newDomain(t, ours)
	address := serve(t, d, d.handler())
	for name, auth := range map[string]federation.FetchOption{
		Web: federation.WithWebPKIRoots(d.pool()), SPIFFE: federation.WithSPIFFEAuth(d.bundle, d.endpoint),
	} {
		got, err := federation.FetchBundle(t.Context(), ours, address, auth)
		if err != nil || !got.Equal(d.bundle) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	other := spiffeid.RequireFromPath(ours, "/parley/agent/a2")
	if _, err := federation.FetchBundle(t.Context(), ours, address, federation.WithSPIFFEAuth(d.bundle, other)); err == nil {
		t.Error("the endpoint passed for another agent")
	}
}

// The document is what the standard wants: a certificate authority has one certificate and no key id, a JWT authority a key
// id, and there are a sequence number and a hint.
func TestBundleDocument(t *testing.T) {
	d := newDomain(t, ours)
	w := httptest.NewRecorder()
	d.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", http.NoBody))
	var document struct {
		Keys []struct {
			Use string   `json:"use"`
			Kid *string  `json:"kid"`
			X5c []string `json:"x5c"`
		} `json:"keys"`
		Sequence uint64 `json:"spiffe_sequence"`
		Hint     int    `json:"spiffe_refresh_hint"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil {
		t.Fatal(err)
	}
	if len(document.Keys) != 2 || document.Sequence != 5 || document.Hint != 60 {
		t.Fatalf("got %s", w.Body)
	}
	for _, key := range document.Keys {
		switch key.Use {
		case "x509-svid":
			if key.Kid != nil || len(key.X5c) != 1 {
				t.Errorf("a certificate authority: got %+v", key)
			}
		case "jwt-svid":
			if key.Kid == nil || *key.Kid != "key-1" || len(key.X5c) != 0 {
				t.Errorf("a JWT authority: got %+v", key)
			}
		default:
			t.Errorf("got a key for %q", key.Use)
		}
	}
	w = httptest.NewRecorder()
	d.handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", http.NoBody))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: got %d", w.Code)
	}
	w = httptest.NewRecorder()
	Handler(func() (*spiffebundle.Bundle, error) { return nil, errors.New("no") }).
		ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", http.NoBody))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("before there is a bundle: got %d", w.Code)
	}
}

func newTestClient(t testing.TB, dir string, peers ...Peer) *Client {
	t.Helper()
	c, err := NewClient(Options{Own: ours, Peers: peers, Dir: dir, Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Our client takes the bundle that SPIFFE's own handler serves, by both profiles, and keeps it while the other side is away
// and over a restart of ours.
func TestClientKeepsTheLastGoodBundle(t *testing.T) {
	for _, profile := range []string{Web, SPIFFE} {
		t.Run(profile, func(t *testing.T) {
			d := newDomain(t, theirs)
			handler, err := federation.NewHandler(theirs, d.bundle)
			if err != nil {
				t.Fatal(err)
			}
			var away atomic.Bool
			address := serve(t, d, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if away.Load() {
					http.Error(w, "away", http.StatusBadGateway)
					return
				}
				handler.ServeHTTP(w, r)
			}))
			p := Peer{TrustDomain: theirs, URL: address, Profile: profile}
			if profile == Web {
				p.Roots = d.pool()
			} else {
				p.EndpointID = d.endpoint
				p.Initial = spiffebundle.FromX509Authorities(theirs, []*x509.Certificate{d.root})
			}
			dir := filepath.Join(t.TempDir(), "federated")
			c := newTestClient(t, dir, p)
			_, changed := c.Bundles()
			if wait, err := c.refresh(t.Context(), p); err != nil || wait != time.Minute {
				t.Fatalf("got %v, %v", wait, err)
			}
			select {
			case <-changed:
			default:
				t.Error("nobody was told of the new bundle")
			}
			away.Store(true)
			if _, err := c.refresh(t.Context(), p); err == nil {
				t.Error("a failed fetch is no error")
			}
			for name, c := range map[string]*Client{"": c, " after a restart": newTestClient(t, dir, p)} {
				if got, _ := c.Bundles(); got[theirs] == nil || !got[theirs].Equal(d.bundle) {
					t.Errorf("while the other side is away%s: got %v", name, got)
				}
			}
			if info, err := os.Stat(c.path(theirs)); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("got %v, %v", info, err)
			}
		})
	}
}

// A bundle whose sequence number goes back, or that has none any more, does not replace a newer one.
func TestSequenceNeverGoesBack(t *testing.T) {
	d := newDomain(t, theirs)
	c := newTestClient(t, t.TempDir())
	if err := c.accept(d.bundle); err != nil {
		t.Fatal(err)
	}
	older, without, next := d.bundle.Clone(), d.bundle.Clone(), d.bundle.Clone()
	older.SetSequenceNumber(4)
	without.ClearSequenceNumber()
	next.SetSequenceNumber(6)
	for name, b := range map[string]*spiffebundle.Bundle{"older": older, "without a number": without} {
		if err := c.accept(b); err == nil {
			t.Errorf("a bundle %s was taken", name)
		}
	}
	if err := c.accept(next); err != nil {
		t.Error(err)
	}
}

// An endpoint that sends too much, too slowly, something else, or somewhere else gives an error, in time.
func TestBadEndpoints(t *testing.T) {
	d := newDomain(t, theirs)
	empty := spiffebundle.New(theirs)
	many := d.bundle.Clone()
	for i := range maxAuthorities + 1 {
		if err := many.AddJWTAuthority(strconv.Itoa(i), d.root.PublicKey); err != nil {
			t.Fatal(err)
		}
	}
	blocked := make(chan struct{})
	defer close(blocked)
	for name, handler := range map[string]http.HandlerFunc{
		"too large": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"keys":[],"x":"` + strings.Repeat("x", maxBundleBytes) + `"}`))
		},
		"too slow": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("{"))
			w.(http.Flusher).Flush() //nolint:forcetypeassert // it is one
			<-blocked
		},
		"no JSON":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) },
		"an error": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusNotFound) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1:1/", http.StatusFound)
		},
		"an empty bundle": Handler(func() (*spiffebundle.Bundle, error) { return empty, nil }).ServeHTTP,
		"too many keys":   Handler(func() (*spiffebundle.Bundle, error) { return many, nil }).ServeHTTP,
	} {
		server := httptest.NewUnstartedServer(handler)
		server.TLS = d.tls.Clone()
		server.StartTLS()
		p := Peer{TrustDomain: theirs, URL: server.URL, Profile: Web, Roots: d.pool()}
		if b, err := fetch(t.Context(), p, nil, 500*time.Millisecond); err == nil {
			t.Errorf("%s: got %v", name, b)
		}
		server.CloseClientConnections()
		if name != "too slow" {
			server.Close()
		}
	}
	p := Peer{TrustDomain: theirs, URL: serve(t, d, d.handler()), Profile: Web} // the system does not know this authority
	if _, err := fetch(t.Context(), p, nil, time.Second); err == nil {
		t.Error("a certificate of an unknown authority was taken")
	}
	p.Profile, p.EndpointID = SPIFFE, d.endpoint
	if _, err := fetch(t.Context(), p, newDomain(t, theirs).bundle, time.Second); err == nil {
		t.Error("an endpoint of another authority of the same name was taken")
	}
}

// A connection more than there may be waits, and is served when another one ends.
func TestEndpointConnectionsAreBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := newBounded(l, 1)
	accepted := make(chan net.Conn, 2)
	go func() {
		for {
			c, err := b.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	for range 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	one := <-accepted
	select {
	case <-accepted:
		t.Error("two connections where there may be one")
	case <-time.After(50 * time.Millisecond):
	}
	_ = one.Close()
	_ = (<-accepted).Close()
	_ = b.Close()
	if _, open := <-accepted; open {
		t.Error("a closed listener accepts")
	}
}

// The text of a peer in the configuration, and what is wrong with it.
func TestParsePeer(t *testing.T) {
	for text, want := range map[string]string{
		"theirs.example https_web https://b.example/":                                         "",
		"theirs.example https_web https://b.example/ /roots.pem":                              "/roots.pem",
		"theirs.example https_spiffe https://b.example:8443/ spiffe://theirs.example/e /b.js": "/b.js",
	} {
		p, file, err := ParsePeer(text)
		if err != nil || file != want || p.TrustDomain != theirs {
			t.Errorf("%s: got %+v, %q, %v", text, p, file, err)
		}
	}
	for _, text := range []string{
		"", "theirs.example", "theirs.example https_web", "Theirs https_web https://b/", "theirs.example http https://b/",
		"theirs.example https_web http://b/", "theirs.example https_web https://u:p@b/", "theirs.example https_web https://",
		"theirs.example https_spiffe https://b/", "theirs.example https_spiffe https://b/ web /b.json",
		"theirs.example https_web https://b/ /a /b",
	} {
		if p, _, err := ParsePeer(text); err == nil {
			t.Errorf("%q was read as %+v", text, p)
		}
	}
	path := filepath.Join(t.TempDir(), "roots.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: newDomain(t, theirs).root.Raw})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := LoadPeer("theirs.example https_web https://b/ " + path); err != nil || p.Roots == nil {
		t.Errorf("got %+v, %v", p, err)
	}
	if _, err := LoadPeer("theirs.example https_spiffe https://b/ spiffe://theirs.example/e " + path); err == nil {
		t.Error("certificates were taken for a bundle")
	}
	twice := Peer{TrustDomain: theirs}
	for name, peers := range map[string][]Peer{
		"too many": slices.Repeat([]Peer{{}}, MaxPeers+1), "twice": {twice, twice}, "our own": {{TrustDomain: ours}},
	} {
		if _, err := NewClient(Options{Own: ours, Peers: peers, Dir: t.TempDir()}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// What another trust domain sends may be anything; what is taken of it is whole and within bounds.
func FuzzBundle(f *testing.F) {
	good, err := newDomain(f, theirs).bundle.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"keys":[{"use":"x509-svid","kty":"EC","crv":"P-256","x":"","y":"","x5c":[""]}],"spiffe_sequence":-1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := parseBundle(theirs, text)
		if err != nil {
			return
		}
		again, err := b.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if same, err := parseBundle(theirs, again); err != nil || !same.Equal(b) {
			t.Fatalf("a bundle does not survive being written: %v", err)
		}
	})
}
