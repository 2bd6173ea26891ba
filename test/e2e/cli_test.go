package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// TestCommandsSayWhatIsWrong: exit code, error and hint of what people get wrong first.
func TestCommandsSayWhatIsWrong(t *testing.T) {
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	addr := []string{"--addr", l.Agents[0].Addr()}
	put := parley(t, append(addr, "kv", "put", "k", "v", "-o", "json")...)
	if put.code != 0 {
		t.Fatal(put.err)
	}
	before := settled(t, l)
	for _, tt := range []struct {
		args          string
		code          int
		problem, hint string
	}{
		{"memebrs", 1, `parley has no command "memebrs"`, "did you mean `parley members`?"},
		{"kv putt a b", 1, `parley kv has no command "putt"`, "did you mean `parley kv put`?"},
		{"kv put", 1, "parley kv put needs KEY", "usage: parley kv put KEY"},
		{"kv put k", 1, "parley kv put has no value", "--file FILE"},
		{"kv get a b", 1, `parley kv get does not take "b"`, "usage:"},
		{"status --adr x", 1, "unknown flag: --adr", "did you mean --addr?"},
		{"status --wait soon", 1, `invalid argument "soon"`, "parley status --help"},
		{"status -o xml", 1, "xml is not a format", "-o json"},
		{"status --expect .name==", 1, `--expect ".name=="`, "a jq program"},
		{"status --addr ftp://x", 1, "ftp://x", "unix:///path"},
		{"status --addr http://127.0.0.1:1", 3, "no agent answers at http://127.0.0.1:1", "start it with parley agent"},
		{"kv put k w --data-dir /nonexistent", 3, "no agent answers at unix:///nonexistent/admin.sock", "--data-dir"},
		{"token create --uses 0", 1, "at least 1 of --uses", "--ttl 10m"},
		{"token create --role root", 1, `unknown role "root": use none, discovery, local or operator`, ""},
		{"token revoke nonsense", 1, `"nonsense": 16 lower-case hex digits`, ""},
		{"init", 1, "parley init needs --trust-domain", "--trust-domain prod.example.com"},
		{"config check /nonexistent", 1, "open /nonexistent", "parley config default"},
		{"kv get nothing", 1, `no key "nothing"`, "parley kv list"},
		{"kv put k w --cas 1", 1, "is at revision", "read the current revision"},
		{"kv put k w --cas 0", 1, "exists", "read the current revision"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			args := strings.Fields(tt.args)
			if !strings.Contains(tt.args, "--addr") && !strings.Contains(tt.args, "--data-dir") {
				args = append(args, addr...)
			}
			parley(t, args...).wants(t, tt.code, tt.problem, tt.hint)
			unchanged(t, l, before)
		})
	}
	t.Run("a false --expect", func(t *testing.T) {
		s := parley(t, append(addr, "kv", "get", "k", "--expect", `.value == "w"`)...)
		if s.code != 2 || !strings.Contains(s.out, "value") || !strings.Contains(s.err, `not as expected: .value == "w"`) {
			t.Errorf("%d %s%s", s.code, s.out, s.err)
		}
	})
	t.Run("keys and values that speak to the terminal", func(t *testing.T) {
		const key, value = "evil\x1b[2J\nkey", "\x1b]0;owned\a"
		parley(t, append(addr, "kv", "put", key, value)...).mustWork(t)
		for _, args := range [][]string{{"kv", "list"}, {"kv", "get", key}, {"kv", "delete", "evil", "--prefix", "--dry-run"}} {
			s := parley(t, append(args, addr...)...)
			if s.mustWork(t); !strings.Contains(s.out, "evil") || strings.ContainsAny(s.out, "\x1b\a") {
				t.Errorf("%v: %q", args, s.out)
			}
		}
		if s := parley(t, append(addr, "kv", "get", key, "-o", "raw")...); s.out != value {
			t.Errorf("raw: %q", s.out)
		}
	})
	t.Run("nothing but the answer on standard output", func(t *testing.T) { machineReadable(t, addr) })
}

func machineReadable(t *testing.T, addr []string) {
	for _, args := range []string{"status", "members", "core", "kv list", "token list", "version", "version --json", "kv get k"} {
		more := append([]string{"-o", "json"}, addr...)
		if strings.Contains(args, "--json") {
			more = nil
		}
		s := parley(t, append(strings.Fields(args), more...)...)
		var v any
		if err := json.Unmarshal([]byte(s.out), &v); err != nil || s.code != 0 || s.err != "" {
			t.Errorf("%s: exit %d, %v: %s%s", args, s.code, err, s.out, s.err)
		}
	}
	if s := parley(t, append([]string{"token", "list"}, addr...)...); s.code != 0 || !strings.Contains(s.out, "USES LEFT") || strings.Contains(s.out, "parley1-") {
		t.Errorf("token list: exit %d: %s%s", s.code, s.out, s.err)
	}
	s := parley(t, "completion", "bash")
	script := filepath.Join(t.TempDir(), "completion")
	if err := os.WriteFile(script, []byte(s.out), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("bash", "-n", script).CombinedOutput(); s.code != 0 || err != nil || !strings.Contains(s.out, "parley") {
		t.Errorf("completion bash: exit %d, %v: %s", s.code, err, out)
	}
}

// TestNoLeader: with one voter of three left, writes say that there is no leader and exit with 3, stale
// reads and status go on, and everything is back with the voters.
func TestNoLeader(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	works(t, l)
	outcomeUnknown(t, l, agentInRole(t, clients, "leader"))
	whole(t, clients)

	leader := agentInRole(t, clients, "leader")
	var left *lab.Agent
	for _, a := range l.Agents {
		if a.Name == leader || left != nil {
			kill(t, l, a.Name)
		} else {
			left = a
		}
	}
	addr := []string{"--addr", left.Addr()}
	// A leaderless voter takes a moment to notice.
	eventually(t, 10*time.Second, "no leader", func(ctx context.Context) error {
		core, err := clients[left.Name].Core(ctx)
		if err == nil && core.Leader != nil {
			err = fmt.Errorf("%s leads", *core.Leader)
		}
		return err
	})
	// Each waits for a leader first, so they do it together.
	commands := []string{"kv put k v", "kv put k v --wait 1s", "kv get works/a1", "kv delete k", "token create", "token list"}
	answers := make([]said, len(commands))
	var asking sync.WaitGroup
	for i, command := range commands {
		asking.Go(func() { answers[i] = parley(t, append(strings.Fields(command), addr...)...) })
	}
	began := time.Now()
	asking.Wait()
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("it took %v to learn that there is no leader", took)
	}
	for i, s := range answers {
		t.Run(commands[i], func(t *testing.T) { s.wants(t, 3, "the core has no leader", "a majority of its voters must be up") })
	}
	if s := parley(t, append(addr, "kv", "get", "works/a1", "--stale", "-o", "raw")...); s.code != 0 || s.out == "" {
		t.Errorf("stale read: %d %s%s", s.code, s.out, s.err)
	}
	if s := parley(t, append(addr, "status", "--expect", ".core.leader == null and .core.margin < 0")...); s.code != 0 ||
		!strings.Contains(s.out, "none: no writes until a majority") {
		t.Errorf("status: %d %s%s", s.code, s.out, s.err)
	}
	for _, a := range l.Agents {
		if a != left {
			restart(t, l, a.Name)
		}
	}
	whole(t, clients)
	works(t, l)
}

// outcomeUnknown: the leader freezes, gets a write, and dies: its caller learns that nobody can say
// whether the write happened, and exits with 5. A read of the same kind exits with 3.
func outcomeUnknown(t *testing.T, l *lab.Lab, leader string) {
	a, err := l.Agent(leader)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Kill(leader, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(500*time.Millisecond, func() { kill(t, l, leader) }) // the kernel has taken both by then
	var write, read said
	var asking sync.WaitGroup
	asking.Go(func() {
		write = parley(t, "kv", "put", "maybe", "x", "--request-id", "00000000000000017761697465642031", "--addr", a.Addr())
	})
	asking.Go(func() { read = parley(t, "kv", "get", "maybe", "--addr", a.Addr()) })
	asking.Wait()
	write.wants(t, 5, "no answer to the write", "ask again under the request id")
	read.wants(t, 3, "the connection to unix://", "try again")
	restart(t, l, leader)
}

// TestRolesAtTheDoors: what an anonymous caller, an agent of a small role, a web page and another user
// of the host may do; and https, which takes an agent's certificate and nothing else.
func TestRolesAtTheDoors(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 4, ReplaceAfter: 10 * time.Minute})
	_, ticket := newToken(t, l, client.TokenSpec{Role: "discovery"})
	dir := filepath.Join(shortDir(t), "d")
	args := freshAgent(t, dir, "small", "--join", l.Agents[1].Mesh, "--token-file", inFile(t, ticket.Token))
	small := startAgent(t, args...)
	if s := parley(t, "status", "--data-dir", dir, "--wait", "15s", "--expect", ".ready and .core.leader != null"); s.code != 0 {
		t.Fatalf("%s%s\n%s", s.out, s.err, small.said())
	}
	var loopback string
	for i, arg := range args {
		if arg == "--http" {
			loopback = "http://" + args[i+1]
		}
	}
	works(t, l)
	before := settled(t, l)

	t.Run("an agent with the role discovery", func(t *testing.T) {
		for _, args := range []string{"kv put k v", "kv get works/a1", "kv delete k", "token create", "token list", "core size 1 --yes", "core allow small", "agent role small operator"} {
			s := parley(t, append(strings.Fields(args), "--data-dir", dir)...)
			if strings.HasPrefix(args, "core") || strings.HasPrefix(args, "agent") {
				if s.code != 4 {
					t.Errorf("%s: exit %d: %s", args, s.code, s.err)
				}
				continue
			}
			s.wants(t, 4, "is not allowed", "parley agent role")
		}
		for _, args := range []string{"members", "status", "core"} {
			if s := parley(t, args, "--data-dir", dir); s.code != 0 {
				t.Errorf("%s: %s", args, s.err)
			}
		}
		unchanged(t, l, before)
	})
	t.Run("anonymous", func(t *testing.T) { anonymous(t, loopback); unchanged(t, l, before) })
	t.Run("web pages", func(t *testing.T) { webPages(t, l.Agents[0]); unchanged(t, l, before) })
	t.Run("another user", func(t *testing.T) {
		need(t, os.Geteuid() == 0, "root, to become nobody")
		parley(t, "status", "--addr", l.Agents[0].Addr()).mustWork(t)
		// The directory keeps others out; where somebody has opened it, the kernel tells who calls.
		asNobody(t, "status", "--addr", l.Agents[0].Addr()).wants(t, 4, "permission denied", "the admin socket is for root")
		for _, d := range []string{l.Dir, filepath.Dir(l.Agents[0].DataDir), l.Agents[0].DataDir, l.Agents[0].Admin} {
			if err := os.Chmod(d, 0o777); err != nil { //nolint:gosec // the point of it
				t.Fatal(err)
			}
		}
		asNobody(t, "status", "--addr", l.Agents[0].Addr()).wants(t, 4, "the admin socket is not for uid 65534", "as root or as the user")
		asNobody(t, "kv", "put", "k", "v", "--addr", l.Agents[0].Addr()).wants(t, 4, "the admin socket is not for uid 65534", "as root or as the user")
		unchanged(t, l, before)
	})
}

func (s said) mustWork(t testing.TB) {
	t.Helper()
	if s.code != 0 {
		t.Errorf("exit %d: %s", s.code, s.err)
	}
}

func anonymous(t *testing.T, loopback string) {
	web := &http.Client{Timeout: 5 * time.Second}
	defer web.CloseIdleConnections()
	for _, tt := range []struct {
		method, path string
		code         int
	}{
		{"PUT", "/parley/v1/kv/k", 403}, {"GET", "/parley/v1/kv/works/a1", 403}, {"DELETE", "/parley/v1/kv/works/a1", 403},
		{"PUT", "/v1/kv/k", 403}, {"GET", "/v1/kv/works/a1", 403}, {"GET", "/v1/kv/?recurse", 403}, {"POST", "/parley/v1/txn", 403},
		{"POST", "/parley/v1/token", 403}, {"GET", "/parley/v1/tokens", 403}, {"POST", "/parley/v1/core/size", 403},
		{"POST", "/parley/v1/agent/role", 403},
		{"GET", "/parley/v1/members", 200}, {"GET", "/parley/v1/status", 200}, {"GET", "/parley/v1/core", 200},
		{"GET", "/livez", 200}, {"GET", "/readyz", 200}, {"GET", "/v1/status/leader", 200},
		{"GET", "/nothing", 404}, {"POST", "/parley/v1/members", 405},
	} {
		if code, text := askHTTP(t, web, tt.method, loopback+tt.path, nil); code != tt.code {
			t.Errorf("%s %s: %d %s, want %d", tt.method, tt.path, code, text, tt.code)
		}
	}
	parley(t, "kv", "put", "k", "v", "--addr", loopback).wants(t, 4, "not allowed for anonymous callers", "admin.sock")
}

// webPages: a page in a browser on this host is no caller, although it comes from loopback.
func webPages(t *testing.T, a *lab.Agent) {
	web := &http.Client{Timeout: 5 * time.Second}
	defer web.CloseIdleConnections()
	url := "http://" + a.HTTP + "/parley/v1/kv/web"
	for name, headers := range map[string][]string{
		"rebound name":         {"Host", "evil.example:8500"},
		"another origin":       {"Origin", "https://evil.example"},
		"an opaque origin":     {"Origin", "null"},
		"another site":         {"Sec-Fetch-Site", "cross-site"},
		"a sister site":        {"Sec-Fetch-Site", "same-site"},
		"loopback, other port": {"Origin", "http://127.0.0.1:9999"},
	} {
		if code, text := askHTTP(t, web, "PUT", url, []byte("x"), headers...); code != 403 || !strings.Contains(text, "forbidden_origin") {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
	for name, headers := range map[string][]string{
		"its own page": {"Origin", "http://" + a.HTTP, "Sec-Fetch-Site", "same-origin"}, "localhost": {"Host", "localhost:8500"},
		"its own name": {"Host", a.Name},
	} {
		if code, text := askHTTP(t, web, "GET", "http://"+a.HTTP+"/parley/v1/members", nil, headers...); code != 200 {
			t.Errorf("control, %s: %d %s", name, code, text)
		}
	}
}

// TestHTTPS: the agent's certificate opens https, and what has none, or one of another cluster, is refused.
func TestHTTPS(t *testing.T) {
	dir, other := foreign(t), foreign(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bind := free.Addr().String()
	_ = free.Close()
	agent := freshAgent(t, dir, "", "--https", bind)
	d := startAgent(t, agent...)
	addr := []string{"--addr", "https://" + bind}
	if s := parley(t, "status", "--data-dir", dir, "--wait", "15s", "--expect", ".ready and .core.leader != null"); s.code != 0 {
		t.Fatalf("%s%s\n%s", s.out, s.err, d.said())
	}
	with := func(dataDir string, args ...string) said {
		return parley(t, append(append(args, addr...), "--data-dir", dataDir)...)
	}
	with(dir, "kv", "put", "k", "v").mustWork(t)
	if s := with(dir, "kv", "get", "k", "-o", "raw"); s.code != 0 || s.out != "v" {
		t.Errorf("get: %d %s%s", s.code, s.out, s.err)
	}
	with(shortDir(t), "kv", "get", "k").wants(t, 4, "asks for a client certificate", "--data-dir")
	rpc := func(dataDir string, args ...string) said {
		return parley(t, append(args, "--addr", "rpc://"+meshOf(t, agent), "--data-dir", dataDir)...)
	}
	rpc(dir, "kv", "put", "by-rpc", "w").mustWork(t)
	if s := rpc(dir, "kv", "get", "by-rpc", "-o", "raw"); s.code != 0 || s.out != "w" {
		t.Errorf("get by rpc: %d %s%s", s.code, s.out, s.err)
	}
	rpc(dir, "members").mustWork(t) // an endpoint without a method of its own
	rpc(shortDir(t), "kv", "get", "k").wants(t, 4, "asks for a client certificate", "--data-dir")
	if s := rpc(other, "kv", "put", "k", "w"); s.code == 0 {
		t.Errorf("another cluster's agent by rpc: %d %s", s.code, s.out)
	}
	if s := with(other, "kv", "put", "k", "w"); s.code == 0 || !strings.Contains(s.err, "root that this cluster does not trust") {
		t.Errorf("another cluster's agent: %d %s", s.code, s.err)
	}
	for name, config := range map[string]*tls.Config{
		"no certificate":           {},
		"self-signed":              {Certificates: []tls.Certificate{selfSigned(t, "lab.parley.test")}},
		"of another cluster":       {Certificates: []tls.Certificate{certOf(t, other)}},
		"TLS 1.2 with its own key": {Certificates: []tls.Certificate{certOf(t, dir)}, MaxVersion: tls.VersionTLS12},
	} {
		config.InsecureSkipVerify = true
		web := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: config}}
		answer, err := web.Get("https://" + bind + "/livez")
		if err == nil {
			_ = answer.Body.Close()
			t.Errorf("%s: %d", name, answer.StatusCode)
		}
		web.CloseIdleConnections()
	}
	// An http client at the https port, and the other way round, is told something useful.
	if s := parley(t, "status", "--addr", "http://"+bind); s.code == 0 || s.after("parley: hint: ") == "" {
		t.Errorf("http at the https port: %d %s", s.code, s.err)
	}
	if s := with(dir, "kv", "get", "k", "-o", "raw"); s.out != "v" {
		t.Errorf("the value is now %q", s.out)
	}
}

// TestRestarts: one agent, then all at once, stopped as systemd does it. Nothing acknowledged is lost and
// a stopped leader does not keep the others waiting.
func TestRestarts(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 4, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	parley(t, "kv", "put", "kept", "through it all", "--addr", l.Agents[3].Addr()).mustWork(t)
	for _, role := range []string{"leader", "voter", "none"} {
		restart(t, l, agentInRole(t, clients, role))
		whole(t, clients)
	}
	for _, a := range l.Agents {
		if err := l.Kill(a.Name, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 10*time.Second, "all stop", func(context.Context) error {
		for _, a := range l.Agents {
			if a.Running() {
				return fmt.Errorf("%s runs", a.Name)
			}
		}
		return nil
	})
	for _, a := range l.Agents {
		if state := a.Cmd().ProcessState; !state.Success() {
			t.Errorf("%s ended with %s", a.Name, state)
		}
		restart(t, l, a.Name)
	}
	whole(t, clients)
	for _, a := range l.Agents {
		if s := parley(t, "kv", "get", "kept", "-o", "raw", "--addr", a.Addr()); s.out != "through it all" {
			t.Errorf("through %s: %d %s%s", a.Name, s.code, s.out, s.err)
		}
	}
	works(t, l)
}
