package membership

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/parley-mesh/parley/transport"
)

const testCluster = "00112233445566778899aabbccddeeff"

// testCA signs certificates with which nodes of a test authenticate each other.
type testCA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// Certificates hold for all times: synctest's clock starts in the year 2000.
var (
	certStart = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)
	certEnd   = time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)
)

func newTestCA() *testCA {
	ca := &testCA{key: newKey(), pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: certStart, NotAfter: certEnd,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &ca.key.PublicKey, ca.key)
	if err != nil {
		panic(err)
	}
	ca.cert, _ = x509.ParseCertificate(der)
	ca.pool.AddCert(ca.cert)
	return ca
}

func agentID(node string) string { return "spiffe://test.example/parley/agent/" + node }

func (ca *testCA) leaf(node string) tls.Certificate {
	key := newKey()
	id, _ := url.Parse(agentID(node))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: certStart, NotAfter: certEnd, URIs: []*url.URL{id},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func identify(cs tls.ConnectionState) (transport.Peer, error) {
	if len(cs.PeerCertificates) == 0 || len(cs.PeerCertificates[0].URIs) != 1 {
		return transport.Peer{}, errors.New("no spiffe id")
	}
	id, err := spiffeid.FromURI(cs.PeerCertificates[0].URIs[0])
	return transport.Peer{ID: id, Node: strings.TrimPrefix(id.Path(), "/parley/agent/")}, err
}

func (ca *testCA) serverTLS(cert tls.Certificate) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool,
		MinVersion: tls.VersionTLS13, NextProtos: []string{alpn},
	}
}

// clientTLS verifies the peer's chain and, unless node is empty, its name.
func (ca *testCA) clientTLS(cert tls.Certificate, node string) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{alpn},
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if _, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: ca.pool, CurrentTime: time.Now()}); err != nil {
				return err
			}
			peer, err := identify(cs)
			if err == nil && node != "" && peer.Node != node {
				err = fmt.Errorf("got %s, want %s", peer.Node, node)
			}
			return err
		},
	}
}

// network is what nodes of a cluster are connected by: memory or loopback.
type network interface {
	packets(addr netip.AddrPort) net.PacketConn
	serve(addr netip.AddrPort, serve func(net.Conn)) (stop func())
	dialFrom(ctx context.Context, from, to netip.AddrPort) (net.Conn, error)
}

func (n *memNet) packets(addr netip.AddrPort) net.PacketConn { return n.socket(addr) }
func (n *memNet) serve(addr netip.AddrPort, serve func(net.Conn)) func() {
	return n.listen(addr, serve)
}
func (n *memNet) dialFrom(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) {
	return n.dial(ctx, from, to)
}

// cluster is a set of nodes in one test.
type cluster struct {
	t     *testing.T
	ca    *testCA
	net   network
	mem   *memNet // nil on loopback
	nodes map[string]*node
	epoch uint64
	tune  func(*Options) // applied to every node's options

	mu   sync.Mutex
	keys map[string]*ecdsa.PrivateKey // host keys
	hide map[string]bool              // nodes whose binding nobody knows
	as   map[string]string            // nodes that run with another's certificate
	bind map[string]chan struct{}     // each node's BindingsChanged
}

type node struct {
	*Membership
	name    string
	addr    netip.AddrPort
	cert    tls.Certificate
	conn    net.PacketConn
	unserve func()
	cancel  context.CancelFunc
	ended   chan error
}

func newCluster(t *testing.T) *cluster {
	mem := newMemNet()
	return &cluster{
		t: t, ca: newTestCA(), net: mem, mem: mem, nodes: make(map[string]*node),
		keys: make(map[string]*ecdsa.PrivateKey), hide: make(map[string]bool), as: make(map[string]string), bind: make(map[string]chan struct{}),
	}
}

func (c *cluster) hostKey(name string) *ecdsa.PrivateKey {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys[name] == nil {
		c.keys[name] = newKey()
	}
	return c.keys[name]
}

func (c *cluster) hostKeyOf(name string) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys[name] == nil || c.hide[name] {
		return nil, false
	}
	spki, err := x509.MarshalPKIXPublicKey(c.keys[name].Public())
	return spki, err == nil
}

// setHidden withdraws or restores a binding, and tells everyone.
func (c *cluster) setHidden(name string, hidden bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hide[name] = hidden
	for _, ch := range c.bind {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// addrOf is the address of the i-th node.
func addrOf(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i%250 + 1)}), 8310)
}

func (c *cluster) options(name string, addr netip.AddrPort, cert tls.Certificate) Options {
	c.epoch++
	c.mu.Lock()
	changed := make(chan struct{}, 1)
	c.bind[name] = changed
	c.mu.Unlock()
	log := zap.NewNop()
	if testing.Verbose() && strings.Contains(c.t.Name(), "Debug") {
		log = zaptest.NewLogger(c.t).Named(name)
	}
	return Options{
		Name: name, Zone: "zone-" + name, Version: "v1", ClusterID: testCluster, Advertise: addr,
		ServerTLS: c.ca.serverTLS(cert),
		ClientTLS: func(node string) *tls.Config { return c.ca.clientTLS(cert, node) },
		Identify:  identify, HostKey: c.hostKey(name), HostKeyOf: c.hostKeyOf, BindingsChanged: changed,
		ResetKey: [32]byte{1}, Epoch: c.epoch, Timing: Fast(), Now: time.Now, Log: log,
		DialTCP: func(ctx context.Context, node string, to netip.AddrPort) (net.Conn, error) {
			raw, err := c.net.dialFrom(ctx, addr, to)
			if err != nil {
				return nil, err
			}
			conn := tls.Client(raw, c.ca.clientTLS(cert, node))
			if err := conn.HandshakeContext(ctx); err != nil {
				_ = raw.Close()
				return nil, err
			}
			return conn, nil
		},
	}
}

// start runs a node; seeds name nodes that exist.
func (c *cluster) start(name string, addr netip.AddrPort, seeds ...string) *node {
	c.t.Helper()
	identity := name
	if other := c.as[name]; other != "" {
		identity = other
	}
	cert := c.ca.leaf(identity)
	o := c.options(name, addr, cert)
	o.Conn = c.net.packets(addr)
	var list []Seed
	for _, s := range seeds {
		list = append(list, Seed{Node: s, Addr: c.nodes[s].addr})
	}
	o.Seeds = func() []Seed { return append([]Seed(nil), list...) }
	if c.tune != nil {
		c.tune(&o)
	}
	m, err := New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{Membership: m, name: name, addr: addr, cert: cert, conn: o.Conn, cancel: cancel, ended: make(chan error, 1)}
	n.unserve = c.net.serve(addr, func(conn net.Conn) { c.serveTLS(ctx, n, conn) })
	go func() { n.ended <- m.Run(ctx) }()
	c.nodes[name] = n
	return n
}

func (c *cluster) serveTLS(ctx context.Context, n *node, raw net.Conn) {
	conn := tls.Server(raw, c.ca.serverTLS(n.cert))
	hctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := conn.HandshakeContext(hctx); err != nil {
		_ = raw.Close()
		return
	}
	peer, err := identify(conn.ConnectionState())
	if err != nil {
		_ = conn.Close()
		return
	}
	n.ServeTCP(ctx, conn, peer)
}

// startN runs nodes n0..n(k-1), each but the first seeded with the first.
func (c *cluster) startN(k int) {
	c.t.Helper()
	for i := range k {
		if i == 0 {
			c.start("n0", addrOf(0))
			continue
		}
		c.start(fmt.Sprintf("n%d", i), addrOf(i), "n0")
	}
}

// crash takes a node off the network at once, and ends it.
func (c *cluster) crash(name string) {
	n := c.nodes[name]
	delete(c.nodes, name)
	n.unserve()
	_ = n.conn.Close()
	c.stopNode(n)
}

func (c *cluster) stopNode(n *node) {
	n.cancel()
	n.unserve()
	if err := <-n.ended; err != nil {
		c.t.Errorf("%s ended with %v", n.name, err)
	}
	_ = n.conn.Close()
}

// stop ends every node, and lets memberlist's timers run out.
func (c *cluster) stop() {
	for name, n := range c.nodes {
		c.stopNode(n)
		delete(c.nodes, name)
	}
	if c.mem != nil {
		time.Sleep(time.Minute)
		synctest.Wait()
	}
}

// stateOf is how a node sees another; "" if not at all.
func (n *node) stateOf(name string) State {
	for _, m := range n.Members() {
		if m.Name == name {
			return m.State
		}
	}
	return ""
}

func (n *node) memberOf(name string) Member {
	for _, m := range n.Members() {
		if m.Name == name {
			return m
		}
	}
	return Member{}
}

// converged: every node sees exactly the running ones alive.
func (c *cluster) converged() bool {
	for _, n := range c.nodes {
		alive := 0
		for _, m := range n.Members() {
			if m.State == StateAlive {
				alive++
				if c.nodes[m.Name] == nil {
					return false
				}
			}
		}
		if alive != len(c.nodes) {
			return false
		}
	}
	return true
}

// eventually waits, in the bubble's time, until what holds, and returns how long that took.
func (c *cluster) eventually(limit time.Duration, what string, holds func() bool) time.Duration {
	c.t.Helper()
	start := time.Now()
	for !holds() {
		if time.Since(start) > limit {
			c.t.Fatalf("after %v still not: %s\n%s", limit, what, c.dump())
		}
		time.Sleep(50 * time.Millisecond)
	}
	return time.Since(start)
}

// never watches that something does not happen for a while.
func (c *cluster) never(limit time.Duration, what string, happens func() bool) {
	c.t.Helper()
	for start := time.Now(); time.Since(start) < limit; time.Sleep(200 * time.Millisecond) {
		if happens() {
			c.t.Fatalf("after %v: %s\n%s", time.Since(start), what, c.dump())
		}
	}
}

// anyGone reports whether any running node holds another running one dead or left.
func (c *cluster) anyGone() bool {
	for _, n := range c.nodes {
		for _, m := range n.Members() {
			if c.nodes[m.Name] != nil && m.State.Gone() {
				return true
			}
		}
	}
	return false
}

func (c *cluster) dump() string {
	var b strings.Builder
	for _, n := range c.nodes {
		fmt.Fprintf(&b, "%s:", n.name)
		for _, m := range n.Members() {
			fmt.Fprintf(&b, " %s=%s(%s,%s)", m.Name, m.State, m.Addr, m.Path)
		}
		fmt.Fprintf(&b, " dropped=%d\n", n.Dropped())
	}
	return b.String()
}

// inBubble runs a cluster test in virtual time on the in-memory network.
func inBubble(t *testing.T, test func(t *testing.T, c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.stop()
		test(t, c)
	})
}
