package api

import (
	"crypto/tls"
	"net/http"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/security/policy"
)

// TestRecoveryKeyStaysOnTheHost: an operator by the network is refused before the key is read; on the host itself, the
// control, it is taken.
func TestRecoveryKeyStaysOnTheHost(t *testing.T) {
	c := newFake(t, 1, 1)
	const path, body = "/parley/v1/ca/reseal", `{"recovery_key":"k"}`
	o := c.agents["a1"].options()
	o.IdentifyTLS = func(tls.ConnectionState) (Caller, error) {
		return Caller{Role: policy.Operator, Name: "spiffe://example.org/parley/operator/eve", Kind: KindMTLS}, nil
	}
	withTLS := func(r *http.Request) { r.TLS = &tls.ConnectionState{} }
	if w := do(New(o).Handler(HTTPS), "POST", path, body, withTLS); w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "on the host itself") {
		t.Errorf("by https: %d %s", w.Code, w.Body)
	}
	if w := do(c.agents["a1"].withRole(policy.Operator).Handler(Loopback), "POST", path, body); w.Code != http.StatusOK {
		t.Errorf("control: %d %s", w.Code, w.Body)
	}
}

// TestRefusalAboutRoots: the hint is about roots, not about keys.
func TestRefusalAboutRoots(t *testing.T) {
	c := newFake(t, 1, 1)
	w := do(c.agents["a1"].withRole(policy.Operator).Handler(Loopback), "POST", "/parley/v1/ca/leave", "{}")
	if w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "parley ca status") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
