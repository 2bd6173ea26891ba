package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/parley-mesh/parley/ops/lab"
)

// TestStoppedLeaderHoldsNoLease: a leader that was stopped for one to five seconds, and knows nothing of it when it goes
// on, answers no read by the lease that it held. Before and after the pauses reads are answered by leases.
func TestStoppedLeaderHoldsNoLease(t *testing.T) {
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	h, byLease := stopLeaders(t, l, time.Second, 5*time.Second)
	if byLease == 0 {
		t.Error("no read was answered by a lease: the test has nothing to find")
	}
	h.explain(t)
	for key, result := range h.check() {
		if result != porcupine.Ok {
			t.Errorf("%s: %s; %s", key, result, h.visualize(t, key))
		}
	}
	for _, complaint := range h.complaints() {
		t.Error(complaint)
	}
}

// TestStoppedLeaderControl: the same with a program whose leases last for some ticks of its loop instead of some time: the
// loop sees no tick while it is stopped. Stale reads are found.
func TestStoppedLeaderControl(t *testing.T) {
	t.Setenv("PLANTED_MUTANT", "lease-ticks-after-pause")
	l := startProgram(t, mistaken(t, "mutants"), lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	h, _ := stopLeaders(t, l, 2*time.Second, 2*time.Second)
	if h.staleReads() == 0 {
		t.Errorf("no stale read in %d operations", h.completed())
	}
	found := 0
	for _, result := range h.check() {
		if result == porcupine.Illegal {
			found++
		}
	}
	t.Logf("%d stale reads; %d keys are found not linearizable", h.staleReads(), found)
	if found == 0 {
		t.Error("the checker finds nothing")
	}
}

// stopLeaders stops the leader of the moment for each of the times, under traffic, and lets reads wait for it when it goes
// on. It returns how many reads the agents answered by leases.
func stopLeaders(t *testing.T, l *lab.Lab, pauses ...time.Duration) (h *history, byLease float64) {
	t.Helper()
	clients := clientsOf(t, l)
	whole(t, clients)
	h = startTraffic(t, clients, linearTraffic)
	for i, pause := range pauses {
		h.progress(t, 200)
		leader := agentInRole(t, clients, "leader")
		t.Logf("stop %s, the leader, for %v", leader, pause)
		began := time.Now()
		sendSignal(t, l, leader, syscall.SIGSTOP)
		others := maps.Clone(clients)
		delete(others, leader)
		pauseFor(t.Context(), pause/2)
		if pause > time.Second {
			eventually(t, 20*time.Second, "another leader", func(ctx context.Context) error {
				for _, c := range others {
					if name, err := leaderOf(ctx, c); err == nil && name != leader {
						return nil
					}
				}
				return errors.New("nobody knows one")
			})
			h.progress(t, 50)
		}
		pauseFor(t.Context(), pause-time.Since(began)-100*time.Millisecond)
		var waiting sync.WaitGroup
		for n := range 24 { // requests that it finds when it goes on
			c := &linearClient{h: h, id: h.newID(), number: 1000*(i+1) + n, rng: rand.New(rand.NewPCG(h.seed, uint64(n))),
				via: []string{leader}, clients: clients, told: make(map[string]uint64)}
			waiting.Go(func() { c.do(kvOp{kind: "get", key: h.key(n % len(h.slots))}) })
		}
		pauseFor(t.Context(), 100*time.Millisecond)
		sendSignal(t, l, leader, syscall.SIGCONT)
		waiting.Wait()
		whole(t, clients)
	}
	h.progress(t, 200)
	h.end()
	for _, a := range l.Agents {
		byLease += metric(t, a.HTTP, "parley_core_reads_by_lease")
	}
	t.Logf("%.0f reads were answered by a lease", byLease)
	return h, byLease
}

// metric reads one value of an agent's metrics, 0 if it is not there.
func metric(t testing.TB, addr, name string) float64 {
	t.Helper()
	answer, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close() //nolint:errcheck // read only
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(fmt.Errorf("%s: %w", name, err))
			}
			return value
		}
	}
	return 0
}
