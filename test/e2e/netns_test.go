//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// What an operator may count on when the network breaks, with room for a busy machine.
const (
	writesBackWithin = 10 * time.Second // through every agent that reaches a majority
	healedWithin     = 30 * time.Second
)

// TestLeaderCut: when the leader is cut from the rest, the rest elects another and takes writes, the old
// one stops claiming to lead, and after the heal all five are one cluster again that lost nothing.
func TestLeaderCut(t *testing.T) {
	t.Parallel() // it mostly waits
	n, clients, load, leaders := startNetworkLab(t)
	leader := agentInRole(t, clients, "leader")
	rest := n.without(leader)

	n.cutBoth([]string{leader}, rest)
	t.Logf("cut %s, the leader: writes go on through all others after %s", leader, writesGoOn(t, load, rest))
	eventually(t, writesBackWithin, "the cut leader steps down", func(ctx context.Context) error {
		if name, err := leaderOf(ctx, clients[leader]); err == nil {
			return fmt.Errorf("%s still sees %s lead", leader, name)
		}
		return nil
	})
	minority := load.ackedBy()[leader]
	// Otherwise it would be nothing to see each other again.
	eventually(t, 20*time.Second, "both sides hold each other dead", func(ctx context.Context) error {
		for _, name := range rest {
			if err := holdsDead(ctx, clients[name], leader); err != nil {
				return err
			}
		}
		return holdsDead(ctx, clients[leader], rest...)
	})
	if now := load.ackedBy()[leader]; now != minority {
		t.Errorf("%s acknowledged %d writes without a majority", leader, now-minority)
	}
	n.heal()
	t.Logf("healed: all five see all alive after %s", healed(t, clients))
	nothingLost(t, clients, load, leaders)
}

// TestOneWayCuts: a network that drops one direction only gives no second leader in a term, loses no
// acknowledged write, and stops nobody who reaches a leader that reaches a majority.
func TestOneWayCuts(t *testing.T) {
	t.Parallel() // it mostly waits
	n, clients, load, leaders := startNetworkLab(t)
	for _, tt := range []struct {
		name string
		// cut says whose packets to whom are dropped, and who has to go on writing.
		cut func(leader, follower string) (from, to, writers []string)
	}{
		{"the leader sends and hears nothing", func(leader, _ string) (from, to, writers []string) {
			return n.without(leader), []string{leader}, n.without(leader)
		}},
		{"the leader hears and cannot send", func(leader, _ string) (from, to, writers []string) {
			return []string{leader}, n.without(leader), n.without(leader)
		}},
		{"nothing from the leader to one follower", func(leader, follower string) (from, to, writers []string) {
			return []string{leader}, []string{follower}, n.without(follower)
		}},
		{"nothing from one follower to the leader", func(leader, follower string) (from, to, writers []string) {
			return []string{follower}, []string{leader}, n.without(follower)
		}},
	} {
		whole(t, clients) // one fault at a time: a core that is not healed yet may lose its leader to a second one
		leader, follower := agentInRole(t, clients, "leader"), agentInRole(t, clients, "voter")
		from, to, writers := tt.cut(leader, follower)
		n.cut(from, to)
		back := writesGoOn(t, load, writers)
		hold(5*time.Second - back)
		again := writesGoOn(t, load, writers)
		if n.dropped(to[0]) == 0 {
			t.Errorf("%s: nothing was dropped, so nothing was tested", tt.name)
		}
		now := agentInRole(t, pick(clients, writers), "leader")
		n.heal()
		t.Logf("%s (leader %s, follower %s): writes go on after %s, later in %s, leader then %s; healed after %s",
			tt.name, leader, follower, back, again, now, healed(t, clients))
	}
	nothingLost(t, clients, load, leaders)
}

// TestUDPBlocked: agents between which UDP does not get through, and TCP does, stay alive for everybody.
// When TCP is blocked as well they do not, so that this test can fail.
func TestUDPBlocked(t *testing.T) {
	t.Parallel() // it mostly waits
	n := newNetwork(t, lab.DefaultAgents)
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute, Place: n.place})
	clients := clientsOf(t, l)
	one, other := []string{"a4"}, []string{"a5"}
	gone := watchGone(t, clients)

	n.cutBoth(one, other, "udp")
	hold(20 * time.Second) // three times the longest suspicion of gossip.profile=fast
	dropped := n.dropped("a4") + n.dropped("a5")
	if seen := gone.list(); len(seen) > 0 || dropped == 0 {
		t.Errorf("udp between a4 and a5 blocked, %d packets dropped: got %q, want nobody gone", dropped, seen)
	}
	t.Logf("udp between a4 and a5 blocked for 20 s: %d packets dropped, nobody was held dead or left", dropped)

	// Now nobody can vouch for a5 by UDP either: it lives by TCP alone.
	n.cutBoth(other, n.without(other...), "udp")
	hold(12 * time.Second)
	if seen := gone.list(); len(seen) > 0 {
		t.Errorf("udp between a5 and everybody blocked: got %q, want nobody gone", seen)
	}
	t.Logf("udp between a5 and everybody blocked for 12 s: %d packets dropped, nobody was held dead or left", n.dropped("a5"))

	began := time.Now()
	n.cutBoth(other, n.without(other...), "tcp")
	eventually(t, 20*time.Second, "control: a5 is held dead when tcp is blocked too", func(ctx context.Context) error {
		for _, name := range n.without("a5") {
			if err := holdsDead(ctx, clients[name], "a5"); err != nil {
				return err
			}
		}
		return nil
	})
	eventually(t, 5*time.Second, "control: the watcher sees it too", func(context.Context) error {
		if len(gone.list()) == 0 {
			return errors.New("it has seen nobody gone")
		}
		return nil
	})
	t.Logf("control, tcp blocked too: all others hold a5 dead after %s", time.Since(began).Round(time.Millisecond))
	n.heal()
	t.Logf("healed: all five see all alive after %s", healed(t, clients))
}

// Two leaders in one term are found in a history that has them, and in no other.
func TestTwoLeadersAreFound(t *testing.T) {
	fine := []sighting{{"a1", "a1", 2}, {"a2", "a1", 2}, {"a2", "a2", 3}, {"a1", "a2", 3}, {"a3", "a1", 4}}
	if err := oneLeaderATerm(fine); err != nil {
		t.Errorf("got %v, want no complaint", err)
	}
	if err := oneLeaderATerm(append(fine, sighting{"a3", "a3", 3})); err == nil {
		t.Error("a2 and a3 both led term 3, and nobody complains")
	}
}

// startNetworkLab runs five agents on a network of their own, under a steady load through all of them,
// and notes who leads from the first moment to the end.
func startNetworkLab(t *testing.T) (*network, map[string]*client.Client, *writers, *leaderWatch) {
	t.Helper()
	n := newNetwork(t, lab.DefaultAgents)
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute, Place: n.place})
	clients := clientsOf(t, l)
	leaders := watchLeaders(t, clients)
	load := startWriters(t, l, 40*time.Millisecond)
	progress(t, load, 50)
	return n, clients, load, leaders
}

// hold lets a fault outlast timeouts and suspicions. Nothing is waited for that might come sooner: what is
// tested is that nothing comes.
func hold(d time.Duration) { time.Sleep(d) }

// writesGoOn waits until every one of the agents has had ten more writes acknowledged, and says how long
// that took.
func writesGoOn(t testing.TB, w *writers, through []string) time.Duration {
	t.Helper()
	began, before := time.Now(), w.ackedBy()
	eventually(t, writesBackWithin, fmt.Sprintf("writes go on through %q", through), func(context.Context) error {
		now := w.ackedBy()
		for _, name := range through {
			if now[name] < before[name]+10 {
				return fmt.Errorf("%d new acknowledgements by %s, want 10", now[name]-before[name], name)
			}
		}
		return nil
	})
	return time.Since(began).Round(time.Millisecond)
}

// ackedBy counts the acknowledged writes by the agent that they went through.
func (w *writers) ackedBy() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	count := make(map[string]int)
	for _, via := range w.via {
		prefix := "load/" + via + "/"
		for key := range w.acked {
			if len(key) > len(prefix) && key[:len(prefix)] == prefix {
				count[via]++
			}
		}
	}
	return count
}

// holdsDead complains about those of the names that an agent does not hold dead.
func holdsDead(ctx context.Context, c *client.Client, names ...string) error {
	members, err := c.Members(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		if slices.Contains(names, m.Name) && m.State != "dead" {
			return fmt.Errorf("%s is %s", m.Name, m.State)
		}
	}
	return nil
}

// healed waits until all agents see all alive and know a leader, and says how long that took.
func healed(t testing.TB, clients map[string]*client.Client) time.Duration {
	t.Helper()
	began := time.Now()
	eventually(t, healedWithin, "all see all alive", func(ctx context.Context) error {
		for name, c := range clients {
			members, err := c.Members(ctx)
			if err != nil {
				return err
			}
			if len(members) != len(clients) {
				return fmt.Errorf("%s sees %d members", name, len(members))
			}
			for _, m := range members {
				if m.State != "alive" {
					return fmt.Errorf("%s holds %s %s", name, m.Name, m.State)
				}
			}
			if _, err := leaderOf(ctx, c); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
	return time.Since(began).Round(time.Millisecond)
}

// nothingLost ends the load and reads everything back through every agent. As a control it also looks for a
// write that never was.
func nothingLost(t *testing.T, clients map[string]*client.Client, load *writers, leaders *leaderWatch) {
	t.Helper()
	writesGoOn(t, load, load.via)
	load.end()
	for name, c := range clients {
		missing, err := load.missing(t.Context(), c)
		if err != nil || len(missing) > 0 {
			t.Errorf("read back through %s: error %v, %d acknowledged writes lost: %.10q", name, err, len(missing), missing)
		}
	}
	load.acked["load/a1/never"] = "written"
	if missing, err := load.missing(t.Context(), clients["a1"]); err != nil || !slices.Equal(missing, []string{"load/a1/never"}) {
		t.Errorf("control: got %.10q, error %v, want the write that never was", missing, err)
	}
	delete(load.acked, "load/a1/never")
	eventually(t, 10*time.Second, "equal digests", func(ctx context.Context) error { return sameDigest(ctx, clients) })
	seen := leaders.list()
	if err := oneLeaderATerm(seen); err != nil {
		t.Error(err)
	}
	acked, tries := load.count()
	byTerm := make(map[uint64]string)
	for _, s := range seen {
		byTerm[s.term] = s.leader
	}
	t.Logf("%d of %d writes were acknowledged, none lost; leader by term: %v", acked, tries, byTerm)
}

// pick is the clients of some agents.
func pick(clients map[string]*client.Client, names []string) map[string]*client.Client {
	some := maps.Clone(clients)
	maps.DeleteFunc(some, func(name string, _ *client.Client) bool { return !slices.Contains(names, name) })
	return some
}

// sighting is what one agent said about a term.
type sighting struct {
	by, leader string
	term       uint64
}

// oneLeaderATerm complains about the first term in which two agents were seen to lead.
func oneLeaderATerm(seen []sighting) error {
	first := make(map[uint64]sighting)
	for _, s := range seen {
		if f, ok := first[s.term]; ok && f.leader != s.leader {
			return fmt.Errorf("term %d has two leaders: %s says %s, %s says %s", s.term, f.by, f.leader, s.by, s.leader)
		} else if !ok {
			first[s.term] = s
		}
	}
	return nil
}

// leaderWatch is every distinct thing that agents said about their leader.
type leaderWatch = seenSet[sighting]

func watchLeaders(t testing.TB, clients map[string]*client.Client) *leaderWatch {
	w := &leaderWatch{}
	w.watch(t, clients, func(ctx context.Context, name string, c *client.Client) []sighting {
		core, err := c.Core(ctx)
		if err != nil || core.Leader == nil {
			return nil
		}
		return []sighting{{by: name, leader: *core.Leader, term: core.Term}}
	})
	return w
}

// watchGone notes every agent that another one holds dead or left, as "a1 holds a2 dead".
func watchGone(t testing.TB, clients map[string]*client.Client) *seenSet[string] {
	w := &seenSet[string]{}
	w.watch(t, clients, func(ctx context.Context, name string, c *client.Client) (gone []string) {
		members, err := c.Members(ctx)
		if err != nil {
			return []string{fmt.Sprintf("%s does not answer: %v", name, err)}
		}
		for _, m := range members {
			if m.State == "dead" || m.State == "left" {
				gone = append(gone, name+" holds "+m.Name+" "+m.State)
			}
		}
		return gone
	})
	return w
}

// seenSet is what was observed of agents, each thing once.
type seenSet[T comparable] struct {
	mu  sync.Mutex
	set map[T]bool
}

// watch asks every agent again and again until the test ends.
func (s *seenSet[T]) watch(t testing.TB, clients map[string]*client.Client,
	ask func(ctx context.Context, name string, c *client.Client) []T,
) {
	s.set = make(map[T]bool)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for name, c := range clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				got := ask(ctx, name, c)
				if ctx.Err() == nil {
					s.add(got)
				}
				select {
				case <-ctx.Done():
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

func (s *seenSet[T]) add(things []T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, thing := range things {
		s.set[thing] = true
	}
}

func (s *seenSet[T]) list() []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.set))
}
