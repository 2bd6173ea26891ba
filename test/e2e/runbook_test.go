package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
	"github.com/parley-mesh/parley/ops/runbook"
)

// TestRunbooksOnAHealthyLab: each runbook says that the failure is another one, and its verify steps hold.
func TestRunbooksOnAHealthyLab(t *testing.T) {
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute})
	library, err := runbook.Ours()
	if err != nil {
		t.Fatal(err)
	}
	settledAlerts(t, l.Agents[0], library.IDs()...)
	for _, id := range library.IDs() {
		t.Run(id, func(t *testing.T) {
			run := startRunbook(t, id, "--addr", l.Agents[0].Addr()).end(t)
			if run.Result != runbook.Pass || !run.NotThis || run.exit != 0 {
				t.Errorf("got %s\n%s", run, run.shown)
			}
		})
	}
}

// TestRunbookServerDown: with a voter killed the diagnosis leads to starting it again, and the verify steps hold only
// once it is back.
func TestRunbookServerDown(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	victim := agentInRole(t, clients, "voter")
	asked := anotherAgent(l, victim)
	settledAlerts(t, asked, "server-down")
	kill(t, l, victim)
	fires(t, asked, "quorum-margin", 15*time.Second)

	walk := startRunbook(t, "server-down", "--yes", "--addr", asked.Addr())
	walk.waitFor(t, 40*time.Second, "The voter "+victim+" does not take part")
	verifyFails(t, "server-down", "core-back", asked) // the control
	restart(t, l, victim)
	run := walk.end(t)
	want := []string{"agent-answers", "core-whole", "has-leader", "gossip-agrees", "start-voter", "core-back", "alerts-clear"}
	if run.exit != 0 || run.Result != runbook.Pass || run.NotThis || !slices.Equal(run.path(), want) {
		t.Errorf("got %s\n%s", run, run.shown)
	}
}

// TestRunbookNoQuorum: with the majority killed the diagnosis leads to starting all of them, and the runbook can be
// read and run all the same.
func TestRunbookNoQuorum(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	left := l.Agents[0]
	for _, a := range l.Agents[1:] {
		kill(t, l, a.Name)
	}
	fires(t, left, "no-leader", 15*time.Second)
	walk := startRunbook(t, "server-down", "--yes", "--addr", left.Addr())
	walk.waitFor(t, 40*time.Second, "Voters that do not take part: ")
	verifyFails(t, "server-down", "core-back", left) // the control
	for _, a := range l.Agents[1:] {
		restart(t, l, a.Name)
	}
	run := walk.end(t)
	want := []string{"agent-answers", "core-whole", "has-leader", "start-majority", "core-back", "alerts-clear"}
	if run.exit != 0 || run.Result != runbook.Pass || !slices.Equal(run.path(), want) {
		t.Errorf("got %s\n%s", run, run.shown)
	}
}

// TestRunbookCrashLoop: an agent outside the core that was killed and started three times is found by the others, and
// the verify step waits for ten minutes without a start, so that it does not hold now. What is mended by hand is only
// shown here: --dry-run.
func TestRunbookCrashLoop(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute})
	asked, victim := l.Agents[0], agentInRole(t, clientsOf(t, l), "none")
	settledAlerts(t, asked, "crash-loop")
	for range 3 {
		kill(t, l, victim)
		restart(t, l, victim)
	}
	fires(t, asked, "crash-loop", 30*time.Second)
	run := startRunbook(t, "crash-loop", "--dry-run", "--addr", asked.Addr()).end(t)
	want := []string{"alert-fires", "which-agent", "counts-starts", "up-now", "watch-it", "stays-up", "no-alert"}
	if run.exit != 0 || run.NotThis || !slices.Equal(run.path(), want) || !strings.Contains(run.shown, victim+" runs at the moment") {
		t.Errorf("got %s\n%s", run, run.shown)
	}
	verifyFails(t, "crash-loop", "no-alert", asked) // the control
}

// TestRunbookCertificateExpires: with every core member killed an agent's certificate is not renewed, an alert says so, and
// the diagnosis leads to the core. The verify step holds only once a core member is back, and no human does anything else.
func TestRunbookCertificateExpires(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute, Settings: map[string]string{"identity.leaf_ttl": "60s"}})
	outside := agentInRole(t, clientsOf(t, l), "none")
	var asked *lab.Agent
	for _, a := range l.Agents {
		if a.Name == outside {
			asked = a
		}
	}
	settledAlerts(t, asked, "certificate-expires")
	for _, a := range l.Agents {
		if a != asked {
			kill(t, l, a.Name)
		}
	}
	fires(t, asked, "certificate-old", 70*time.Second)
	walk := startRunbook(t, "certificate-expires", "--yes", "--addr", asked.Addr())
	walk.waitFor(t, 60*time.Second, "No core with a majority is seen from here")
	verifyFails(t, "certificate-expires", "all-fresh", asked) // the control
	for _, a := range l.Agents {
		if a != asked {
			restart(t, l, a.Name)
		}
	}
	run := walk.end(t)
	want := []string{"certificates-fresh", "core-reached", "bring-core-back", "all-fresh", "generations-again"}
	if run.exit != 0 || run.Result != runbook.Pass || run.NotThis || !slices.Equal(run.path(), want) {
		t.Errorf("got %s\n%s", run, run.shown)
	}
}

// TestRunbookDataCorruption: a byte flipped in the log of a stopped follower. The diagnosis finds the damage in its files
// and leads to starting it, upon which it heals by itself; after that all replicas agree.
func TestRunbookDataCorruption(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	for i := range 20 {
		if _, err := clients["a1"].Put(t.Context(), fmt.Sprintf("key/%d", i), fmt.Appendf(nil, "the value of key %d", i), client.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	victim, asked := followerThatJoined(t, clients), l.Agents[0]
	settledAlerts(t, asked, "data-corruption")
	eventually(t, 10*time.Second, "equal digests", func(ctx context.Context) error { return sameDigest(ctx, clients) })
	agent, err := l.Agent(victim)
	if err != nil {
		t.Fatal(err)
	}
	kill(t, l, victim)
	flipByte(t, agent.DataDir, "the value of key 3")

	walk := startRunbook(t, "data-corruption", "--yes", "--var", "data_dir="+agent.DataDir, "--addr", asked.Addr())
	walk.waitFor(t, 60*time.Second, victim+" is damaged")
	verifyFails(t, "data-corruption", "all-agree", asked) // the control
	restart(t, l, victim)
	run := walk.end(t)
	want := []string{"replicas-agree", "replicas-differ", "disk-damaged", "start-it", "all-agree", "takes-writes", "own-disk"}
	if run.exit != 0 || run.Result != runbook.Pass || run.NotThis || !slices.Equal(run.path(), want) {
		t.Errorf("got %s\n%s", run, run.shown)
	}
}

// followerThatJoined is a voter that does not lead and that came by a token, as one that comes again does.
func followerThatJoined(t *testing.T, clients map[string]*client.Client) (name string) {
	t.Helper()
	members, err := clients["a1"].Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if m.Core == "voter" && m.Name != "a1" {
			return m.Name
		}
	}
	t.Fatal("no follower beside a1")
	return ""
}

// flipByte damages one entry in the middle of the log: the value that it put.
func flipByte(t *testing.T, dataDir, value string) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(dataDir, "wal", "*.wal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, segment := range segments {
		text, err := os.ReadFile(segment)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(text, []byte(value))
		if at < 0 {
			continue
		}
		text[at] ^= 1
		if err := os.WriteFile(segment, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("%q is not in the log", value)
}

// settledAlerts waits until an agent has looked at the others and no alert of these runbooks fires. Some figures it does
// not have: not every agent compares digests, and a scrub comes once a day.
func settledAlerts(t *testing.T, a *lab.Agent, ids ...string) {
	t.Helper()
	names, err := json.Marshal(ids)
	if err != nil {
		t.Fatal(err)
	}
	calm := fmt.Sprintf(`any(.[]; .id == "crash-loop" and .state == "ok") and
		all(.[] | select((.id | startswith("slo-") | not) and (.runbook | IN(%s[]))); .state == "ok" or .state == "no_data")`, names)
	eventually(t, 40*time.Second, "no alert fires", func(context.Context) error {
		s := parley(t, "alerts", "--addr", a.Addr(), "-o", "json", "--expect", calm)
		if s.code != 0 {
			return fmt.Errorf("exit %d: %s%s", s.code, s.out, s.err)
		}
		return nil
	})
}

// fires waits until an alert does: that is what brings somebody to a runbook.
func fires(t *testing.T, a *lab.Agent, alert string, within time.Duration) {
	t.Helper()
	eventually(t, within, alert+" fires", func(context.Context) error {
		s := parley(t, "alerts", "--addr", a.Addr(), "-o", "json", "--expect", fmt.Sprintf("any(.[]; .id == %q and .state == \"firing\")", alert))
		if s.code != 0 {
			return fmt.Errorf("exit %d: %s%s", s.code, s.out, s.err)
		}
		return nil
	})
}

// verifyFails runs what a verify step expects, without its wait: while the failure is there, it does not hold.
func verifyFails(t *testing.T, id, step string, a *lab.Agent) {
	t.Helper()
	library, err := runbook.Ours()
	if err != nil {
		t.Fatal(err)
	}
	book, ok := library.Get(id)
	if !ok {
		t.Fatalf("no runbook %s", id)
	}
	s := book.Step(step)
	args, err := runbook.SplitCommand(s.Run)
	if err != nil {
		t.Fatal(err)
	}
	if wait := slices.Index(args, "--wait"); wait >= 0 {
		args = slices.Delete(args, wait, wait+2)
	}
	if got := parley(t, append(args, "--addr", a.Addr(), "--expect", s.Expect.JQ)...); got.code != 2 {
		t.Errorf("control: the step %s ends with %d while the failure is there, want 2\n%s%s", step, got.code, got.out, got.err)
	}
}

func anotherAgent(l *lab.Lab, than string) *lab.Agent {
	if l.Agents[0].Name != than {
		return l.Agents[0]
	}
	return l.Agents[1]
}

// walking is a `runbook run` in progress.
type walking struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan struct{}

	mu    sync.Mutex
	shown bytes.Buffer // what a person sees
}

// Write is the standard error of the process.
func (w *walking) Write(text []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shown.Write(text)
}

func (w *walking) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shown.String()
}

func startRunbook(t *testing.T, id string, args ...string) *walking {
	t.Helper()
	w := &walking{done: make(chan struct{})}
	w.cmd = exec.Command(program, append([]string{"runbook", "run", id, "-o", "json"}, args...)...)
	w.cmd.Stdout, w.cmd.Stderr = &w.out, w
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = w.cmd.Wait() // how it ended is in ProcessState
		close(w.done)
	}()
	t.Cleanup(func() {
		_ = w.cmd.Process.Kill()
		<-w.done
	})
	return w
}

// waitFor waits until a person would read something.
func (w *walking) waitFor(t *testing.T, within time.Duration, words string) {
	t.Helper()
	eventually(t, within, "the walk says "+words, func(context.Context) error {
		select {
		case <-w.done:
			if !strings.Contains(w.text(), words) {
				t.Fatalf("the walk has ended:\n%s\n%s", w.text(), &w.out)
			}
		default:
		}
		if !strings.Contains(w.text(), words) {
			return errors.New(w.text())
		}
		return nil
	})
}

// ended is a walk with what else its process left.
type ended struct {
	runbook.Run
	exit  int
	shown string
}

func (e ended) path() (ids []string) {
	for _, s := range e.Steps {
		ids = append(ids, s.ID)
	}
	return ids
}

func (e ended) String() string {
	return fmt.Sprintf("exit %d, %s (%s), not this: %t, steps %q", e.exit, e.Result, e.Reason, e.NotThis, e.path())
}

// end waits for the end of the walk; its verify steps wait for at most five minutes.
func (w *walking) end(t *testing.T) (e ended) {
	t.Helper()
	select {
	case <-w.done:
	case <-time.After(8 * time.Minute):
		t.Fatalf("the walk does not end:\n%s", w.text())
	}
	if err := json.Unmarshal(w.out.Bytes(), &e.Run); err != nil {
		t.Fatalf("%v: %s\n%s", err, &w.out, w.text())
	}
	e.exit, e.shown = w.cmd.ProcessState.ExitCode(), w.text()
	return e
}
