package e2e

import (
	"context"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// TestStartRefused: an agent that must not start says why and what to do, exits with 1 and leaves its
// data directory as it was. The same directory starts without the cause (the control).
func TestStartRefused(t *testing.T) {
	t.Parallel() // it mostly waits
	dir, other := foreign(t), foreign(t)
	theirs := inFile(t, tokenOf(t, other))
	config := filepath.Join(t.TempDir(), "parley.toml")
	text := "nmae = \"x\"\n[mesh]\nadvertise = \"nonsense\"\n[http]\nanonymous_role = \"operater\"\n[core]\ntick = 5\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close() //nolint:errcheck // a test's socket
	busy := taken.Addr().String()
	before := contents(t, dir)

	for _, tt := range []struct {
		name          string
		args          []string
		problem, hint string
	}{
		{"HTTP for everybody", []string{"--http", "0.0.0.0:8500"}, "refusing to serve HTTP on 0.0.0.0:8500: callers there need no identity", "127.0.0.1:8500"},
		{"HTTP on all of IPv6", []string{"--http", "[::]:8500"}, "refusing to serve HTTP on [::]:8500", "https.bind"},
		{"another node's name", []string{"--name", "b2"}, `belongs to node "b1", not "b2"`, "--name b1"},
		{"a token of another cluster", []string{"--join", "127.0.0.1:1", "--token-file", theirs}, "the token is for cluster", "an empty --data-dir"},
		{"an unknown key", []string{"--set", "core.replace_aftr=1m"}, "core.replace_aftr: unknown key, did you mean core.replace_after?", "parley config default"},
		{"a key like no other", []string{"--set", "quux=1"}, "quux: unknown key", "parley config default"},
		{"several problems", []string{"--config", config}, "4 problems", "mesh.advertise: write an address like"},
		{"no configuration", []string{"--config", "/nonexistent"}, "open /nonexistent: no such file", "parley config default"},
		{"a port that is taken", []string{"--bind", busy}, busy + " is taken by another program", "--bind"},
		{"the HTTP port is taken", []string{"--http", busy}, busy + " is taken by another program", "--http"},
		{"two tokens", []string{"--token", "x", "--token-file", theirs}, "exclude each other", "--token-file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := parley(t, freshAgent(t, dir, "", tt.args...)...)
			s.wants(t, 1, tt.problem, tt.hint)
			if tt.name == "several problems" {
				for _, each := range []string{"did you mean name?", "nonsense", "did you mean operator?", "core.tick"} {
					if !strings.Contains(s.err, each) {
						t.Errorf("nothing about %q in\n%s", each, s.err)
					}
				}
			}
			sameFiles(t, before, contents(t, dir))
		})
	}
	t.Run("two agents on one directory", func(t *testing.T) { secondAgent(t, dir) })
	t.Run("keys that others can read", func(t *testing.T) { wideKeys(t, dir) })
	t.Run("files that somebody edited", func(t *testing.T) { editedFiles(t, dir) })
	t.Run("not our own", func(t *testing.T) { othersDirectory(t, dir) })
	t.Run("init again", func(t *testing.T) {
		before := contents(t, dir)
		parley(t, "init", "--trust-domain", "new.test", "--data-dir", dir).wants(t, 1, "already belongs to cluster", "an empty --data-dir")
		sameFiles(t, before, contents(t, dir))
	})
}

func sameFiles(t *testing.T, before, after map[string]string) {
	t.Helper()
	if !maps.Equal(before, after) {
		t.Errorf("the data directory was changed from\n%v\nto\n%v", before, after)
	}
}

// tokenOf makes a token of a cluster that runs only for this.
func tokenOf(t *testing.T, dir string) string {
	t.Helper()
	d := startAgent(t, freshAgent(t, dir, "")...)
	defer d.stop()
	s := parley(t, "token", "create", "--data-dir", dir, "--wait", "15s", "-o", "json", "--expect", ".token != null")
	_, rest, _ := strings.Cut(s.out, `"token": "`)
	text, _, found := strings.Cut(rest, `"`)
	if s.code != 0 || !found {
		t.Fatalf("%s%s", s.out, s.err)
	}
	return text
}

// secondAgent: the first one is told nothing of it, and goes on.
func secondAgent(t *testing.T, dir string) {
	first := startAgent(t, freshAgent(t, dir, "")...)
	if s := parley(t, "status", "--data-dir", dir, "--wait", "15s", "--expect", ".ready and .core.leader != null"); s.code != 0 {
		t.Fatalf("%s%s\n%s", s.out, s.err, first.said())
	}
	parley(t, freshAgent(t, dir, "")...).wants(t, 1, "another agent (pid ", "its own --data-dir")
	parley(t, "init", "--trust-domain", "new.test", "--data-dir", dir, "--name", "n").wants(t, 1, "another agent (pid ", "its own --data-dir")
	if s := parley(t, "kv", "put", "still", "here", "--data-dir", dir); s.code != 0 {
		t.Errorf("the first agent: %s", s.err)
	}
	first.stop()
}

func wideKeys(t *testing.T, dir string) {
	for _, name := range []string{"host.key", "seal.key", "leaf.key", "issuer.key"} {
		path := filepath.Join(dir, "identity", name)
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		parley(t, freshAgent(t, dir, "")...).wants(t, 1, path+" has mode 0644", "chmod 0600 "+path)
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	control := startAgent(t, freshAgent(t, dir, "")...)
	defer control.stop()
	if s := parley(t, "status", "--data-dir", dir, "--wait", "15s", "--expect", ".ready"); s.code != 0 {
		t.Errorf("the control: %s%s\n%s", s.out, s.err, control.said())
	}
}

// editedFiles: what is no agent's own writing is refused in words, never by a panic, and left as it is.
func editedFiles(t *testing.T, dir string) {
	for name, tt := range map[string]struct {
		file, text    string
		problem, hint string
	}{
		"an empty cluster.toml":   {"cluster.toml", "", "cluster_id \"\" is not 32 hex digits", "restore it from a copy"},
		"another cluster id":      {"cluster.toml", "cluster_id = \"zz\"\n", "cluster_id \"zz\" is not 32 hex digits", "restore it from a copy"},
		"no TOML":                 {"cluster.toml", "[", "parse " + filepath.Join(dir, "cluster.toml"), "restore it from a copy"},
		"a clock without a time":  {"clock", "noon", "clock does not hold a number", "larger than every earlier one"},
		"a leaf that is no leaf":  {"identity/leaf.pem", "x", "identity/leaf.pem: 0 certificates", "--replace b1"},
		"a bundle without a root": {"identity/bundle.pem", "", "identity/bundle.pem", "--replace b1"},
		"a host key of nobody":    {"identity/host.key", "x", "identity/host.key holds no private key", "--replace b1"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, tt.file)
			kept, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			before := contents(t, dir)
			parley(t, freshAgent(t, dir, "")...).wants(t, 1, tt.problem, tt.hint)
			sameFiles(t, before, contents(t, dir))
			if err := os.WriteFile(path, kept, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// othersDirectory: a user who may not write the directory, and one who may not read the token.
func othersDirectory(t *testing.T, dir string) {
	need(t, os.Geteuid() == 0, "root, to become nobody")
	before := contents(t, dir)
	asNobody(t, freshAgent(t, dir, "")...).wants(t, 1, "permission denied", "--data-dir")
	sameFiles(t, before, contents(t, dir))
	asNobody(t, freshAgent(t, filepath.Join(sharedDir(t), "d"), "n", "--join", "127.0.0.1:1", "--token-file", inFile(t, "secret"))...).
		wants(t, 1, "permission denied", "put it into that file")
}

// asNobody runs the program as a user without rights.
func asNobody(t testing.TB, args ...string) said {
	t.Helper()
	copied := filepath.Join(sharedDir(t), "parley")
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, text, 0o755); err != nil { //nolint:gosec // nobody has to run it
		t.Fatal(err)
	}
	cmd := exec.Command(copied, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, NoSetGroups: true}}
	return runCommand(t, cmd)
}

// sharedDir is a temporary directory that everybody may write.
func sharedDir(t testing.TB) string {
	t.Helper()
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // that is its purpose
		t.Fatal(err)
	}
	return dir
}

// TestRequestsOverTheirLimits are refused by every door, and write nothing.
func TestRequestsOverTheirLimits(t *testing.T) {
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	a := l.Agents[1]
	value, key := make([]byte, 512<<10), strings.Repeat("k", 1024)
	web := &http.Client{Timeout: 10 * time.Second}
	defer web.CloseIdleConnections()
	native, dialect := "http://"+a.HTTP+"/parley/v1/kv/", "http://"+a.HTTP+"/v1/kv/"
	before := settled(t, l)

	for _, tt := range []struct {
		name, url string
		body      []byte
		code      int
		words     string
	}{
		{"a value", native + "big", append(value, 0), 413, `"code":"too_large"`},
		{"a value in the dialect", dialect + "big", append(value, 0), 413, "limit"},
		{"a body", native + "big", make([]byte, 1<<20+1), 413, `"code":"too_large"`},
		{"a key", native + key + "k", nil, 413, "the key has 1025 bytes, the limit is 1024"},
		{"a header", native + strings.Repeat("k", 32<<10), nil, 431, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if code, text := askHTTP(t, web, http.MethodPut, tt.url, tt.body); code != tt.code || !strings.Contains(text, tt.words) {
				t.Errorf("%d %s, want %d with %q", code, text, tt.code, tt.words)
			}
			unchanged(t, l, before)
		})
	}
	t.Run("a transaction", func(t *testing.T) {
		if code, text := askHTTP(t, web, http.MethodPost, "http://"+a.HTTP+"/parley/v1/txn", make([]byte, 1<<20+1)); code != 413 {
			t.Errorf("%d %s", code, text)
		}
		unchanged(t, l, before)
	})
	t.Run("commands", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "value")
		if err := os.WriteFile(file, append(value, 0), 0o600); err != nil {
			t.Fatal(err)
		}
		parley(t, "kv", "put", "big", "--file", file, "--addr", a.Addr()).wants(t, 1, "more than 524288 bytes", "split it")
		parley(t, "kv", "put", key+"k", "v", "--addr", a.Addr()).wants(t, 1, "the key has 1025 bytes, the limit is 1024", "keys 1 KiB")
		parley(t, "kv", "put", "", "v", "--addr", a.Addr()).wants(t, 1, "the key is empty", "name a key")
		unchanged(t, l, before)
	})
	// The control: what is exactly at the limit is stored and read back through another agent.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := clientOf(t, a).Put(ctx, key, value, client.PutOptions{}); err != nil {
		t.Errorf("at the limits: %v", err)
	}
	if p, err := clientOf(t, l.Agents[2]).Get(ctx, key, client.ReadOptions{}); err != nil || len(p.Value) != len(value) {
		t.Errorf("read back: %d bytes, %v", len(p.Value), err)
	}
}
