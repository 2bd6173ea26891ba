package federation

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// endpointWorld is another trust domain whose endpoint shows what a test wants.
type endpointWorld struct {
	t      *testing.T
	bundle *spiffebundle.Bundle
	root   *x509.Certificate
	key    *ecdsa.PrivateKey
	id     spiffeid.ID
}

func newEndpointWorld(t *testing.T) *endpointWorld {
	w := &endpointWorld{t: t, key: newKey(t), id: spiffeid.RequireFromPath(theirs, "/parley/agent/a1"), bundle: spiffebundle.New(theirs)}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{theirs.ID().URL()},
	}
	w.root = sign(t, root, root, &w.key.PublicKey, w.key)
	w.bundle.AddX509Authority(w.root)
	w.bundle.SetSequenceNumber(1)
	w.bundle.SetRefreshHint(time.Minute)
	return w
}

// leaf is the endpoint's certificate after change.
func (w *endpointWorld) leaf(change func(*x509.Certificate)) tls.Certificate {
	w.t.Helper()
	key := newKey(w.t)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, URIs: []*url.URL{w.id.URL()},
	}
	change(c)
	return tls.Certificate{Certificate: [][]byte{sign(w.t, c, w.root, &key.PublicKey, w.key).Raw}, PrivateKey: key}
}

// fetch asks an endpoint that shows cert, over TLS of this version at most.
func (w *endpointWorld) fetch(cert tls.Certificate, most uint16) error {
	server := httptest.NewUnstartedServer(Handler(func() (*spiffebundle.Bundle, error) { return w.bundle, nil }))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS10, MaxVersion: most} //nolint:gosec // what is to be refused
	server.StartTLS()
	defer server.Close()
	_, err := fetch(w.t.Context(), Peer{TrustDomain: theirs, URL: server.URL, Profile: SPIFFE, EndpointID: w.id}, w.bundle, 5*time.Second)
	return err
}

// TestNegativesOfEndpoints: who proves itself by a SPIFFE ID has to do it by a good certificate, or nothing that it says is
// taken. The control is a good one.
func TestNegativesOfEndpoints(t *testing.T) {
	w, other := newEndpointWorld(t), newEndpointWorld(t)
	as := func(id string) func(*x509.Certificate) {
		u, err := url.Parse(id)
		if err != nil {
			t.Fatal(err)
		}
		return func(c *x509.Certificate) { c.URIs = []*url.URL{u} }
	}
	good := func(*x509.Certificate) {}
	for what, cert := range map[string]tls.Certificate{
		"expired":            w.leaf(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		"not yet valid":      w.leaf(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }),
		"wrong trust domain": w.leaf(as("spiffe://elsewhere.example/parley/agent/a1")),
		"another agent":      w.leaf(as("spiffe://" + theirs.Name() + "/parley/agent/a2")),
		"may sign":           w.leaf(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }),
		"two URIs":           w.leaf(func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }),
		"path-less leaf":     w.leaf(as("spiffe://" + theirs.Name())),
		"CA flag":            w.leaf(func(c *x509.Certificate) { c.IsCA = true }),
		"root as leaf":       {Certificate: [][]byte{w.root.Raw}, PrivateKey: w.key},
		"forged":             other.leaf(good),
	} {
		if err := w.fetch(cert, tls.VersionTLS13); err == nil {
			t.Errorf("%s: the bundle was taken", what)
		}
	}
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		if err := w.fetch(w.leaf(good), version); err == nil {
			t.Errorf("%s: the bundle was taken", tls.VersionName(version))
		}
	}
	if err := w.fetch(w.leaf(good), tls.VersionTLS13); err != nil {
		t.Errorf("control: %v", err)
	}
}
