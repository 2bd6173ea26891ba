package security

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/transport"
)

// What is denied by its identity or its serial number is refused in the handshake, whoever dialled, of agents and of operators; what
// is open does not stand any more. Another certificate of the same agent counts, and the control is that nothing is denied.
func TestDeniedCertificateIsRefused(t *testing.T) {
	w := newWorld(t, testTD)
	a1, a2 := w.first(), w.agent("a2")
	eve := w.operator("eve")
	asEve := func() *tls.Config {
		c := a2.ClientTLS("a1", transport.ALPNRPC)
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return eve, nil }
		return c
	}
	asked := 0
	deny := func(which func(spiffeid.ID, *x509.Certificate) bool) {
		a1.certDenied = func(id spiffeid.ID, leaf *x509.Certificate) bool { asked++; return which(id, leaf) }
	}
	serial := func(c *x509.Certificate) func(spiffeid.ID, *x509.Certificate) bool {
		return func(_ spiffeid.ID, leaf *x509.Certificate) bool { return leaf.SerialNumber.Cmp(c.SerialNumber) == 0 }
	}
	for name, test := range map[string]struct {
		denied func(spiffeid.ID, *x509.Certificate) bool
		client func() *tls.Config
		want   bool
	}{
		"nothing":                   {func(spiffeid.ID, *x509.Certificate) bool { return false }, asEve, false},
		"an agent's certificate":    {serial(a2.Leaf()), func() *tls.Config { return a2.ClientTLS("a1", transport.ALPNRPC) }, true},
		"an operator's certificate": {serial(eve.Leaf), asEve, true},
		"an operator's identity":    {func(id spiffeid.ID, _ *x509.Certificate) bool { return id.Path() == "/parley/operator/eve" }, asEve, true},
	} {
		a1.certDenied = nil
		s, c := connect(t, a1.ServerTLS(meshProtos...), test.client())
		if s.err != nil || c.err != nil {
			t.Fatalf("%s: %v, %v", name, s.err, c.err)
		}
		standing := a1.Standing(s.conn.ConnectionState())
		if err := standing.Check(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		asked = 0
		deny(test.denied)
		if err := standing.Check(); errors.Is(err, ErrCertDenied) != test.want || err != nil != test.want {
			t.Errorf("%s: an open connection: %v", name, err)
		}
		s, _ = connect(t, a1.ServerTLS(meshProtos...), test.client())
		if errors.Is(s.err, ErrCertDenied) != test.want || s.err != nil != test.want || asked < 2 {
			t.Errorf("%s: a new one: %v, asked %d times", name, s.err, asked)
		}
	}
	deny(serial(a2.Leaf()))
	if _, c := connect(t, a2.ServerTLS(meshProtos...), a1.ClientTLS("a2", transport.ALPNRPC)); !errors.Is(c.err, ErrCertDenied) {
		t.Errorf("dialled: %v", c.err)
	}
	key, chain := w.leaf(a2.host, "a2", time.Hour)
	if err := a2.SetLeaf(chain, key); err != nil {
		t.Fatal(err)
	}
	if _, c := connect(t, a2.ServerTLS(meshProtos...), a1.ClientTLS("a2", transport.ALPNRPC)); c.err != nil {
		t.Errorf("with another certificate: %v", c.err)
	}
}

// Who shows a denied certificate is renewed by its host key: the certificate alone is denied.
func TestDeniedCertificateIsRenewedByHostKey(t *testing.T) {
	w := newWorld(t, testTD)
	a1, a2 := w.first(), w.agent("a2")
	denied := a2.Leaf().SerialNumber
	a1.certDenied = func(_ spiffeid.ID, leaf *x509.Certificate) bool { return leaf.SerialNumber.Cmp(denied) == 0 }
	o := RekeyOptions{Source: a2, ClusterID: "00000000000000000000000000000000"}
	key := testKey(t)
	leaf, err := NewLeafRequest(a2.host, "a2", w.td, &key.PublicKey, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	req, err := o.request(leaf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a1.CheckRekey(req, a2.host.HostKey()); err != nil {
		t.Error(err)
	}
	a1.denied = func(spiffeid.ID) bool { return true }
	if _, err := a1.CheckRekey(req, a2.host.HostKey()); err == nil {
		t.Error("control: an evicted host is renewed")
	}
}

// A certificate that peers refuse is replaced though it is young, by the host key where the certificate does not do.
func TestShunnedCertificateIsReplaced(t *testing.T) {
	shunned, byKey := true, 0
	w := newWorld(t, testTD)
	a2 := w.agent("a2")
	refused := errors.New("refused")
	r := NewRenewer(RenewerOptions{
		Source: a2, Now: time.Now, Shunned: func() bool { return shunned },
		Renew: func(ctx context.Context, _ LeafRequest) ([][]byte, uint64, [][]byte, error) {
			return nil, 0, nil, refused
		},
		Rekey: func(_ context.Context, req LeafRequest) ([][]byte, error) {
			byKey++
			req.HostKey = a2.host.HostKey()
			return w.gen.Authority.SignAgent(req, time.Now())
		},
	})
	before := a2.Leaf()
	if !r.u.stale() {
		t.Error("it is not due")
	}
	if err := r.renew(t.Context()); err != nil || byKey != 1 || a2.Leaf() == before {
		t.Errorf("%v, asked by the host key %d times", err, byKey)
	}
	shunned = false
	if err := r.renew(t.Context()); !errors.Is(err, refused) || byKey != 1 || r.u.stale() {
		t.Errorf("control, one that counts: %v, asked by the host key %d times", err, byKey)
	}
}
