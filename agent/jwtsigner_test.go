package agent

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
)

// TestJWTKeysRotate walks a core member's keys of tokens through a day and more, one look after the other: nothing is
// signed before the bundle knows the key; the first key signs at once, the next one waits; what cannot be published
// changes nothing; and what was signed counts by the bundle of the moment all along.
func TestJWTKeysRotate(t *testing.T) {
	g := newIdentityRig(t)
	var ahead atomic.Int64
	leaderless := false
	s := &jwtSigner{
		node: "a1", keys: security.NewJWTKeys(t.TempDir()), hub: g.hub, issues: func() bool { return true }, log: zap.NewNop(),
		now: func() time.Time { return g.hub.View().Stamp().Wall().Add(time.Duration(ahead.Load())) },
		publish: func(_ context.Context, c state.Command) error {
			if leaderless {
				return errors.New("no leader")
			}
			g.apply(c)
			return nil
		},
	}
	id := spiffeid.RequireFromString("spiffe://agent.test/svc/web")
	look := func(ok bool) {
		t.Helper()
		if err := s.look(t.Context()); (err == nil) != ok {
			t.Fatalf("look: %v", err)
		}
	}
	signs := func() string {
		t.Helper()
		_, err := s.sign(id, []string{"db"}, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		bundles, _, err := g.Bundles()
		if err != nil {
			t.Fatal(err)
		}
		kid := s.signing.Load().key.ID()
		if _, ok := bundles.Own.FindJWTAuthority(kid); !ok {
			t.Errorf("the bundle does not know the key %s that signs", kid)
		}
		return kid
	}
	leaderless = true
	look(false)
	if token, err := s.sign(id, []string{"db"}, time.Minute); err == nil {
		t.Fatalf("signed before anybody knows the key: %s", token)
	}
	leaderless = false
	look(true) // publishes
	look(true) // and takes it
	first := signs()

	ahead.Store(int64(security.JWTKeyTTL/2 + time.Minute))
	leaderless = true
	look(false)
	if got := signs(); got != first {
		t.Errorf("%s signs in place of %s, and nobody knows it", got, first)
	}
	leaderless = false
	look(true)
	if keys := g.hub.View().JWTKeys(); len(keys) != 2 {
		t.Fatalf("%d keys are known", len(keys))
	}
	// The rig's log stands still, so the next key counts as published when the first one was: it has waited long enough.
	look(true)
	second := signs()
	if second == first {
		t.Error("the next key does not sign")
	}
	again := &jwtSigner{node: "a1", keys: s.keys, hub: g.hub, publish: s.publish, now: s.now, log: s.log}
	if err := again.look(t.Context()); err != nil || again.signing.Load().key.ID() != second {
		t.Errorf("after a start: %v", err)
	}
	g.apply(state.JWTKeyRevoke{ID: second})
	if err := again.look(t.Context()); err != nil || again.signing.Load().key.ID() == second {
		t.Errorf("a revoked key signs, or %v", err) // the one after it was published before, and signs
	}
}
