package security

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/transport"
)

func (w *world) operatorKey(name string) ([32]byte, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	hash, ok := w.operators[name]
	return hash, ok
}

func (w *world) bindOperator(name string, key *ecdsa.PublicKey) {
	w.t.Helper()
	spki, err := publicKeyBytes(key)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.operators[name] = sha256.Sum256(spki)
}

func (w *world) removeOperator(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.operators, name)
}

// operatorCSR is what a client sends.
func operatorCSR(t *testing.T, key any, uris ...string) []byte {
	t.Helper()
	var list []*url.URL
	for _, text := range uris {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, u)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: list}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// operator adds one to the cluster, as the API does, and returns its certificate.
func (w *world) operator(name string) *tls.Certificate {
	w.t.Helper()
	key := testKey(w.t)
	req, err := ParseOperatorRequest(w.td, operatorCSR(w.t, key, "spiffe://"+w.td.Name()+"/parley/operator/"+name))
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.operators[req.Name] = req.KeyHash
	w.mu.Unlock()
	chain, err := w.gen.Authority.SignOperator(req, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		w.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}
}

// forgeOperator signs, with the cluster's issuer, a certificate of an operator whose template change has edited.
func (w *world) forgeOperator(name string, key *ecdsa.PrivateKey, change func(*x509.Certificate)) *tls.Certificate {
	w.t.Helper()
	id, err := OperatorID(w.td, name)
	if err != nil {
		w.t.Fatal(err)
	}
	now := time.Now()
	tmpl, err := operatorProfile.template(id, &key.PublicKey, now, now.Add(time.Hour))
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

// listenerOf is one listener of an agent, or one protocol of its mesh port.
type listenerOf struct {
	name      string
	server    func(*Source) *tls.Config
	alpn      string
	operators bool // lets them in
}

var tcpDoors = []listenerOf{
	{"mesh rpc", meshServer, transport.ALPNRPC, true},
	{"mesh raft", meshServer, transport.ALPNRaft, false},
	{"mesh gossip", meshServer, transport.ALPNGossip, false},
	{"https h2", (*Source).HTTPSTLS, "h2", true},
	{"https http/1.1", (*Source).HTTPSTLS, "http/1.1", true},
	{"https without a protocol", (*Source).HTTPSTLS, "", true},
}

func meshServer(s *Source) *tls.Config {
	return s.ServerTLS(transport.ALPNRPC, transport.ALPNRaft, transport.ALPNJoin, transport.ALPNRekey, transport.ALPNGossip)
}

// knock shows cert at a door of judge.
func knock(t *testing.T, judge *Source, d listenerOf, cert *tls.Certificate) (s endpoint) {
	t.Helper()
	client := &tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }}
	if d.alpn != "" {
		client.NextProtos = []string{d.alpn}
	}
	s, _ = connect(t, d.server(judge), client)
	return s
}

// An operator is let in over https and the mesh's RPC, by nothing but a current certificate for the key that the applied
// state binds to its name; and nowhere else at all. The first case is the control.
func TestOperatorsAtEveryDoor(t *testing.T) {
	w := newWorld(t, testTD)
	other := newWorld(t, testTD)
	foreign := newWorld(t, spiffeid.RequireTrustDomainFromString("elsewhere.test"))
	judge, agent := w.first(), w.agent("a2")
	eve := w.operator("eve")
	key := eve.PrivateKey.(*ecdsa.PrivateKey)
	unknown := w.operator("unknown")
	w.removeOperator("unknown")
	rebound := w.operator("rebound")
	w.bindOperator("rebound", &testKey(t).PublicKey)
	agentsKey := agent.leaf.Load().PrivateKey.(*ecdsa.PrivateKey)
	w.bindOperator("a2", &agentsKey.PublicKey)
	elsewhere := foreign.operator("eve")
	edited := func(change func(*x509.Certificate)) *tls.Certificate { return w.forgeOperator("eve", key, change) }
	uri := func(text string) func(*x509.Certificate) {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return func(c *x509.Certificate) { c.URIs = []*url.URL{u} }
	}
	bothWays := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	is := func(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }
	var life *ValidityError
	var domain *TrustDomainError

	for name, test := range map[string]struct {
		cert *tls.Certificate
		is   func(error) bool // nil: let in where operators are
	}{
		"control":                            {eve, nil},
		"control signed":                     {edited(func(*x509.Certificate) {}), nil},
		"removed":                            {unknown, is(ErrOperatorUnknown)},
		"never added":                        {w.forgeOperator("nobody", key, func(*x509.Certificate) {}), is(ErrOperatorUnknown)},
		"bound anew":                         {rebound, is(ErrOperatorKey)},
		"other key":                          {w.forgeOperator("eve", testKey(t), func(*x509.Certificate) {}), is(ErrOperatorKey)},
		"agent's key and name as operator's": {w.forgeOperator("a2", testKey(t), func(*x509.Certificate) {}), is(ErrOperatorKey)},
		"expired": {edited(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
			func(err error) bool { return errors.As(err, &life) && life.Expired() }},
		"not valid yet": {edited(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }),
			func(err error) bool { return errors.As(err, &life) && !life.Expired() }},
		"other trust domain": {elsewhere, func(err error) bool { return errors.As(err, &domain) }},
		"other root":         {other.forgeOperator("eve", key, func(*x509.Certificate) {}), is(ErrUnknownRoot)},
		"self-signed":        {selfSignedOperator(t, key), is(ErrUnknownRoot)},
		"as an agent":        {edited(uri("spiffe://example.test/parley/agent/a2")), is(ErrNotLeaf)},
		"as an agent for both ends": {edited(func(c *x509.Certificate) { uri("spiffe://example.test/parley/agent/a2")(c); c.ExtKeyUsage = bothWays }),
			is(ErrHostSignature)},
		"as an agent of its own name": {edited(func(c *x509.Certificate) { uri("spiffe://example.test/parley/agent/eve")(c); c.ExtKeyUsage = bothWays }),
			is(ErrHostSignature)},
		"an agent as operator": {w.forge(agent.host, "a2", uri("spiffe://example.test/parley/operator/a2")), is(ErrNotLeaf)},
		"may serve":            {edited(func(c *x509.Certificate) { c.ExtKeyUsage = bothWays }), is(ErrNotLeaf)},
		"may do anything":      {edited(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), is(ErrNotLeaf)},
		"may sign":             {edited(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), is(ErrNotLeaf)},
		"CA flag":              {edited(func(c *x509.Certificate) { c.IsCA = true }), is(ErrNotLeaf)},
		"more path":            {edited(uri("spiffe://example.test/parley/operator/eve/x")), is(ErrNotOperator)},
		"no name":              {edited(uri("spiffe://example.test/parley/operator")), is(ErrNotLeaf)}, // judged as an agent's
		"upper case":           {edited(uri("spiffe://example.test/parley/operator/Eve")), is(ErrNotOperator)},
		"workload":             {edited(uri("spiffe://example.test/svc/web")), is(ErrNotLeaf)},
		"two URIs":             {edited(func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }), is(ErrNotLeaf)},
		"issuer left out":      {&tls.Certificate{Certificate: eve.Certificate[:1], PrivateKey: key}, is(ErrUnknownRoot)},
		"long chain": {&tls.Certificate{Certificate: append(make([][]byte, 0, maxPeerCerts+1), repeat(eve.Certificate[0], maxPeerCerts+1)...), PrivateKey: key},
			is(ErrNotLeaf)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, d := range tcpDoors {
				s := knock(t, judge, d, test.cert)
				if test.is == nil && d.operators {
					peer, err := judge.Identify(s.conn.ConnectionState())
					if s.err != nil || err != nil || peer != (transport.Peer{ID: mustOperatorID(t, "eve"), Operator: "eve"}) {
						t.Errorf("%s: %v; %+v, %v", d.name, s.err, peer, err)
					}
					continue
				}
				if s.err == nil {
					t.Errorf("%s let it in", d.name)
				} else if test.is != nil && d.operators && !test.is(s.err) {
					t.Errorf("%s: %v", d.name, s.err)
				}
			}
			if err := knockQUIC(t, judge, test.cert); err == nil {
				t.Error("gossip over UDP let it in")
			}
			served := &tls.Config{Certificates: []tls.Certificate{*test.cert}, NextProtos: []string{transport.ALPNRPC}, ClientAuth: tls.RequireAnyClientCert}
			if _, c := connect(t, served, judge.ClientTLS("", transport.ALPNRPC)); c.err == nil {
				t.Error("an agent took it for an agent that serves")
			}
		})
	}
	// The control of the doors that nobody passes above: an agent does.
	for _, d := range tcpDoors {
		if s := knock(t, judge, d, agent.leaf.Load()); s.err != nil {
			t.Errorf("%s refuses an agent: %v", d.name, s.err)
		}
	}
	if err := knockQUIC(t, judge, agent.leaf.Load()); err != nil {
		t.Errorf("gossip over UDP refuses an agent: %v", err)
	}
	// On the join protocol nobody is asked for a certificate, so that an operator is what any joiner is.
	s := knock(t, judge, listenerOf{"join", meshServer, transport.ALPNJoin, false}, eve)
	if peer, err := judge.Identify(s.conn.ConnectionState()); s.err != nil || err != nil || peer != (transport.Peer{}) {
		t.Errorf("join: %v; %+v, %v", s.err, peer, err)
	}
}

func repeat(der []byte, n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = der
	}
	return all
}

func mustOperatorID(t *testing.T, name string) spiffeid.ID {
	t.Helper()
	id, err := OperatorID(testTD, name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func selfSignedOperator(t *testing.T, key *ecdsa.PrivateKey) *tls.Certificate {
	t.Helper()
	tmpl, err := operatorProfile.template(mustOperatorID(t, "eve"), &key.PublicKey, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := sign(tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// knockQUIC shows cert at the mesh's UDP port.
func knockQUIC(t *testing.T, judge *Source, cert *tls.Certificate) error {
	t.Helper()
	l, err := quic.ListenAddr("127.0.0.1:0", judge.QUICServerTLS(transport.ALPNGossip), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	accepted := make(chan struct{})
	go func() {
		if conn, err := l.Accept(ctx); err == nil {
			close(accepted)
			<-conn.Context().Done()
		}
	}()
	conn, err := quic.DialAddr(ctx, l.Addr().String(), &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{transport.ALPNGossip}, MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
	}, nil)
	if err != nil {
		return err
	}
	defer conn.CloseWithError(0, "") //nolint:errcheck // the test is over
	select {
	case <-accepted:
		return nil
	case <-conn.Context().Done():
		return context.Cause(conn.Context())
	}
}

// An agent that is told of no operators lets none in.
func TestNoOperatorsUnlessTold(t *testing.T) {
	w := newWorld(t, testTD)
	eve := w.operator("eve")
	judge := w.first()
	if s := knock(t, judge, tcpDoors[0], eve); s.err != nil {
		t.Fatalf("control: %v", s.err)
	}
	judge.operatorKey = nil
	if s := knock(t, judge, tcpDoors[0], eve); !errors.Is(s.err, ErrOperatorUnknown) {
		t.Errorf("got %v", s.err)
	}
}

// An operator's open connection stands until its key is bound no more, or its certificate or its root ends.
func TestOperatorStanding(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(w *world, judge *Source)
		is     func(error) bool // nil: it stands
	}{
		{"nothing changed", func(*world, *Source) {}, nil},
		{"another was removed", func(w *world, _ *Source) { w.removeOperator("adam") }, nil},
		{"removed", func(w *world, _ *Source) { w.removeOperator("eve") }, func(err error) bool { return errors.Is(err, ErrOperatorUnknown) }},
		{"bound anew", func(w *world, _ *Source) { w.bindOperator("eve", &testKey(w.t).PublicKey) },
			func(err error) bool { return errors.Is(err, ErrOperatorKey) }},
		{"almost at the end", func(_ *world, judge *Source) {
			judge.now = func() time.Time { return time.Now().Add(OperatorTTL - time.Minute) }
		}, nil},
		{"the certificate ended", func(_ *world, judge *Source) {
			judge.now = func() time.Time { return time.Now().Add(OperatorTTL + time.Second) }
		},
			func(err error) bool { var life *ValidityError; return errors.As(err, &life) && life.Expired() }},
		{"the root went", func(w *world, judge *Source) {
			if err := judge.SetBundle(w.gen.BundleSequence+1, newWorld(w.t, testTD).gen.Roots); err != nil {
				w.t.Fatal(err)
			}
		}, func(err error) bool { return errors.Is(err, ErrUnknownRoot) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, testTD)
			judge, eve := w.first(), w.operator("eve")
			w.operator("adam")
			s := knock(t, judge, tcpDoors[0], eve)
			if s.err != nil {
				t.Fatal(s.err)
			}
			standing := judge.Standing(s.conn.ConnectionState())
			if err := standing.Check(); err != nil {
				t.Fatalf("before anything changed: %v", err)
			}
			test.change(w, judge)
			for range 2 { // the answer must not depend on having been asked
				err := standing.Check()
				if test.is == nil && err != nil || test.is != nil && (err == nil || !test.is(err)) {
					t.Errorf("Check: %v", err)
				}
			}
		})
	}
}

// A certificate request says for whom it is, proves its key, and is small.
func TestParseOperatorRequest(t *testing.T) {
	key := testKey(t)
	good := operatorCSR(t, key, "spiffe://example.test/parley/operator/eve")
	req, err := ParseOperatorRequest(testTD, good)
	spki, _ := publicKeyBytes(&key.PublicKey)
	if err != nil || req.Name != "eve" || req.KeyHash != sha256.Sum256(spki) {
		t.Fatalf("control: %+v, %v", req, err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tampered := append([]byte(nil), good...)
	tampered[len(tampered)-1] ^= 1
	for name, der := range map[string][]byte{
		"nothing":            nil,
		"garbage":            []byte("-----BEGIN CERTIFICATE REQUEST-----"),
		"broken signature":   tampered,
		"trailing bytes":     append(append([]byte(nil), good...), 0),
		"too long":           append(append([]byte(nil), good...), make([]byte, MaxOperatorRequest)...),
		"RSA":                operatorCSR(t, rsaKey, "spiffe://example.test/parley/operator/eve"),
		"no name":            operatorCSR(t, key),
		"two names":          operatorCSR(t, key, "spiffe://example.test/parley/operator/eve", "spiffe://example.test/parley/operator/adam"),
		"an agent's name":    operatorCSR(t, key, "spiffe://example.test/parley/agent/a1"),
		"a workload's name":  operatorCSR(t, key, "spiffe://example.test/svc/web"),
		"other trust domain": operatorCSR(t, key, "spiffe://elsewhere.test/parley/operator/eve"),
		"more path":          operatorCSR(t, key, "spiffe://example.test/parley/operator/eve/x"),
		"upper case":         operatorCSR(t, key, "spiffe://example.test/parley/operator/Eve"),
	} {
		if _, err := ParseOperatorRequest(testTD, der); err == nil || !strings.HasPrefix(err.Error(), "certificate request: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The certificate of an operator is for an hour, for clients, and does not outlive its issuer.
func TestSignOperator(t *testing.T) {
	w := newWorld(t, testTD)
	leaf := w.operator("eve").Leaf
	if got := leaf.NotAfter.Sub(leaf.NotBefore); got < OperatorTTL || got > OperatorTTL+Backdate+time.Second {
		t.Errorf("it lasts %s", got)
	}
	if err := operatorProfile.check(leaf); err != nil {
		t.Error(err)
	}
	req, err := ParseOperatorRequest(testTD, operatorCSR(t, testKey(t), "spiffe://example.test/parley/operator/eve"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.gen.Authority.SignOperator(req, time.Now().Add(IssuerTTL-OperatorTTL+time.Minute)); !errors.Is(err, ErrIssuerExpired) {
		t.Errorf("beyond the issuer's life: %v", err)
	}
	foreign := newWorld(t, spiffeid.RequireTrustDomainFromString("elsewhere.test"))
	if _, err := foreign.gen.Authority.SignOperator(req, time.Now()); err == nil {
		t.Error("signed for another trust domain")
	}
}

// Any bytes are a request that can be signed, or refused without a panic.
func FuzzOperatorRequest(f *testing.F) {
	key, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	u, _ := url.Parse("spiffe://example.test/parley/operator/eve")
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{u}}, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Add(der[:len(der)/2])
	f.Fuzz(func(t *testing.T, der []byte) {
		r, err := ParseOperatorRequest(testTD, der)
		if err == nil && (CheckNodeName(r.Name) != nil || r.key == nil || r.id.Path() != operatorPath+r.Name) {
			t.Fatalf("taken: %+v", r)
		}
	})
}
