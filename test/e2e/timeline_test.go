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
			// It has read the line that another wrote, and may hear of the death from its own gossip a moment later.
			eventually(t, 30*time.Second, "it shows as a dead voter", func(ctx context.Context) error {
				if n, err := other.Node(ctx, victim); err != nil || n.State != "dead" || n.Core != "voter" {
					return fmt.Errorf("%s is %+v, %w", victim, n, err)
				}
				return nil
			})
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

// TestOneLostVoterIsToldOnce: a voter that is killed and comes back makes one line for each end of each alert about the
// core, not one an agent. Meanwhile an agent is restarted three times by SIGTERM, which is no crash loop on any agent;
// killed as often it is one, with its name (the control).
func TestOneLostVoterIsToldOnce(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	whole(t, clients)
	outside, voter := agentInRole(t, clients, "none"), agentInRole(t, clients, "voter")
	asked := clients[agentInRole(t, clients, "leader")]
	lose(t, l, voter, syscall.SIGKILL, func() {
		eventually(t, alertWithin, "it is told", func(ctx context.Context) error {
			return toldInOrder(ctx, asked, "alert-firing quorum-margin")
		})
	})
	for range 3 {
		lose(t, l, outside, syscall.SIGTERM, func() {})
	}
	eventually(t, 20*time.Second, "its end is told", func(ctx context.Context) error {
		return toldInOrder(ctx, asked, "alert-resolved quorum-margin: is over: ")
	})
	eventually(t, 20*time.Second, "three starts were seen, and nothing is wrong with the core or with them", func(ctx context.Context) error {
		n, err := asked.Node(ctx, outside)
		if err == nil && (n.Starts10m != 3 || n.CrashStarts10m != 0) {
			err = fmt.Errorf("%+v", n)
		}
		if err != nil {
			return err
		}
		return everywhere(clients, "", func(c *client.Client) error {
			alerts, err := c.Alerts(ctx)
			if slices.ContainsFunc(alerts, func(a client.Alert) bool {
				return a.State != "ok" && slices.Contains([]string{"crash-loop", "quorum-margin", "voter-unhealthy", "no-leader"}, a.ID)
			}) {
				return fmt.Errorf("alerts %+v", alerts)
			}
			return err
		})
	})
	events, err := asked.Events(t.Context(), client.EventOptions{})
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]int{}
	for _, e := range events {
		if strings.HasPrefix(e.Kind, "alert-") {
			told[e.Kind+" "+e.Subject]++
		}
	}
	for _, line := range []string{"alert-firing quorum-margin", "alert-firing voter-unhealthy", "alert-resolved quorum-margin", "alert-resolved voter-unhealthy"} {
		if told[line] != 1 {
			t.Errorf("%q was told %d times, want once", line, told[line])
		}
	}
	for range 3 { // the control
		lose(t, l, outside, syscall.SIGKILL, func() {})
	}
	eventually(t, 20*time.Second, "a crash loop is named", func(ctx context.Context) error {
		e, err := asked.Explain(ctx)
		if err == nil && !slices.ContainsFunc(e.Causes, func(c client.Cause) bool { return c.Cause == "crash-loop" && c.Subject == outside }) {
			err = fmt.Errorf("causes %+v", e.Causes)
		}
		return err
	})
}

// lose ends an agent, does something meanwhile, and starts it again.
func lose(t *testing.T, l *lab.Lab, name string, by syscall.Signal, meanwhile func()) {
	t.Helper()
	if err := l.Kill(name, by); err != nil {
		t.Fatal(err)
	}
	meanwhile()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := l.Restart(ctx, name); err != nil {
		t.Fatal(err)
	}
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
