package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/state"
)

// roles lists what the roots of an agent's status are for.
func roles(s client.CAStatus) (out []string) {
	for _, r := range s.Roots {
		out = append(out, r.Role)
	}
	slices.Sort(out)
	return out
}

// trusts waits until each agent's own bundle, in use and not only in its View, has so many roots.
func trusts(t *testing.T, agents []*running, roots int) {
	t.Helper()
	within(t, fmt.Sprintf("each agent trusts %d roots", roots), func(context.Context) error {
		for _, r := range agents {
			if _, have := r.agent.source.Bundle(); len(have) != roots {
				return fmt.Errorf("%s trusts %d", r.name, len(have))
			}
		}
		return nil
	})
}

// TestRotateRoot: the next root is in everybody's bundle before it signs, members' issuers are signed anew, and the old
// root stays for as long as what it signed may be valid. Nothing is interrupted: every certificate that was, is.
func TestRotateRoot(t *testing.T) {
	t.Parallel()
	agents := startCluster(t, 0, 0, 0)
	a1 := agents[0]
	before := a1.agent.hub.View().Authority().Signing
	if err := agents[2].RotateCA(t.Context(), false, false); err != nil {
		t.Fatal(err)
	}
	within(t, "another root signs", func(ctx context.Context) error {
		s, err := agents[1].CA(ctx)
		if err != nil || !slices.Equal(roles(s), []string{"old", "signing"}) || s.Step != "wait" {
			return fmt.Errorf("%+v, %w", s, errors.Join(err))
		}
		return nil
	})
	after := a1.agent.hub.View().Authority()
	if after.Signing == before || after.Wanted || after.Compromised {
		t.Errorf("authority %+v", after)
	}
	trusts(t, agents, 2)
	within(t, "the issuers are signed by it", func(context.Context) error {
		for _, r := range agents {
			authority := r.agent.issuer.authority.Load()
			if authority == nil {
				return fmt.Errorf("%s issues nothing", r.name)
			}
			if root, ok := authority.SignedBy(r.agent.hub.View().Bundle().Roots); !ok || state.RootHash(root) != after.Signing {
				return fmt.Errorf("the issuer of %s is signed by another root", r.name)
			}
		}
		return nil
	})
	put(t, agents[2].Client, "after")
	events, err := a1.Events(t.Context(), client.EventOptions{Kind: "root-rotation"})
	if err != nil || len(events) < 2 {
		t.Errorf("events %+v, %v", events, err)
	}
}

// TestRotateWaitsForTheOneThatSleeps: an agent that does not answer holds the next root up, by name, until an operator does
// not wait for it. Compromised is the same in haste, and the old root is gone soon, with all that it signed.
func TestRotateWaitsForTheOneThatSleeps(t *testing.T) {
	t.Parallel()
	cfg, _ := foundWithKey(t)
	cfg.Gossip.Profile = "fast"
	a1 := start(t, cfg, 0)
	token, err := a1.CreateToken(t.Context(), client.TokenSpec{Uses: 2, Role: "local"})
	if err != nil {
		t.Fatal(err)
	}
	joiner := hostBeside(t, cfg, "a2")
	joiner.Join, joiner.Token, joiner.Core.Eligible = []string{cfg.Mesh.Bind}, token.Token, false
	awake := start(t, joiner, 0)
	sleeper := hostBeside(t, cfg, "a3")
	sleeper.Join, sleeper.Token, sleeper.Core.Eligible = []string{cfg.Mesh.Bind}, token.Token, false
	_, stop := startUntil(t, sleeper)
	stop()
	if err := a1.RotateCA(t.Context(), false, false); err != nil {
		t.Fatal(err)
	}
	within(t, "it waits for a3 alone", func(ctx context.Context) error {
		s, err := awake.CA(ctx)
		if err != nil || s.Step != "wait" || !slices.Equal(s.WaitingFor, []string{"a3"}) || !slices.Equal(roles(s), []string{"next", "signing"}) {
			return fmt.Errorf("%+v, %w", s, errors.Join(err))
		}
		return nil
	})
	if err := a1.RotateCA(t.Context(), true, false); err != nil {
		t.Fatal(err)
	}
	within(t, "it signs all the same", func(ctx context.Context) error {
		s, err := awake.CA(ctx)
		if err != nil || s.Force || !slices.Equal(roles(s), []string{"old", "signing"}) {
			return fmt.Errorf("%+v, %w", s, errors.Join(err))
		}
		return nil
	})
	// a3 comes back, with the certificate and the bundle that it had.
	back := start(t, sleeper, 0)
	trusts(t, []*running{a1, awake, back}, 2)
	old := awake.agent.source.Leaf().SerialNumber
	if err := back.RotateCA(t.Context(), false, true); err != nil {
		t.Fatal(err)
	}
	within(t, "one root is left, and everybody has a certificate below it", func(ctx context.Context) error {
		s, err := back.CA(ctx)
		if err != nil || !slices.Equal(roles(s), []string{"signing"}) || s.Compromised {
			return fmt.Errorf("%+v, %w", s, errors.Join(err))
		}
		for _, r := range []*running{a1, awake, back} {
			if holds, chains := r.agent.source.Trust(); len(holds) != 1 || len(chains) != 1 || holds[0] != chains[0] {
				return fmt.Errorf("%s holds %d roots and chains to %d", r.name, len(holds), len(chains))
			}
		}
		return nil
	})
	if awake.agent.source.Leaf().SerialNumber.Cmp(old) == 0 {
		t.Error("control: the certificate of a2 is the one of before")
	}
	put(t, awake.Client, "after")
}
