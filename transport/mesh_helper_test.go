package transport

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"
)

// authority is a throw-away CA.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t, pool: x509.NewCertPool()}
	a.cert, a.key = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "test root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour),
	})
	a.pool.AddCert(a.cert)
	return a
}

// sign makes a certificate, signed by itself while the authority has none.
func (a *authority) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(1)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) leaf(node string, notAfter time.Time) tls.Certificate {
	uri := &url.URL{Scheme: "spiffe", Host: "test", Path: "/parley/agent/" + node}
	cert, key := a.sign(&x509.Certificate{
		URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature, NotAfter: notAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func (a *authority) serverTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{a.leaf("server", time.Now().Add(time.Hour))},
		ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: a.pool,
		NextProtos: []string{ALPNRPC, ALPNJoin}, SessionTicketsDisabled: true,
	}
}

// clientTLS trusts any server: these tests are about what the server accepts.
func (a *authority) clientTLS(node string, alpn ...string) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: alpn} // see above
	if node != "" {
		c.Certificates = []tls.Certificate{a.leaf(node, time.Now().Add(time.Hour))}
	}
	return c
}

func identifyTest(state tls.ConnectionState) (Peer, error) {
	id, err := spiffeid.FromURI(state.PeerCertificates[0].URIs[0])
	if err != nil {
		return Peer{}, err
	}
	return Peer{ID: id, Node: strings.TrimPrefix(id.Path(), "/parley/agent/")}, nil
}

// meshRig is a mesh on loopback that serves RPC, with the methods "whoami" and "bounded".
type meshRig struct {
	*Mesh
	*authority
	addr string
}

func newMeshRig(t testing.TB, o MeshOptions, log *zap.Logger) *meshRig {
	t.Helper()
	checkGoroutines(t)
	r := &meshRig{authority: newAuthority(t)}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = listener.Addr().String()
	o.Listener, o.TLS, o.Log = listener, r.serverTLS(), log
	if o.Identify == nil {
		o.Identify = identifyTest
	}
	server := NewServer(ServerOptions{})
	server.Handle("whoami", func(_ context.Context, peer Peer, _ []byte) ([]byte, error) {
		return []byte(peer.ID.String()), nil
	})
	server.HandleWithin(10*time.Second, "bounded", func(ctx context.Context, _ Peer, body []byte) ([]byte, error) {
		select { // as who waits for something
		case <-ctx.Done():
			return nil, ctx.Err()
		default:
			return body, nil
		}
	})
	r.Mesh = NewMesh(o)
	r.Handle(ALPNRPC, func(ctx context.Context, conn *tls.Conn, peer Peer) { server.ServeConn(ctx, conn, peer) })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if open := r.Stats().Open; open != 0 {
			t.Errorf("got %d connections open after Run", open)
		}
	})
	return r
}

// rpc returns a pool whose calls reach the mesh as node.
func (r *meshRig) rpc(t testing.TB, node string) *Pool {
	config := r.clientTLS(node, ALPNRPC)
	p := NewPool(PoolOptions{Dial: func(ctx context.Context, _ string) (net.Conn, error) {
		return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", r.addr)
	}})
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// wantServing fails the test when an honest peer is not served.
func (r *meshRig) wantServing(t *testing.T, p *Pool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got, err := p.Call(ctx, "n", "whoami", nil)
	if want := "spiffe://test/parley/agent/honest"; string(got) != want || err != nil {
		t.Errorf("an honest peer: got %q, %v, want %q", got, err, want)
	}
}

// checkGoroutines fails the test when it ends with more goroutines than it began with.
func checkGoroutines(t testing.TB) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		deadline := time.Now().Add(5 * time.Second)
		for runtime.NumGoroutine() > before {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<16)
				t.Fatalf("%d goroutines, %d at the start:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
			}
			runtime.Gosched()
		}
	})
}
