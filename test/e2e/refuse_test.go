package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
	"github.com/parley-mesh/parley/security"
)

// said is what a command printed and exited with.
type said struct {
	code     int
	out, err string
}

// parley runs the program as a user would, for at most 20 s.
func parley(t testing.TB, args ...string) said {
	t.Helper()
	return runCommand(t, exec.Command(program, args...))
}

// runCommand runs one command of the program, without what could point it at another agent.
func runCommand(t testing.TB, cmd *exec.Cmd) said {
	t.Helper()
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "PARLEY_") })
	cmd.WaitDelay = time.Second
	if e := cmd.Start(); e != nil {
		t.Fatal(e)
	}
	timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	var exit *exec.ExitError
	if e := cmd.Wait(); e != nil && !errors.As(e, &exit) {
		t.Fatal(e)
	}
	return said{cmd.ProcessState.ExitCode(), out.String(), err.String()}
}

// wants holds a refusal against its exit code, the error's words and the hint's.
func (s said) wants(t testing.TB, code int, problem, hint string) {
	t.Helper()
	if s.code != code {
		t.Errorf("exit code %d, want %d", s.code, code)
	}
	if !strings.Contains(s.after("parley: error: "), problem) {
		t.Errorf("the error does not say %q", problem)
	}
	if !strings.Contains(s.after("parley: hint: "), hint) || s.after("parley: hint: ") == "" {
		t.Errorf("the hint does not say %q", hint)
	}
	t.Logf("exit %d\n%s%s", s.code, s.out, s.err)
}

// after is what follows a label at the beginning of a line of standard error.
func (s said) after(label string) string {
	_, text, _ := strings.Cut("\n"+s.err, "\n"+label)
	return text
}

// standing is everything about a cluster that a refused request must not change: who is in it and in
// which state, and what the state machines hold.
func standing(t testing.TB, l *lab.Lab) string {
	t.Helper()
	var text strings.Builder
	for _, a := range l.Agents {
		c := clientOf(t, a)
		var members []client.Member
		var status client.Status
		eventually(t, 20*time.Second, a.Name+" says how it stands, and who leads", func(ctx context.Context) (err error) {
			if members, err = c.Members(ctx); err != nil {
				return err
			}
			if status, err = c.Status(ctx); err == nil && status.Core.Leader == nil {
				err = errors.New("nobody leads") // an election is under way
			}
			return err
		})
		fmt.Fprintf(&text, "%s revision %d public %s all %s leads %s:", a.Name, status.Digest.Revision,
			status.Digest.Public, status.Digest.All, *status.Core.Leader)
		for _, m := range members {
			fmt.Fprintf(&text, " %s/%s/%s/%s", m.Name, m.State, m.Core, m.Address)
		}
		text.WriteString("\n")
	}
	return text.String()
}

// settled is the standing once all agents hold the same, and each core member has published the key of its tokens.
func settled(t testing.TB, l *lab.Lab) string {
	t.Helper()
	clients := clientsOf(t, l)
	eventually(t, 20*time.Second, "equal digests", func(ctx context.Context) error {
		members, err := clientOf(t, l.Agents[0]).Members(ctx)
		if err != nil {
			return err
		}
		for _, m := range members {
			i := slices.IndexFunc(l.Agents, func(a *lab.Agent) bool { return a.Name == m.Name })
			signs := m.Core == "leader" || m.Core == "voter"
			if signs && i >= 0 && !strings.Contains(readLog(t, l.Agents[i]), "tokens are signed with a new key") {
				return fmt.Errorf("%s has published no key of tokens", m.Name)
			}
		}
		return sameDigest(ctx, clients)
	})
	return standing(t, l)
}

// unchanged compares with an earlier standing.
func unchanged(t testing.TB, l *lab.Lab, before string) {
	t.Helper()
	if after := standing(t, l); after != before {
		t.Errorf("the cluster changed from\n%sto\n%s", before, after)
	}
}

// works writes through every agent and reads it back.
func works(t testing.TB, l *lab.Lab) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, a := range l.Agents {
		c := clientOf(t, a)
		want := fmt.Sprint(rand.Uint64())
		if _, err := c.Put(ctx, "works/"+a.Name, []byte(want), client.PutOptions{}); err != nil {
			t.Fatalf("put through %s: %v", a.Name, err)
		}
		if p, err := c.Get(ctx, "works/"+a.Name, client.ReadOptions{}); err != nil || string(p.Value) != want {
			t.Fatalf("get through %s: %q, %v", a.Name, p.Value, err)
		}
	}
}

// contents are the files below dir with what they hold. What a running process leaves is not counted:
// the lock with its pid, and sockets.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || entry.Name() == "lock" {
			return err
		}
		text, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir)] = fmt.Sprintf("%x", sha256.Sum256(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// freshAgent is the command line of an agent that is not of the lab, on addresses that nobody has.
func freshAgent(t testing.TB, dataDir, name string, more ...string) []string {
	t.Helper()
	for range 50 {
		host := fmt.Sprintf("127.%d.%d.1", 200+rand.IntN(50), rand.IntN(256))
		l, err := net.Listen("tcp", host+":8310")
		if err != nil {
			continue
		}
		_ = l.Close() // the agent takes it a moment later
		args := []string{"agent", "--data-dir", dataDir, "--bind", host + ":8310", "--http", host + ":8500",
			"--dns", host + ":8600", "--set", "gossip.profile=fast"}
		if name != "" {
			args = append(args, "--name", name)
		}
		return append(args, more...)
	}
	t.Fatal("no free loopback address")
	return nil
}

// meshOf is the mesh address among an agent's arguments.
func meshOf(t testing.TB, args []string) string {
	t.Helper()
	i := slices.Index(args, "--bind")
	if i < 0 {
		t.Fatalf("no --bind in %q", args)
	}
	return args[i+1]
}

// daemon is an agent that runs beside the lab.
type daemon struct {
	cmd *exec.Cmd
	log *os.File
}

// startAgent runs the program until the test ends.
func startAgent(t testing.TB, args ...string) *daemon {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{cmd: exec.Command(program, args...), log: log}
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := startToDieWithUs(d.cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.stop(); _ = log.Close() })
	return d
}

func (d *daemon) stop() {
	_ = d.cmd.Process.Kill()
	_, _ = d.cmd.Process.Wait()
}

func (d *daemon) said() string {
	text, _ := os.ReadFile(d.log.Name())
	return string(text)
}

// foreign founds another cluster of the same trust domain, which does not run, and returns its first
// agent's data directory.
func foreign(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(shortDir(t), "b")
	if s := parley(t, "init", "--trust-domain", "lab.parley.test", "--data-dir", dir, "--name", "b1"); s.code != 0 {
		t.Fatalf("init: %s", s.err)
	}
	return dir
}

// shortDir is a temporary directory whose path leaves room for sockets.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "parley-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// newToken makes a join token.
func newToken(t testing.TB, l *lab.Lab, spec client.TokenSpec) (security.Token, client.TokenAnswer) {
	t.Helper()
	if spec.TTL == 0 {
		spec.TTL = 10 * time.Minute
	}
	if spec.Uses == 0 {
		spec.Uses = 1
	}
	answer, err := clientOf(t, l.Agents[0]).CreateToken(t.Context(), spec)
	if err != nil {
		t.Fatalf("create token: %v", err)
	}
	parsed, err := security.ParseToken(answer.Token)
	if err != nil {
		t.Fatal(err)
	}
	return parsed, answer
}

// inFile puts a secret where --token-file finds it.
func inFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// askHTTP sends one HTTP request and returns status and body.
func askHTTP(t testing.TB, c *http.Client, method, url string, body []byte, headers ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
			continue
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	var text bytes.Buffer
	_, _ = text.ReadFrom(answer.Body)
	return answer.StatusCode, text.String()
}
