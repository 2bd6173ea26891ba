package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// TestTimelineTellsACrash: the leader is killed and comes back, and the timeline of every agent tells it in one order:
// another leads, the old one is dead, it is back, it started without a clean stop before. Who crashes often shows in
// node status on any agent, while it is dead as well.
func TestTimelineTellsACrash(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	victim := agentInRole(t, clients, "leader")
	var other *client.Client
	for name, c := range clients {
		if name != victim {
			other = c
		}
	}
	if n, err := other.Node(t.Context(), victim); err != nil || n.Starts10m != 0 || n.State != "alive" {
		t.Errorf("control: before the crash %s is %+v, %v", victim, n, err)
	}
	// Two crashes more, so fast that it cannot say anything in between: the count is one that makes an alert.
	for round := range 3 {
		if err := l.Kill(victim, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			eventually(t, 30*time.Second, "the next leader tells that the old one is dead", func(ctx context.Context) error {
				return toldInOrder(ctx, other, "leader-elected "+victim, "leader-elected ", "member-dead "+victim)
			})
			if n, err := other.Node(t.Context(), victim); err != nil || n.State != "dead" || n.Core != "voter" {
				t.Errorf("%s is %+v, %v, want a dead voter", victim, n, err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		if err := l.Restart(ctx, victim); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	for name, c := range clients {
		eventually(t, 30*time.Second, name+" tells the whole story", func(ctx context.Context) error {
			return toldInOrder(ctx, c, "member-dead "+victim, "agent-started "+victim+": start 4, the run before ended without a clean stop")
		})
		eventually(t, 30*time.Second, name+" tells that it is back", func(ctx context.Context) error {
			return toldInOrder(ctx, c, "member-dead "+victim, "member-back "+victim)
		})
	}
	eventually(t, 30*time.Second, "three starts are seen", func(ctx context.Context) error {
		for name, c := range clients {
			want := 3
			if name == victim {
				want = 4 // it knows of its first start too
			}
			if n, err := c.Node(ctx, victim); err != nil || n.Starts10m != want || n.Incarnation != 4 {
				return fmt.Errorf("%s: %+v, %w, want %d starts", name, n, err, want)
			}
		}
		return nil
	})
}

// TestTimelineWithoutAQuorum: with the core's majority gone the timeline is still read everywhere; what an agent has to
// report waits, flagged, and is written when the core is back.
func TestTimelineWithoutAQuorum(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	voters, err := clients["a1"].Core(t.Context())
	if err != nil || len(voters.Voters) != 3 {
		t.Fatalf("core %+v, %v", voters, err)
	}
	for _, v := range voters.Voters[:2] {
		if err := l.Kill(v.Name, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	outside := agentInRole(t, pick(clients, []string{"a4", "a5"}), "none")
	if err := l.Kill(outside, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := l.Restart(ctx, outside); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "its start waits", func(ctx context.Context) error {
		events, err := clients[outside].Events(ctx, client.EventOptions{})
		if err == nil && (len(events) < 6 || !events[len(events)-1].Pending || events[0].Pending) {
			err = fmt.Errorf("got %+v", events)
		}
		return err
	})
	for _, v := range voters.Voters[:2] {
		if err := l.Restart(ctx, v.Name); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 40*time.Second, "its start is written", func(ctx context.Context) error {
		return toldInOrder(ctx, clients["a1"], "agent-started "+outside, "agent-started "+outside+": start 2, the run before")
	})
}

// toldInOrder complains unless the timeline has events that begin with these, as "kind subject: message", in this order.
func toldInOrder(ctx context.Context, c *client.Client, want ...string) error {
	events, err := c.Events(ctx, client.EventOptions{})
	if err != nil {
		return err
	}
	var lines []string
	for _, e := range events {
		if !e.Pending {
			lines = append(lines, e.Kind+" "+e.Subject+": "+e.Message)
		}
	}
	rest := lines
	for _, w := range want {
		i := slices.IndexFunc(rest, func(line string) bool { return strings.HasPrefix(line, w) })
		if i < 0 {
			return fmt.Errorf("%q is missing, or not in its place, in:\n%s", w, strings.Join(lines, "\n"))
		}
		rest = rest[i+1:]
	}
	return nil
}
