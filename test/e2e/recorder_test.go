package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-mesh/parley/agent"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// writeUntil has many write at once until done, or for a minute. What becomes of the writes does not matter.
func writeUntil(t *testing.T, clients map[string]*client.Client, done func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	var writers sync.WaitGroup
	for name, c := range clients {
		for n := range 16 {
			writers.Go(func() {
				for ctx.Err() == nil {
					if _, err := c.Put(ctx, fmt.Sprintf("load/%s/%d", name, n), []byte("x"), client.PutOptions{}); err != nil {
						pauseFor(ctx, 20*time.Millisecond)
					}
				}
			})
		}
	}
	eventually(t, time.Minute, "the load does what it is for", done)
	cancel()
	writers.Wait()
}

// bundleOf takes the debug bundle of an agent.
func bundleOf(t *testing.T, a *lab.Agent) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), a.Name+".bundle")
	parley(t, "debug", "bundle", "--file", path, "--addr", a.Addr()).mustWork(t)
	return path
}

// replayed is what `parley replay` of that build says of a file, and what it exits with: the same each time that it is asked.
func replayed(t *testing.T, binary, path string, times int, more ...string) (report agent.ReplayReport, code int) {
	t.Helper()
	var first said
	for n := range times {
		s := runCommand(t, exec.Command(binary, append([]string{"replay", path, "-o", "json"}, more...)...))
		if n == 0 {
			first = s
		} else if s != first {
			t.Fatalf("replay %d of %s differs from the first:\n%+v\n%+v", n, path, s, first)
		}
	}
	if err := json.NewDecoder(bytes.NewReader([]byte(first.out))).Decode(&report); err != nil {
		t.Fatalf("replay of %s: %v\n%+v", path, err, first)
	}
	return report, first.code
}

// exchange starts an agent again with another program.
func exchange(t *testing.T, l *lab.Lab, a *lab.Agent, from, to string) {
	t.Helper()
	kill(t, l, a.Name)
	a.Argv[slices.Index(a.Argv, from)] = to
	restart(t, l, a.Name)
}

// TestBundlesReplay: what the cores of a lab did under load is in their bundles, and replays to the same, each time, with no promise
// broken. Nothing was recorded by itself.
func TestBundlesReplay(t *testing.T) {
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	whole(t, clients)
	until := time.Now().Add(2 * time.Second)
	writeUntil(t, clients, func(context.Context) error {
		if time.Now().Before(until) {
			return errors.New("a while longer")
		}
		return nil
	})
	for _, a := range l.Agents {
		report, code := replayed(t, program, bundleOf(t, a), 2)
		if code != 0 || report.Violations != 0 || report.Diverged != 0 || report.Panics != 0 || report.Events < 1000 || len(report.Recordings) != 1 {
			t.Errorf("%s: exit %d, %+v", a.Name, code, report)
		}
		if s := parley(t, "debug", "recordings", "--addr", a.Addr(), "-o", "json"); strings.TrimSpace(s.out) != "[]" {
			t.Errorf("%s has recorded something: %+v", a.Name, s)
		}
	}
}

// TestRunbookHeisenbug: seldom, under load, a core member applies two entries in the wrong order. That is recorded by itself, the
// alert fires, and the bundle has what led to it: it replays to the same event each time, and to none by a program without the
// mistake. The verify steps hold once the bundle was taken, the program was replaced, and the recordings were forgotten.
func TestRunbookHeisenbug(t *testing.T) {
	t.Setenv("PLANTED_MUTANT", "rare-misorder") // which of the mistakes an agent has
	mistaken := mistaken(t, "mutants")
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	whole(t, clients)
	caught := named(t, l, agentInRole(t, clients, "voter"))
	exchange(t, l, caught, program, mistaken)
	writeUntil(t, clients, func(context.Context) error {
		if files, _ := filepath.Glob(filepath.Join(caught.DataDir, "recordings", "invariant-*.rec")); len(files) == 0 {
			return errors.New("nothing is recorded")
		}
		return nil
	})
	fires(t, caught, "heisenbug", 20*time.Second)
	verifyFails(t, "heisenbug", "forgotten", caught) // the control
	bundle := bundleOf(t, caught)
	report, code := replayed(t, mistaken, bundle, 10)
	if code != 1 || report.Violations == 0 || report.First == nil || report.Diverged != 0 {
		t.Errorf("exit %d, %+v", code, report)
	}
	t.Logf("%d events, %d violations, first %+v", report.Events, report.Violations, report.First)
	if s := parley(t, "replay", bundle); s.code != 1 || !strings.Contains(s.err, "another build") {
		t.Errorf("another build replays it without being told to: %+v", s)
	}
	if right, code := replayed(t, program, bundle, 1, "--any-build"); code != 1 || right.Violations != 0 || right.Diverged == 0 {
		t.Errorf("control: by a program without the mistake: exit %d, %+v", code, right)
	}
	exchange(t, l, caught, mistaken, program)
	whole(t, clients)
	parley(t, "debug", "forget", "--addr", caught.Addr()).mustWork(t)
	for _, step := range [][]string{{"debug", "recordings", "--expect", "length == 0"}, {"invariant", "list", "--expect", ".count == 0"}} {
		parley(t, append(step, "--addr", caught.Addr())...).mustWork(t)
	}
}
