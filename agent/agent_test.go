package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/storage"
)

// TestMain has more tests run beside each other than there are processors: those that say so mostly wait. The race detector
// leaves them no time to wait.
func TestMain(m *testing.M) {
	beside := "4"
	if raced {
		beside = "1"
	}
	if err := flag.Set("test.parallel", beside); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// single founds a cluster of one agent and returns its configuration.
func single(t *testing.T) config.Config {
	t.Helper()
	return singleOf(t, "agent.test")
}

// singleOf is the configuration of the first agent of a new cluster.
func singleOf(t *testing.T, trustDomain string) config.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "parley-agent-") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := config.Default()
	cfg.DataDir, cfg.Name = filepath.Join(dir, "d"), "a1"
	cfg.Mesh.Bind, cfg.HTTP.Bind = freeAddr(t), freeAddr(t)
	if _, err := Init(t.Context(), InitOptions{DataDir: cfg.DataDir, TrustDomain: trustDomain, Name: "a1", Address: cfg.Mesh.Bind}); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// freeAddr returns an address that is free, and that no outgoing connection takes while its agent is down: the system takes
// ports above these for them.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000)) //nolint:gosec // any will do
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return addr
	}
	t.Fatal("no free port")
	return ""
}

// runFor runs an agent in this process until do returns.
func runFor(t *testing.T, cfg config.Config, physical func() time.Time, do func(*client.Client)) {
	t.Helper()
	ready := make(chan struct{})
	a, err := New(cfg, Options{Physical: physical, Ready: func() { close(ready) }, Log: zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("the agent ended with %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("the agent is not ready")
	}
	c, err := client.New("unix://" + filepath.Join(cfg.DataDir, adminSocket))
	if err != nil {
		t.Fatal(err)
	}
	do(c)
	c.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("a stop by its context returned %v", err)
	}
}

// put returns the stamp that the write got.
func put(t *testing.T, c *client.Client, key string) clock.Stamp {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if _, err := c.Put(ctx, key, []byte("v"), client.PutOptions{}); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return stampAt(t, c, key)
}

func stampAt(t *testing.T, c *client.Client, key string) clock.Stamp {
	t.Helper()
	p, err := c.Get(t.Context(), key, client.ReadOptions{})
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	s, err := clock.ParseStamp(p.ModifiedHLC)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestStampsSurviveAClockSetBack: an agent whose wall clock went back by an hour while it was down still
// stamps later than everything before. The clock alone would not have: that is the control.
func TestStampsSurviveAClockSetBack(t *testing.T) {
	cfg := single(t)
	var before []clock.Stamp
	runFor(t, cfg, nil, func(c *client.Client) {
		for i := range 3 {
			before = append(before, put(t, c, fmt.Sprintf("before/%d", i)))
		}
	})
	back := func() time.Time { return clock.System().Add(-time.Hour) }
	if alone := stampOf(back()); alone >= before[0] {
		t.Fatalf("control: the clock that was set back says %s, which is not before %s", alone, before[0])
	}
	last := before[2]
	for restart := range 2 {
		runFor(t, cfg, back, func(c *client.Client) {
			if got := stampAt(t, c, "before/2"); got != before[2] {
				t.Errorf("restart %d: the old key's stamp is %s, was %s", restart, got, before[2])
			}
			for i := range 3 {
				next := put(t, c, fmt.Sprintf("after/%d/%d", restart, i))
				if next <= last {
					t.Errorf("restart %d: stamp %s follows %s", restart, next, last)
				}
				last = next
			}
		})
	}
	for i := 1; i < len(before); i++ {
		if before[i] <= before[i-1] {
			t.Errorf("stamp %s follows %s", before[i], before[i-1])
		}
	}
}

// TestRunLeavesNothingBehind: when Run has returned, its goroutines and sockets are gone, however often.
func TestRunLeavesNothingBehind(t *testing.T) {
	cfg := single(t)
	use := func(c *client.Client) { put(t, c, "k") }
	runFor(t, cfg, nil, use) // what starts once for the process, starts here
	before := runtime.NumGoroutine()
	for range 3 {
		runFor(t, cfg, nil, use)
	}
	after := 0
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); runtime.Gosched() {
		if after = runtime.NumGoroutine(); after <= before {
			return
		}
	}
	stacks := make([]byte, 1<<20)
	t.Errorf("%d goroutines, %d before:\n%s", after, before, stacks[:runtime.Stack(stacks, true)])
}

// TestFailedInitLeavesNothing: an Init that failed can be repeated; one in a directory that has an
// identity changes nothing.
func TestFailedInitLeavesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	o := InitOptions{DataDir: dir, TrustDomain: "agent.test", Name: "a1"}
	if err := os.MkdirAll(filepath.Join(dir, clusterFile+".tmp", "x"), 0o700); err != nil { // cluster.toml cannot be written
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), o); err == nil {
		t.Fatal("got no error")
	}
	for _, name := range []string{"identity", walDir, snapDir, "anchor", clusterFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it left %s (%v)", name, err)
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, clusterFile+".tmp")); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), o); err != nil {
		t.Fatalf("again: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, clusterFile)); err != nil {
		t.Fatal(err)
	}
	_, err := Init(t.Context(), o)
	if err == nil || !strings.Contains(Hint(err), "empty --data-dir") {
		t.Errorf("in a directory with an identity: %v, hint %q", err, Hint(err))
	}
	if _, err := os.Stat(filepath.Join(dir, "identity", "host.key")); err != nil {
		t.Errorf("the identity that was there: %v", err)
	}
}

// TestInitChecksFirst: what cannot begin a cluster is refused before anything is written, so that a correct Init in
// the same place works. A trust domain of 256 bytes once ended the program in a panic, with an identity left behind.
func TestInitChecksFirst(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	long := strings.Repeat("a", 256)
	for what, o := range map[string]InitOptions{
		"trust domain": {TrustDomain: long, Name: "a1"},
		"zone":         {TrustDomain: "agent.test", Name: "a1", Zone: long},
		"address":      {TrustDomain: "agent.test", Name: "a1", Address: long + "a"},
		"name":         {TrustDomain: "agent.test", Name: long},
	} {
		o.DataDir = dir
		if _, err := Init(t.Context(), o); err == nil {
			t.Errorf("%s of %d bytes: no error", what, len(long))
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: it left something (%v)", what, err)
		}
	}
	if _, err := Init(t.Context(), InitOptions{DataDir: dir, TrustDomain: long[1:], Name: "a1"}); err != nil {
		t.Errorf("with the longest trust domain: %v", err)
	}
}

// TestInitWithoutSpace: nobody runs init again but who called it, so its error promises no retry, says what to do, and the next
// one finds nothing of this one. (It said that the agent retries by itself, of which there is none yet.)
func TestInitWithoutSpace(t *testing.T) {
	dir, err := openDataDir(filepath.Join(t.TempDir(), "d"))
	if err != nil {
		t.Fatal(err)
	}
	for _, full := range []error{storage.ErrNoSpace, syscall.ENOSPC, syscall.EDQUOT} {
		if err := os.MkdirAll(dir.join("identity"), 0o700); err != nil {
			t.Fatal(err)
		}
		failed := unfound(dir, fmt.Errorf("make the log: %w", full))
		if strings.Contains(failed.Error(), "retries") || !strings.Contains(Hint(failed), "free at least 200 MiB") || !strings.Contains(Hint(failed), "run parley init again") {
			t.Errorf("%v: %v, hint %q", full, failed, Hint(failed))
		}
		if _, err := os.Stat(dir.join("identity")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v: the identity is left: %v", full, err)
		}
	}
}

// TestListenUnix: a socket that a dead process left is replaced; a file, and a socket that somebody
// serves, are refused and stay. Once http.bind could remove any file.
func TestListenUnix(t *testing.T) {
	dir := filepath.Dir(single(t).DataDir)
	file, socket := filepath.Join(dir, "file"), filepath.Join(dir, "socket")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(file); err == nil || Hint(err) == "" {
		t.Errorf("a file: %v", err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("the file is now %q, %v", text, err)
	}
	first, err := listenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(socket); err == nil || !strings.Contains(err.Error(), "taken by another program") {
		t.Errorf("a socket in use: %v", err)
	}
	unix, ok := first.(*net.UnixListener)
	if !ok {
		t.Fatalf("it listens with %T", first)
	}
	unix.SetUnlinkOnClose(false) // as after kill -9
	_ = first.Close()
	second, err := listenUnix(socket)
	if err != nil {
		t.Fatalf("a socket that was left: %v", err)
	}
	_ = second.Close()
}
