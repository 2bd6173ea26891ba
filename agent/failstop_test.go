package agent

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/storage"
)

// brokenFS is the machine's file system with one sync that fails: the nth of a place, counted from 0. The disk holds what was written all
// the same: what a power cut would leave is for the tests of package storage.
type brokenFS struct {
	storage.FS
	root string
	fail string
	nth  int

	mu    sync.Mutex
	syncs map[string]int // by place: the path with what differs from run to run taken out
}

func newBrokenFS(root, fail string, nth int) *brokenFS {
	return &brokenFS{FS: storage.OS(), root: root, fail: fail, nth: nth, syncs: map[string]int{}}
}

var runDependent = regexp.MustCompile(`[0-9a-f]{16,}`)

func (b *brokenFS) sync(path string, do func() error) error {
	b.mu.Lock()
	rel, _ := filepath.Rel(b.root, path)
	place := runDependent.ReplaceAllString(rel, "N")
	n := b.syncs[place]
	b.syncs[place]++
	b.mu.Unlock()
	if place == b.fail && n == b.nth {
		return &fs.PathError{Op: "sync", Path: path, Err: syscall.EIO}
	}
	return do()
}

func (b *brokenFS) SyncDir(dir string) error {
	return b.sync(dir+"/", func() error { return b.FS.SyncDir(dir) })
}

func (b *brokenFS) Create(path string, perm fs.FileMode) (storage.File, error) {
	f, err := b.FS.Create(path, perm)
	return b.wrap(f, path, err)
}

func (b *brokenFS) Open(path string) (storage.File, error) {
	f, err := b.FS.Open(path)
	return b.wrap(f, path, err)
}

func (b *brokenFS) wrap(f storage.File, path string, err error) (storage.File, error) {
	if err != nil {
		return nil, err
	}
	return &brokenFile{f, b, path}, nil
}

type brokenFile struct {
	storage.File
	fs   *brokenFS
	path string
}

func (f *brokenFile) Sync() error { return f.fs.sync(f.path, f.File.Sync) }

// scriptedRun starts the agent, writes keys one after the other, has a snapshot saved, and stops. It returns the keys that
// were acknowledged, and how it ended: a call of fatal counts as the end of the process at that moment.
func scriptedRun(t *testing.T, cfg config.Config, fsys storage.FS, round int) (acked []string, ended error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := os.RemoveAll(filepath.Join(cfg.DataDir, viewDir, lkgFile)); err != nil { // so that it is written again
		t.Fatal(err)
	}
	died, ready, over := make(chan error, 64), make(chan struct{}), make(chan error, 1)
	a, err := New(cfg, Options{Ready: func() { close(ready) }, Log: zap.NewNop(), fs: fsys, fatal: func(err error) { died <- err }})
	if err != nil {
		t.Fatal(err)
	}
	go func() { over <- a.Run(ctx) }()
	end := func() error {
		cancel()
		err := <-over
		select {
		case cause := <-died:
			return cause
		default:
			return err
		}
	}
	select {
	case <-ready:
	case err := <-over:
		over <- err
		return nil, end()
	case cause := <-died:
		died <- cause
		return nil, end()
	}
	c, err := client.New("unix://" + filepath.Join(cfg.DataDir, adminSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	copied := filepath.Join(cfg.DataDir, viewDir, lkgFile)
	await(ctx, func() bool { _, err := os.Stat(copied); return err == nil || len(died) > 0 })
	for i := 0; i < 4 && len(died) == 0; i++ {
		key := fmt.Sprintf("r%d/%d", round, i)
		put, done := context.WithTimeout(ctx, 3*time.Second)
		if _, err := c.Put(put, key, []byte("v"), client.PutOptions{}); err == nil {
			acked = append(acked, key)
		}
		done()
		if n := a.core.current.Load(); i == 1 && n != nil {
			saves := n.store.snapshots.Saves()
			n.node.RenewSnapshot()
			saved, done := context.WithTimeout(ctx, 3*time.Second) // at the next checkpoint
			await(saved, func() bool { return n.store.snapshots.Saves() > saves || len(died) > 0 })
			done()
		}
	}
	return acked, end()
}

// TestEverySyncFailsStop goes through every place at which the agent syncs, from its start over writes and a snapshot to
// its stop: when that sync fails the process ends, and the next start has all that was acknowledged before. Without a
// failure it runs to its end: the control.
func TestEverySyncFailsStop(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts dozens of agents")
	}
	cfg := single(t)
	cfg.SafeMode.Window = 100 * time.Millisecond // it ends badly at each sync, and is to serve afterwards
	cfg.Core.SegmentMiB = 16
	acked, err := scriptedRun(t, cfg, newBrokenFS(cfg.DataDir, "", 0), 0)
	if err != nil || len(acked) != 4 {
		t.Fatalf("control: %d acknowledged, %v", len(acked), err)
	}
	counting := newBrokenFS(cfg.DataDir, "", 0)
	all, err := scriptedRun(t, cfg, counting, 1) // the second start has other syncs than the first
	if err != nil {
		t.Fatalf("control: %v", err)
	}
	all, round := append(all, acked...), 1
	for place, times := range counting.syncs {
		for _, nth := range slices.Compact([]int{0, times / 2, times - 1}) {
			round++
			broken := newBrokenFS(cfg.DataDir, place, nth)
			acked, err := scriptedRun(t, cfg, broken, round)
			all = append(all, acked...)
			if reached := broken.syncs[place] > nth; reached && err == nil {
				t.Errorf("sync %d of %s failed, and the process went on", nth, place)
			} else if !reached && nth == 0 {
				t.Errorf("%s was not synced", place)
			}
		}
	}
	kept := map[string]bool{}
	runFor(t, cfg, nil, func(c *client.Client) {
		put(t, c, "last") // there is a leader from here on
		pairs, err := c.List(t.Context(), "r", client.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pairs {
			kept[p.Key] = true
		}
	})
	for _, key := range all {
		if !kept[key] {
			t.Errorf("%s was acknowledged and is gone", key)
		}
	}
	t.Logf("%d syncs failed, %d keys were acknowledged; syncs of a run: %v", round-1, len(all), counting.syncs)
	for _, place := range []string{"ledger", ".", "incarnation.tmp", "anchor", "clock.tmp", "wal/N.wal", "snap/N.manifest.tmp", "snap/chunks/N.tmp", "snap/chunks", "snap", "view/public.snap.tmp"} {
		if counting.syncs[place] == 0 {
			t.Errorf("%s is not synced", place)
		}
	}
}
