package security

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// outsideCA is an authority that has nothing to do with the cluster.
type outsideCA struct {
	t    testing.TB
	cert *x509.Certificate
	key  crypto.Signer
	ssh  ssh.Signer
	now  time.Time
}

func newOutsideCA(t testing.TB, now time.Time) *outsideCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hosts"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return &outsideCA{t: t, cert: cert, key: key, ssh: signer, now: now}
}

// certify gives a key a certificate, changed by spoil.
func (ca *outsideCA) certify(key crypto.Signer, name string, spoil func(*x509.Certificate)) *HostIdentity {
	ca.t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: ca.now.Add(-time.Minute), NotAfter: ca.now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	if spoil != nil {
		spoil(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return &HostIdentity{kind: AttestX509, evidence: [][]byte{der}, sign: func(content []byte) ([]byte, error) { return signX509(key, content) }}
}

// certifySSH is certify for a host certificate of OpenSSH.
func (ca *outsideCA) certifySSH(key crypto.Signer, name string, spoil func(*ssh.Certificate)) *HostIdentity {
	ca.t.Helper()
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	cert := &ssh.Certificate{
		Key: signer.PublicKey(), Serial: 1, CertType: ssh.HostCert, KeyId: name, ValidPrincipals: []string{name},
		ValidAfter: uint64(ca.now.Add(-time.Minute).Unix()), ValidBefore: uint64(ca.now.Add(time.Hour).Unix()), //nolint:gosec // after 1970
	}
	if spoil != nil {
		spoil(cert)
	}
	if err := cert.SignCert(rand.Reader, ca.ssh); err != nil {
		ca.t.Fatal(err)
	}
	return &HostIdentity{kind: AttestSSH, evidence: [][]byte{cert.Marshal()}, sign: func(content []byte) ([]byte, error) { return signSSH(signer, content) }}
}

// rule believes the authority for one name.
func (ca *outsideCA) rule(kind, name string) AttestRule {
	authority := ca.cert.Raw
	if kind == AttestSSH {
		authority = ca.ssh.PublicKey().Marshal()
	}
	return AttestRule{Name: "fleet", Kind: kind, Authorities: [][]byte{authority}, NodeOf: func(certified string) (string, error) {
		if certified != name {
			return "", errors.New("the admission is for " + name)
		}
		return strings.TrimSuffix(name, ".example.org"), nil
	}}
}

func newKeyOf(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "p384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	default:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// request is what a host with this identity sends.
func request(t testing.TB, w *world, identity *HostIdentity) (AttestRequest, *ecdh.PrivateKey) {
	t.Helper()
	o := AttestOptions{TrustDomain: w.td, Roots: [][32]byte{RootHash(w.root.Cert.Raw)}, Identity: identity, Now: time.Now}
	r, key, err := o.newRequest()
	if err != nil {
		t.Fatal(err)
	}
	return r, key
}

// TestCheckAttest: hosts with keys of all kinds are admitted by the name in their certificate; and whatever is wrong with the
// certificate, with the signature or with the moment is refused with a reason that names it.
func TestCheckAttest(t *testing.T) {
	w := newWorld(t, testTD)
	now := time.Now()
	ca, other := newOutsideCA(t, now), newOutsideCA(t, now)
	const name = "web-1.example.org"
	rules := []AttestRule{ca.rule(AttestX509, name), ca.rule(AttestSSH, name)}
	for _, kind := range []string{"p256", "p384", "rsa", "ed25519"} {
		key := newKeyOf(t, kind)
		for _, identity := range []*HostIdentity{ca.certify(key, name, nil), ca.certifySSH(key, name, nil)} {
			r, _ := request(t, w, identity)
			if rule, node, err := CheckAttest(r, rules, now); err != nil || rule != "fleet" || node != "web-1" {
				t.Errorf("control: %s, %s: %q, %q, %v", identity.kind, kind, rule, node, err)
			}
		}
	}
	key := newKeyOf(t, "p256")
	x := func(spoil func(*x509.Certificate)) *HostIdentity { return ca.certify(key, name, spoil) }
	s := func(spoil func(*ssh.Certificate)) *HostIdentity { return ca.certifySSH(key, name, spoil) }
	hours := func(n int) time.Time { return now.Add(time.Duration(n) * time.Hour) }
	for _, c := range []struct {
		what     string
		identity *HostIdentity
		want     string
	}{
		{"expired", x(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }), "expired"},
		{"not yet valid", x(func(c *x509.Certificate) { c.NotBefore = hours(1); c.NotAfter = hours(2) }), "not yet valid"},
		{"another authority", other.certify(key, name, nil), "unknown authority"},
		{"an authority as a host", x(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }), "that of an authority"},
		{"a key that may not sign", x(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), "may not sign"},
		{"another name", ca.certify(key, "db-1.example.org", nil), "the admission is for"},
		{"no name", x(func(c *x509.Certificate) { c.DNSNames, c.Subject.CommonName = nil, "" }), "names no host"},
		{"a common name beside other DNS names", x(func(c *x509.Certificate) { c.DNSNames = []string{"db-1.example.org"} }), "the admission is for"},
		{"ssh: expired", s(func(c *ssh.Certificate) { c.ValidBefore = uint64(now.Add(-time.Second).Unix()) }), "expired"}, //nolint:gosec // after 1970
		{"ssh: not yet valid", s(func(c *ssh.Certificate) {
			c.ValidAfter, c.ValidBefore = uint64(hours(1).Unix()), uint64(hours(2).Unix())
		}), "not yet valid"}, //nolint:gosec // after 1970
		{"ssh: another authority", other.certifySSH(key, name, nil), "another authority"},
		{"ssh: a user", s(func(c *ssh.Certificate) { c.CertType = ssh.UserCert }), "for a user"},
		{"ssh: any host", s(func(c *ssh.Certificate) { c.ValidPrincipals = nil }), "for any host"},
		{"ssh: another name", ca.certifySSH(key, "db-1", nil), "the admission is for"},
		{"ssh: an option that nobody knows", s(func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"moon": "full"} }), "critical option"},
	} {
		r, _ := request(t, w, c.identity)
		_, _, err := CheckAttest(r, rules, now)
		wantUnattested(t, c.what, err, c.want)
	}
	r, _ := request(t, w, x(nil))
	if _, _, err := CheckAttest(r, nil, now); err == nil {
		t.Error("admitted where there is no admission")
	}
	if _, _, err := CheckAttest(r, rules[1:], now); err == nil {
		t.Error("admitted by an admission of another kind")
	}
	for _, off := range []time.Duration{-AttestClock - time.Second, AttestClock + time.Second} {
		var refused *JoinError
		if _, _, err := CheckAttest(r, rules, now.Add(off)); !errors.As(err, &refused) || refused.Code != JoinClock || refused.Permanent() {
			t.Errorf("%v off: %v", off, err)
		}
	}
}

func wantUnattested(t *testing.T, what string, err error, want string) {
	t.Helper()
	var refused *JoinError
	if !errors.As(err, &refused) || !refused.Permanent() || !strings.Contains(refused.Message, want) {
		t.Errorf("%s: %v, want %q", what, err, want)
	}
}

// TestAttestProof: every field is under the signature, and the signature is by the key in the certificate.
func TestAttestProof(t *testing.T) {
	w := newWorld(t, testTD)
	now := time.Now()
	ca := newOutsideCA(t, now)
	const name = "web-1"
	rules := []AttestRule{ca.rule(AttestX509, name), ca.rule(AttestSSH, name)}
	key := newKeyOf(t, "p256")
	for _, identity := range []*HostIdentity{ca.certify(key, name, nil), ca.certifySSH(key, name, nil)} {
		good, _ := request(t, w, identity)
		thief := *identity
		thief.sign = ca.certify(newKeyOf(t, "p256"), name, nil).sign
		if identity.kind == AttestSSH {
			thief.sign = ca.certifySSH(newKeyOf(t, "p256"), name, nil).sign
		}
		stolen, _ := request(t, w, &thief)
		wantProof(t, "signed by another key", stolen, rules, now)
		for what, spoil := range map[string]func(*AttestRequest){
			"trust domain": func(r *AttestRequest) { r.TrustDomain += "x" },
			"root":         func(r *AttestRequest) { r.Root = make([]byte, 32) },
			"seal key":     func(r *AttestRequest) { r.SealKey = make([]byte, 32) },
			"time":         func(r *AttestRequest) { r.At++ },
			"signature":    func(r *AttestRequest) { r.Signature[len(r.Signature)-1] ^= 1 },
			"no signature": func(r *AttestRequest) { r.Signature = []byte("x") },
		} {
			r := good
			r.Signature = append([]byte(nil), good.Signature...)
			spoil(&r)
			wantProof(t, what, r, rules, now)
		}
		if _, _, err := CheckAttest(good, rules, now); err != nil {
			t.Errorf("control: %v", err)
		}
	}
	for bits, fine := range map[uint]bool{1024: false, 2048: true, 8192: true, 16384: false} {
		if err := checkRSA(&rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), bits-1), E: 65537}); (err == nil) != fine {
			t.Errorf("a key of %d bits: %v", bits, err)
		}
	}
	sha1 := ca.certifySSH(newKeyOf(t, "rsa"), name, nil)
	sha1.sign = func([]byte) ([]byte, error) {
		return ssh.Marshal(&ssh.Signature{Format: ssh.KeyAlgoRSA, Blob: []byte("x")}), nil
	}
	r, _ := request(t, w, sha1)
	wantProof(t, "by SHA-1", r, rules, now)
}

func wantProof(t *testing.T, what string, r AttestRequest, rules []AttestRule, now time.Time) {
	t.Helper()
	var refused *JoinError
	if _, node, err := CheckAttest(r, rules, now); !errors.As(err, &refused) || !strings.Contains(refused.Message, "not signed by the key") {
		t.Errorf("%s: %q, %v", what, node, err)
	}
}

// TestAttestAnswer: only what an issuer of the cluster made for this request, whole, gives a token, and only whoever made the
// request can open it.
func TestAttestAnswer(t *testing.T) {
	w := newWorld(t, testTD)
	now := time.Now()
	ca := newOutsideCA(t, now)
	r, key := request(t, w, ca.certify(newKeyOf(t, "p256"), "web-1", nil))
	made, err := NewToken(w.gen.ClusterID, w.td, [][]byte{w.root.Cert.Raw}, "web-1", false)
	if err != nil {
		t.Fatal(err)
	}
	known := [][32]byte{RootHash(w.root.Cert.Raw)}
	answer, err := w.gen.Authority.AnswerAttest(r, made, [][]byte{w.root.Cert.Raw})
	if err != nil {
		t.Fatal(err)
	}
	got, err := answer.token(r, w.td, known, key, now)
	if err != nil || got.String() != made.String() {
		t.Fatalf("control: %v, %v", got, err)
	}
	stranger, _ := ecdh.X25519().GenerateKey(rand.Reader)
	if _, err := answer.token(r, w.td, known, stranger, now); err == nil {
		t.Error("another key opens it")
	}
	again, againKey := request(t, w, ca.certify(newKeyOf(t, "p256"), "web-1", nil))
	if _, err := answer.token(again, w.td, known, againKey, now); err == nil {
		t.Error("the answer to another request is taken")
	}
	if _, err := answer.token(r, w.td, [][32]byte{{1}}, key, now); err == nil {
		t.Error("below a root that the host does not know")
	}
	if _, err := answer.token(r, w.td, known, key, now.Add(48*time.Hour)); err == nil {
		t.Error("by an issuer that has ended")
	}
	for what, spoil := range map[string]func(*AttestResponse){
		"cluster":   func(a *AttestResponse) { a.ClusterID = strings.Repeat("0", 32) },
		"token":     func(a *AttestResponse) { a.TokenID = strings.Repeat("0", 16) },
		"node":      func(a *AttestResponse) { a.Node = "web-2" },
		"sealed":    func(a *AttestResponse) { a.Sealed = append([]byte(nil), a.Sealed[:len(a.Sealed)-1]...) },
		"signature": func(a *AttestResponse) { a.Signature = a.Signature[:len(a.Signature)-1] },
		"no chain":  func(a *AttestResponse) { a.Chain = nil },
		"the root":  func(a *AttestResponse) { a.Chain = a.Chain[1:] },
	} {
		bad := answer
		spoil(&bad)
		if _, err := bad.token(r, w.td, known, key, now); err == nil {
			t.Errorf("%s is changed, and it is taken", what)
		}
	}
	// An agent of the cluster is no issuer, whatever it signs.
	host, err := CreateHost(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	_, leaf := w.leaf(host, "a9", time.Hour)
	bad := answer
	bad.Chain = append(append([][]byte{}, leaf...), w.root.Cert.Raw)
	if _, err := bad.token(r, w.td, known, key, now); err == nil || !strings.Contains(err.Error(), "no issuer") {
		t.Errorf("by an agent: %v", err)
	}
}

// TestAttestBounds: what is too large, too much or of no known form is refused before it is looked at.
func TestAttestBounds(t *testing.T) {
	w := newWorld(t, testTD)
	ca := newOutsideCA(t, time.Now())
	good, _ := request(t, w, ca.certify(newKeyOf(t, "p256"), "web-1", nil))
	for what, spoil := range map[string]func(*AttestRequest){
		"tag":                  func(r *AttestRequest) { r.Request = "join" },
		"version":              func(r *AttestRequest) { r.Version = 2 },
		"kind":                 func(r *AttestRequest) { r.Kind = "gpg" },
		"root":                 func(r *AttestRequest) { r.Root = r.Root[1:] },
		"no evidence":          func(r *AttestRequest) { r.Evidence = nil },
		"much evidence":        func(r *AttestRequest) { r.Evidence = make([][]byte, maxEvidence+1) },
		"large evidence":       func(r *AttestRequest) { r.Evidence = [][]byte{make([]byte, maxEvidenceBytes+1)} },
		"two of SSH":           func(r *AttestRequest) { r.Kind, r.Evidence = AttestSSH, [][]byte{{1}, {2}} },
		"seal key":             func(r *AttestRequest) { r.SealKey = []byte{1} },
		"no signature":         func(r *AttestRequest) { r.Signature = nil },
		"a large signature":    func(r *AttestRequest) { r.Signature = make([]byte, maxAttestSignature+1) },
		"an empty certificate": func(r *AttestRequest) { r.Evidence = [][]byte{nil} },
	} {
		r := good
		spoil(&r)
		if _, err := DecodeAttestRequest(mustJSON(t, r)); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	if _, err := DecodeAttestRequest(mustJSON(t, good)); err != nil {
		t.Errorf("control: %v", err)
	}
}

// TestHostIdentityFiles: what a host shows is read from the files that other programs write, and what is no such file is
// refused by name.
func TestHostIdentityFiles(t *testing.T) {
	w := newWorld(t, testTD)
	now := time.Now()
	ca := newOutsideCA(t, now)
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := newKeyOf(t, "ed25519")
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile := write("host.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	certFile := write("host.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.certify(key, "web-1", nil).evidence[0]}))
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	sshKey := write("ssh_host_key", pem.EncodeToMemory(block))
	public, err := ssh.ParsePublicKey(ca.certifySSH(key, "web-1", nil).evidence[0])
	if err != nil {
		t.Fatal(err)
	}
	sshCert := write("ssh_host_key-cert.pub", ssh.MarshalAuthorizedKey(public))
	rules := []AttestRule{ca.rule(AttestX509, "web-1"), ca.rule(AttestSSH, "web-1")}
	for kind, load := range map[string]func() (*HostIdentity, error){
		AttestX509: func() (*HostIdentity, error) { return LoadX509Identity(certFile, keyFile) },
		AttestSSH:  func() (*HostIdentity, error) { return LoadSSHIdentity(sshCert, sshKey) },
	} {
		identity, err := load()
		if err != nil {
			t.Fatal(err)
		}
		r, _ := request(t, w, identity)
		if _, node, err := CheckAttest(r, rules, now); err != nil || node != "web-1" {
			t.Errorf("%s: %q, %v", kind, node, err)
		}
	}
	signer, _ := ssh.NewSignerFromSigner(key)
	plain := write("ssh_host_key.pub", ssh.MarshalAuthorizedKey(signer.PublicKey()))
	otherBlock, _ := ssh.MarshalPrivateKey(newKeyOf(t, "ed25519"), "")
	other := write("other", pem.EncodeToMemory(otherBlock))
	large := write("large", make([]byte, maxSSHFile+1))
	for what, load := range map[string]func() (*HostIdentity, error){
		"nobody has certified": func() (*HostIdentity, error) { return LoadSSHIdentity(plain, sshKey) },
		"is not the key of":    func() (*HostIdentity, error) { return LoadSSHIdentity(sshCert, other) },
		"at most":              func() (*HostIdentity, error) { return LoadSSHIdentity(large, sshKey) },
		"private key does not match": func() (*HostIdentity, error) {
			return LoadX509Identity(certFile, write("p8", func() []byte {
				der, _ := x509.MarshalPKCS8PrivateKey(newKeyOf(t, "ed25519"))
				return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
			}()))
		},
	} {
		if _, err := load(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want %q", err, what)
		}
	}
	authority := "@cert-authority *.example.org " + string(ssh.MarshalAuthorizedKey(ca.ssh.PublicKey()))
	for _, text := range []string{authority, "# ours\n\n" + string(ssh.MarshalAuthorizedKey(ca.ssh.PublicKey()))} {
		if keys, err := ParseSSHAuthorities([]byte(text), 1); err != nil || len(keys) != 1 || string(keys[0]) != string(ca.ssh.PublicKey().Marshal()) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := ParseSSHAuthorities([]byte(strings.Repeat(authority, 3)), 2); err == nil {
		t.Error("three authorities where two are allowed")
	}
	if _, err := ParseSSHAuthorities(ssh.MarshalAuthorizedKey(public), 2); err == nil {
		t.Error("a certificate is taken for an authority")
	}
}

// TestAttestJoin: a host without a token comes in by its certificate, through the real listener; and one that finds another
// cluster at the address sends nothing.
func TestAttestJoin(t *testing.T) {
	w := newWorld(t, testTD)
	ca := newOutsideCA(t, time.Now())
	rules := []AttestRule{ca.rule(AttestX509, "web-1")}
	var asked atomic.Int32
	d := openDoor(t, w)
	d.attest = func(_ context.Context, r AttestRequest) (AttestResponse, error) {
		asked.Add(1)
		_, node, err := CheckAttest(r, rules, time.Now())
		if err != nil {
			return AttestResponse{}, err
		}
		token, err := NewToken(w.gen.ClusterID, w.td, w.gen.Roots, node, false)
		if err != nil {
			return AttestResponse{}, err
		}
		return w.gen.Authority.AnswerAttest(r, token, w.gen.Roots)
	}
	o := AttestOptions{
		TrustDomain: w.td, Roots: [][32]byte{RootHash(w.root.Cert.Raw)}, Identity: ca.certify(newKeyOf(t, "p256"), "web-1", nil), Addrs: []string{d.addr}, Now: time.Now,
	}
	token, err := Attest(t.Context(), o)
	if err != nil || token.Node != "web-1" || token.ClusterID != w.gen.ClusterID {
		t.Fatalf("%+v, %v", token, err)
	}
	o.Identity = ca.certify(newKeyOf(t, "p256"), "db-1", nil)
	_, err = Attest(t.Context(), o)
	wantUnattested(t, "another name", err, "the admission is for")
	before := asked.Load()
	o.Roots = [][32]byte{{7}}
	var refused *JoinError
	if _, err := Attest(t.Context(), o); !errors.As(err, &refused) || refused.Code != JoinRootMismatch {
		t.Errorf("another cluster: %v", err)
	}
	if asked.Load() != before {
		t.Error("something was sent to another cluster")
	}
	for _, bad := range []func(*AttestOptions){func(o *AttestOptions) { o.Roots = nil }, func(o *AttestOptions) { o.Addrs = nil }} {
		wrong := o
		bad(&wrong)
		if _, err := Attest(t.Context(), wrong); err == nil {
			t.Errorf("%+v is taken", wrong.Addrs)
		}
	}
}

// FuzzAttestRequest: whatever comes in is refused or is a request, whose evidence is then judged without a panic.
func FuzzAttestRequest(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	ca := newOutsideCA(f, now)
	key := newKeyOf(f, "p256")
	rules := []AttestRule{ca.rule(AttestX509, "web-1"), ca.rule(AttestSSH, "web-1")}
	for _, identity := range []*HostIdentity{ca.certify(key, "web-1", nil), ca.certifySSH(key, "web-1", nil)} {
		o := AttestOptions{TrustDomain: testTD, Roots: [][32]byte{{1}}, Identity: identity, Now: func() time.Time { return now }}
		r, _, err := o.newRequest()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(mustJSON(f, r))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeAttestRequest(data)
		if err != nil {
			return
		}
		if _, node, err := CheckAttest(r, rules, now); err == nil && node != "web-1" {
			t.Errorf("admitted as %q", node)
		}
	})
}
