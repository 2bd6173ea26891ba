package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
)

// TestJWTKeysRotate walks a core member's keys of tokens through a day and more, one look after the other: nothing is
// signed before the bundle knows the key; the first key signs at once, the next one waits; what cannot be published
// changes nothing; and what was signed counts by the bundle of the moment all along.
func TestJWTKeysRotate(t *testing.T) {
	g := newIdentityRig(t)
	var ahead atomic.Int64
	leaderless, asleep := false, "a3"
	s := &jwtSigner{
		node: "a1", keys: security.NewJWTKeys(t.TempDir()), hub: g.hub, issues: func() bool { return true }, log: zap.NewNop(),
		wake: make(chan struct{}, 1),
		holders: func(_ context.Context, kid string) (out []security.TrustReport) {
			_, known := g.hub.View().JWTKey(kid)
			for _, node := range []string{"a1", "a2", "a3"} {
				out = append(out, security.TrustReport{Node: node, Heard: true, Token: known && node != asleep})
			}
			return out
		},
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
	// The rig's log stands still, so the next key counts as published when the first one was: it has waited long enough for
	// those who poll, and a3 does not hold it.
	look(true)
	if got := signs(); got != first || s.waiting.Load() == nil || !slices.Equal(*s.waiting.Load(), []string{"a3"}) {
		t.Errorf("%s signs and not %s, it waits for %v", got, first, s.waiting.Load())
	}
	kid, without, err := s.force()
	if err != nil || kid == first || !slices.Equal(without, []string{"a3"}) {
		t.Errorf("an operator does not wait for a3: %s, %v, %v", kid, without, err)
	}
	look(true)
	second := signs()
	if second != kid {
		t.Error("the next key does not sign")
	}
	if _, _, err := s.force(); err == nil {
		t.Error("nothing waits, and it is forced")
	}
	again := &jwtSigner{node: "a1", keys: s.keys, hub: g.hub, publish: s.publish, holders: s.holders, now: s.now, log: s.log}
	if err := again.look(t.Context()); err != nil || again.signing.Load().key.ID() != second {
		t.Errorf("after a start: %v", err)
	}
	g.apply(state.JWTKeyRevoke{ID: second})
	if err := again.look(t.Context()); err != nil || again.signing.Load().key.ID() == second {
		t.Errorf("a revoked key signs, or %v", err) // the one after it was published before, and signs
	}
}

// TestTokenKeyWaitsForTheOneThatSleeps: real agents are asked, and the one that does not answer is named; the key signs when
// that one holds it.
func TestTokenKeyWaitsForTheOneThatSleeps(t *testing.T) {
	t.Parallel()
	cfg := single(t)
	cfg.Gossip.Profile = "fast"
	a1 := start(t, cfg, 0)
	token, err := a1.CreateToken(t.Context(), client.TokenSpec{Uses: 1, Role: "local"})
	if err != nil {
		t.Fatal(err)
	}
	sleeper := hostBeside(t, cfg, "a2")
	sleeper.Join, sleeper.Token, sleeper.Core.Eligible = []string{cfg.Mesh.Bind}, token.Token, false
	_, stop := startUntil(t, sleeper)
	var ahead time.Duration
	s := newJWTSigner(a1.agent)
	s.keys, s.now = security.NewJWTKeys(t.TempDir()), func() time.Time { return a1.agent.now().Add(ahead) }
	within(t, "a first key signs", func(ctx context.Context) error {
		if err := s.look(ctx); err != nil || s.signing.Load() == nil {
			return fmt.Errorf("none signs: %w", err)
		}
		return nil
	})
	first := s.signing.Load().key.ID()
	stop()
	ahead = security.JWTKeyTTL/2 + time.Minute
	if err := s.look(t.Context()); err != nil { // publishes the next one
		t.Fatal(err)
	}
	ahead += security.JWTKeySettle + time.Minute
	within(t, "it waits for a2 alone", func(ctx context.Context) error {
		if err := s.look(ctx); err != nil {
			return err
		}
		if waiting := s.waiting.Load(); waiting == nil || !slices.Equal(*waiting, []string{"a2"}) || s.signing.Load().key.ID() != first {
			return fmt.Errorf("it waits for %v", waiting)
		}
		return nil
	})
	start(t, sleeper, 0)
	within(t, "the next key signs", func(ctx context.Context) error {
		if err := s.look(ctx); err != nil || s.signing.Load().key.ID() == first {
			return fmt.Errorf("%s signs: %w", s.signing.Load().key.ID(), errors.Join(err))
		}
		return nil
	})
}
