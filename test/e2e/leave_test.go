package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// TestLeave: agents leave one after the other, until the core refuses. An agent outside the core just goes; a voter is
// replaced by the spare, for which all of them are allowed in the core; then, with three, the core becomes one voter and
// one learner by it, and what was written before is still there. The one after that is refused with exit 4, and so is a
// voter while another one is dead. Who has left is `left` for everyone, never dead, and its directory does not start again.
func TestLeave(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 5, Core: true, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	whole(t, clients)
	if _, err := clients["a1"].Put(t.Context(), "before", []byte("x"), client.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	outside := agentInRole(t, clients, "none")

	dry := parley(t, "leave", "--dry-run", "-o", "json", "--addr", named(t, l, outside).Addr())
	if dry.code != 0 || !strings.Contains(dry.out, `"core": "none"`) {
		t.Fatalf("dry run: %+v", dry)
	}
	leaves(t, l, clients, outside)
	voter, spare := agentInRole(t, clients, "voter"), agentInRole(t, clients, "none")
	dry = parley(t, "leave", "--dry-run", "-o", "json", "--addr", named(t, l, voter).Addr())
	if dry.code != 0 || !strings.Contains(dry.out, `"heir": "`+spare+`"`) {
		t.Fatalf("dry run of a voter, with %s as the spare: %+v", spare, dry)
	}
	leaves(t, l, clients, voter)
	voters(t, clients, 3, 0)

	// Three are left. With one of them dead nobody may leave; the dead one is the control: it is not left.
	dead := agentInRole(t, clients, "voter")
	kill(t, l, dead)
	rest := others(clients, dead)
	eventually(t, 20*time.Second, dead+" is held dead", func(ctx context.Context) error { return holdsState(ctx, rest, dead, "dead") })
	for name := range rest {
		s := parley(t, "leave", "--yes", "--addr", named(t, l, name).Addr())
		if s.code != 4 || !strings.Contains(s.err, "may not leave") || !strings.Contains(s.err, "2 are needed") {
			t.Errorf("leave of %s beside a dead voter: %+v", name, s)
		}
	}
	restart(t, l, dead)
	eventually(t, 20*time.Second, dead+" is back", func(ctx context.Context) error { return holdsState(ctx, clients, dead, "alive") })
	voters(t, clients, 3, 0)

	// The leader leaves: it hands over, and two are left, of which one votes.
	leaves(t, l, clients, agentInRole(t, clients, "leader"))
	voters(t, clients, 1, 1)
	for name, c := range clients {
		if pair, err := c.Get(t.Context(), "before", client.ReadOptions{}); err != nil || string(pair.Value) != "x" {
			t.Errorf("read through %s: %q, %v", name, pair.Value, err)
		}
	}
	learner := agentInRole(t, clients, "learner")
	leaves(t, l, clients, learner)
	last := agentInRole(t, clients, "leader")
	s := parley(t, "leave", "--yes", "--addr", named(t, l, last).Addr())
	if s.code != 4 || !strings.Contains(s.err, "may not leave") {
		t.Errorf("leave of the last one: %+v", s)
	}
	if _, err := clients[last].Put(t.Context(), "after", []byte("x"), client.PutOptions{}); err != nil {
		t.Errorf("a write after all: %v", err)
	}
}

// leaves has an agent leave, and takes it out of clients. Its process ends, it is left for the others, and it does not
// start again.
func leaves(t *testing.T, l *lab.Lab, clients map[string]*client.Client, name string) {
	t.Helper()
	a, began := named(t, l, name), time.Now()
	s := parley(t, "leave", "--yes", "-o", "json", "--wait", "1m", "--addr", a.Addr())
	if s.code != 0 || !strings.Contains(s.out, `"left": true`) {
		t.Fatalf("%s leaves: %+v", name, s)
	}
	t.Logf("%s left within %v: %s", name, time.Since(began).Round(time.Millisecond), strings.Join(strings.Fields(s.out), " "))
	delete(clients, name)
	eventually(t, 10*time.Second, name+" is left, and has ended", func(ctx context.Context) error {
		if a.Running() {
			return errors.New("it runs")
		}
		return holdsState(ctx, clients, name, "left")
	})
	neverDead(t, clients, name, began)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := l.Restart(ctx, name); err == nil || !strings.Contains(a.LogTail(5), "has left the cluster") {
		t.Errorf("%s starts again: %v\n%s", name, err, a.LogTail(5))
	}
}

// neverDead wants the timeline not to say that a member is dead since a time: it may have been killed before.
func neverDead(t *testing.T, clients map[string]*client.Client, name string, since time.Time) {
	t.Helper()
	for asked, c := range clients {
		events, err := c.Events(t.Context(), client.EventOptions{Kind: "member-dead"})
		if err != nil || slices.ContainsFunc(events, func(e client.TimelineEvent) bool { return e.Subject == name && !e.Time.Before(since) }) {
			t.Errorf("the timeline of %s says that %s is dead, after it began to leave at %s: %v, %v", asked, name, since, events, err)
		}
	}
}

// voters waits until all agents see so many healthy voters and learners, and nobody of the core is missing.
func voters(t *testing.T, clients map[string]*client.Client, voting, learning int) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("%d voters and %d learners", voting, learning), func(ctx context.Context) error {
		for name, c := range clients {
			core, err := c.Core(ctx)
			if err != nil {
				return err
			}
			if core.Leader == nil || len(core.Voters) != voting || len(core.Learners) != learning || core.Margin != (voting-1)/2 {
				return fmt.Errorf("%s sees %+v", name, core)
			}
		}
		return nil
	})
}

func others(clients map[string]*client.Client, but string) map[string]*client.Client {
	rest := make(map[string]*client.Client)
	for name, c := range clients {
		if name != but {
			rest[name] = c
		}
	}
	return rest
}

// holdsState wants every agent to hold a member in a state.
func holdsState(ctx context.Context, clients map[string]*client.Client, name, state string) error {
	for asked, c := range clients {
		members, err := c.Members(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(members, func(m client.Member) bool { return m.Name == name })
		if i < 0 || members[i].State != state {
			return fmt.Errorf("%s holds %s as %+v", asked, name, members)
		}
	}
	return nil
}

// TestHold: a voter in maintenance is not replaced while it is away for longer than core.replace_after; once it is
// released it is. The control is that release. All agents show the hold, and until when.
func TestHold(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 4, Core: true, ReplaceAfter: 2 * time.Second})
	clients := clientsOf(t, l)
	whole(t, clients)
	held := agentInRole(t, clients, "voter")
	rest := others(clients, held)
	asked := named(t, l, agentInRole(t, clients, "leader"))
	if s := parley(t, "core", "hold", held, "--for", "10m", "--addr", asked.Addr()); s.code != 0 {
		t.Fatalf("hold: %+v", s)
	}
	eventually(t, 5*time.Second, "all show it", func(ctx context.Context) error {
		for name, c := range clients {
			core, err := c.Core(ctx)
			if err != nil {
				return err
			}
			if len(core.Held) != 1 || core.Held[0].Name != held || time.Until(core.Held[0].Until) < 9*time.Minute {
				return fmt.Errorf("%s: %+v", name, core.Held)
			}
		}
		return nil
	})
	kill(t, l, held)
	eventually(t, 20*time.Second, held+" is held dead", func(ctx context.Context) error { return holdsState(ctx, rest, held, "dead") })
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if err := votes(t.Context(), rest, held); err != nil {
			t.Fatalf("it is replaced: %v", err)
		}
	}
	if s := parley(t, "core", "hold", held, "--release", "--addr", asked.Addr()); s.code != 0 {
		t.Fatalf("release: %+v", s)
	}
	eventually(t, 30*time.Second, "another one in its place", func(ctx context.Context) error {
		if err := votes(ctx, rest, held); err == nil {
			return errors.New(held + " is a voter")
		}
		return nil
	})
	voters(t, rest, 3, 0)
}

// votes wants every agent to see a voter of that name.
func votes(ctx context.Context, clients map[string]*client.Client, name string) error {
	for asked, c := range clients {
		core, err := c.Core(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(core.Voters, func(m client.CoreMember) bool { return m.Name == name }) {
			return fmt.Errorf("%s sees voters %v", asked, core.Voters)
		}
	}
	return nil
}
