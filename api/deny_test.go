package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// TestCanonicalSerial: however a serial number is printed in hex, it is one; what may be another is none.
func TestCanonicalSerial(t *testing.T) {
	const want = "0a4b0c6e5d1b7a9e3f2d"
	for _, as := range []string{
		want, "a4b0c6e5d1b7a9e3f2d", "0A4B0C6E5D1B7A9E3F2D", "0xa4b0c6e5d1b7a9e3f2d", "0X0A4B0C6E5D1B7A9E3F2D", "000a4b0c6e5d1b7a9e3f2d",
		"0a:4b:0c:6e:5d:1b:7a:9e:3f:2d", "A:4B:0C:6E:5D:1B:7A:9E:3F:2D", "00:0a:4b:0c:6e:5d:1b:7a:9e:3f:2d",
	} {
		if got, ok := canonicalSerial(as); !ok || got != want {
			t.Errorf("%s is read as %q, %v", as, got, ok)
		}
	}
	for _, as := range []string{"web", "0a:4b:c:6e:5d:1b:7a:9e:3f:2d", "0a4b0c6e:5d1b7a9e3f2d", ":0a4b", "0x0xa4b0", "-a4b0c6e5d1b7a9e3f2", "a4 b0"} {
		if got, ok := canonicalSerial(as); ok {
			t.Errorf("%s is read as %q", as, got)
		}
	}
}

// TestDeniedSerials: the serial of an issuer or a root is refused with what to do instead, and one that may be decimal; another one is denied,
// and let in again in whatever form it is given.
func TestDeniedSerials(t *testing.T) {
	c := newFake(t, 1, 1)
	root := &x509.Certificate{SerialNumber: big.NewInt(0x0a4b0c6e5d1b7a9e), Subject: pkix.Name{CommonName: "root"}, NotAfter: time.Unix(1<<32, 0)}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	prepare := state.UpstreamPrepare{Chain: [][]byte{[]byte("authority"), der}, Seals: []state.Seal{{Node: "a1", Sealed: []byte("s")}}}
	for _, cmd := range []state.Command{prepare, state.RootActivate{Root: sha256.Sum256(prepare.Chain[0])}} {
		if _, err := c.agents["a1"].service.Execute(t.Context(), Internal("a1"), cmd); err != nil {
			t.Fatal(err)
		}
	}
	o := c.agents["a1"].options()
	o.AnonymousRole = policy.Operator
	o.Local.Identities.Show = func() IdentityReport {
		return IdentityReport{Certificates: []CertificateInUse{
			{Link: "leaf", Serial: "c0ffee0000000001"}, {Link: "issuer", Serial: "b0ffee000000001"}, {Link: "authority", Serial: "aaffee0000000001"},
		}}
	}
	h := New(o).Handler(Loopback)
	for serial, says := range map[string]string{
		"0b0ffee000000001": "parley ca rotate --compromised", "B0:FF:EE:00:00:00:00:1": "no serial number", "0xb0ffee000000001": "parley evict NODE",
		"AA:FF:EE:00:00:00:00:01": "(authority)", "a4b0c6e5d1b7a9e": "(root)", "1234567890123456": "decimal",
	} {
		w := do(h, "POST", "/parley/v1/deny", `{"what":"`+serial+`"}`)
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), says) {
			t.Errorf("%s: %d %s, want %q", serial, w.Code, w.Body, says)
		}
	}
	for what, code := range map[string]int{"garbage": 400, "spiffe://other.example/svc/web": 400, "0b0ffee000000001": 400, "/svc/web": 200, "0xC0FFEE0000000001": 200} {
		w := do(h, "POST", "/parley/v1/deny", `{"what":"`+what+`","dry_run":true}`)
		if list := do(h, "GET", "/parley/v1/denies", ""); w.Code != code || strings.TrimSpace(list.Body.String()) != "[]" {
			t.Errorf("a dry run of %s: %d %s, denied are %s", what, w.Code, w.Body, list.Body)
		}
	}
	for serial, want := range map[string]string{"0xC0FFEE0000000001": "c0ffee0000000001", "0x1234567890123456": "1234567890123456"} {
		var d DenyInfo
		w := do(h, "POST", "/parley/v1/deny", `{"what":"`+serial+`"}`)
		if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || w.Code != http.StatusOK || d.Subject != want || d.Kind != "serial" {
			t.Errorf("control: %s: %d %s", serial, w.Code, w.Body)
		}
	}
	if w := do(h, "DELETE", "/parley/v1/deny/serial/1234567890123456", ""); w.Code != http.StatusOK {
		t.Errorf("in the form of the list: %d %s", w.Code, w.Body)
	}
	o.Local.Certifies = func() error { return Errorf(CodeDenied, "another authority certifies") }
	h = New(o).Handler(Loopback)
	if w := do(h, "POST", "/parley/v1/deny", `{"what":"aaffee0000000001"}`); !strings.Contains(w.Body.String(), "replace its certificate there") {
		t.Errorf("with an authority outside: %s", w.Body)
	}
}

// TestBindDeniedOperator: a key may be bound to a denied name, so that the one that leaked is gone before the name is let in again, and the hint
// says so in this order. The control is a name that is not denied.
func TestBindDeniedOperator(t *testing.T) {
	c := newFake(t, 1, 1)
	s := c.agents["a1"].service
	if _, _, err := s.BindOperator(t.Context(), operator, requestOf(t, "eve"), policy.Local, false); err != nil {
		t.Fatalf("control: %v", err)
	}
	if _, err := s.Execute(t.Context(), operator, state.DenySet{Kind: state.DenyID, Subject: "spiffe://example.org/parley/operator/eve"}); err != nil {
		t.Fatal(err)
	}
	again := requestOf(t, "eve")
	_, _, err := s.BindOperator(t.Context(), operator, again, policy.Local, true)
	hint := AsError(err).Hint
	lift, renew := strings.Index(hint, "parley deny remove spiffe://example.org/parley/operator/eve"), strings.Index(hint, "parley operator renew")
	if codeOf(err) != CodeDenied || lift < 0 || renew < lift || !strings.Contains(hint, "the key is bound to eve") {
		t.Errorf("%v, hint %q", err, hint)
	}
	row, _ := c.agents["a1"].hub.View().Operator("eve")
	if req, failed := s.operatorRequest(again); failed != nil || row.KeyHash != req.KeyHash {
		t.Error("the new key is not bound")
	}
}
