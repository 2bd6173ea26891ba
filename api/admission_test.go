package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/security/policy"
)

// admissionExample is a body that is taken.
var admissionExample = exampleAdmission("other", true)

func exampleAdmission(name string, ca bool) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hosts"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0), IsCA: ca, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	body, err := json.Marshal(admissionBody{Name: name, Kind: "x509", Names: "web-*", Authorities: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))})
	if err != nil {
		panic(err)
	}
	return string(body)
}

// TestAdmissionBodies: what makes no sense is refused with the reason and writes nothing, the same again is the same, and another
// one by the same name wants to be asked for.
func TestAdmissionBodies(t *testing.T) {
	c := newFake(t, 1, 1)
	h := c.agents["a1"].withRole(policy.Operator).Handler(Loopback)
	const path = "/parley/v1/admission"
	good := exampleAdmission("fleet", true)
	for name, b := range map[string]struct{ body, want string }{
		"kind":         {strings.Replace(good, `"x509"`, `"gpg"`, 1), "is not one of x509, ssh"},
		"no pem":       {`{"name":"fleet","kind":"x509","names":"*","authorities":"hello"}`, "0 certificates"},
		"a leaf":       {exampleAdmission("fleet", false), "not the certificate of an authority"},
		"no ssh key":   {`{"name":"fleet","kind":"ssh","names":"*","authorities":""}`, "no public key of SSH"},
		"junk":         {`{"name":"fleet","kind":"ssh","names":"*","authorities":"ssh-ed25519 AAAA"}`, "public keys of SSH"},
		"role":         {strings.Replace(good, `"role":""`, `"role":"god"`, 1), "role"},
		"role of core": {strings.Replace(good, `"role":"","core":false`, `"role":"local","core":true`, 1), "core has the role operator"},
		"no names":     {strings.Replace(good, `"web-*"`, `""`, 1), "say which nodes may join"},
	} {
		if w := do(h, http.MethodPost, path, b.body); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), b.want) {
			t.Errorf("%s: %d %s, want %q", name, w.Code, w.Body, b.want)
		}
	}
	if w := do(h, http.MethodGet, "/parley/v1/admissions", ""); w.Body.String() != "[]" && strings.TrimSpace(w.Body.String()) != "[]" {
		t.Errorf("something was written: %s", w.Body)
	}
	for range 2 {
		if w := do(h, http.MethodPost, path, good); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"SHA256:`) {
			t.Fatalf("control: %d %s", w.Code, w.Body)
		}
	}
	other := strings.Replace(good, "web-*", "db-*", 1)
	if w := do(h, http.MethodPost, path, other); w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "--replace") {
		t.Errorf("another one: %d %s", w.Code, w.Body)
	}
	if w := do(h, http.MethodPost, path, strings.Replace(other, `"replace":false`, `"replace":true`, 1)); w.Code != http.StatusOK {
		t.Errorf("another one on purpose: %d %s", w.Code, w.Body)
	}
}
