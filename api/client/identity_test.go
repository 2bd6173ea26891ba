package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/security"
)

// issuingAgent is the first agent of a cluster, which signs for operators.
type issuingAgent struct {
	td      spiffeid.TrustDomain
	genesis *security.Genesis
	source  *security.Source
	mu      sync.Mutex // guards what follows
	asked   int
	fail    error
}

func (a *issuingAgent) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

func (a *issuingAgent) failWith(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fail = err
}

func newIssuingAgent(t *testing.T, trustDomain string) *issuingAgent {
	t.Helper()
	td, dir := spiffeid.RequireTrustDomainFromString(trustDomain), t.TempDir()
	genesis, err := security.InitIdentity(dir, td, "a1", security.InitKeys{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	anybody := func(string) ([32]byte, bool) { return [32]byte{}, false }
	source, err := security.NewSource(security.SourceOptions{
		Dir: dir, TrustDomain: td, Node: "a1", Host: genesis.Host, Now: time.Now, OperatorKey: anybody,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &issuingAgent{td: td, genesis: genesis, source: source}
}

// sign is what RenewIdentity of a Client does.
func (a *issuingAgent) sign(_ context.Context, csr []byte) (SVIDAnswer, error) {
	a.mu.Lock()
	a.asked++
	fail := a.fail
	a.mu.Unlock()
	if fail != nil {
		return SVIDAnswer{}, fail
	}
	req, err := security.ParseOperatorRequest(a.td, csr)
	if err != nil {
		return SVIDAnswer{}, err
	}
	chain, err := a.genesis.Authority.SignOperator(req, time.Now())
	return SVIDAnswer{Chain: chain, Roots: a.genesis.Roots}, err
}

// identity is eve's, in a new directory.
func (a *issuingAgent) identity(t *testing.T) *Identity {
	t.Helper()
	id, err := NewIdentity(filepath.Join(t.TempDir(), "eve"), a.td.Name(), "eve")
	if err == nil {
		err = id.Renew(t.Context(), a.sign)
	}
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// The files of an identity are for their owner alone, and make the same identity again.
func TestIdentityFiles(t *testing.T) {
	a := newIssuingAgent(t, "example.test")
	id := a.identity(t)
	if id.ID() != "spiffe://example.test/parley/operator/eve" || id.Name() != "eve" || time.Until(id.NotAfter()) < 50*time.Minute {
		t.Errorf("%s, %s, until %s", id.ID(), id.Name(), id.NotAfter())
	}
	for _, name := range []string{keyFile, svidFile, bundleFile} {
		info, err := os.Stat(filepath.Join(id.dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(id.dir, ".new-*")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	again, err := LoadIdentity(id.dir)
	if err != nil || again.ID() != id.ID() || !again.key.Equal(id.key) || !again.NotAfter().Equal(id.NotAfter()) {
		t.Fatalf("loaded: %+v, %v", again, err)
	}
	if same, err := NewIdentity(id.dir, "example.test", "eve"); err != nil || !same.key.Equal(id.key) {
		t.Errorf("made again: %v", err)
	}
	if _, err := NewIdentity(id.dir, "example.test", "adam"); err == nil {
		t.Error("another name took the directory over")
	}
	// An attempt that was cut off before it had a certificate goes on with its key.
	half, err := NewIdentity(t.TempDir(), "example.test", "eve")
	if err != nil {
		t.Fatal(err)
	}
	if on, err := NewIdentity(half.dir, "example.test", "eve"); err != nil || !on.key.Equal(half.key) || !on.Due(time.Now()) {
		t.Errorf("cut off: %v", err)
	}
	for name, spoil := range map[string]func(path string) error{
		"a key that others may read": func(dir string) error { return os.Chmod(filepath.Join(dir, keyFile), 0o640) },
		"a huge file": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, svidFile), make([]byte, maxIdentityFile+1), 0o600)
		},
		"no certificate": func(dir string) error { return os.WriteFile(filepath.Join(dir, svidFile), nil, 0o600) },
		"no roots":       func(dir string) error { return os.Remove(filepath.Join(dir, bundleFile)) },
		"another key": func(dir string) error {
			if err := os.Remove(filepath.Join(dir, keyFile)); err != nil {
				return err
			}
			_, err := writeNewKey(filepath.Join(dir, keyFile))
			return err
		},
	} {
		broken := a.identity(t)
		if err := spoil(broken.dir); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadIdentity(broken.dir); err == nil {
			t.Errorf("%s: loaded", name)
		}
		if _, err := NewIdentity(broken.dir, "example.test", "eve"); err == nil {
			t.Errorf("%s: made anew over it", name)
		}
	}
}

// Who makes an identity in one directory at the same time makes one: a key that the cluster has bound was replaced by that of another,
// whom the cluster refused, and the certificate was of no use to anybody.
func TestOneKeyOfManyAtOnce(t *testing.T) {
	for range 20 {
		dir := filepath.Join(t.TempDir(), "eve")
		keys := make(chan *ecdsa.PrivateKey, 8)
		for range cap(keys) {
			go func() { // ends with its key
				id, err := NewIdentity(dir, "example.test", "eve")
				if err != nil {
					t.Error(err)
					keys <- nil
					return
				}
				keys <- id.key
			}()
		}
		kept := <-keys
		for range cap(keys) - 1 {
			if other := <-keys; kept == nil || other == nil || !other.Equal(kept) {
				t.Fatal("two keys were made")
			}
		}
		if onDisk, err := readKey(filepath.Join(dir, keyFile)); err != nil || !onDisk.Equal(kept) {
			t.Fatalf("another key stays: %v", err)
		}
		if left, err := filepath.Glob(filepath.Join(dir, ".new-*")); err != nil || len(left) > 0 {
			t.Fatalf("left over: %v, %v", left, err)
		}
	}
}

// What is not this identity's certificate, or not of its cluster, is not taken; the old one stays in use and on disk.
func TestTakeRefuses(t *testing.T) {
	a, other, foreign := newIssuingAgent(t, "example.test"), newIssuingAgent(t, "example.test"), newIssuingAgent(t, "elsewhere.test")
	id := a.identity(t)
	before := id.current.Load()
	answer := func(from *issuingAgent, by *Identity, td, name string) SVIDAnswer {
		who := Identity{key: by.key, id: "spiffe://" + td + operatorPath + name}
		csr, err := who.Request()
		if err != nil {
			t.Fatal(err)
		}
		out, err := from.sign(t.Context(), csr)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	good := answer(a, id, "example.test", "eve")
	edit := func(change func(*SVIDAnswer)) SVIDAnswer { out := good; change(&out); return out }
	for name, bad := range map[string]SVIDAnswer{
		"another name":         answer(a, id, "example.test", "adam"),
		"another key":          answer(a, a.identity(t), "example.test", "eve"),
		"another root":         edit(func(s *SVIDAnswer) { s.Roots = other.genesis.Roots }),
		"another trust domain": answer(foreign, id, "elsewhere.test", "eve"),
		"a root of elsewhere":  edit(func(s *SVIDAnswer) { s.Roots = append([][]byte{foreign.genesis.Roots[0]}, s.Roots...) }),
		"a leaf as root":       edit(func(s *SVIDAnswer) { s.Roots = s.Chain }),
		"no roots":             edit(func(s *SVIDAnswer) { s.Roots = nil }),
		"no chain":             edit(func(s *SVIDAnswer) { s.Chain = nil }),
		"no issuer":            edit(func(s *SVIDAnswer) { s.Chain = s.Chain[:1] }),
		"garbage":              edit(func(s *SVIDAnswer) { s.Chain = [][]byte{{1}} }),
		"too many":             edit(func(s *SVIDAnswer) { s.Chain = make([][]byte, maxChain+1) }),
	} {
		if err := id.Take(bad); err == nil || id.current.Load() != before {
			t.Errorf("%s: %v", name, err)
		}
	}
	if again, err := LoadIdentity(id.dir); err != nil || !again.NotAfter().Equal(before.cert.Leaf.NotAfter) {
		t.Errorf("on disk: %v", err)
	}
	if err := id.Take(good); err != nil || id.current.Load() == before {
		t.Errorf("control: %v", err)
	}
	select {
	case <-id.Renewed():
	default:
		t.Error("Renewed has no signal")
	}
}

// The server must be an agent of the trust domain that agrees to a protocol over TLS 1.3.
func TestIdentityTLSJudgesTheServer(t *testing.T) {
	a, other, foreign := newIssuingAgent(t, "example.test"), newIssuingAgent(t, "example.test"), newIssuingAgent(t, "elsewhere.test")
	id := a.identity(t)
	asAgent := func(from *issuingAgent) *tls.Certificate {
		config := from.source.HTTPSTLS()
		cert, err := config.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	eve := id.current.Load().cert
	for name, test := range map[string]struct {
		change func(*tls.Config)
		ok     bool
	}{
		"control":            {func(*tls.Config) {}, true},
		"other root":         {func(c *tls.Config) { c.Certificates[0] = *asAgent(other) }, false},
		"other trust domain": {func(c *tls.Config) { c.Certificates[0] = *asAgent(foreign) }, false},
		"an operator":        {func(c *tls.Config) { c.Certificates[0] = *eve }, false},
		"an impostor":        {func(c *tls.Config) { c.Certificates[0] = selfMade(t, "spiffe://example.test/parley/agent/a1") }, false},
		"no protocol":        {func(c *tls.Config) { c.NextProtos = nil }, false},
		"another protocol":   {func(c *tls.Config) { c.NextProtos = []string{"h2"} }, false},
		"TLS 1.2":            {func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, false},
	} {
		server := &tls.Config{Certificates: []tls.Certificate{*asAgent(a)}, NextProtos: []string{"http/1.1"}, ClientAuth: tls.RequireAnyClientCert}
		test.change(server)
		if err := shake(t, server, id.TLS()); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func selfMade(t *testing.T, id string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{u},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// shake returns what the client has to say of the server.
func shake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			_ = conn.(*tls.Conn).HandshakeContext(t.Context())
			_ = conn.Close()
		}
	}()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", l.Addr().String(), client)
	if err == nil {
		_ = conn.Close()
	}
	return err
}

// What a SPIFFE ID is, is read strictly.
func TestSpiffeOf(t *testing.T) {
	for text, ok := range map[string]bool{
		"spiffe://example.test/parley/agent/a1": true,
		"https://example.test/parley/agent/a1":  false, "spiffe:///parley/agent/a1": false,
		"spiffe://u@example.test/parley/agent/a1": false, "spiffe://example.test:1/parley/agent/a1": false,
		"spiffe://example.test/parley/agent/a1?x": false, "spiffe://example.test/parley/agent/a1?": false,
		"spiffe://example.test/parley/agent/a1#f": false, "spiffe://example.test/parley/agent/a%2f1": false,
		"spiffe://Example.test/parley/agent/a1": false, "spiffe:example.test": false,
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := spiffeOf(&x509.Certificate{URIs: []*url.URL{u}}); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
	for name, ok := range map[string]bool{"a1": true, "": false, "a/b": false, ".a": false, "A": false, "..": false, strings.Repeat("a", 64): false} {
		if validName(name) != ok {
			t.Errorf("name %q", name)
		}
	}
}

// Run renews at half of each life. While that fails the certificate stays in use, the reason can be asked for, and it
// asks every half minute; afterwards all is as before.
func TestIdentityRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newIssuingAgent(t, "example.test")
		id := a.identity(t)
		first := id.NotAfter()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- id.Run(ctx, a.sign) }()
		asked := a.count()
		time.Sleep(28 * time.Minute)
		synctest.Wait()
		if a.count() != asked {
			t.Error("it asked before half of the life was over")
		}
		down := &Error{Code: "no_leader", Message: "no leader"}
		a.failWith(down)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if tries := a.count() - asked; tries < 5 || tries > 11 || !id.NotAfter().Equal(first) || !errors.Is(id.Err(), down) {
			t.Errorf("%d tries in 5 minutes, valid until %s instead of %s, error %v", tries, id.NotAfter(), first, id.Err())
		}
		a.failWith(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if !id.NotAfter().After(first) || id.Err() != nil {
			t.Errorf("valid until %s, error %v", id.NotAfter(), id.Err())
		}
		asked = a.count()
		time.Sleep(24 * time.Minute)
		synctest.Wait()
		if a.count() != asked {
			t.Error("it asked again too soon")
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if more := a.count() - asked; more < 3 || more > 6 {
			t.Errorf("%d renewals in two hours", more)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}

// Two processes share a directory: what one has renewed, the other takes from there.
func TestIdentityAdopts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newIssuingAgent(t, "example.test")
		one := a.identity(t)
		two, err := LoadIdentity(one.dir)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Minute)
		if err := one.Renew(t.Context(), a.sign); err != nil {
			t.Fatal(err)
		}
		asked := a.asked
		if err := two.Renew(t.Context(), a.sign); err != nil || a.asked != asked || !two.NotAfter().Equal(one.NotAfter()) {
			t.Errorf("it asked %d times, valid until %s instead of %s: %v", a.asked-asked, two.NotAfter(), one.NotAfter(), err)
		}
	})
}

// A disk that is full keeps nobody from using the new certificate.
func TestTakeWithoutRoom(t *testing.T) {
	a := newIssuingAgent(t, "example.test")
	id := a.identity(t)
	before := id.current.Load()
	if err := os.RemoveAll(id.dir); err != nil {
		t.Fatal(err)
	}
	if err := id.Renew(t.Context(), a.sign); !errors.Is(err, ErrNotSaved) || id.current.Load() == before {
		t.Errorf("got %v", err)
	}
}

// The calls of a Client for operators say what the endpoints take.
func TestOperatorCalls(t *testing.T) {
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Method+" "+r.URL.EscapedPath())
		_, _ = w.Write([]byte(map[bool]string{true: "[]", false: "{}"}[r.URL.Path == "/parley/v1/operators"]))
	}))
	defer server.Close()
	c, err := New(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	_, err1 := c.AddOperator(ctx, []byte{1}, "local", false)
	_, err2 := c.RenewIdentity(ctx, []byte{1})
	_, err3 := c.Operators(ctx)
	_, err4 := c.Operator(ctx, "a/b")
	if err := errors.Join(err1, err2, err3, err4, c.RemoveOperator(ctx, "eve")); err != nil {
		t.Error(err)
	}
	want := "POST /parley/v1/operator, POST /parley/v1/identity/renew, GET /parley/v1/operators, GET /parley/v1/operator/a%2Fb, DELETE /parley/v1/operator/eve"
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("got %s", text)
	}
}
