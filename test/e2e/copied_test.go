package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

// copyLife is how long certificates last in the tests below.
const copyLife = 10 * time.Second

// copyLab has one agent outside the core, whose files are copied.
func copyLab(t *testing.T) (l *lab.Lab, clients map[string]*client.Client, host, asked *lab.Agent) {
	t.Helper()
	l = startLab(t, lab.Options{Agents: 4, ReplaceAfter: time.Hour, Settings: map[string]string{"identity.leaf_ttl": copyLife.String(), "safe_mode.window": killedOften}})
	clients = clientsOf(t, l)
	whole(t, clients)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	members, err := clients["a1"].Members(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range members {
		if m.Core == "none" {
			host = l.Agents[i]
		} else {
			asked = l.Agents[i]
		}
	}
	if host == nil || asked == nil {
		t.Fatalf("nobody outside the core: %+v", members)
	}
	return l, clients, host, asked
}

// copyHost copies an agent's data directory, between two renewals.
func copyHost(t *testing.T, a *lab.Agent) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	eventually(t, 20*time.Second, "a copy between two renewals", func(context.Context) error {
		if out, err := exec.Command("cp", "-a", a.DataDir, to).CombinedOutput(); err != nil {
			return errors.Join(fmt.Errorf("%w: %s", err, out), os.RemoveAll(to))
		}
		data, err := os.ReadFile(filepath.Join(to, "identity", "generation.secret"))
		if err == nil && bytes.Contains(data, []byte(`"pending"`)) {
			err = errors.New("in the middle of a renewal")
		}
		if err != nil {
			return errors.Join(err, os.RemoveAll(to))
		}
		return nil
	})
	for _, socket := range []string{"admin.sock", "workload.sock"} {
		if err := os.Remove(filepath.Join(to, socket)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return to
}

// renewedAfter waits for a certificate that lasts until after then.
func renewedAfter(t *testing.T, c *client.Client, what string, then time.Time) {
	t.Helper()
	eventually(t, 3*copyLife, what, func(ctx context.Context) error {
		s, err := c.Status(ctx)
		if err == nil && !s.SVID.NotAfter.After(then) {
			err = fmt.Errorf("until %s", s.SVID.NotAfter)
		}
		return err
	})
}

// certificateEnds waits until an agent's certificate has ended, which it does within a life, and wants it to stay so.
func certificateEnds(t *testing.T, c *client.Client, what string) {
	t.Helper()
	out := func(ctx context.Context) error {
		s, err := c.Status(ctx)
		if err == nil && time.Now().Before(s.SVID.NotAfter) {
			err = fmt.Errorf("it lasts until %s", s.SVID.NotAfter)
		}
		return err
	}
	eventually(t, copyLife+5*time.Second, what+" is not renewed", out)
	time.Sleep(copyLife / 2)
	if err := out(t.Context()); err != nil {
		t.Errorf("%s is renewed again: %v", what, err)
	}
}

// shownCopied wants everybody to show the host as copied, or nobody to.
func shownCopied(t *testing.T, clients map[string]*client.Client, host string, want bool) {
	t.Helper()
	eventually(t, 10*time.Second, fmt.Sprintf("%s is shown as copied: %t", host, want), func(ctx context.Context) error {
		for name, c := range clients {
			members, err := c.Members(ctx)
			if err != nil {
				return err
			}
			for _, m := range members {
				if m.Copied != (want && m.Name == host) {
					return fmt.Errorf("%s shows %+v", name, m)
				}
			}
		}
		return nil
	})
}

// tells wants an event of that kind about the host.
func tells(t *testing.T, asked *lab.Agent, kind, host string) {
	t.Helper()
	eventually(t, 10*time.Second, "the event "+kind, func(context.Context) error {
		s := parley(t, "events", "--kind", kind, "--addr", asked.Addr(), "-o", "json", "--expect", fmt.Sprintf("any(.[]; .subject == %q)", host))
		if s.code != 0 {
			return fmt.Errorf("exit %d: %s%s", s.code, s.out, s.err)
		}
		return nil
	})
}

func resolved(t *testing.T, asked *lab.Agent, alert string) {
	t.Helper()
	eventually(t, 20*time.Second, alert+" fires no more", func(context.Context) error {
		s := parley(t, "alerts", "--addr", asked.Addr(), "-o", "json", "--expect", fmt.Sprintf("any(.[]; .id == %q and .state == \"ok\")", alert))
		if s.code != 0 {
			return fmt.Errorf("exit %d: %s%s", s.code, s.out, s.err)
		}
		return nil
	})
}

// others are the clients of all agents but one.
func othersThan(clients map[string]*client.Client, name string) map[string]*client.Client {
	out := make(map[string]*client.Client)
	for n, c := range clients {
		if n != name {
			out[n] = c
		}
	}
	return out
}

// TestHostGoneBack: a host that is set back to a copy of its files of some renewals ago gets no certificate any more; the alert fires
// on every other agent, its name is in the members, in check and in the timeline, its own log says what to do, and the runbook leads to the
// decision. An operator's word brings it back. The control comes first: killed ten times at any moment, and started again with the
// files that it had, it is renewed, and so is everybody else all the time.
func TestHostGoneBack(t *testing.T) {
	t.Parallel() // it mostly waits
	l, clients, host, asked := copyLab(t)
	for range 10 {
		time.Sleep(rand.N(time.Second))
		kill(t, l, host.Name)
		restart(t, l, host.Name)
	}
	restart(t, l, host.Name)
	renewedAfter(t, clients[host.Name], host.Name+" after it was killed ten times", time.Now().Add(copyLife/2))
	old := copyHost(t, host)
	renewedAfter(t, clients[host.Name], "three renewals", time.Now().Add(2*copyLife))
	shownCopied(t, clients, host.Name, false)

	kill(t, l, host.Name)
	if err := errors.Join(os.Rename(host.DataDir, host.DataDir+".after"), os.Rename(old, host.DataDir)); err != nil {
		t.Fatal(err)
	}
	restart(t, l, host.Name)
	fires(t, asked, "host-copied", copyLife+10*time.Second)
	certificateEnds(t, clients[host.Name], host.Name)
	shownCopied(t, othersThan(clients, host.Name), host.Name, true) // it hears of nothing
	tells(t, asked, "host-copied", host.Name)
	if s := parley(t, "check", "--addr", asked.Addr()); !strings.Contains(s.out, "renewed no more: "+host.Name) {
		t.Errorf("check does not name it:\n%s%s", s.out, s.err)
	}
	if text := readLog(t, host); !strings.Contains(text, "refused (copied)") || !strings.Contains(text, "parley agent trust") {
		t.Error("the log of the host does not say what to do")
	}
	walk := startRunbook(t, "host-copied", "--yes", "--addr", asked.Addr())
	walk.waitFor(t, 40*time.Second, "Find out where the copy came from")
	verifyFails(t, "host-copied", "all-decided", asked) // the control

	if s := parley(t, "agent", "trust", host.Name, "--dry-run", "--addr", asked.Addr()); s.code != 0 || !strings.Contains(s.out, "went back to an older copy") {
		t.Errorf("exit %d: %s%s", s.code, s.out, s.err)
	}
	if s := parley(t, "agent", "trust", host.Name, "--yes", "--addr", asked.Addr()); s.code != 0 {
		t.Fatalf("exit %d: %s%s", s.code, s.out, s.err)
	}
	run := walk.end(t)
	if want := []string{"none-copied", "decide", "all-decided"}; run.exit != 0 || run.Result != runbook.Pass || !slices.Equal(run.path(), want) {
		t.Errorf("got %s\n%s", run, run.shown)
	}
	eventually(t, 30*time.Second, host.Name+" is back", func(ctx context.Context) error { return fresh(ctx, clients[host.Name]) })
	renewedAfter(t, clients[host.Name], "renewals after that", time.Now().Add(2*copyLife))
	resolved(t, asked, "host-copied")
	tells(t, asked, "host-decided", host.Name)
	shownCopied(t, clients, host.Name, false)
	whole(t, clients)
}

// TestHostRunsTwice: while a copy of a running agent runs beside it under its name, with other addresses, one of the two is found out
// at its next renewal, and neither is renewed from then on: both certificates end, and everybody else's go on. A token lets the host
// in with a new key, and the copy stays out.
func TestHostRunsTwice(t *testing.T) {
	t.Parallel() // it mostly waits
	l, clients, host, asked := copyLab(t)
	renewedAfter(t, clients[host.Name], "a renewal", time.Now().Add(copyLife/2))
	twin := startTwin(t, host, copyHost(t, host))
	fires(t, asked, "host-copied", copyLife+10*time.Second)
	certificateEnds(t, clients[host.Name], host.Name)
	certificateEnds(t, twin, "its copy")
	shownCopied(t, othersThan(clients, host.Name), host.Name, true)
	for name, c := range othersThan(clients, host.Name) {
		if s := statusOf(t, c); time.Now().After(s.SVID.NotAfter) {
			t.Errorf("the certificate of %s has ended too", name)
		}
	}

	kill(t, l, host.Name)
	_, ticket := newToken(t, l, client.TokenSpec{Node: host.Name, Replace: host.Name, TTL: 10 * time.Minute})
	if err := errors.Join(os.Rename(host.DataDir, host.DataDir+".before"), os.WriteFile(filepath.Join(l.Dir, "token"), []byte(ticket.Token+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	restart(t, l, host.Name)
	eventually(t, 30*time.Second, host.Name+" is back with another key", func(ctx context.Context) error { return fresh(ctx, clients[host.Name]) })
	renewedAfter(t, clients[host.Name], "renewals after that", time.Now().Add(2*copyLife))
	resolved(t, asked, "host-copied")
	shownCopied(t, othersThan(clients, host.Name), host.Name, false)
	if s := statusOf(t, twin); s.Ready || time.Now().Before(s.SVID.NotAfter) {
		t.Errorf("the copy: ready %t, certificate until %s", s.Ready, s.SVID.NotAfter)
	}
}

// startTwin runs the agent of a copied data directory, under the same name.
func startTwin(t *testing.T, a *lab.Agent, dir string) *client.Client {
	t.Helper()
	args := slices.Clone(a.Argv)
	for i, flag := range args[:len(args)-1] {
		switch flag {
		case "--data-dir":
			args[i+1] = dir
		case "--bind":
			args[i+1] = "127.99.9.9:8310"
		case "--http":
			args[i+1] = "127.99.9.9:8500"
		case "--dns":
			args[i+1] = "127.99.9.9:8600"
		}
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "twin.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "PARLEY_") })
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("the copy says\n%s", text)
		}
	})
	c, err := client.New("unix://" + filepath.Join(dir, "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	eventually(t, 20*time.Second, "the copy answers", func(ctx context.Context) error {
		_, err := c.Status(ctx)
		return err
	})
	return c
}
