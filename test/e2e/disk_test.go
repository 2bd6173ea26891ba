package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// toTmpfs gives an agent's data directory a small file system of its own and starts the agent again. The
// size is in MiB; a log segment has 64, and the agent keeps a second one ready where there is room.
func toTmpfs(t *testing.T, l *lab.Lab, a *lab.Agent, size int) {
	t.Helper()
	kill(t, l, a.Name)
	aside := a.DataDir + ".aside"
	if err := os.Rename(a.DataDir, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(a.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	spare, err := filepath.Glob(filepath.Join(aside, "wal", "spare-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range spare { // made again if it fits
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mount("tmpfs", a.DataDir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0700", size)); err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		kill(t, l, a.Name)
		if err := syscall.Unmount(a.DataDir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	if out, err := exec.Command("cp", "-a", aside+"/.", a.DataDir).CombinedOutput(); err != nil {
		t.Fatalf("copy: %v: %s", err, out)
	}
	if err := os.RemoveAll(aside); err != nil {
		t.Fatal(err)
	}
	restart(t, l, a.Name)
}

// mayMount skips where file systems cannot be made.
func mayMount(t *testing.T) {
	t.Helper()
	need(t, os.Geteuid() == 0, "root, to mount a small file system")
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m")
	need(t, err == nil, "the right to mount a file system")
	if err := syscall.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
}

// fill leaves nothing free in the agent's file system; unfill takes it back.
func fill(t *testing.T, a *lab.Agent) {
	t.Helper()
	f, err := os.Create(ballast(a))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // it is full
	for block := make([]byte, 1<<20); len(block) >= 4096; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func unfill(t *testing.T, a *lab.Agent) {
	t.Helper()
	if err := os.Remove(ballast(a)); err != nil {
		t.Fatal(err)
	}
}

func ballast(a *lab.Agent) string { return filepath.Join(a.DataDir, "ballast") }

// TestDiskFull: one member's full disk costs nothing: a leader without space hands over to one that has some, and the
// timeline tells. When all are full writes are refused in words; reads go on, nobody ends, and with the space the writes
// are back without anybody's doing.
func TestDiskFull(t *testing.T) {
	t.Parallel() // it mostly waits
	mayMount(t)
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	for _, a := range l.Agents {
		toTmpfs(t, l, a, 160)
		whole(t, clients)
	}
	load := startWriters(t, l, 50*time.Millisecond)
	progress(t, load, 20)
	leader, follower := named(t, l, agentInRole(t, clients, "leader")), named(t, l, agentInRole(t, clients, "voter"))

	t.Run("on a follower", func(t *testing.T) {
		fill(t, follower)
		progress(t, load, 150)
		works(t, l)
		unfill(t, follower)
	})
	t.Run("on the leader", func(t *testing.T) {
		fill(t, leader)
		eventually(t, 10*time.Second, "the lead is with one that has space", func(ctx context.Context) error {
			now, err := leaderOf(ctx, clients[follower.Name])
			if err == nil && now == leader.Name {
				err = fmt.Errorf("%s leads still", now)
			}
			return err
		})
		progress(t, load, 50)
		told(t, clients[follower.Name], leader.Name, "space-low")
		unfill(t, leader)
		told(t, clients[follower.Name], leader.Name, "space-back")
		works(t, l)
	})
	t.Run("on all", func(t *testing.T) {
		for _, a := range l.Agents {
			fill(t, a)
		}
		refusedForSpace(t, l, clients)
		fullStart(t, l, follower)
		for _, a := range l.Agents {
			unfill(t, a)
		}
		restart(t, l, follower.Name)
		whole(t, clients)
		progress(t, load, 50)
	})
	load.end()
	for _, a := range l.Agents {
		restart(t, l, a.Name)
	}
	whole(t, clients)
	writesKept(t, load, clients)
}

func named(t *testing.T, l *lab.Lab, name string) *lab.Agent {
	t.Helper()
	a, err := l.Agent(name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// refusedForSpace waits until writes are refused, and holds every door's words against the table.
func refusedForSpace(t *testing.T, l *lab.Lab, clients map[string]*client.Client) {
	t.Helper()
	eventually(t, 20*time.Second, "writes are refused", func(ctx context.Context) error {
		var refused *client.Error
		_, err := clients[l.Agents[0].Name].Put(ctx, "full", nil, client.PutOptions{})
		if !errors.As(err, &refused) || refused.Code != "no_space" || refused.ExitCode() != 1 {
			return fmt.Errorf("a write gave %w", err)
		}
		return nil
	})
	web := &http.Client{Timeout: 5 * time.Second}
	defer web.CloseIdleConnections()
	for _, a := range l.Agents {
		parley(t, "kv", "put", "full", "x", "--addr", a.Addr()).wants(t, 1, "the disk of ", "free space on the leader's data directory")
		if code, text := askHTTP(t, web, "PUT", "http://"+a.HTTP+"/parley/v1/kv/full", []byte("x")); code != 507 || !strings.Contains(text, `"no_space"`) {
			t.Errorf("through %s: %d %s", a.Name, code, text)
		}
		parley(t, "kv", "get", "works/a1", "--addr", a.Addr()).mustWork(t)
		parley(t, "status", "--addr", a.Addr()).mustWork(t)
		if !a.Running() {
			t.Errorf("%s has ended", a.Name)
		}
	}
	if p, err := clients[l.Agents[0].Name].Get(t.Context(), "full", client.ReadOptions{}); string(p.Value) == "x" {
		t.Errorf("a refused write was done: %q, %v", p.Value, err)
	}
}

// fullStart: an agent that has no room for its own start says so.
func fullStart(t *testing.T, l *lab.Lab, a *lab.Agent) {
	t.Helper()
	kill(t, l, a.Name)
	fill(t, a) // what its end set free
	runCommand(t, exec.Command(a.Argv[0], a.Argv[1:]...)).wants(t, 1, "no space left", "free space on the file system of the data directory")
}

func writesKept(t *testing.T, load *writers, clients map[string]*client.Client) {
	t.Helper()
	for name, c := range clients {
		missing, err := load.missing(context.Background(), c)
		if err != nil || len(missing) > 0 {
			t.Errorf("read back through %s: error %v, %d acknowledged writes lost: %.10q", name, err, len(missing), missing)
		}
	}
	acked, tries := load.count()
	t.Logf("%d of %d writes were acknowledged", acked, tries)
	eventually(t, 10*time.Second, "equal digests", func(ctx context.Context) error { return sameDigest(ctx, clients) })
}

// TestDiskTooSmallForTheNextSegment: on disks with room for one log segment and a half, all is well until
// the segment is full. Then writes are refused, those under way have an unknown outcome at worst, and
// everything goes on once the file systems have grown.
func TestDiskTooSmallForTheNextSegment(t *testing.T) {
	t.Parallel() // it mostly waits
	mayMount(t)
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	for _, a := range l.Agents {
		toTmpfs(t, l, a, 90)
	}
	whole(t, clients)
	value := randomBytes(512 << 10)
	acked := 0
	var refused *client.Error
	for refused == nil {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		_, err := clients["a1"].Put(ctx, "big/"+strconv.Itoa(acked), value, client.PutOptions{})
		cancel()
		switch {
		case err == nil:
			acked++
		case !errors.As(err, &refused):
			t.Fatalf("after %d values: %v", acked, err)
		case refused.Code != "no_space" && refused.Code != "outcome_unknown":
			t.Fatalf("after %d values: %s: %v", acked, refused.Code, err)
		}
		if acked > 400 {
			t.Fatal("200 MiB went to a disk of 90")
		}
	}
	t.Logf("%d values of 512 KiB, then %s: %v", acked, refused.Code, refused)
	for _, a := range l.Agents {
		parley(t, "kv", "get", "big/0", "-o", "raw", "--addr", a.Addr()).mustWork(t)
		if !a.Running() {
			t.Errorf("%s has ended", a.Name)
		}
	}
	for _, a := range l.Agents {
		if err := syscall.Mount("tmpfs", a.DataDir, "tmpfs", syscall.MS_REMOUNT, "size=300m,mode=0700"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 15*time.Second, "writes go on", func(ctx context.Context) error {
		_, err := clients["a2"].Put(ctx, "after", []byte("x"), client.PutOptions{})
		return err
	})
	for _, a := range l.Agents {
		restart(t, l, a.Name)
	}
	whole(t, clients)
	for name, c := range clients {
		pairs, err := c.List(t.Context(), "big/", client.ListOptions{Limit: 1})
		if err != nil || len(pairs) == 0 {
			t.Fatalf("%s lists %d, %v", name, len(pairs), err)
		}
		for i := range acked {
			if p, err := c.Get(t.Context(), "big/"+strconv.Itoa(i), client.ReadOptions{}); err != nil || len(p.Value) != len(value) {
				t.Errorf("%s: acknowledged value %d: %d bytes, %v", name, i, len(p.Value), err)
			}
		}
	}
	eventually(t, 10*time.Second, "equal digests", func(ctx context.Context) error { return sameDigest(ctx, clients) })
}
