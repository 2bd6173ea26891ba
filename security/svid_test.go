package security

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

var webID = spiffeid.RequireFromString("spiffe://example.test/svc/web")

func workloadRequest(t testing.TB, node, entry string) (*ecdsa.PrivateKey, WorkloadRequest) {
	t.Helper()
	key, err := NewWorkloadKey()
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewWorkloadRequest(node, entry, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, r
}

// TestWorkloadProfile goes through what SPIFFE and TLS libraries want of a program's certificate, and has go-spiffe
// verify it. OpenSSL does in TestOpenSSLTakesEveryChain.
func TestWorkloadProfile(t *testing.T) {
	w, now := newWorld(t, testTD), time.Now()
	key, req := workloadRequest(t, "a1", "web")
	chain, err := w.gen.Authority.SignWorkload(req, "a1", webID, time.Minute, now)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := VerifyWorkload(chain, webID, &key.PublicKey, w.gen.Roots, now)
	if err != nil {
		t.Fatal(err)
	}
	leaf := certs[0]
	switch {
	case len(leaf.URIs) != 1 || leaf.URIs[0].String() != webID.String() || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) > 0:
		t.Errorf("names: %v %v", leaf.URIs, leaf.DNSNames)
	case leaf.IsCA || !leaf.BasicConstraintsValid || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 2:
		t.Errorf("usage: CA %v, %v, %v", leaf.IsCA, leaf.KeyUsage, leaf.ExtKeyUsage)
	case len(leaf.AuthorityKeyId) == 0 || len(leaf.SubjectKeyId) == 0:
		t.Error("no key ids")
	}
	if before, after := now.Sub(leaf.NotBefore), leaf.NotAfter.Sub(now); before < Backdate || before > Backdate+2*time.Second || after > time.Minute || after < 58*time.Second {
		t.Errorf("valid from %s before to %s after", before, after)
	}
	critical := map[string]bool{}
	for _, e := range leaf.Extensions {
		critical[e.Id.String()] = e.Critical
	}
	empty := len(leaf.Subject.ToRDNSequence()) == 0
	if !critical["2.5.29.15"] || !critical["2.5.29.19"] || empty != critical[asn1.ObjectIdentifier{2, 5, 29, 17}.String()] {
		t.Errorf("critical extensions: %v, empty subject %v", critical, empty)
	}
	bundle, err := TrustBundle(testTD, 1, w.gen.Roots, nil)
	if err != nil {
		t.Fatal(err)
	}
	if id, _, err := x509svid.Verify(certs, bundle); err != nil || id != webID {
		t.Errorf("go-spiffe: %s, %v", id, err)
	}
}

// TestWorkloadRefusals: what is not proven, not a program's, or not within the bounds is not signed.
func TestWorkloadRefusals(t *testing.T) {
	w, now := newWorld(t, testTD), time.Now()
	_, good := workloadRequest(t, "a1", "web")
	_, other := workloadRequest(t, "a1", "web")
	swapped, renamed, garbage := good, good, good
	swapped.PublicKey, renamed.Entry, garbage.PublicKey = other.PublicKey, "db", []byte("x")
	id := spiffeid.RequireFromString
	for what, c := range map[string]struct {
		req  WorkloadRequest
		node string
		id   spiffeid.ID
		ttl  time.Duration
		ok   bool
	}{
		"good":           {good, "a1", webID, time.Hour, true},
		"other key":      {swapped, "a1", webID, time.Hour, false},
		"other entry":    {renamed, "a1", webID, time.Hour, false},
		"other agent":    {good, "a2", webID, time.Hour, false},
		"no key":         {garbage, "a1", webID, time.Hour, false},
		"other domain":   {good, "a1", id("spiffe://other.test/svc/web"), time.Hour, false},
		"trust domain":   {good, "a1", id("spiffe://example.test"), time.Hour, false},
		"shorter":        {good, "a1", webID, MinWorkloadTTL - 1, false},
		"longer":         {good, "a1", webID, MaxWorkloadTTL + 1, false},
		"longest":        {good, "a1", webID, MaxWorkloadTTL, true},
		"shortest":       {good, "a1", webID, MinWorkloadTTL, true},
		"the zero value": {WorkloadRequest{}, "a1", webID, time.Hour, false},
	} {
		if _, err := w.gen.Authority.SignWorkload(c.req, c.node, c.id, c.ttl, now); (err == nil) != c.ok {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := w.gen.Authority.SignWorkload(swapped, "a1", webID, time.Hour, now); !errors.Is(err, ErrWorkloadProof) {
		t.Errorf("a swapped key: %v", err)
	}
}

// TestWorkloadEndsWithItsIssuer: a certificate never outlives its intermediate, and is refused when hardly any life is left.
func TestWorkloadEndsWithItsIssuer(t *testing.T) {
	w := newWorld(t, testTD)
	end := w.gen.Authority.NotAfter()
	_, req := workloadRequest(t, "a1", "web")
	chain, err := w.gen.Authority.SignWorkload(req, "a1", webID, time.Hour, end.Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if leaf, err := x509.ParseCertificate(chain[0]); err != nil || !leaf.NotAfter.Equal(end) {
		t.Errorf("it ends at %v, the issuer at %v", leaf.NotAfter, end)
	}
	if _, err := w.gen.Authority.SignWorkload(req, "a1", webID, time.Hour, end.Add(-time.Second)); !errors.Is(err, ErrIssuerExpired) {
		t.Errorf("a second before the issuer's end: %v", err)
	}
}

// TestVerifyWorkload: an agent takes no certificate that other programs would refuse.
func TestVerifyWorkload(t *testing.T) {
	w, now := newWorld(t, testTD), time.Now()
	key, req := workloadRequest(t, "a1", "web")
	chain, err := w.gen.Authority.SignWorkload(req, "a1", webID, time.Minute, now)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := newWorld(t, testTD)
	stranger, _ := workloadRequest(t, "a1", "web")
	dbID := spiffeid.RequireFromString("spiffe://example.test/svc/db")
	for what, try := range map[string]func() error{
		"other id": func() error { _, err := VerifyWorkload(chain, dbID, &key.PublicKey, w.gen.Roots, now); return err },
		"other key": func() error {
			_, err := VerifyWorkload(chain, webID, &stranger.PublicKey, w.gen.Roots, now)
			return err
		},
		"other root": func() error {
			_, err := VerifyWorkload(chain, webID, &key.PublicKey, elsewhere.gen.Roots, now)
			return err
		},
		"expired": func() error {
			_, err := VerifyWorkload(chain, webID, &key.PublicKey, w.gen.Roots, now.Add(time.Hour))
			return err
		},
		"not yet": func() error {
			_, err := VerifyWorkload(chain, webID, &key.PublicKey, w.gen.Roots, now.Add(-time.Hour))
			return err
		},
		"no issuer": func() error { _, err := VerifyWorkload(chain[:1], webID, &key.PublicKey, w.gen.Roots, now); return err },
		"a CA's":    func() error { _, err := VerifyWorkload(chain[1:], webID, &key.PublicKey, w.gen.Roots, now); return err },
		"no chain":  func() error { _, err := VerifyWorkload(nil, webID, &key.PublicKey, w.gen.Roots, now); return err },
		"agent's own": func() error {
			_, c := w.leaf(w.gen.Host, "a1", time.Hour)
			_, err := VerifyWorkload(c, webID, &key.PublicKey, w.gen.Roots, now)
			return err
		},
	} {
		if try() == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	// An agent's peers take no program for an agent.
	if _, err := w.first().verifier().peer(mustParse(t, chain), ""); !errors.Is(err, ErrNotAgent) {
		t.Errorf("as an agent: %v", err)
	}
}

func mustParse(t *testing.T, chain [][]byte) []*x509.Certificate {
	t.Helper()
	certs, err := parseCerts(chain)
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

// TestDecodeWorkloadRequest reaches the limit of a request.
func TestDecodeWorkloadRequest(t *testing.T) {
	for _, bad := range []string{"", "[]", `{"entry":1}`, `{"entry":"` + strings.Repeat("a", MaxWorkloadRequest) + `"}`} {
		if _, err := DecodeWorkloadRequest([]byte(bad)); err == nil {
			t.Errorf("%.40q is accepted", bad)
		}
	}
}

// BenchmarkSignWorkload is all that one core member does for an X509-SVID: check the proof, sign, and read back.
func BenchmarkSignWorkload(b *testing.B) {
	td, now := testTD, time.Now()
	gen, err := InitIdentity(b.TempDir(), td, "a1", InitKeys{}, now)
	if err != nil {
		b.Fatal(err)
	}
	_, req := workloadRequest(b, "a1", "web")
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := gen.Authority.SignWorkload(req, "a1", webID, time.Hour, now); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "svids/s")
}

func FuzzDecodeWorkloadRequest(f *testing.F) {
	f.Add([]byte(`{"entry":"web","public_key":"AA==","proof":"AA=="}`))
	gen, err := InitIdentity(f.TempDir(), testTD, "a1", InitKeys{}, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeWorkloadRequest(data)
		if err != nil {
			return
		}
		if chain, err := gen.Authority.SignWorkload(r, "a1", webID, time.Hour, time.Now()); err == nil && slices.Equal(chain[0], nil) {
			t.Error("signed nothing")
		}
	})
}
