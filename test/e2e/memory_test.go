package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// startFaulty runs a core of three that compares its states each second.
func startFaulty(t *testing.T) (*lab.Lab, map[string]*client.Client) {
	t.Helper()
	l := startProgram(t, mistaken(t, "memoryfault"), lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute, Settings: map[string]string{"core.checkpoint_every": "1s"}})
	clients := clientsOf(t, l)
	whole(t, clients)
	return l, clients
}

// fault asks for a fault of an agent's memory; see agent/memoryfault_on.go.
func fault(t *testing.T, a *lab.Agent, format string, args ...any) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(a.DataDir, "memoryfault"), fmt.Appendf(nil, format, args...), 0o600); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, c *client.Client, key, value string) {
	t.Helper()
	eventually(t, 10*time.Second, "a write of "+key, func(ctx context.Context) error {
		_, err := c.Put(ctx, key, []byte(value), client.PutOptions{})
		return err
	})
}

// TestMemoryFaultsHeal: a bit flips in the memory of a member, and one computes something else than the others twice, so that
// its own snapshot and log do not help. Each time it is fenced, rebuilt and answers again after three equal checkpoints, with
// nobody's help, and that shows in events, metrics and alerts.
func TestMemoryFaultsHeal(t *testing.T) {
	t.Parallel() // it mostly waits
	l, clients := startFaulty(t)
	put(t, clients["a1"], "spoiled", "value")
	for _, order := range []struct{ fault, then string }{{"flip spoiled 1", "other"}, {"compute spoiled 1 2", "spoiled"}} {
		victim := named(t, l, agentInRole(t, clients, "voter"))
		before, err := eventsOf(t.Context(), clients[victim.Name], victim.Name)
		if err != nil {
			t.Fatal(err)
		}
		fences := reading(t, victim, "parley_core_rebuilds")
		fault(t, victim, "%s", order.fault)
		put(t, clients["a1"], order.then, "value")
		fires(t, victim, "state-fenced", 20*time.Second)
		began := time.Now()
		eventually(t, 60*time.Second, victim.Name+" is rebuilt", func(ctx context.Context) error {
			now, err := eventsOf(ctx, clients[victim.Name], victim.Name)
			if err == nil && (now["state-fenced"] <= before["state-fenced"] || now["state-rebuilt"] <= before["state-rebuilt"]) {
				err = fmt.Errorf("events of %s: %v, before %v", victim.Name, now, before)
			}
			return err
		})
		t.Logf("%s after %q: rebuilt %v after its alert", victim.Name, order.fault, time.Since(began).Round(10*time.Millisecond))
		eventually(t, 10*time.Second, "the alert ends", func(context.Context) error { return isOK(t, victim, "state-fenced") })
		if now := reading(t, victim, "parley_core_rebuilds"); now != fences+1 {
			t.Errorf("%g rebuilds are counted, before %g", now, fences)
		}
		for name, c := range clients {
			kv, err := c.Get(t.Context(), "spoiled", client.ReadOptions{Stale: true})
			if err != nil || string(kv.Value) != "value" {
				t.Errorf("%s says %q, %v", name, kv.Value, err)
			}
		}
		whole(t, clients)
		eventually(t, 10*time.Second, "equal digests", func(ctx context.Context) error { return sameDigest(ctx, clients) })
	}
}

// TestNoMajority: two of three members compute something else than the third, and not the same. Nobody can say who is right:
// writes are refused with a hint, reads go on, and the alert and the verify step of its runbook say so on every member.
func TestNoMajority(t *testing.T) {
	t.Parallel() // it mostly waits
	l, clients := startFaulty(t)
	put(t, clients["a1"], "other", "value")
	for i, a := range l.Agents[1:] {
		fault(t, a, "compute spoiled %d 1", i+1)
	}
	put(t, clients["a1"], "spoiled", "value")
	for _, a := range l.Agents {
		fires(t, a, "state-undecided", 20*time.Second)
		verifyFails(t, "data-corruption", "takes-writes", a)
	}
	for name, c := range clients {
		_, err := c.Put(t.Context(), "late", []byte("x"), client.PutOptions{})
		var refused *client.Error
		if !errors.As(err, &refused) || refused.Code != "read_only" || !strings.Contains(refused.Message, "none of these has a majority") || !strings.Contains(refused.Hint, "parley digest compare") {
			t.Errorf("a write by way of %s: %v", name, err)
		}
		for _, stale := range []bool{false, true} {
			if kv, err := c.Get(t.Context(), "other", client.ReadOptions{Stale: stale}); err != nil || string(kv.Value) != "value" {
				t.Errorf("a read by way of %s (stale %v): %q, %v", name, stale, kv.Value, err)
			}
		}
		found, err := c.CompareDigests(t.Context())
		if err != nil || found.Groups != 3 || len(found.Minority) != 3 {
			t.Errorf("%s compares %+v, %v", name, found, err)
		}
	}
	if now := reading(t, l.Agents[0], "parley_core_fencings"); now != 0 {
		t.Errorf("%g fencings although nobody can know who is wrong", now)
	}
	choose(t, l, clients, "a1", "spoiled", "value")
}

// choose ends a core without a majority by an operator's word that the state of one is right, by way of another member.
func choose(t *testing.T, l *lab.Lab, clients map[string]*client.Client, right, key, value string) {
	t.Helper()
	via := l.Agents[1].Addr()
	diff := parley(t, "digest", "diff", "--addr", via, "--reference", right, "-o", "json",
		"--expect", fmt.Sprintf("[.differences[] | select(.table == \"kv\") | .key] == [%q, %q] and .more == false and (.unanswered | length) == 0", key, key))
	diff.mustWork(t)
	dry := parley(t, "digest", "accept", right, "--addr", via, "--dry-run", "-o", "json", "--expect", "(.given_up | length) == 2 and .dry_run")
	dry.mustWork(t)
	if unsure := parley(t, "digest", "accept", right, "--addr", via); unsure.code != 4 {
		t.Errorf("without a word of consent: exit %d: %s%s", unsure.code, unsure.out, unsure.err)
	}
	verifyFails(t, "data-corruption", "takes-writes", l.Agents[0]) // so far nothing was chosen
	chosen := parley(t, "digest", "accept", right, "--addr", via, "--yes")
	chosen.mustWork(t)
	eventually(t, 60*time.Second, "the others are rebuilt", func(ctx context.Context) error { return sameDigest(ctx, clients) })
	for _, a := range l.Agents {
		eventually(t, 30*time.Second, "the alert ends", func(context.Context) error { return isOK(t, a, "state-undecided") })
		put(t, clients[a.Name], "after/"+a.Name, "x")
		if kv, err := clients[a.Name].Get(t.Context(), key, client.ReadOptions{}); err != nil || string(kv.Value) != value {
			t.Errorf("%s says %q, %v", a.Name, kv.Value, err)
		}
	}
	whole(t, clients)
	again := parley(t, "digest", "accept", right, "--addr", named(t, l, right).Addr(), "--yes")
	if again.code == 0 || !strings.Contains(again.err, "nothing to choose") {
		t.Errorf("a choice that nobody has to make: exit %d: %s%s", again.code, again.out, again.err)
	}
}

// reading is a metric of an agent.
func reading(t *testing.T, a *lab.Agent, metric string) (value float64) {
	t.Helper()
	answer, err := http.Get("http://" + a.HTTP + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close() //nolint:errcheck // it was read
	page, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		if rest, ok := strings.CutPrefix(line, metric+" "); ok {
			if _, err := fmt.Sscan(rest, &value); err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("%s has no metric %s", a.Name, metric)
	return 0
}

func isOK(t *testing.T, a *lab.Agent, alert string) error {
	s := parley(t, "alerts", "--addr", a.Addr(), "-o", "json", "--expect", fmt.Sprintf("any(.[]; .id == %q and .state == \"ok\")", alert))
	if s.code != 0 {
		return fmt.Errorf("exit %d: %s%s", s.code, s.out, s.err)
	}
	return nil
}
