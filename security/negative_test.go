package security

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/transport"
)

// way is a way to show an agent a certificate: at one of its listeners, or where it dials.
type way struct {
	name string
	show func(cert *tls.Certificate) error // how the agent takes it
	old  func(max uint16) error            // the same with a TLS version at most; nil: QUIC, which has no other
}

// ways are all of them: every protocol of the mesh port over TCP and UDP, https, and every connection that an agent makes, with
// join and rekey, whose answering side shows its certificate to one who has no valid one.
func ways(t *testing.T, w *world, judge *Source, good *tls.Certificate) []way {
	t.Helper()
	var all []way
	for _, d := range tcpDoors {
		all = append(all, way{
			name: "listener, " + d.name,
			show: func(cert *tls.Certificate) error { return knock(t, judge, d, cert).err },
			old: func(most uint16) error {
				c := &tls.Config{InsecureSkipVerify: true, MaxVersion: most, Certificates: []tls.Certificate{*good}} //nolint:gosec // what is to be refused
				if d.alpn != "" {
					c.NextProtos = []string{d.alpn}
				}
				s, _ := connect(t, d.server(judge), c)
				return s.err
			},
		})
	}
	all = append(all, way{name: "listener, gossip over UDP", show: func(cert *tls.Certificate) error { return knockQUIC(t, judge, cert) }})
	o := openDoor(t, w).options()
	if err := o.prepare(); err != nil {
		t.Fatal(err)
	}
	dials := map[string]*tls.Config{"dial, join": o.clientTLS(w.td), "dial, rekey": judge.ClientTLS("", transport.ALPNRekey)}
	for _, alpn := range []string{transport.ALPNRPC, transport.ALPNRaft, transport.ALPNGossip} {
		dials["dial, "+alpn] = judge.ClientTLS("", alpn)
	}
	for name, client := range dials {
		served := func(cert *tls.Certificate, most uint16) error {
			shown := *cert
			shown.Certificate = append(slices.Clone(cert.Certificate), w.gen.Roots...) // as a joiner is shown them
			_, c := connect(t, &tls.Config{
				MaxVersion: most, Certificates: []tls.Certificate{shown}, NextProtos: client.NextProtos, ClientAuth: tls.RequestClientCert,
			}, client)
			return c.err
		}
		all = append(all, way{
			name: name,
			show: func(cert *tls.Certificate) error { return served(cert, tls.VersionTLS13) },
			old:  func(most uint16) error { return served(good, most) },
		})
	}
	return all
}

// negatives are certificates of a2 of which each has one thing wrong.
func negatives(t *testing.T, w *world, a2 *Source) map[string]*tls.Certificate {
	t.Helper()
	edit := func(change func(*x509.Certificate)) *tls.Certificate { return w.forge(a2.host, "a2", change) }
	foreign := newWorld(t, spiffeid.RequireTrustDomainFromString("elsewhere.test"))
	issuer, own := w.gen.Authority.current.Load(), a2.leaf.Load()
	// An issuer and a root that look like the real ones to who compares names and key ids.
	twin := lookalike(t, w)
	byTwin := resigned(t, own.Leaf, twin.cert, twin.key)
	return map[string]*tls.Certificate{
		"expired":             edit(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		"not yet valid":       edit(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }),
		"wrong trust domain":  foreign.agent("a2").leaf.Load(),
		"key usage: encipher": edit(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }),
		"key usage: may sign": edit(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }),
		"no usage of TLS":     edit(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }),
		"two URIs": edit(func(c *x509.Certificate) {
			c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: w.td.Name(), Path: "/parley/agent/a1"})
		}),
		"path-less leaf":            edit(func(c *x509.Certificate) { c.URIs = []*url.URL{w.td.ID().URL()} }),
		"issuer as leaf":            {Certificate: [][]byte{issuer.cert.Raw}, PrivateKey: issuer.key},
		"root as leaf":              {Certificate: [][]byte{w.root.Cert.Raw}, PrivateKey: w.root.Key},
		"forged: by a lookalike":    {Certificate: [][]byte{byTwin.cert.Raw, twin.cert.Raw}, PrivateKey: byTwin.key},
		"forged: under the real":    {Certificate: [][]byte{byTwin.cert.Raw, issuer.cert.Raw}, PrivateKey: byTwin.key},
		"forged: signed by a leaf":  signedByLeaf(t, a2),
		"forged: without an issuer": {Certificate: own.Certificate[:1], PrivateKey: own.PrivateKey},
	}
}

type signedLeaf struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// resigned is a certificate like another one, for a new key, by whoever is said.
func resigned(t *testing.T, like, by *x509.Certificate, byKey *ecdsa.PrivateKey) signedLeaf {
	t.Helper()
	key := testKey(t)
	tmpl := *like
	tmpl.SubjectKeyId, tmpl.ExtraExtensions = nil, nil
	copyHostSignature(like)(&tmpl)
	cert, err := sign(&tmpl, by, &key.PublicKey, byKey)
	if err != nil {
		t.Fatal(err)
	}
	return signedLeaf{cert: cert, key: key}
}

// lookalike is an issuer with the subject and key id of the real one.
func lookalike(t *testing.T, w *world) *issuer {
	t.Helper()
	key := testKey(t)
	tmpl := *w.gen.Authority.current.Load().cert
	parent := *w.root.Cert
	parentKey := testKey(t)
	parent.PublicKey = &parentKey.PublicKey
	cert, err := sign(&tmpl, &parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert: cert, key: key}
}

// signedByLeaf is another agent's certificate that a2 has signed with its own.
func signedByLeaf(t *testing.T, a2 *Source) *tls.Certificate {
	t.Helper()
	own := a2.leaf.Load()
	tmpl := *own.Leaf
	tmpl.URIs = []*url.URL{{Scheme: "spiffe", Host: a2.td.Name(), Path: "/parley/agent/a1"}}
	key, ok := own.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("a2's key is no ECDSA key")
	}
	forged := resigned(t, &tmpl, own.Leaf, key)
	return &tls.Certificate{Certificate: append([][]byte{forged.cert.Raw}, own.Certificate...), PrivateKey: forged.key}
}

// TestNegativesEverywhere holds every certificate that is no good against every listener of an agent, and against every
// connection that it makes: each is refused, and so is TLS before 1.3. The control of each is a good certificate, at the
// beginning and again at the end, which is let in.
func TestNegativesEverywhere(t *testing.T) {
	w := newWorld(t, testTD)
	judge, a2 := w.first(), w.agent("a2")
	good := a2.leaf.Load()
	bad := negatives(t, w, a2)
	refused := 0
	for _, way := range ways(t, w, judge, good) {
		t.Run(way.name, func(t *testing.T) {
			if err := way.show(good); err != nil {
				t.Fatalf("control: a good certificate is refused: %v", err)
			}
			for what, cert := range bad {
				if err := way.show(cert); err == nil {
					t.Errorf("%s: let in", what)
				}
				refused++
			}
			if way.old != nil {
				for what, version := range map[string]uint16{"TLS 1.0": tls.VersionTLS10, "TLS 1.1": tls.VersionTLS11, "TLS 1.2": tls.VersionTLS12} {
					if err := way.old(version); err == nil {
						t.Errorf("%s: let in", what)
					}
				}
				if err := way.old(tls.VersionTLS13); err != nil {
					t.Errorf("control: TLS 1.3 is refused: %v", err)
				}
			}
			if err := way.show(w.forge(a2.host, "a2", func(*x509.Certificate) {})); err != nil {
				t.Errorf("control: a good one that was made like the bad ones is refused: %v", err)
			}
		})
	}
	t.Logf("%d certificates were refused", refused)
}

// TestDowngradeOfPublicListeners: who shows no certificate, a joiner, a host that rekeys or a reader of the bundle, speaks TLS 1.3 as well. The control
// is that.
func TestDowngradeOfPublicListeners(t *testing.T) {
	judge := newWorld(t, testTD).first()
	for name, server := range map[string]struct {
		config *tls.Config
		alpn   string
	}{"join": {meshServer(judge), transport.ALPNJoin}, "rekey": {meshServer(judge), transport.ALPNRekey}, "bundle endpoint by SPIFFE": {judge.BundleTLS(), "h2"}} {
		for version, in := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: false, tls.VersionTLS13: true} {
			client := &tls.Config{InsecureSkipVerify: true, MaxVersion: version, NextProtos: []string{server.alpn}} //nolint:gosec // what is to be refused
			if s, c := connect(t, server.config, client); (s.err == nil && c.err == nil) != in {
				t.Errorf("%s, %s: server %v, client %v", name, tls.VersionName(version), s.err, c.err)
			}
		}
	}
}

// TestReplayedJoin: who has recorded the request of a joiner gets nothing by it. The same again is answered with a certificate for
// the joiner's key, which the one who replays does not have; with a key of his own, at another cluster, or when its time is
// over it is refused. The control is the joiner.
func TestReplayedJoin(t *testing.T) {
	w, other := newWorld(t, testTD), newWorld(t, testTD)
	d, elsewhere := openDoor(t, w), openDoor(t, other)
	var recorded JoinRequest
	d.answer = func(_ int, r JoinRequest) (JoinResponse, error) {
		recorded = r
		return d.admit(r)
	}
	if _, err := join(t, d.options()); err != nil {
		t.Fatalf("control: %v", err)
	}
	again, err := d.admit(recorded)
	if err != nil {
		t.Fatalf("the same again, as after a lost answer: %v", err)
	}
	leaf, err := x509.ParseCertificate(again.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, recorded.Leaf.PublicKey) {
		t.Error("the certificate of a replay is for another key than the joiner's")
	}
	if _, err := elsewhere.admit(recorded); err == nil {
		t.Error("another cluster let it in")
	}
	mallory, err := CreateHost(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	key := testKey(t)
	stolen := recorded
	stolen.HostKey, stolen.SealKey = mallory.HostKey(), mallory.SealKey()
	if stolen.Leaf, err = NewLeafRequest(mallory, "a2", w.td, &key.PublicKey, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.admit(stolen); err == nil {
		t.Error("it counts for another key")
	}
	if err := CheckJoin(recorded, w.td, d.token.VerifyKey(), time.Now().Add(2*MaxLeafTTL)); err == nil {
		t.Error("it counts for ever")
	}
}
