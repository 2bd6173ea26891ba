package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// TestSafeMode: a voter of five that is killed three times is in safe mode 1 by its third start, says so, and is seen so by
// another agent; while it is, leaders are killed and it is never elected. That it could be elected otherwise shows
// consensus.TestAbstains, and that safe modes end agent.TestSafeModes.
func TestSafeMode(t *testing.T) {
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute, Core: true})
	clients := clientsOf(t, l)
	if err := clients["a1"].SetCoreSize(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	fiveVote := func(ctx context.Context) error {
		core, err := clients["a1"].Core(ctx)
		if err == nil && (len(core.Voters) != 5 || core.Leader == nil || slices.ContainsFunc(core.Voters, func(m client.CoreMember) bool { return !m.Healthy })) {
			err = fmt.Errorf("%+v", core)
		}
		return err
	}
	eventually(t, 30*time.Second, "five voters", fiveVote)

	victim := agentInRole(t, clients, "voter")
	for n := range 3 {
		if st, err := clients[victim].Status(t.Context()); err != nil || st.SafeMode != 0 {
			t.Fatalf("after %d kills: safe mode %d, %v", n, st.SafeMode, err)
		}
		kill(t, l, victim)
		restart(t, l, victim)
		eventually(t, 20*time.Second, victim+" answers", func(ctx context.Context) error {
			_, err := clients[victim].Status(ctx)
			return err
		})
	}
	if st, err := clients[victim].Status(t.Context()); err != nil || st.SafeMode != 1 {
		t.Fatalf("after its third start it is in safe mode %d, %v", st.SafeMode, err)
	}
	for range 2 {
		eventually(t, 30*time.Second, "five voters", fiveVote)
		leader := agentInRole(t, clients, "leader")
		asked := victim // it hears who leads
		kill(t, l, leader)
		eventually(t, 20*time.Second, "another leader", func(ctx context.Context) error {
			now, err := leaderOf(ctx, clients[asked])
			if err == nil && (now == "" || now == leader) {
				err = fmt.Errorf("%q leads", now)
			}
			if now == victim {
				t.Errorf("%s was elected in safe mode", victim)
			}
			return err
		})
		restart(t, l, leader)
	}
	other := agentInRole(t, clients, "leader")
	eventually(t, 15*time.Second, "another agent knows", func(ctx context.Context) error {
		node, err := clients[other].Node(ctx, victim)
		if err == nil && node.SafeMode != 1 {
			err = fmt.Errorf("%+v", node)
		}
		return err
	})
}
