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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops"
)

// companyCA is a CA that signs what the cluster asks for.
type companyCA struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCompanyCA(t *testing.T) *companyCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Company CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour), KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &companyCA{t, cert, key}
}

// sign answers a request with a chain for so long.
func (c *companyCA) sign(request string, pathLen int, life time.Duration) []byte {
	c.t.Helper()
	block, _ := pem.Decode([]byte(request))
	if block == nil {
		c.t.Fatalf("no request: %s", request)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: csr.Subject, URIs: csr.URIs, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().Add(life), KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLen: pathLen, MaxPathLenZero: pathLen == 0,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, csr.PublicKey, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})...)
}

// signsBelow waits until an authority that the CA has signed signs the issuers of all, and returns its hash.
func signsBelow(t *testing.T, agents []*running, before string) (hash string) {
	t.Helper()
	within(t, "an authority of the company signs", func(ctx context.Context) error {
		for _, r := range agents {
			s, err := r.CA(ctx)
			if err != nil || s.Authority == nil || s.Authority.Hash == before || s.Authority.SignedBy != "CN=Company CA" {
				return fmt.Errorf("%s: %+v, %w", r.name, s, errors.Join(err))
			}
			hash = s.Authority.Hash
			authority := r.agent.issuer.authority.Load()
			if authority == nil {
				return fmt.Errorf("%s issues nothing", r.name)
			}
			if chains := authority.Chains(r.agent.hub.View().Bundle().Roots); len(chains) != 2 || fmt.Sprintf("%x", chains[1]) != hash {
				return fmt.Errorf("the issuer of %s chains to %x", r.name, chains)
			}
		}
		return nil
	})
	return hash
}

// TestExternalAuthority walks the whole life of an authority below somebody else's CA: request, refusals, its first day with
// restarts and a new agent, the next one below the same root, and the way back. Nobody is cut off meanwhile.
func TestExternalAuthority(t *testing.T) {
	agents := startCluster(t, 0, 0, 0)
	a1, ctx := agents[0], t.Context()
	ca := newCompanyCA(t)
	request, err := a1.RequestAuthority(ctx)
	if err != nil || request.Node != "a1" {
		t.Fatalf("%+v, %v", request, err)
	}
	if again, err := a1.RequestAuthority(ctx); err != nil {
		t.Errorf("again: %+v, %v", again, err)
	}
	if _, err := a1.UseAuthority(ctx, ca.sign(request.Request, 0, 90*24*time.Hour)); err == nil || !strings.Contains(err.Error(), "path length") {
		t.Errorf("a path length of 0: %v", err)
	}
	chain := ca.sign(request.Request, 1, 90*24*time.Hour)
	if _, err := agents[1].UseAuthority(ctx, chain); err == nil || !strings.Contains(err.Error(), "no request") {
		t.Errorf("on the wrong member: %v", err)
	}
	if err := a1.LeaveAuthority(ctx); err == nil {
		t.Error("nothing is there to leave")
	}
	if _, err := a1.UseAuthority(ctx, chain); err != nil {
		t.Fatal(err)
	}
	first := signsBelow(t, agents, "")
	if _, err := a1.UseAuthority(ctx, chain); err == nil {
		t.Error("one request was used twice")
	}
	put(t, a1.Client, "below")

	// A member that starts again, and an agent that knows the root by its token alone.
	cfg := agents[1].agent.cfg
	agents[1].stop()
	agents[1] = start(t, cfg, 0)
	put(t, agents[1].Client, "again")
	token, err := a1.CreateToken(ctx, client.TokenSpec{Uses: 1, Role: "local"})
	if err != nil {
		t.Fatal(err)
	}
	joiner := hostBeside(t, a1.agent.cfg, "a4")
	joiner.Join, joiner.Token = []string{a1.agent.cfg.Mesh.Bind}, token.Token
	a4 := start(t, joiner, 0)
	put(t, a4.Client, "joined")
	if got := len(a4.agent.source.Chain()); got != 3 {
		t.Errorf("the new agent shows %d certificates, want its own, the issuer's and the authority's", got)
	}
	readings := ops.Readings{}
	a4.agent.readCertificates(readings)
	if readings[ops.IdentityAuthority] < 0.99 {
		t.Errorf("readings %v", readings)
	}

	// In haste: it waits for people, and then takes out the root of before.
	if err := a1.RotateCA(ctx, false, true); err != nil {
		t.Fatal(err)
	}
	within(t, "it asks for another certificate", func(ctx context.Context) error {
		s, err := a1.CA(ctx)
		if err != nil || s.Step != "wait" || !strings.Contains(s.Reason, "parley ca csr") {
			return fmt.Errorf("%+v, %w", s, errors.Join(err))
		}
		return nil
	})
	if request, err = agents[2].RequestAuthority(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := agents[2].UseAuthority(ctx, ca.sign(request.Request, 2, 5*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	everybody := append(slices.Clone(agents), a4)
	second := signsBelow(t, agents, first)
	trusts(t, everybody, 1)
	if s, err := a4.CA(ctx); err != nil || !slices.Equal(roles(s), []string{"signing"}) || s.Compromised || s.Authority.Hash != second || s.RotatesAt.After(s.Authority.NotAfter) {
		t.Errorf("%+v, %v", s, err)
	}
	put(t, a4.Client, "second")

	if err := a4.LeaveAuthority(ctx); err != nil {
		t.Fatal(err)
	}
	within(t, "a root of the cluster's own signs", func(ctx context.Context) error {
		s, err := a4.CA(ctx)
		if err != nil || s.Authority != nil || !slices.Equal(roles(s), []string{"old", "signing"}) {
			return fmt.Errorf("%+v, %w", s, errors.Join(err))
		}
		return nil
	})
	put(t, a4.Client, "own")
}

// TestRecoveryKeyBelowAnotherCA: the recovery key brings a cluster back whose authority somebody else has signed, and the
// agent that ran all the time believes what that authority says of the new host.
func TestRecoveryKeyBelowAnotherCA(t *testing.T) {
	cfg, key := foundWithKey(t)
	cfg.Gossip.Profile = "fast"
	a1, stop := startUntil(t, cfg)
	token, err := a1.CreateToken(t.Context(), client.TokenSpec{Uses: 1, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	joiner := hostBeside(t, cfg, "a2")
	joiner.Join, joiner.Token, joiner.Core.Eligible = []string{cfg.Mesh.Bind}, token.Token, false
	a2 := start(t, joiner, 0)
	request, err := a1.RequestAuthority(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a1.UseAuthority(t.Context(), newCompanyCA(t).sign(request.Request, 1, 90*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	signsBelow(t, []*running{a1}, "")
	within(t, "a2 knows the authority", func(context.Context) error {
		v := a2.agent.hub.View()
		if _, ok := v.Upstream(v.Authority().Signing); !ok {
			return errors.New("it does not")
		}
		return nil
	})
	file := filepath.Join(t.TempDir(), "b.parley")
	if _, err := saveFrom(t, a1.Client, file, false); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := os.RemoveAll(cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	r1, _ := restoredOn(t, hostBeside(t, cfg, "r1"), file, key)
	put(t, r1.Client, "after")
	if got := len(r1.agent.source.Chain()); got != 3 {
		t.Errorf("the new host shows %d certificates, want 3", got)
	}
	within(t, "a2 follows, and writes through the new core", func(ctx context.Context) error {
		_, err := a2.Put(ctx, "through", []byte("v"), client.PutOptions{})
		return err
	})
}
