package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
	"github.com/parley-mesh/parley/ops/runbook"
)

// damagedHost is an agent outside the core whose files somebody damages, and mends as the agent says.
type damagedHost struct {
	*testing.T
	l     *lab.Lab
	a     *lab.Agent
	c     *client.Client
	asked *lab.Agent // of the core
}

func (h damagedHost) file(name string) string { return filepath.Join(h.a.DataDir, "identity", name) }

func (h damagedHost) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h damagedHost) logs(what ...string) {
	h.Helper()
	eventually(h.T, 4*copyLife, fmt.Sprintf("%s logs %q", h.a.Name, what), func(context.Context) error {
		for line := range strings.Lines(readLog(h.T, h.a)) {
			if !slices.ContainsFunc(what, func(w string) bool { return !strings.Contains(line, w) }) {
				h.Log(line)
				return nil
			}
		}
		return errors.New("no such line")
	})
}

// refusesToStart wants an agent that ends at once, and says why and what to do.
func (h damagedHost) refusesToStart(what ...string) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.a.Argv[0], h.a.Argv[1:]...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "PARLEY_") })
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || ctx.Err() != nil {
		h.Fatalf("it starts: %v\n%s", err, out)
	}
	for _, w := range what {
		if !strings.Contains(string(out), w) {
			h.Errorf("it does not say %q:\n%s", w, out)
		}
	}
}

func (h damagedHost) isCopied() bool {
	h.Helper()
	s := parley(h.T, "members", "--addr", h.asked.Addr(), "-o", "json", "--expect", fmt.Sprintf("any(.[]; .name == %q and .copied)", h.a.Name))
	return s.code == 0
}

func (h damagedHost) becomesCopied() {
	h.Helper()
	eventually(h.T, 4*copyLife, h.a.Name+" is shown as copied", func(context.Context) error {
		if !h.isCopied() {
			return errors.New("it is not")
		}
		return nil
	})
}

func (h damagedHost) trusted() {
	h.Helper()
	if s := parley(h.T, "agent", "trust", h.a.Name, "--yes", "--addr", h.asked.Addr()); s.code != 0 {
		h.Fatalf("exit %d: %s%s", s.code, s.out, s.err)
	}
}

// works wants several renewals, and nobody to take the host for a copy.
func (h damagedHost) works() {
	h.Helper()
	eventually(h.T, 4*copyLife, h.a.Name+" is ready", func(ctx context.Context) error { return fresh(ctx, h.c) })
	renewedAfter(h.T, h.c, h.a.Name+" is renewed", time.Now().Add(2*copyLife))
	if h.isCopied() {
		h.Error("it is taken for a copy")
	}
}

// checks wants the check of generations to be as said.
func (h damagedHost) checks(status string) {
	h.Helper()
	eventually(h.T, 20*time.Second, "the check generations is "+status, func(context.Context) error {
		s := parley(h.T, "check", "--data-dir", h.a.DataDir, "-o", "json", "--expect", fmt.Sprintf("any(.checks[]; .id == \"generations\" and .status == %q)", status))
		if s.code != 0 {
			return fmt.Errorf("exit %d: %s%s", s.code, s.out, s.err)
		}
		return nil
	})
}

// TestHintsLeadBack: whatever of a host's identity is damaged, lost, put back or exchanged, what the agent then says leads back to an
// agent that is renewed, if one does it word for word. The control is a whole directory of a backup, which makes the host a copy.
func TestHintsLeadBack(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 6, ReplaceAfter: time.Hour, Settings: map[string]string{"identity.leaf_ttl": copyLife.String(), "safe_mode.window": killedOften}})
	clients := clientsOf(t, l)
	whole(t, clients)
	x, y, z := outsiders(t, l, clients)
	asked := l.Agents[slices.IndexFunc(l.Agents, func(a *lab.Agent) bool { return a != x && a != y && a != z })]
	t.Run("hosts", func(t *testing.T) {
		for a, what := range map[*lab.Agent]func(damagedHost){x: wrongHostKey, y: lostHostKey, z: damagedGenerations} {
			t.Run(a.Name, func(t *testing.T) {
				t.Parallel()
				what(damagedHost{t, l, a, clients[a.Name], asked})
			})
		}
	})
	whole(t, clients)
}

// wrongHostKey: the key comes back out of a backup that is some renewals old.
func wrongHostKey(h damagedHost) {
	backup := copyHost(h.T, h.a)
	renewedAfter(h.T, h.c, "renewals after the backup", time.Now().Add(2*copyLife))
	kill(h.T, h.l, h.a.Name)
	swapHostKey(h.T, h.a)
	restart(h.T, h.l, h.a.Name)
	h.logs("the cluster does not renew this host by its key", "wrong_host_key", "put identity/host.key of this host back, that file alone")
	kill(h.T, h.l, h.a.Name)
	h.must(copyFile(filepath.Join(backup, "identity", "host.key"), h.file("host.key")))
	restart(h.T, h.l, h.a.Name)
	h.works()
}

// lostHostKey: the agent does not start. The file alone brings it back; the whole directory makes it a copy, and then it needs the
// command that is named.
func lostHostKey(h damagedHost) {
	backup := copyHost(h.T, h.a)
	renewedAfter(h.T, h.c, "renewals after the backup", time.Now().Add(2*copyLife))
	kill(h.T, h.l, h.a.Name)
	h.must(os.Remove(h.file("host.key")))
	h.refusesToStart(h.file("host.key"), "put the file that is named back from a backup of this host, and that file alone", "parley agent trust "+h.a.Name)
	h.must(copyFile(filepath.Join(backup, "identity", "host.key"), h.file("host.key")))
	restart(h.T, h.l, h.a.Name)
	h.works()

	kill(h.T, h.l, h.a.Name)
	h.must(errors.Join(os.RemoveAll(h.file("")), os.Rename(filepath.Join(backup, "identity"), h.file(""))))
	restart(h.T, h.l, h.a.Name)
	h.becomesCopied()
	h.logs("refused (copied)", "parley agent trust NODE")
	h.trusted()
	h.works()
}

// damagedGenerations: cut short, readable for all, gone.
func damagedGenerations(h damagedHost) {
	path := h.file("generation.secret")
	renewedAfter(h.T, h.c, "renewals", time.Now().Add(copyLife))
	h.checks("ok")
	kill(h.T, h.l, h.a.Name)
	h.must(os.Truncate(path, 20))
	restart(h.T, h.l, h.a.Name)
	h.logs("cannot read or write the generations of this host", "remove it, and run `parley agent trust "+h.a.Name+"` on another agent")
	h.checks("fail")
	h.logs("refused (no_generation)", "if that is damaged or lost, remove it, and run parley agent trust NODE on another agent")
	h.must(os.Remove(path))
	h.trusted()
	h.works() // without a restart
	h.checks("ok")

	kill(h.T, h.l, h.a.Name)
	h.must(os.Chmod(path, 0o644))
	h.refusesToStart("chmod 0600 " + path)
	h.must(exec.Command("chmod", "0600", path).Run())
	restart(h.T, h.l, h.a.Name)
	h.works()

	kill(h.T, h.l, h.a.Name)
	h.must(os.Remove(path))
	restart(h.T, h.l, h.a.Name)
	h.becomesCopied()
	h.logs("refused (copied)", "parley agent trust NODE")
	h.trusted()
	h.works()
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}

// TestRunbookGenerationsStuck: a host that can write no new secret is renewed all the same, an alert tells of it, and the runbook leads
// past the certificates, which are well, to the disk. With room it is over by itself.
func TestRunbookGenerationsStuck(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Settings: map[string]string{"identity.leaf_ttl": "20s"}})
	c, a := clientOf(t, l.Agents[1]), l.Agents[1]
	renewedAfter(t, c, "a first renewal", time.Now().Add(15*time.Second))
	settledAlerts(t, a, "certificate-expires")
	full := filepath.Join(a.DataDir, "identity", "generation.secret.tmp")
	if err := os.MkdirAll(filepath.Join(full, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	fires(t, a, "generations-stuck", 100*time.Second)
	walk := startRunbook(t, "certificate-expires", "--yes", "--addr", a.Addr())
	walk.waitFor(t, 30*time.Second, "or not write the next one")
	verifyFails(t, "certificate-expires", "generations-again", a) // the control
	renewedAfter(t, c, "renewals meanwhile", time.Now().Add(20*time.Second))
	if err := os.RemoveAll(full); err != nil {
		t.Fatal(err)
	}
	run := walk.end(t)
	want := []string{"certificates-fresh", "generations-kept", "mend-generations", "all-fresh", "generations-again"}
	if run.exit != 0 || run.Result != runbook.Pass || run.NotThis || !slices.Equal(run.path(), want) {
		t.Errorf("got %s\n%s", run, run.shown)
	}
	resolved(t, a, "generations-stuck")
}
