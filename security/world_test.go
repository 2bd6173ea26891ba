package security

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var testTD = spiffeid.RequireTrustDomainFromString("example.test")

// world is a cluster whose first agent is "a1"; agent adds more without the join protocol.
type world struct {
	t    *testing.T
	td   spiffeid.TrustDomain
	gen  *Genesis
	dir  string // of a1
	root *Root

	mu       sync.Mutex
	hostKeys map[string][]byte // the applied state's bindings

	operators map[string][32]byte // the same of operators
}

func newWorld(t *testing.T, td spiffeid.TrustDomain) *world {
	t.Helper()
	dir := t.TempDir()
	gen, err := InitIdentity(dir, td, "a1", InitKeys{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(gen.Roots[0])
	if err != nil {
		t.Fatal(err)
	}
	root, err := OpenRoot(gen.Sealed, gen.Host.Seal, cert, SealInfo{ClusterID: gen.ClusterID, Node: "a1"})
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, td: td, gen: gen, dir: dir, root: root, hostKeys: map[string][]byte{"a1": gen.Host.HostKey()},
		operators: map[string][32]byte{}}
}

func (w *world) hostKeyOf(node string) ([]byte, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key, ok := w.hostKeys[node]
	return key, ok
}

func (w *world) bind(node string, key []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hostKeys[node] = key
}

// first is the source of a1.
func (w *world) first() *Source { return w.source(w.dir, "a1", w.gen.Host) }

func (w *world) source(dir, node string, host *Host) *Source {
	w.t.Helper()
	s, err := NewSource(SourceOptions{
		Dir: dir, TrustDomain: w.td, Node: node, Host: host, Now: time.Now, HostKeyOf: w.hostKeyOf,
		OperatorKey: w.operatorKey,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// agent makes a member of the cluster with its own data directory.
func (w *world) agent(node string) *Source {
	w.t.Helper()
	dir := w.t.TempDir()
	host, err := CreateHost(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	key, chain := w.leaf(host, node, time.Hour)
	b, err := newBundle(w.td, w.gen.BundleSequence, w.gen.Roots)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := errors.Join(b.save(dir), leafFiles(dir).save(key, nil, chain)); err != nil {
		w.t.Fatal(err)
	}
	w.bind(node, host.HostKey())
	return w.source(dir, node, host)
}

// leaf makes a key and has the cluster sign it.
func (w *world) leaf(host *Host, node string, ttl time.Duration) (*ecdsa.PrivateKey, [][]byte) {
	w.t.Helper()
	key := testKey(w.t)
	req, err := NewLeafRequest(host, node, w.td, &key.PublicKey, time.Now().Add(ttl))
	if err != nil {
		w.t.Fatal(err)
	}
	chain, err := w.gen.Authority.SignAgent(req, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	return key, chain
}

// forge signs a leaf of the cluster's issuer after change has edited the template.
func (w *world) forge(host *Host, node string, change func(*x509.Certificate)) *tls.Certificate {
	w.t.Helper()
	key := testKey(w.t)
	now := time.Now()
	req, err := NewLeafRequest(host, node, w.td, &key.PublicKey, now.Add(time.Hour))
	if err != nil {
		w.t.Fatal(err)
	}
	id, err := AgentID(w.td, node)
	if err != nil {
		w.t.Fatal(err)
	}
	tmpl, err := leafTemplate(id, &key.PublicKey, now, req.NotAfter, hostSignature{HostKeyHash: keyHash(host.HostKey()), Signature: req.HostSignature})
	if err != nil {
		w.t.Fatal(err)
	}
	change(tmpl)
	by := w.gen.Authority.current.Load()
	cert, err := sign(tmpl, by.cert, &key.PublicKey, by.key)
	if err != nil {
		w.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{cert.Raw, by.cert.Raw}, PrivateKey: key, Leaf: cert}
}

func testKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// endpoint is one side of a connection after its handshake.
type endpoint struct {
	conn *tls.Conn
	err  error
}

// connect runs one handshake over loopback TCP and one byte in each direction, because in TLS 1.3 a
// client learns only by reading that the server refused its certificate.
func connect(t *testing.T, server, client *tls.Config) (s, c endpoint) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan endpoint, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			done <- endpoint{err: err}
			return
		}
		done <- greet(tls.Server(raw, server))
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c = greet(tls.Client(raw, client))
	s = <-done
	t.Cleanup(func() { c.conn.Close(); s.conn.Close() })
	return s, c
}

func greet(conn *tls.Conn) endpoint {
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if err := conn.Handshake(); err != nil {
		conn.Close()
		return endpoint{conn: conn, err: err}
	}
	if _, err := conn.Write([]byte{'x'}); err != nil {
		return endpoint{conn: conn, err: err}
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return endpoint{conn: conn, err: err}
}

// stillWorks sends one byte each way over an open connection.
func stillWorks(t *testing.T, a, b *tls.Conn) {
	t.Helper()
	for _, pair := range [][2]*tls.Conn{{a, b}, {b, a}} {
		if _, err := pair[0].Write([]byte{'y'}); err != nil {
			t.Fatalf("write: %v", err)
		}
		if _, err := io.ReadFull(pair[1], make([]byte, 1)); err != nil {
			t.Fatalf("read: %v", err)
		}
	}
}

// leafTemplate is that of an agent's certificate, to be changed by tests.
func leafTemplate(id spiffeid.ID, key *ecdsa.PublicKey, now, notAfter time.Time, sig hostSignature) (*x509.Certificate, error) {
	ext, err := sig.extension()
	if err != nil {
		return nil, err
	}
	return agentProfile.template(id, key, now, notAfter, ext)
}
