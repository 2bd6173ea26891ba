package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// TestSessions: a session that is renewed through an agent outside the core outlives the leader and keeps its lock; one
// that is not renewed loses its lock; and one without a TTL loses it when its host died, and not before.
func TestSessions(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 4, ReplaceAfter: 10 * time.Minute, Settings: map[string]string{"session.node_grace": "2s"}})
	clients := clientsOf(t, l)
	whole(t, clients)
	leader, outside := agentInRole(t, clients, "leader"), agentInRole(t, clients, "none")
	c := clients[outside]

	renewed := newSession(t, c, client.SessionSpec{TTL: 4 * time.Second})
	abandoned := newSession(t, c, client.SessionSpec{TTL: 2 * time.Second})
	bound := newSession(t, c, client.SessionSpec{Node: outside})
	other := newSession(t, c, client.SessionSpec{Node: l.Agents[1].Name})
	for key, id := range map[string]string{"renewed": renewed, "abandoned": abandoned, "bound": bound} {
		if err := lock(t.Context(), c, key, id); err != nil {
			t.Fatal(err)
		}
		if err := lock(t.Context(), c, key, other); err == nil {
			t.Fatalf("%s: two holders", key)
		}
	}
	kill(t, l, leader)
	t.Logf("killed %s, which led", leader)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		eventually(t, 3*time.Second, "a renewal", func(ctx context.Context) error {
			_, err := c.RenewSession(ctx, renewed)
			return err
		})
		<-time.After(500 * time.Millisecond)
	}
	if err := lock(t.Context(), c, "abandoned", other); err != nil {
		t.Errorf("a session that nobody renewed still holds its lock: %v", err)
	}
	for _, key := range []string{"renewed", "bound"} {
		var refused *client.Error
		if err := lock(t.Context(), c, key, other); !errors.As(err, &refused) || refused.Code != "conflict" {
			t.Errorf("%s: its holder lives, another session got %v", key, err)
		}
	}

	restart(t, l, leader)
	kill(t, l, outside)
	t.Logf("killed %s, to which a session is bound", outside)
	eventually(t, 30*time.Second, "the lock of a dead host's session", func(ctx context.Context) error {
		return lock(ctx, clients[leader], "bound", other)
	})
	eventually(t, 10*time.Second, "the end of the session that is no longer renewed", func(ctx context.Context) error {
		sessions, err := clients[leader].Sessions(ctx, "")
		if err == nil && (len(sessions) != 1 || sessions[0].ID != other) {
			err = fmt.Errorf("%d sessions", len(sessions))
		}
		return err
	})
}

func newSession(t *testing.T, c *client.Client, spec client.SessionSpec) string {
	t.Helper()
	spec.LockDelay = new(time.Duration)
	s, err := c.CreateSession(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return s.ID
}

func lock(ctx context.Context, c *client.Client, key, session string) error {
	_, err := c.Put(ctx, key, []byte(session), client.PutOptions{Session: session})
	return err
}
