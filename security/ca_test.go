package security

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// The host keys survive a restart, are made once, and give the same UID.
func TestHostRoundTrip(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadHost(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("load from an empty directory: %v", err)
	}
	made, err := CreateHost(dir)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadHost(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !loaded.Signer.Equal(made.Signer) || !loaded.Seal.Equal(made.Seal) || loaded.UID() != made.UID() {
		t.Error("the loaded host is another one")
	}
	if len(made.SealKey()) != 32 || made.UID() != HostUID(made.HostKey()) {
		t.Error("seal key or UID has the wrong form")
	}
	if _, err := CreateHost(dir); !errors.Is(err, ErrIdentityExists) {
		t.Errorf("second create: %v", err)
	}
	if _, err := InitIdentity(dir, testTD, "a1", InitKeys{}, time.Now()); !errors.Is(err, ErrIdentityExists) {
		t.Errorf("init over a host: %v", err)
	}
}

// No verb, no JSON encoder prints what holds a private key.
func TestKeysPrintRedacted(t *testing.T) {
	w := newWorld(t, testTD)
	for _, v := range []any{w.gen.Host, *w.gen.Host, w.root, w.gen.Authority} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			if got := fmt.Sprintf(verb, v); got != redactedText {
				t.Errorf("%s of %T prints %.60s", verb, v, got)
			}
		}
		if got, err := json.Marshal(v); err != nil || string(got) != `"`+redactedText+`"` {
			t.Errorf("JSON of %T is %.60s, %v", v, got, err)
		}
	}
}

// A leaf is an X509-SVID to go-spiffe too, and has the form that SPIFFE conformance asks for.
func TestLeafIsConformant(t *testing.T) {
	w := newWorld(t, testTD)
	key, chain := w.leaf(w.gen.Host, "a1", time.Hour)
	bundle := x509bundle.FromX509Authorities(w.td, []*x509.Certificate{w.root.Cert})
	certs, err := parseCerts(chain)
	if err != nil {
		t.Fatal(err)
	}
	id, _, err := x509svid.Verify(certs, bundle)
	if err != nil || id.String() != "spiffe://example.test/parley/agent/a1" {
		t.Fatalf("go-spiffe: %s, %v", id, err)
	}
	leaf, issuer := certs[0], certs[1]
	if !leaf.PublicKey.(*ecdsa.PublicKey).Equal(&key.PublicKey) {
		t.Error("leaf is for another key")
	}
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.URIs) != 1 || len(leaf.DNSNames)+len(leaf.IPAddresses) != 0 || len(leaf.ExtKeyUsage) != 2 {
		t.Errorf("leaf profile: ca %v usage %v uris %v", leaf.IsCA, leaf.KeyUsage, leaf.URIs)
	}
	critical := map[string]bool{}
	for _, ext := range leaf.Extensions {
		critical[ext.Id.String()] = ext.Critical
	}
	if !critical["2.5.29.15"] || critical[hostSignatureOID.String()] {
		t.Errorf("critical extensions: %v", critical)
	}
	if got := time.Until(leaf.NotAfter); got > time.Hour || got < time.Hour-time.Minute {
		t.Errorf("leaf lives %s", got)
	}
	if got := time.Since(leaf.NotBefore); got < Backdate || got > Backdate+time.Minute {
		t.Errorf("leaf is backdated by %s", got)
	}
	for _, ca := range []*x509.Certificate{issuer, w.root.Cert} {
		if !ca.IsCA || ca.KeyUsage&x509.KeyUsageCertSign == 0 || len(ca.URIs) != 1 || ca.URIs[0].String() != "spiffe://example.test" {
			t.Errorf("%s: ca %v usage %v uris %v", ca.Subject, ca.IsCA, ca.KeyUsage, ca.URIs)
		}
	}
	if issuer.MaxPathLen != 0 || !issuer.MaxPathLenZero {
		t.Errorf("issuer path length %d", issuer.MaxPathLen)
	}
	if got := time.Until(issuer.NotAfter); got > IssuerTTL || got < IssuerTTL-time.Minute {
		t.Errorf("issuer lives %s", got)
	}
}

// Two certificates never share subject, key id or serial number, roots of one trust domain neither.
func TestSubjectsAreUnique(t *testing.T) {
	w := newWorld(t, testTD)
	seen := map[string]bool{}
	add := func(c *x509.Certificate) {
		t.Helper()
		for _, v := range []string{"subject " + c.Subject.String(), "key id " + string(c.SubjectKeyId), "serial " + c.SerialNumber.String()} {
			if seen[v] {
				t.Errorf("twice: %q", v)
			}
			seen[v] = true
		}
		if len(c.SubjectKeyId) == 0 {
			t.Error("no key id")
		}
	}
	for range 3 {
		root, err := NewRoot(testTD, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		add(root.Cert)
		if err := w.gen.Authority.Renew(root, time.Now()); err != nil {
			t.Fatal(err)
		}
		add(w.gen.Authority.current.Load().cert)
		_, chain := w.leaf(w.gen.Host, "a1", time.Hour)
		leaf, err := x509.ParseCertificate(chain[0])
		if err != nil {
			t.Fatal(err)
		}
		add(leaf)
	}
}

// What an issuer is asked to sign is judged by the issuer: name, key, end of life, host signature.
func TestSignAgentRefuses(t *testing.T) {
	w := newWorld(t, testTD)
	now := time.Now()
	other, err := CreateHost(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	request := func() LeafRequest {
		key := testKey(t)
		r, err := NewLeafRequest(w.gen.Host, "a1", w.td, &key.PublicKey, now.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if _, err := w.gen.Authority.SignAgent(request(), now); err != nil {
		t.Fatalf("control: %v", err)
	}
	var times *LeafTimeError
	for name, tc := range map[string]struct {
		change func(*LeafRequest)
		is     func(error) bool
	}{
		"no host key":      {func(r *LeafRequest) { r.HostKey = nil }, hostSig},
		"other host key":   {func(r *LeafRequest) { r.HostKey = other.HostKey() }, hostSig},
		"no signature":     {func(r *LeafRequest) { r.HostSignature = nil }, hostSig},
		"other leaf key":   {func(r *LeafRequest) { r.PublicKey = request().PublicKey }, hostSig},
		"other node":       {func(r *LeafRequest) { r.Node = "a2" }, hostSig},
		"longer life":      {func(r *LeafRequest) { r.NotAfter = r.NotAfter.Add(time.Second) }, hostSig},
		"fraction":         {func(r *LeafRequest) { r.NotAfter = r.NotAfter.Add(time.Millisecond) }, isAny},
		"too long":         {func(r *LeafRequest) { r.NotAfter = now.Add(MaxLeafTTL + time.Hour).Truncate(time.Second) }, func(err error) bool { return errors.As(err, &times) }},
		"in the past":      {func(r *LeafRequest) { r.NotAfter = now.Add(-time.Hour).Truncate(time.Second) }, func(err error) bool { return errors.As(err, &times) }},
		"bad name":         {func(r *LeafRequest) { r.Node = "../a1" }, isAny},
		"key is not P-256": {func(r *LeafRequest) { r.PublicKey = w.gen.Host.SealKey() }, isAny},
	} {
		r := request()
		tc.change(&r)
		if chain, err := w.gen.Authority.SignAgent(r, now); err == nil || !tc.is(err) || chain != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A leaf never outlives its issuer.
	late := now.Add(IssuerTTL - 30*time.Minute)
	key := testKey(t)
	r, err := NewLeafRequest(w.gen.Host, "a1", w.td, &key.PublicKey, late.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.gen.Authority.SignAgent(r, late); !errors.Is(err, ErrIssuerExpired) {
		t.Errorf("at the issuer's end: %v", err)
	}
}

func hostSig(err error) bool { return errors.Is(err, ErrHostSignature) }
func isAny(err error) bool   { return err != nil }

// An authority is the same after a restart, and another trust domain's is refused.
func TestAuthorityRoundTrip(t *testing.T) {
	w := newWorld(t, testTD)
	loaded, err := LoadAuthority(w.td, "a1", w.dir)
	if err != nil {
		t.Fatal(err)
	}
	if !loaded.NotAfter().Equal(w.gen.Authority.NotAfter()) || !loaded.current.Load().key.Equal(w.gen.Authority.current.Load().key) {
		t.Error("the loaded authority is another one")
	}
	if _, err := LoadAuthority(spiffeid.RequireTrustDomainFromString("other.test"), "a1", w.dir); err == nil {
		t.Error("an issuer of another trust domain was loaded")
	}
	if _, err := LoadAuthority(w.td, "a1", t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty directory: %v", err)
	}
	old := &Root{Cert: w.root.Cert, Key: w.root.Key}
	if err := loaded.Renew(old, old.Cert.NotAfter.Add(-time.Hour)); err == nil {
		t.Error("an issuer that outlives its root was made")
	}
	if !loaded.NotAfter().Equal(w.gen.Authority.NotAfter()) {
		t.Error("a failed renewal changed the issuer")
	}
}

// The sealed root opens on the host it was sealed for, for the same cluster, node and root, and
// nowhere else.
func TestSealedRoot(t *testing.T) {
	w := newWorld(t, testTD)
	info := SealInfo{ClusterID: w.gen.ClusterID, Node: "a1"}
	otherHost, err := CreateHost(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	otherRoot, err := NewRoot(testTD, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := SealRoot(w.root, w.gen.Host.SealKey(), info)
	if err != nil {
		t.Fatal(err)
	}
	root, err := OpenRoot(sealed, w.gen.Host.Seal, w.root.Cert, info)
	if err != nil || !root.Key.Equal(w.root.Key) {
		t.Fatalf("control: %v", err)
	}
	for name, open := range map[string]func() (*Root, error){
		"other host":    func() (*Root, error) { return OpenRoot(sealed, otherHost.Seal, w.root.Cert, info) },
		"other cluster": func() (*Root, error) { return OpenRoot(sealed, w.gen.Host.Seal, w.root.Cert, SealInfo{"00", "a1"}) },
		"other node": func() (*Root, error) {
			return OpenRoot(sealed, w.gen.Host.Seal, w.root.Cert, SealInfo{info.ClusterID, "a2"})
		},
		"shifted border": func() (*Root, error) {
			return OpenRoot(sealed, w.gen.Host.Seal, w.root.Cert, SealInfo{info.ClusterID + "a", "1"})
		},
		"other root": func() (*Root, error) { return OpenRoot(sealed, w.gen.Host.Seal, otherRoot.Cert, info) },
		"empty":      func() (*Root, error) { return OpenRoot(nil, w.gen.Host.Seal, w.root.Cert, info) },
		"version": func() (*Root, error) {
			return OpenRoot(append([]byte{9}, sealed[1:]...), w.gen.Host.Seal, w.root.Cert, info)
		},
		"too long": func() (*Root, error) {
			return OpenRoot(append(bytes.Clone(sealed), make([]byte, maxSealedBytes)...), w.gen.Host.Seal, w.root.Cert, info)
		},
	} {
		if root, err := open(); !errors.Is(err, ErrSeal) || root != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := OpenRoot(bad, w.gen.Host.Seal, w.root.Cert, info); !errors.Is(err, ErrSeal) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	// A key that is sealed correctly but is not the root's is refused as well.
	fake := &Root{Cert: w.root.Cert, Key: otherRoot.Key}
	forged, err := SealRoot(fake, w.gen.Host.SealKey(), info)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRoot(forged, w.gen.Host.Seal, w.root.Cert, info); !errors.Is(err, ErrSeal) {
		t.Errorf("another root's key: %v", err)
	}
	if _, err := SealRoot(w.root, []byte("short"), info); err == nil {
		t.Error("a seal key of 5 bytes was accepted")
	}
}

// The private key of the root is in no file of the data directory after init.
func TestRootKeyIsNotOnDisk(t *testing.T) {
	w := newWorld(t, testTD)
	raw, err := w.root.Key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{hostKeyFile, sealKeyFile, leafKeyFile, issuerKeyFile} {
		keys, err := readKeys(identityPath(w.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			if w.root.Key.Equal(k) {
				t.Errorf("%s holds the root's key", name)
			}
		}
	}
	if bytes.Contains(w.gen.Sealed, raw) {
		t.Error("the sealed root holds the key in the clear")
	}
}
