package security

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/transport"
)

var meshProtos = []string{transport.ALPNRPC, transport.ALPNRaft, transport.ALPNJoin, transport.ALPNRekey}

// Two agents of a cluster connect, and each knows who the other one is.
func TestMutualTLS(t *testing.T) {
	w := newWorld(t, testTD)
	a1, a2 := w.first(), w.agent("a2")
	for _, node := range []string{"a1", ""} {
		s, c := connect(t, a1.ServerTLS(meshProtos...), a2.ClientTLS(node, transport.ALPNRaft))
		if s.err != nil || c.err != nil {
			t.Fatalf("node %q: server %v, client %v", node, s.err, c.err)
		}
		for _, side := range []struct {
			conn *tls.Conn
			at   *Source
			want transport.Peer
		}{
			{s.conn, a1, transport.Peer{ID: a2.ID(), Node: "a2"}},
			{c.conn, a2, transport.Peer{ID: a1.ID(), Node: "a1"}},
		} {
			cs := side.conn.ConnectionState()
			if got, err := side.at.Identify(cs); err != nil || got != side.want {
				t.Errorf("Identify = %v, %v; want %v", got, err, side.want)
			}
			if cs.Version != tls.VersionTLS13 || cs.NegotiatedProtocol != transport.ALPNRaft {
				t.Errorf("version %x, protocol %q", cs.Version, cs.NegotiatedProtocol)
			}
		}
	}
}

// showing is a client of src that shows cert instead of its own.
func showing(src *Source, cert *tls.Certificate) *tls.Config {
	c := src.ClientTLS("", transport.ALPNRPC)
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	return c
}

// refusal is a certificate that peers must refuse, and how to recognise the reason.
type refusal struct {
	cert *tls.Certificate
	is   func(error) bool
}

// refusals are certificates of w's agent a2 with one thing wrong, and those of other clusters.
func refusals(t *testing.T, w *world, a2 *Source, stranger *Host) map[string]refusal {
	t.Helper()
	other := newWorld(t, testTD)                                                    // same name, another root
	foreign := newWorld(t, spiffeid.RequireTrustDomainFromString("elsewhere.test")) // another name as well
	a2host := a2.host
	uri := func(s string) func(*x509.Certificate) {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return func(c *x509.Certificate) { c.URIs = []*url.URL{u} }
	}
	issuer := w.gen.Authority.current.Load()
	is := func(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }
	var domain *TrustDomainError
	var life *ValidityError
	return map[string]refusal{
		"other root": {other.agent("a2").leaf.Load(), is(ErrUnknownRoot)},
		"other trust domain": {foreign.agent("a2").leaf.Load(), func(err error) bool {
			return errors.As(err, &domain) && strings.Contains(err.Error(), "of trust domain elsewhere.test, not example.test")
		}},
		"expired": {w.forge(a2host, "a2", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-90 * time.Minute) }),
			func(err error) bool {
				return errors.As(err, &life) && life.Expired() && strings.Contains(err.Error(), "expired 1h30m")
			}},
		"not valid yet": {w.forge(a2host, "a2", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }),
			func(err error) bool { return errors.As(err, &life) && !life.Expired() }},
		"without a path": {w.forge(a2host, "a2", uri("spiffe://example.test")), is(ErrNotAgent)},
		"workload":       {w.forge(a2host, "a2", uri("spiffe://example.test/svc/web")), is(ErrNotAgent)},
		// At the server, which lets operators in over RPC, it is the usage that gives it away; see TestOperatorsAtEveryDoor.
		"operator": {w.forge(a2host, "a2", uri("spiffe://example.test/parley/operator/eve")),
			func(err error) bool { return errors.Is(err, ErrNotLeaf) || errors.Is(err, ErrNotAgent) }},
		"agent with more path":   {w.forge(a2host, "a2", uri("spiffe://example.test/parley/agent/a2/x")), is(ErrNotAgent)},
		"agent without name":     {w.forge(a2host, "a2", uri("spiffe://example.test/parley/agent")), is(ErrNotAgent)},
		"upper case node":        {w.forge(a2host, "a2", uri("spiffe://example.test/parley/agent/A2")), is(ErrNotAgent)},
		"not a SPIFFE ID":        {w.forge(a2host, "a2", uri("https://example.test/parley/agent/a2")), is(ErrNotLeaf)},
		"two URIs":               {w.forge(a2host, "a2", func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }), is(ErrNotLeaf)},
		"no URI":                 {w.forge(a2host, "a2", func(c *x509.Certificate) { c.URIs = nil }), is(ErrNotLeaf)},
		"server usage only":      {w.forge(a2host, "a2", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), is(ErrNotLeaf)},
		"may sign":               {w.forge(a2host, "a2", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), is(ErrNotLeaf)},
		"CA flag":                {w.forge(a2host, "a2", func(c *x509.Certificate) { c.IsCA = true }), is(ErrNotLeaf)},
		"issuer as leaf":         {&tls.Certificate{Certificate: [][]byte{issuer.cert.Raw}, PrivateKey: issuer.key}, is(ErrNotLeaf)},
		"self-signed":            {selfSigned(t, a2host), is(ErrUnknownRoot)},
		"issuer left out":        {&tls.Certificate{Certificate: a2.leaf.Load().Certificate[:1], PrivateKey: a2.leaf.Load().PrivateKey}, is(ErrUnknownRoot)},
		"no host signature":      {w.forge(a2host, "a2", func(c *x509.Certificate) { c.ExtraExtensions = nil }), hostSig},
		"broken host signature":  {w.forge(a2host, "a2", func(c *x509.Certificate) { c.ExtraExtensions[0].Value[5] ^= 1 }), hostSig},
		"huge host signature":    {w.forge(a2host, "a2", func(c *x509.Certificate) { c.ExtraExtensions[0].Value = make([]byte, 4096) }), hostSig},
		"stranger's signature":   {w.forge(stranger, "a2", func(*x509.Certificate) {}), hostSig},
		"signature for less":     {w.forge(a2host, "a2", func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) }), hostSig},
		"signature for another":  {w.forge(a2host, "a2", uri("spiffe://example.test/parley/agent/a1")), hostSig},
		"copied signature":       {w.forge(stranger, "a2", copyHostSignature(a2.Leaf())), hostSig},
		"unknown node, no proof": {w.forge(stranger, "a9", func(c *x509.Certificate) { c.ExtraExtensions = nil }), hostSig},
	}
}

// Each certificate that is not a current one of an agent of this cluster is refused by a server and,
// by the same judge, by a client; the error says which reason it was.
func TestPeersRefused(t *testing.T) {
	w := newWorld(t, testTD)
	a1, a2 := w.first(), w.agent("a2")
	stranger, err := CreateHost(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range refusals(t, w, a2, stranger) {
		t.Run(name, func(t *testing.T) {
			s, c := connect(t, a1.ServerTLS(meshProtos...), showing(a2, tc.cert))
			if s.err == nil || !tc.is(s.err) {
				t.Errorf("server: %v", s.err)
			}
			if c.err == nil {
				t.Error("the client got an answer")
			}
			certs := make([]*x509.Certificate, len(tc.cert.Certificate))
			for i, der := range tc.cert.Certificate {
				certs[i], _ = x509.ParseCertificate(der)
			}
			if _, err := a1.verifier().peer(certs, ""); err == nil || !tc.is(err) {
				t.Errorf("client's judge: %v", err)
			}
		})
	}
	// Controls: the untouched forgery is as good as a2's own, and a node whose binding is unknown yet passes.
	for _, cert := range []*tls.Certificate{
		w.forge(a2.host, "a2", func(*x509.Certificate) {}),
		w.forge(stranger, "a9", func(*x509.Certificate) {}),
	} {
		if s, c := connect(t, a1.ServerTLS(meshProtos...), showing(a2, cert)); s.err != nil || c.err != nil {
			t.Errorf("control %s: server %v, client %v", cert.Leaf.URIs[0], s.err, c.err)
		}
	}
}

func copyHostSignature(from *x509.Certificate) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		i := slices.IndexFunc(from.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(hostSignatureOID) })
		c.ExtraExtensions = []pkix.Extension{{Id: hostSignatureOID, Value: from.Extensions[i].Value}}
	}
}

func selfSigned(t *testing.T, host *Host) *tls.Certificate {
	t.Helper()
	key := testKey(t)
	req, err := NewLeafRequest(host, "a2", testTD, &key.PublicKey, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	id, err := AgentID(testTD, "a2")
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := leafTemplate(id, &key.PublicKey, time.Now(), req.NotAfter, hostSignature{HostKeyHash: keyHash(host.HostKey()), Signature: req.HostSignature})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := sign(tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// An issuer that has expired is named as the reason; the library alone would say "unknown authority".
func TestExpiredIssuerIsNamed(t *testing.T) {
	w := newWorld(t, testTD)
	v := w.first().verifier()
	a2 := w.agent("a2")
	v.now = time.Now().Add(IssuerTTL + time.Hour)
	long := w.forge(a2.host, "a2", func(c *x509.Certificate) { c.NotAfter = v.now.Add(time.Hour) })
	_, err := v.peer([]*x509.Certificate{long.Leaf, w.gen.Authority.current.Load().cert}, "")
	var life *ValidityError
	if !errors.As(err, &life) || life.Kind != "issuer" {
		t.Errorf("got %v", err)
	}
}

// A dialler gets the node it asked for or an error that names both; a denied identity gets nothing.
func TestWrongNodeAndDenied(t *testing.T) {
	w := newWorld(t, testTD)
	a1, a2 := w.first(), w.agent("a2")
	s, c := connect(t, a1.ServerTLS(meshProtos...), a2.ClientTLS("a3", transport.ALPNRPC))
	var wrong *WrongNodeError
	if !errors.As(c.err, &wrong) || wrong.Got != "a1" || wrong.Want != "a3" || s.err == nil {
		t.Errorf("client %v, server %v", c.err, s.err)
	}
	a1.denied = func(id spiffeid.ID) bool { return id == a2.ID() }
	if s, _ := connect(t, a1.ServerTLS(meshProtos...), a2.ClientTLS("a1", transport.ALPNRPC)); !errors.Is(s.err, ErrDenied) {
		t.Errorf("denied: %v", s.err)
	}
}

// A chain is read up to its limit and no further.
func TestChainLimit(t *testing.T) {
	w := newWorld(t, testTD)
	a1, a2 := w.first(), w.agent("a2")
	chain := a2.leaf.Load().Certificate
	for len(chain) < maxPeerCerts {
		chain = append(slices.Clone(chain), w.root.Cert.Raw)
	}
	for extra, ok := range []bool{true, false} {
		cert := *a2.leaf.Load()
		cert.Certificate = append(slices.Clone(chain), slices.Repeat([][]byte{w.root.Cert.Raw}, extra)...)
		s, _ := connect(t, a1.ServerTLS(meshProtos...), showing(a2, &cert))
		if (s.err == nil) != ok {
			t.Errorf("%d certificates: %v", len(cert.Certificate), s.err)
		}
	}
}

// The mesh port refuses what is not the mesh: TLS 1.2, no protocol, an unknown one, no certificate.
func TestServerRefusesOtherClients(t *testing.T) {
	w := newWorld(t, testTD)
	a1, a2 := w.first(), w.agent("a2")
	for name, tc := range map[string]struct {
		change func(*tls.Config)
		want   string
	}{
		"TLS 1.2":          {func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, "version"},
		"no ALPN":          {func(c *tls.Config) { c.NextProtos = nil }, ErrNoALPN.Error()},
		"unknown ALPN":     {func(c *tls.Config) { c.NextProtos = []string{"h2"} }, "unsupported application protocols"},
		"unserved ALPN":    {func(c *tls.Config) { c.NextProtos = []string{transport.ALPNGossip} }, "unsupported application protocols"},
		"no certificate":   {func(c *tls.Config) { c.GetClientCertificate = nil }, "certificate"},
		"join beside raft": {func(c *tls.Config) { c.GetClientCertificate = nil; c.NextProtos = meshProtos }, "certificate"},
	} {
		client := a2.ClientTLS("", transport.ALPNRPC)
		client.VerifyConnection = nil // this test is about the server
		tc.change(client)
		s, c := connect(t, a1.ServerTLS(meshProtos...), client)
		if s.err == nil || !strings.Contains(s.err.Error(), tc.want) || c.err == nil {
			t.Errorf("%s: server %v, client %v", name, s.err, c.err)
		}
	}
	// A joiner has no certificate and reaches the join protocol, where it is served.
	joiner := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{transport.ALPNJoin}}
	s, c := connect(t, a1.ServerTLS(meshProtos...), joiner)
	if s.err != nil || c.err != nil {
		t.Fatalf("joiner: server %v, client %v", s.err, c.err)
	}
	if peer, err := a1.Identify(s.conn.ConnectionState()); err != nil || peer != (transport.Peer{}) {
		t.Errorf("joiner is %v, %v", peer, err)
	}
	if s, _ := connect(t, a1.ServerTLS(transport.ALPNRPC), joiner); s.err == nil {
		t.Error("a joiner was let in where join is not served")
	}
	noProtocol := a2.ClientTLS("", transport.ALPNRPC)
	noProtocol.NextProtos, noProtocol.VerifyConnection = nil, nil
	if s, _ := connect(t, a1.ServerTLS(transport.ALPNJoin), noProtocol); !errors.Is(s.err, ErrNoALPN) {
		t.Errorf("no protocol where only join is served: %v", s.err)
	}
	for _, cs := range []tls.ConnectionState{{}, {HandshakeComplete: true, NegotiatedProtocol: transport.ALPNRPC}} {
		if _, err := a1.Identify(cs); err == nil {
			t.Errorf("Identify of %+v", cs)
		}
	}
}

// A client refuses a server that answers without the protocol it asked for.
func TestClientWantsItsProtocol(t *testing.T) {
	w := newWorld(t, testTD)
	a1, a2 := w.first(), w.agent("a2")
	server := a1.serverTLS(nowhere)
	if _, c := connect(t, server, a2.ClientTLS("a1", transport.ALPNRPC)); !errors.Is(c.err, ErrNoALPN) {
		t.Errorf("got %v", c.err)
	}
}

// A session is never resumed. The control shows why: with tickets on, the second handshake resumes
// and VerifyPeerCertificate, where others put their check, does not run.
func TestNoSessionResumption(t *testing.T) {
	w := newWorld(t, testTD)
	a1, a2 := w.first(), w.agent("a2")
	twice := func(server *tls.Config) (resumed bool) {
		client := a2.ClientTLS("", transport.ALPNRPC)
		client.SessionTicketsDisabled = false
		client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		client.ServerName = "a1"
		for range 2 {
			s, c := connect(t, server, client)
			if s.err != nil || c.err != nil {
				t.Fatalf("server %v, client %v", s.err, c.err)
			}
			resumed = s.conn.ConnectionState().DidResume
		}
		return resumed
	}
	if twice(a1.ServerTLS(meshProtos...)) || twice(a1.HTTPSTLSForTest(transport.ALPNRPC)) {
		t.Error("a session was resumed")
	}
	var checked atomic.Int32
	weak := a1.baseTLS()
	weak.SessionTicketsDisabled = false
	weak.NextProtos = []string{transport.ALPNRPC}
	weak.ClientAuth = tls.RequireAnyClientCert
	weak.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { checked.Add(1); return nil }
	if !twice(weak) || checked.Load() != 1 {
		t.Errorf("control: VerifyPeerCertificate ran %d times", checked.Load())
	}
}

// HTTPSTLSForTest is the https listener's configuration with one more protocol.
func (s *Source) HTTPSTLSForTest(proto string) *tls.Config {
	c := s.HTTPSTLS()
	c.NextProtos = append(c.NextProtos, proto)
	return c
}

// The https listener wants an agent's certificate; a client without ALPN is an HTTP/1.1 client.
func TestHTTPSTLS(t *testing.T) {
	w := newWorld(t, testTD)
	a1, a2 := w.first(), w.agent("a2")
	for _, protos := range [][]string{{"h2"}, {"http/1.1"}, nil} {
		client := a2.ClientTLS("a1", "h2")
		client.NextProtos = protos
		client.VerifyConnection = func(cs tls.ConnectionState) error {
			_, err := a2.verifier().peer(cs.PeerCertificates, "a1")
			return err
		}
		s, c := connect(t, a1.HTTPSTLS(), client)
		if s.err != nil || c.err != nil {
			t.Fatalf("%v: server %v, client %v", protos, s.err, c.err)
		}
		if peer, err := a1.Identify(s.conn.ConnectionState()); err != nil || peer.Node != "a2" {
			t.Errorf("%v: %v, %v", protos, peer, err)
		}
	}
	nobody := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
	if s, _ := connect(t, a1.HTTPSTLS(), nobody); s.err == nil {
		t.Error("a client without certificate was served")
	}
}

// A certificate and a bundle that change take effect at the next handshake, and a connection that was
// open before goes on.
func TestRotationKeepsConnections(t *testing.T) {
	w := newWorld(t, testTD)
	a1, a2 := w.first(), w.agent("a2")
	server := a1.ServerTLS(meshProtos...)
	client := a2.ClientTLS("a1", transport.ALPNRPC)
	s, c := connect(t, server, client)
	if s.err != nil || c.err != nil {
		t.Fatalf("server %v, client %v", s.err, c.err)
	}

	second, err := NewRoot(w.td, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	both := [][]byte{w.root.Cert.Raw, second.Cert.Raw}
	if err := errors.Join(a1.SetBundle(2, both), w.gen.Authority.Renew(second, time.Now())); err != nil {
		t.Fatal(err)
	}
	key, chain := w.leaf(a1.host, "a1", time.Hour)
	if err := a1.SetLeaf(chain, key); err != nil {
		t.Fatal(err)
	}
	stillWorks(t, s.conn, c.conn)
	if _, c := connect(t, server, client); !errors.Is(c.err, ErrUnknownRoot) {
		t.Errorf("a2 without the new bundle: %v", c.err)
	}
	if err := a2.SetBundle(2, both); err != nil {
		t.Fatal(err)
	}
	s2, c2 := connect(t, server, client)
	if s2.err != nil || c2.err != nil {
		t.Fatalf("after rotation: server %v, client %v", s2.err, c2.err)
	}
	was, is := c.conn.ConnectionState().PeerCertificates[0], c2.conn.ConnectionState().PeerCertificates[0]
	if was.SerialNumber.Cmp(is.SerialNumber) == 0 || !is.Equal(a1.Leaf()) {
		t.Error("the new handshake shows the old certificate")
	}
	stillWorks(t, s.conn, c.conn)
	select {
	case <-a1.Changed():
	default:
		t.Error("Changed has no signal")
	}
}

// The same judge sits behind QUIC: an agent connects, one of another cluster does not.
func TestQUIC(t *testing.T) {
	w, other := newWorld(t, testTD), newWorld(t, testTD)
	a1, a2, alien := w.first(), w.agent("a2"), other.agent("a2")
	l, err := quic.ListenAddr("127.0.0.1:0", a1.QUICServerTLS(transport.ALPNGossip), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	peers := make(chan transport.Peer, 1)
	go func() {
		for {
			conn, err := l.Accept(ctx)
			if err != nil {
				return
			}
			peer, err := a1.Identify(conn.ConnectionState().TLS)
			if err == nil {
				peers <- peer
			}
		}
	}()
	dial := func(c *tls.Config) error {
		conn, err := quic.DialAddr(ctx, l.Addr().String(), c, nil)
		if err != nil {
			return err
		}
		// The server's refusal arrives after the client's handshake.
		stream, err := conn.OpenStreamSync(ctx)
		if err == nil {
			_, err = stream.Write([]byte("x"))
		}
		select {
		case <-conn.Context().Done():
			return context.Cause(conn.Context())
		case peer := <-peers:
			if peer.Node != "a2" {
				t.Errorf("peer is %v", peer)
			}
		}
		return errors.Join(err, conn.CloseWithError(0, ""))
	}
	if err := dial(a2.ClientTLS("a1", transport.ALPNGossip)); err != nil {
		t.Errorf("agent: %v", err)
	}
	trusting := alien.ClientTLS("", transport.ALPNGossip)
	trusting.VerifyConnection = nil
	for name, c := range map[string]*tls.Config{
		"other cluster": trusting,
		"wrong node":    a2.ClientTLS("a3", transport.ALPNGossip),
		"other ALPN":    a2.ClientTLS("a1", transport.ALPNJoin),
	} {
		if err := dial(c); err == nil {
			t.Errorf("%s: connected", name)
		}
	}
}

// A source refuses a certificate that peers would refuse and keeps the one it has.
func TestSetLeafRefuses(t *testing.T) {
	w, other := newWorld(t, testTD), newWorld(t, testTD)
	a1 := w.first()
	before := a1.Leaf()
	stranger, err := CreateHost(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	key, chain := w.leaf(a1.host, "a1", time.Hour)
	otherNodeKey, otherNode := w.leaf(a1.host, "a2", time.Hour)
	otherRootKey, otherRoot := other.leaf(a1.host, "a1", time.Hour)
	strangerKey, strangers := w.leaf(stranger, "a1", time.Hour)
	for name, tc := range map[string]struct {
		chain [][]byte
		key   *ecdsa.PrivateKey
	}{
		"other key":  {chain, testKey(t)},
		"other node": {otherNode, otherNodeKey},
		"other root": {otherRoot, otherRootKey},
		"other host": {strangers, strangerKey},
		"empty":      {nil, key},
		"garbage":    {[][]byte{{1, 2, 3}}, key},
		"no issuer":  {chain[:1], key},
	} {
		if err := a1.SetLeaf(tc.chain, tc.key); err == nil || !a1.Leaf().Equal(before) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := a1.SetLeaf(chain, key); err != nil || a1.Leaf().Equal(before) {
		t.Errorf("control: %v", err)
	}
	again := w.source(w.dir, "a1", a1.host)
	if !again.Leaf().Equal(a1.Leaf()) {
		t.Error("after a restart the certificate is another one")
	}
	if _, err := NewSource(SourceOptions{Dir: w.dir, TrustDomain: w.td, Node: "a2", Host: a1.host, Now: time.Now}); err == nil {
		t.Error("a2 started with the identity of a1")
	}
}

// The bundle only moves forward, and survives a restart with its number.
func TestSetBundle(t *testing.T) {
	w := newWorld(t, testTD)
	a1 := w.first()
	first := w.gen.Roots
	second, err := NewRoot(w.td, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := NewRoot(spiffeid.RequireTrustDomainFromString("elsewhere.test"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	both := [][]byte{first[0], second.Cert.Raw}
	if err := a1.SetBundle(5, both); err != nil {
		t.Fatal(err)
	}
	if err := a1.SetBundle(5, both); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := a1.SetBundle(4, first); !errors.Is(err, ErrBundleOlder) {
		t.Errorf("older: %v", err)
	}
	issuer := w.gen.Authority.current.Load().cert.Raw
	for name, roots := range map[string][][]byte{
		"same number, other roots": first,
		"empty":                    nil,
		"other trust domain":       {elsewhere.Cert.Raw},
		"leaf":                     {a1.Leaf().Raw},
		"intermediate":             {issuer},
		"too many":                 slices.Repeat(first, MaxRoots+1),
		"garbage":                  {{1}},
	} {
		if err := a1.SetBundle(5, roots); err == nil {
			t.Errorf("%s at 5: accepted", name)
		}
		if name != "same number, other roots" && a1.SetBundle(6, roots) == nil {
			t.Errorf("%s at 6: accepted", name)
		}
	}
	if err := a1.SetBundle(6, slices.Repeat(first, MaxRoots)); err != nil {
		t.Errorf("%d roots: %v", MaxRoots, err)
	}
	seq, roots := w.source(w.dir, "a1", a1.host).Bundle()
	if seq != 6 || len(roots) != MaxRoots {
		t.Errorf("after a restart: sequence %d, %d roots", seq, len(roots))
	}
}
