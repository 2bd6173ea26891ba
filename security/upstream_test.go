package security

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// above is a CA as a company has one, with RSA keys.
type above struct {
	cert *x509.Certificate
	key  *rsa.PrivateKey
}

func newAbove(t *testing.T, by *above, edit func(*x509.Certificate)) *above {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := caOf("Example CA")
	if edit != nil {
		edit(tmpl)
	}
	a := &above{key: key}
	if by == nil {
		by = &above{cert: tmpl, key: key}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func caOf(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
}

// authority is what the CA makes of a request.
func (a *above) authority(t *testing.T, key *ecdsa.PrivateKey, edit func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	tmpl := caOf("authority")
	tmpl.SerialNumber, tmpl.MaxPathLen, tmpl.URIs = big.NewInt(8), 1, []*url.URL{testTD.ID().URL()}
	if edit != nil {
		edit(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func pemOf(certs ...*x509.Certificate) []byte {
	var ders [][]byte
	for _, c := range certs {
		ders = append(ders, c.Raw)
	}
	return encodeCerts(ders)
}

// TestCheckUpstream: each way in which a chain would not work, or would some day not, is refused with its reason.
func TestCheckUpstream(t *testing.T) {
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	root := newAbove(t, nil, nil)
	between := newAbove(t, root, func(c *x509.Certificate) { c.Subject.CommonName = "Example CA 2" })
	stranger := newAbove(t, nil, nil)
	with := func(edit func(*x509.Certificate)) []byte { return pemOf(root.authority(t, key, edit), root.cert) }
	old := newAbove(t, nil, func(c *x509.Certificate) { c.KeyUsage = 0 })
	short := newAbove(t, root, func(c *x509.Certificate) { c.MaxPathLen = 1 })
	ending := newAbove(t, nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(24 * time.Hour) })
	foreign, err := url.Parse("spiffe://other.test")
	if err != nil {
		t.Fatal(err)
	}
	refused := map[string]struct {
		text []byte
		want string
	}{
		"nothing":              {nil, "0 certificates"},
		"no root":              {pemOf(root.authority(t, key, nil)), "1 certificates"},
		"a root that is none":  {pemOf(between.authority(t, key, nil), between.cert), "not signed by itself"},
		"a key":                {append(with(nil), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})...), "never a key"},
		"too long":             {pemOf(root.authority(t, key, nil), root.cert, root.cert, root.cert, root.cert), "5 certificates"},
		"too large":            {make([]byte, MaxUpstreamText+1), "at most"},
		"another key":          {pemOf(root.authority(t, other, nil), root.cert), "not for the key of the request"},
		"another order":        {pemOf(root.cert, root.authority(t, key, nil)), "not for the key of the request"},
		"no CA":                {with(func(c *x509.Certificate) { c.IsCA, c.MaxPathLen = false, -1 }), "is not a CA"},
		"no right to sign":     {with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), "keyCertSign"},
		"path length 0":        {with(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }), "path length of 0"},
		"path length above":    {pemOf(short.authority(t, key, nil), short.cert, root.cert), "path length of 1"},
		"another trust domain": {with(func(c *x509.Certificate) { c.URIs = []*url.URL{foreign} }), "spiffe://other.test"},
		"two URIs":             {with(func(c *x509.Certificate) { c.URIs = append(c.URIs, foreign) }), "alone"},
		"ends soon":            {with(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(MinUpstreamLife - time.Hour) }), "at least"},
		"the root ends soon":   {pemOf(ending.authority(t, key, nil), ending.cert), "at least"},
		"not yet":              {with(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), "is valid from"},
		"signed by another":    {pemOf(root.authority(t, key, nil), stranger.cert), "is not signed by"},
		"other names": {with(func(c *x509.Certificate) {
			c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"other.test"}, true
		}), "constraints"},
		"another use":               {with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection} }), "constraints"},
		"for clients alone":         {with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), "constraints"},
		"a root of another cluster": {foreignRoot(t, key, foreign), "not a root of"},
	}
	for what, r := range refused {
		if _, err := CheckUpstream(testTD, key, r.text, time.Now()); !errors.Is(err, ErrUpstream) || !strings.Contains(err.Error(), r.want) {
			t.Errorf("%s: %v, want %q", what, err, r.want)
		}
	}
	for what, text := range map[string][]byte{
		"below the root":              with(nil),
		"below a root without usages": pemOf(old.authority(t, key, nil), old.cert),
		"with one between":            pemOf(between.authority(t, key, func(c *x509.Certificate) { c.URIs = nil }), between.cert, root.cert),
		"the right names": with(func(c *x509.Certificate) {
			c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{testTD.Name()}, true
		}),
	} {
		if _, err := CheckUpstream(testTD, key, text, time.Now()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func foreignRoot(t *testing.T, key *ecdsa.PrivateKey, id *url.URL) []byte {
	t.Helper()
	root := newAbove(t, nil, func(c *x509.Certificate) { c.URIs = []*url.URL{id} })
	return pemOf(root.authority(t, key, nil), root.cert)
}

// TestUpstreamByOpenSSL: openssl signs the request as its manual says, what is issued below verifies for openssl and for
// our own judge, and the request says what it is for.
func TestUpstreamByOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs openssl, and CI has to provide it")
		}
		t.Skip("needs openssl")
	}
	dir, key := t.TempDir(), mustKey(t)
	request, err := NewUpstreamRequest(testTD, key)
	if err != nil {
		t.Fatal(err)
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("openssl", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	write("r.csr", request)
	text := run("req", "-in", path("r.csr"), "-noout", "-text", "-verify")
	for _, want := range []string{"CA:TRUE, pathlen:1", "Certificate Sign, CRL Sign", "URI:" + testTD.ID().String()} {
		if !strings.Contains(text, want) {
			t.Errorf("the request does not say %q:\n%s", want, text)
		}
	}
	run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", path("ca.key"), "-out", path("ca.pem"), "-days", "365", "-subj", "/CN=Example CA",
		"-addext", "keyUsage=critical,keyCertSign,cRLSign")
	run("x509", "-req", "-in", path("r.csr"), "-CA", path("ca.pem"), "-CAkey", path("ca.key"), "-CAcreateserial", "-days", "90", "-copy_extensions", "copyall", "-out", path("authority.pem"))
	authority, err := os.ReadFile(path("authority.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(path("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ders, err := CheckUpstream(testTD, key, append(authority, ca...), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(ders[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewAuthority(&Root{Cert: cert, Key: key, Above: ders[:1]}, testTD, "a1", dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	a, err := LoadAuthority(testTD, "a1", dir) // as after a restart
	if err != nil {
		t.Fatal(err)
	}
	leafKey := mustKey(t)
	req, err := NewWorkloadRequest("a1", "web", leafKey)
	if err != nil {
		t.Fatal(err)
	}
	id := testTD.ID()
	if id, err = id.AppendPath("/svc/web"); err != nil {
		t.Fatal(err)
	}
	chain, err := a.SignWorkload(req, "a1", id, time.Hour, time.Now())
	if err != nil || len(chain) != 3 {
		t.Fatalf("a chain of %d: %v", len(chain), err)
	}
	if _, err := VerifyWorkload(chain, id, &leafKey.PublicKey, ders[1:], time.Now()); err != nil {
		t.Error(err)
	}
	write("leaf.pem", encodeCerts(chain[:1]))
	write("between.pem", encodeCerts(chain[1:]))
	if out := run("verify", "-x509_strict", "-CAfile", path("ca.pem"), "-untrusted", path("between.pem"), path("leaf.pem")); !strings.Contains(out, "OK") {
		t.Error(out)
	}
}

func mustKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestUpstreamKey: the key of a request waits, the same, until it is dropped, and opens on no other host.
func TestUpstreamKey(t *testing.T) {
	dir, info := t.TempDir(), SealInfo{ClusterID: "c", Node: "a1"}
	host, err := CreateHost(dir)
	if err != nil {
		t.Fatal(err)
	}
	store, err := NewKeyStore(dir, host, KeyStoreOptions{Kind: KeyStoreFile})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.UpstreamKey(info); !errors.Is(err, ErrNoRequest) {
		t.Errorf("before a request: %v", err)
	}
	key, err := store.NewUpstreamKey(info)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := store.NewUpstreamKey(info); err != nil || !again.Equal(key) {
		t.Errorf("another one: %v", err)
	}
	raw, err := os.ReadFile(identityPath(dir, upstreamKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := x509.MarshalPKCS8PrivateKey(key); err != nil || strings.Contains(string(raw), string(plain[len(plain)-32:])) {
		t.Errorf("the key is on the disk as it is: %v", err)
	}
	if _, err := store.UpstreamKey(SealInfo{ClusterID: "c", Node: "a2"}); !errors.Is(err, ErrSeal) {
		t.Errorf("of another node: %v", err)
	}
	if err := errors.Join(store.DropUpstreamKey(), store.DropUpstreamKey()); err != nil {
		t.Error(err)
	}
	if again, err := store.NewUpstreamKey(info); err != nil || again.Equal(key) {
		t.Errorf("after it was dropped: %v", err)
	}
}

// TestOneUpstreamKey: who asks at the same time gets the same request, not one whose key another has replaced.
func TestOneUpstreamKey(t *testing.T) {
	dir, info := t.TempDir(), SealInfo{ClusterID: "c", Node: "a1"}
	host, err := CreateHost(dir)
	if err != nil {
		t.Fatal(err)
	}
	store, err := NewKeyStore(dir, host, KeyStoreOptions{Kind: KeyStoreFile})
	if err != nil {
		t.Fatal(err)
	}
	var keys [8]*ecdsa.PrivateKey
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			var err error
			if keys[i], err = store.NewUpstreamKey(info); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	kept, err := store.UpstreamKey(info)
	if err != nil {
		t.Fatal(err)
	}
	for i, key := range keys {
		if !kept.Equal(key) {
			t.Errorf("request %d is for a key that nobody has", i)
		}
	}
}

// TestIssuerBelowAnEnd: an issuer below an authority that ends within a day ends with it, and below one that has ended
// there is none.
func TestIssuerBelowAnEnd(t *testing.T) {
	key := mustKey(t)
	root := newAbove(t, nil, nil)
	cert := root.authority(t, key, nil)
	by := &Root{Cert: cert, Key: key, Above: [][]byte{cert.Raw}}
	late := cert.NotAfter.Add(-time.Hour)
	i, err := newIssuer(by, testTD, "a1", late)
	if err != nil || !i.cert.NotAfter.Equal(cert.NotAfter) {
		t.Errorf("an hour before: %v", err)
	}
	if _, err := newIssuer(by, testTD, "a1", cert.NotAfter.Add(time.Second)); err == nil {
		t.Error("below an authority that has ended")
	}
	if _, err := newIssuer(&Root{Cert: cert, Key: key}, testTD, "a1", late); err == nil {
		t.Error("control: a root of the cluster's own is not used up")
	}
}

// FuzzCheckUpstream: no text takes the judge down, and only a chain for the key is taken.
func FuzzCheckUpstream(f *testing.F) {
	key, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	root, err := NewRoot(testTD, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pemOf(root.Cert, root.Cert))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := CheckUpstream(testTD, key, text, time.Now()); !errors.Is(err, ErrUpstream) {
			t.Errorf("taken, or refused without its error: %v", err)
		}
	})
}
