package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
)

// hostCA certifies hosts, and has nothing to do with the cluster.
type hostCA struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newHostCA(t *testing.T) *hostCA {
	t.Helper()
	ca := &hostCA{t: t}
	var err error
	if ca.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hosts"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, ca.key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return ca
}

func (ca *hostCA) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}))
}

// files has a certificate for name, and its key, as a host would have them.
func (ca *hostCA) files(name string) (certFile, keyFile string) {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}, ca.cert, key.Public(), ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	dir := ca.t.TempDir()
	certFile, keyFile = filepath.Join(dir, "host.pem"), filepath.Join(dir, "host.key")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			ca.t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// host is the configuration of a host that joins by a certificate for name.
func (ca *hostCA) host(beside config.Config, name, root string, join ...string) config.Config {
	ca.t.Helper()
	cfg := hostBeside(ca.t, beside, "unnamed")
	cfg.Name, cfg.Join, cfg.Core.Eligible = "", join, false
	cfg.Attest.Kind, cfg.Attest.TrustDomain, cfg.Attest.Roots = security.AttestX509, "agent.test", []string{root}
	cfg.Attest.CertFile, cfg.Attest.KeyFile = ca.files(name)
	return cfg
}

// TestJoinByCertificate: hosts come in by a certificate of another authority, at a core member and through an agent that is
// none; under the name in it, which belongs to the first that comes by it; and by no other name, no other authority, and not
// once the admission has ended.
func TestJoinByCertificate(t *testing.T) {
	t.Parallel()
	cfg := single(t)
	cfg.Gossip.Profile = "fast"
	a1 := start(t, cfg, 0)
	s, err := a1.CA(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root := s.Roots[0].Hash
	ca, other := newHostCA(t), newHostCA(t)

	refused := func(what string, host config.Config, code string) {
		t.Helper()
		err := startFails(t, host)
		var why *security.JoinError
		if !errors.As(err, &why) || why.Code != code {
			t.Errorf("%s: %v, want the code %s", what, err, code)
		}
	}
	refused("without an admission", ca.host(cfg, "web-1.example.org", root, cfg.Mesh.Bind), security.JoinUnattested)
	if _, err := a1.SetAdmission(t.Context(), client.AdmissionSpec{
		Name: "fleet", Kind: "x509", Authorities: ca.pem(), Names: "web-*", Suffix: ".example.org", Role: "local",
	}); err != nil {
		t.Fatal(err)
	}
	web1 := start(t, ca.host(cfg, "web-1.example.org", root, cfg.Mesh.Bind), 0)
	isMember(t, a1, "web-1")
	relay := web1.agent.cfg.Mesh.Bind
	start(t, ca.host(cfg, "web-2.example.org", root, relay), 0)
	isMember(t, a1, "web-2")

	refused("a name that is taken", ca.host(cfg, "web-1.example.org", root, cfg.Mesh.Bind), security.JoinNameTaken)
	refused("a name that is not admitted", ca.host(cfg, "db-1.example.org", root, relay), security.JoinUnattested)
	refused("another authority", other.host(cfg, "web-3.example.org", root, relay), security.JoinUnattested)
	refused("another cluster", ca.host(cfg, "web-3.example.org", strings.Repeat("00", 32), cfg.Mesh.Bind), security.JoinRootMismatch)
	if err := a1.RemoveAdmission(t.Context(), "fleet"); err != nil {
		t.Fatal(err)
	}
	refused("an admission that has ended", ca.host(cfg, "web-3.example.org", root, relay), security.JoinUnattested)
	isMember(t, a1, "web-1")
}

func isMember(t *testing.T, r *running, name string) {
	t.Helper()
	within(t, name+" is a member", func(ctx context.Context) error {
		members, err := r.Members(ctx)
		for _, m := range members {
			if m.Name == name && m.State == "alive" {
				return nil
			}
		}
		return fmt.Errorf("%+v, %w", members, err)
	})
}

// startFails runs an agent that ends by itself, and returns why.
func startFails(t *testing.T, cfg config.Config) error {
	t.Helper()
	a, err := New(cfg, Options{Physical: clock.System, Log: zaptest.NewLogger(t, zaptest.Level(zap.FatalLevel))})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = a.Run(ctx)
	if err == nil || ctx.Err() != nil {
		t.Errorf("it runs: %v", err)
	}
	return err
}

// TestTokensOfCertificatesAreFew: who has a certificate cannot fill the state with tokens.
func TestTokensOfCertificatesAreFew(t *testing.T) {
	t.Parallel()
	cfg := single(t)
	a1 := start(t, cfg, 0)
	s, err := a1.CA(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ca := newHostCA(t)
	if _, err := a1.SetAdmission(t.Context(), client.AdmissionSpec{Name: "fleet", Kind: "x509", Authorities: ca.pem(), Names: "*"}); err != nil {
		t.Fatal(err)
	}
	hash, err := security.ParseRootHash(s.Roots[0].Hash)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := security.LoadX509Identity(ca.files("web-1"))
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := security.Attest(ctx, security.AttestOptions{
			TrustDomain: a1.agent.issuer.td, Roots: [][32]byte{hash}, Identity: identity, Addrs: []string{cfg.Mesh.Bind}, Now: time.Now,
		})
		return err
	}
	for range maxAttestTokens {
		if err := ask(); err != nil {
			t.Fatal(err)
		}
	}
	var busy *security.JoinError
	if err := ask(); !errors.As(err, &busy) || busy.Code != security.JoinBusy {
		t.Errorf("one more: %v", err)
	}
	if tokens, err := a1.Tokens(t.Context()); err != nil || len(tokens) != maxAttestTokens {
		t.Errorf("%d tokens, %v", len(tokens), err)
	}
}
