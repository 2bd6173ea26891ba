package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/transport"
)

// TestLateRequestAccusesNobody: a request that is too old to be signed does not count as what its host has shown, so that the host, which asks anew with
// another secret, is not held for two. The control is the same request in time.
func TestLateRequestAccusesNobody(t *testing.T) {
	a1 := start(t, single(t), 0).agent
	host, err := security.CreateHost(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	token := state.Token{ID: strings.Repeat("9", 16), Verify: make([]byte, state.VerifyBytes), Expires: 1 << 63, Uses: 1, Role: "discovery"}
	join := state.NodeJoin{Token: token.ID, Node: "a2", HostKey: host.HostKey(), SealKey: host.SealKey()}
	for _, cmd := range []state.Command{state.TokenCreate{Token: token}, join} {
		if _, err := a1.service.Execute(t.Context(), api.Internal("a1"), cmd); err != nil {
			t.Fatal(err)
		}
	}
	link := func() *security.GenerationLink {
		l, err := security.OpenRatchet(t.TempDir(), a1.ids.ClusterID, "a2", host).Link()
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	ask := func(l *security.GenerationLink, end time.Time) (code string) {
		t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		req, err := security.NewLeafRequest(host, "a2", spiffeid.RequireTrustDomainFromString("agent.test"), &key.PublicKey, end)
		if err != nil {
			t.Fatal(err)
		}
		req.Generation = l
		body, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		_, err = a1.issuer.serveRenew(t.Context(), transport.Peer{Node: "a2"}, body)
		var refused *transport.Error
		if errors.As(err, &refused) {
			return refused.Code
		}
		if err != nil {
			t.Fatal(err)
		}
		return ""
	}
	first, second := link(), link()
	now := clock.System()
	if code := ask(first, now.Add(-time.Minute)); code != api.CodeInvalid {
		t.Errorf("a late request: %q", code)
	}
	if code := ask(second, now.Add(time.Hour)); code != "" {
		t.Errorf("what the host asks next: %q", code)
	}
	if code := ask(first, now.Add(time.Hour)); code != security.RekeyCopied {
		t.Errorf("control: two secrets for one generation in time: %q", code)
	}
}

// TestTrustedHostShowsNothing: a host that an operator trusts may ask without a secret for an hour, as one does that was set back, and not after
// it. One that never showed any always may.
func TestTrustedHostShowsNothing(t *testing.T) {
	r := newDenyRig(t)
	known := func() state.Generations {
		n, _ := r.m.View().Node("a3")
		return r.m.View().Generations(n)
	}
	node, _ := r.m.View().Node("a3")
	if err := untold(known(), r.m.View().Stamp()); err != nil {
		t.Errorf("control: one that never showed any: %v", err)
	}
	r.apply(state.NodeGenerations{Claims: []state.GenerationClaim{{
		Node: "a3", Binding: node.BindingEpoch, First: 1, Marks: []state.GenerationMark{{1}}, Live: true,
	}}})
	code := func(at clock.Stamp) string {
		var refused *security.RekeyError
		if err := untold(known(), at); errors.As(err, &refused) {
			return refused.Code
		}
		return ""
	}
	if got := code(r.m.View().Stamp()); got != security.RekeyUntold {
		t.Errorf("without an operator's word: %q", got)
	}
	trusted := r.apply(state.NodeTrust{Node: "a3"}).Stamp()
	end := trusted + state.TrustMillis<<16
	for at, want := range map[clock.Stamp]string{trusted: "", end: "", end + 1<<16: security.RekeyUntold} {
		if got := code(at); got != want {
			t.Errorf("%s after the word: %q, want %q", at.Wall().Sub(trusted.Wall()), got, want)
		}
	}
}
