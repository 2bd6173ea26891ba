package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// poisonLimit is how long a command that crashes the core may stop it.
const poisonLimit = 60 * time.Second

// poisonProgram builds the program with commands that crash it.
func poisonProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "parley")
	build := exec.Command("go", "build", "-tags", "poison", "-o", path, "../../cmd/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the program with poison: %v\n%s", err, out)
	}
	return path
}

// startPoisonLab runs three core members, each of which is started again two seconds after it ended, as the unit in deploy
// has systemd do: a lab restarts nobody.
func startPoisonLab(t *testing.T) *lab.Lab {
	t.Helper()
	l := startProgram(t, poisonProgram(t), lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	ctx, cancel := context.WithCancel(context.Background())
	var keepers sync.WaitGroup
	for _, a := range l.Agents {
		keepers.Go(func() {
			for ctx.Err() == nil {
				if a.Running() {
					pauseFor(ctx, 100*time.Millisecond)
					continue
				}
				if pauseFor(ctx, 2*time.Second); ctx.Err() == nil {
					_ = l.Restart(ctx, a.Name) // it may end at once: then again
				}
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		keepers.Wait()
	})
	return l
}

func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// swallow puts a key, whatever comes of it.
func swallow(t *testing.T, c *client.Client, key string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := c.Put(ctx, key, []byte("x"), client.PutOptions{})
	return err
}

// serves reports whether writes and reads go through every agent, and all hold the same state.
func serves(ctx context.Context, clients map[string]*client.Client) error {
	for name, c := range clients {
		if _, err := c.Put(ctx, "probe/"+name, []byte("x"), client.PutOptions{}); err != nil {
			return fmt.Errorf("a write through %s: %w", name, err)
		}
		if _, err := c.Get(ctx, "probe/"+name, client.ReadOptions{}); err != nil {
			return fmt.Errorf("a read through %s: %w", name, err)
		}
		core, err := c.Core(ctx)
		if err != nil || len(core.Voters) != 3 || core.Margin < 1 {
			return fmt.Errorf("%s sees %d voters and margin %d: %w", name, len(core.Voters), core.Margin, err)
		}
	}
	// The writes above reach those that are asked first last: they have a moment in which nobody writes.
	err := sameDigest(ctx, clients)
	for range 50 {
		if err == nil || ctx.Err() != nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
		err = sameDigest(ctx, clients)
	}
	return err
}

// TestPoison: a command that crashes every core member (a panic, an overflow of the stack, a loop without end, a huge
// allocation) is left out on all of them within a minute, with equal digests; it is not tried again, and the core goes on.
func TestPoison(t *testing.T) {
	l := startPoisonLab(t)
	clients := clientsOf(t, l)
	whole(t, clients)
	for _, kind := range []string{"panic", "stack", "loop", "memory"} {
		t.Run(kind, func(t *testing.T) {
			key, started := "poison/"+kind, time.Now()
			t.Logf("the caller was told: %v", swallow(t, clients["a2"], key))
			eventually(t, poisonLimit, "the core goes on", func(ctx context.Context) error { return serves(ctx, clients) })
			t.Logf("left out within %v", time.Since(started).Round(100*time.Millisecond))
			for name, c := range clients {
				if _, err := c.Get(t.Context(), key, client.ReadOptions{}); codeOf(err) != "not_found" {
					t.Errorf("%s holds %s: %v", name, key, err)
				}
			}
			if err := swallow(t, clients["a1"], key); codeOf(err) != "quarantined" {
				t.Errorf("it is tried again: %v", err)
			}
		})
	}
}

// TestPoisonOnOne: a command that crashes one core member alone is done on the others, and kept. That one is fenced, begins
// again with a snapshot of another, and has it too.
func TestPoisonOnOne(t *testing.T) {
	l := startPoisonLab(t)
	clients := clientsOf(t, l)
	whole(t, clients)
	for _, kind := range []string{"panic", "loop"} {
		t.Run(kind, func(t *testing.T) {
			victim := agentInRole(t, clients, "voter")
			if kind == "loop" {
				victim = agentInRole(t, clients, "leader")
			}
			before, err := eventsOf(t.Context(), clients[victim], victim)
			if err != nil {
				t.Fatal(err)
			}
			key, started := "poison/"+kind+"@"+victim, time.Now()
			t.Logf("the caller was told: %v", swallow(t, clients["a2"], key))
			eventually(t, 2*poisonLimit, victim+" is healed", func(ctx context.Context) error {
				now, err := eventsOf(ctx, clients[victim], victim)
				if err != nil {
					return err
				}
				if now["state-fenced"] == before["state-fenced"] || now["state-rebuilt"] == before["state-rebuilt"] {
					return fmt.Errorf("its events are %v", now)
				}
				return serves(ctx, clients)
			})
			t.Logf("healed within %v", time.Since(started).Round(100*time.Millisecond))
			if now, err := eventsOf(t.Context(), clients[victim], victim); err != nil || now["apply-resumed"] != before["apply-resumed"] {
				t.Errorf("it says that the command was left out: %v, %v", now, err)
			}
			for name, c := range clients {
				if v, err := c.Get(t.Context(), key, client.ReadOptions{}); err != nil || string(v.Value) != "x" {
					t.Errorf("%s holds %q: %v", name, v.Value, err)
				}
			}
		})
	}
}

// TestPoisonControl: without the guard the same command stops the core for good, so that TestPoison proves something.
func TestPoisonControl(t *testing.T) {
	t.Setenv("POISON_UNGUARDED", "1")
	l := startPoisonLab(t)
	clients := clientsOf(t, l)
	whole(t, clients)
	_ = swallow(t, clients["a2"], "poison/panic")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if err := serves(ctx, clients); err == nil {
			t.Fatal("the core goes on without the guard")
		}
		pauseFor(ctx, time.Second)
	}
}
