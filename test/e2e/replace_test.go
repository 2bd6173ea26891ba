package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
	"github.com/parley-mesh/parley/ops/runbook"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// TestReplacedHostIsCutOff: once another host has joined in its place, a host's open connection is worth nothing
// within a second, and it gets no new one. It is patched: it never closes the connection, nor heeds what it is told.
// The writes until then, and those of the host that took its place, are the control.
func TestReplacedHostIsCutOff(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 1})
	old := joinPatched(t, l, client.TokenSpec{Role: "operator"}, "b1")
	write := func(p *patched, key string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := p.pool.Call(ctx, "a1", "op.execute",
			executeBody(t, policy.Operator, "socket", "uid:0", "", state.Put{Key: key, Value: []byte("v")}))
		return err
	}
	for i := range 3 {
		if err := write(old, fmt.Sprintf("before/%d", i)); err != nil {
			t.Fatalf("before it was replaced: %v", err)
		}
	}

	heir := joinPatched(t, l, client.TokenSpec{Role: "operator", Replace: "b1"}, "b1")
	replaced := time.Now()
	accepted := 0
	for i := 0; time.Since(replaced) < 3*time.Second; i++ {
		if err := write(old, fmt.Sprintf("after/%d", i)); err != nil {
			continue
		}
		accepted++
		if late := time.Since(replaced); late > time.Second {
			t.Fatalf("%s after it was replaced the old host wrote", late)
		}
	}
	t.Logf("%d writes of the old host were accepted after the join was answered", accepted)
	if err := write(heir, "after/heir"); err != nil {
		t.Errorf("the host that replaced it: %v", err)
	}
	if text := readLog(t, l.Agents[0]); !strings.Contains(text, "connection closed, its peer would be refused now") {
		t.Error("the log does not say that a connection was closed")
	}
}

// TestReplaceWantsAName: a token that replaces nobody is refused, and the command for one that does has the name.
func TestReplaceWantsAName(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 2})
	c := clientOf(t, l.Agents[0])
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	var refused *client.Error
	if _, err := c.CreateToken(ctx, client.TokenSpec{TTL: time.Minute, Uses: 1, Replace: "nosuch"}); !errors.As(err, &refused) || refused.Code != "not_found" {
		t.Errorf("a token that replaces nosuch: %v", err)
	}
	made, err := c.CreateToken(ctx, client.TokenSpec{TTL: time.Minute, Uses: 1, Replace: "a2"})
	if err != nil || !strings.Contains(made.JoinCommand, " --name a2 ") {
		t.Errorf("a token that replaces a2: %q, %v", made.JoinCommand, err)
	}
}

// TestReplaceAHost: a voter that had started three times is lost with its disk, and another host takes its name. It is
// a voter that all hold alive, at once. Before, the others went by the starts of the host that was lost, held the new
// one dead until it had started as often, and the core stayed one short, of which `digest compare` said nothing. The
// control is the same core before the new host joins.
func TestReplaceAHost(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	whole(t, clients)
	lost := named(t, l, followerThatJoined(t, clients))
	others := clientsOf(t, l)
	delete(others, lost.Name)
	for start := uint64(2); start <= 3; start++ {
		restart(t, l, lost.Name)
		eventually(t, 20*time.Second, fmt.Sprintf("start %d of %s is seen by all", start, lost.Name), func(ctx context.Context) error {
			return holdsStart(ctx, others, lost.Name, start)
		})
	}
	whole(t, clients)
	kill(t, l, lost.Name)
	if err := os.Rename(lost.DataDir, lost.DataDir+".lost"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, lost.Name+" is held dead", func(ctx context.Context) error {
		for _, c := range others {
			if err := holdsDead(ctx, c, lost.Name); err != nil {
				return err
			}
		}
		return nil
	})
	settled := func(ctx context.Context) error { return takePart(ctx, others, len(l.Agents)) }
	if err := settled(t.Context()); err == nil {
		t.Error("control: the core is whole without " + lost.Name)
	}
	walk := nobodyUnderTheName(t, l, lost.Name)

	_, ticket := newToken(t, l, client.TokenSpec{Node: lost.Name, Replace: lost.Name, Core: true, TTL: 30 * time.Minute})
	if err := os.WriteFile(filepath.Join(l.Dir, "token"), []byte(ticket.Token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	restart(t, l, lost.Name)
	eventually(t, 20*time.Second, "the new host is seen by all", func(ctx context.Context) error {
		return holdsStart(ctx, others, lost.Name, 1)
	})
	whole(t, clients)
	t.Logf("whole %s after the new host started", time.Since(began).Round(10*time.Millisecond))
	eventually(t, 10*time.Second, "all digests are compared", settled)
	run := walk.end(t)
	if want := []string{"replicas-agree", "all-take-part", "all-agree", "takes-writes", "own-disk"}; run.Result != runbook.Pass || !run.NotThis || !slices.Equal(run.path(), want) {
		t.Errorf("got %s\n%s", run, run.shown)
	}
}

// nobodyUnderTheName binds the name to a key under which no agent runs. The two voters that are left agree then, and
// the comparison says that this is not everyone; so does the runbook, whose walk waits for the third.
func nobodyUnderTheName(t *testing.T, l *lab.Lab, name string) *walking {
	t.Helper()
	joinPatched(t, l, client.TokenSpec{Role: "operator", Core: true, Replace: name, Node: name}, name)
	asked := l.Agents[0]
	eventually(t, 20*time.Second, name+" is missing in the comparison", func(ctx context.Context) error {
		found, err := clientOf(t, asked).CompareDigests(ctx)
		if err == nil && (found.Groups != 1 || len(found.Members) != 2 || len(found.Unreachable) != 0 || !slices.Equal(found.Absent, []string{name})) {
			err = fmt.Errorf("got %+v", found)
		}
		return err
	})
	s := parley(t, "digest", "compare", "--addr", asked.Addr())
	if want := "not in the core, which has room for them: " + name; !strings.Contains(s.out, "1 did not take part") || !strings.Contains(s.out, want) {
		t.Errorf("digest compare says\n%s", s.out)
	}
	for _, step := range []string{"all-take-part", "all-agree"} {
		verifyFails(t, "data-corruption", step, asked)
	}
	walk := startRunbook(t, "data-corruption", "--yes", "--addr", asked.Addr())
	walk.waitFor(t, 30*time.Second, "all-agree (verify)")
	return walk
}

// holdsStart wants every agent to hold a member alive by the record of one of its starts.
func holdsStart(ctx context.Context, clients map[string]*client.Client, name string, start uint64) error {
	for asked, c := range clients {
		n, err := c.Node(ctx, name)
		if err != nil {
			return err
		}
		if n.State != "alive" || n.Incarnation != start {
			return fmt.Errorf("%s holds %s %s, start %d", asked, name, n.State, n.Incarnation)
		}
	}
	return nil
}

// takePart wants a comparison of digests in which so many members are equal, and nobody is missing.
func takePart(ctx context.Context, clients map[string]*client.Client, members int) error {
	for asked, c := range clients {
		found, err := c.CompareDigests(ctx)
		if err != nil {
			return err
		}
		if len(found.Members) != members || found.Groups != 1 || len(found.Unreachable)+len(found.Behind)+len(found.Absent) != 0 {
			return fmt.Errorf("%s compares %+v", asked, found)
		}
	}
	return nil
}
