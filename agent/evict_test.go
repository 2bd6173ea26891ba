package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/transport"
)

// TestEvictCoreMember: a voter that is evicted is shut out within a second of the commit, on connections that are open too;
// it is replaced in the core, its issuer counts no more, the root is another one soon, and the others work all the time.
func TestEvictCoreMember(t *testing.T) {
	agents := startCluster(t, 0, 0, 0, 0)
	status, err := agents[0].Core(t.Context())
	if err != nil || status.Leader == nil {
		t.Fatalf("%+v, %v", status, err)
	}
	var out *running
	var rest []*running
	for _, r := range agents {
		voter := false
		for _, v := range status.Voters {
			voter = voter || v.Name == r.name
		}
		if voter && r.name != *status.Leader && out == nil {
			out = r
		} else {
			rest = append(rest, r)
		}
	}
	ask := func(r *running) error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := out.agent.pool.Call(ctx, r.name, methodPing, nil)
		var answered *transport.Error
		if errors.As(err, &answered) && answered.Code == "invalid" {
			return nil // it came through
		}
		return err
	}
	if err := ask(rest[0]); err != nil {
		t.Fatalf("control: before, %v", err)
	}
	would, err := rest[0].Evict(t.Context(), out.name, "", true)
	if err != nil || would.Core != "voter" || !would.RootReplaced || would.Evicted {
		t.Errorf("dry run: %+v, %v", would, err)
	}
	if _, ok := rest[0].agent.hub.View().Node(out.name); !ok {
		t.Fatal("control: unknown")
	}
	before := rest[0].agent.hub.View().Authority().Signing
	if _, err := rest[0].Evict(t.Context(), out.name, "a test", false); err != nil {
		t.Fatal(err)
	}
	began := clock.Boottime()
	within(t, "nobody answers it", func(context.Context) error {
		for _, r := range rest {
			if ask(r) == nil {
				return fmt.Errorf("%s does", r.name)
			}
		}
		return nil
	})
	if took := clock.Boottime() - began; took > time.Second {
		t.Errorf("it took %s to shut it out", took)
	}
	within(t, "it is out of the core, and another root signs alone", func(ctx context.Context) error {
		core, err := rest[1].Core(ctx)
		for _, v := range core.Voters {
			if v.Name == out.name {
				return fmt.Errorf("it votes: %+v", core.Voters)
			}
		}
		s, caErr := rest[1].CA(ctx)
		if err := errors.Join(err, caErr); err != nil || len(core.Voters) != 3 || len(s.Roots) != 1 || s.Compromised {
			return fmt.Errorf("%+v, %+v, %w", core.Voters, s, err)
		}
		return nil
	})
	if rest[0].agent.hub.View().Authority().Signing == before {
		t.Error("the root is the one that it could open")
	}
	for _, r := range rest {
		put(t, r.Client, "from-"+r.name)
		if err := r.agent.renewer.Err(); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
		if node, _ := r.agent.source.IssuedBy(); node == out.name {
			t.Errorf("%s has a certificate of the evicted issuer", r.name)
		}
	}
}

// TestEvictIsGuarded: the only voter cannot be evicted, and nobody who is not there.
func TestEvictIsGuarded(t *testing.T) {
	runFor(t, single(t), nil, func(c *client.Client) {
		put(t, c, "k")
		for node, want := range map[string]string{"a1": "guarded", "a9": "not_found"} {
			_, err := c.Evict(t.Context(), node, "", false)
			var e *client.Error
			if !errors.As(err, &e) || e.Code != want {
				t.Errorf("%s: %v, want %s", node, err, want)
			}
		}
	})
}

// TestEvictedIssuersAreReadOnce: what each handshake asks costs no look through the evictions, and another eviction counts at once.
func TestEvictedIssuersAreReadOnce(t *testing.T) {
	r, e := newDenyRig(t), evictedIssuers{}
	if at := e.of(r.m.View(), "a2"); len(at) != 0 {
		t.Errorf("control: evicted at %s", at)
	}
	v := r.apply(state.NodeEvict{Node: "a3"}, state.NodeEvict{Node: "a2"})
	if at := e.of(v, "a2"); len(at) != 1 || !at[0].Equal(v.Stamp().Wall()) {
		t.Errorf("evicted at %s, want %s", at, v.Stamp().Wall())
	}
	if at := e.of(v, "a3"); len(at) != 0 {
		t.Errorf("who was never in the core was an issuer until %s", at)
	}
	v = r.apply(webOfRig) // another table
	if n := testing.AllocsPerRun(100, func() { e.of(v, "a2") }); n != 0 {
		t.Errorf("a handshake allocates %g times", n)
	}
}
