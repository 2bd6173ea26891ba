package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api/client"
)

// TestSnapshotHealsWithoutPeers: a core of one saves its state anew when its snapshot turns out damaged while it runs. When
// it starts and none is whole there is nobody to fetch one from: it refuses, which is the control of the start that heals.
func TestSnapshotHealsWithoutPeers(t *testing.T) {
	cfg := single(t)
	chunks := filepath.Join(cfg.DataDir, "snap", "chunks", "*")
	damage := func() {
		t.Helper()
		files, err := filepath.Glob(chunks)
		if err != nil || len(files) == 0 {
			t.Fatalf("chunks %v, %v", files, err)
		}
		for _, path := range files {
			flipAt(t, path, 3)
		}
	}
	runFor(t, cfg, nil, func(c *client.Client) {
		put(t, c, "k")
		damage()
		if report, err := c.ScrubStorage(t.Context(), 1000); err != nil || report.Errors == 0 {
			t.Fatalf("%+v, %v", report, err)
		}
		scrubbedClean(t, c)
		for _, kind := range []string{"storage-damage", "storage-healed"} {
			if events, err := c.Events(t.Context(), client.EventOptions{Kind: kind}); err != nil || len(events) == 0 {
				t.Errorf("%s: %d events, %v", kind, len(events), err)
			}
		}
	})
	runFor(t, cfg, nil, func(c *client.Client) { put(t, c, "k") })
	damage()
	if err := startOnce(t, cfg); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("it started: %v", err)
	}
}

// scrubbedClean waits until a scrub finds nothing.
func scrubbedClean(t *testing.T, c *client.Client) {
	t.Helper()
	within(t, "a clean scrub", func(ctx context.Context) error {
		report, err := c.ScrubStorage(ctx, 1000)
		if err == nil && report.Errors > 0 {
			err = fmt.Errorf("%+v", report)
		}
		return err
	})
}

// A snapshot whose files are whole and whose content cannot be restored does not stop a start: the one before and the log make the
// whole state, and a new one takes its place. Where there is none before, and no other member, there is nothing to start from:
// that is the control.
func TestRottenSnapshotIsPassedOver(t *testing.T) {
	cfg := single(t)
	runFor(t, cfg, nil, func(c *client.Client) { put(t, c, "kept") })
	dir, err := openDataDir(cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := dir.readCluster()
	if err != nil {
		t.Fatal(err)
	}
	rot := func() (index uint64) {
		t.Helper()
		s, err := openStore(dir, ids.ClusterID, ids.RaftID, cfg.Core.SegmentMiB, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		meta, _, _ := s.snapshots.Latest()
		if last := s.recovered.Entries[len(s.recovered.Entries)-1]; last.GetIndex() > meta.Index {
			meta.Index, meta.Term = last.GetIndex(), last.GetTerm()
			meta.Chain, _ = s.log.Chain(meta.Index)
		}
		_, err = s.snapshots.Save(meta, func(w io.Writer) error { _, err := io.WriteString(w, "no rows"); return err })
		if err := errors.Join(err, s.close()); err != nil {
			t.Fatal(err)
		}
		return meta.Index
	}
	rotten := rot()
	runFor(t, cfg, nil, func(c *client.Client) {
		if _, err := c.Get(t.Context(), "kept", client.ReadOptions{}); err != nil {
			t.Errorf("after a start from the snapshot before: %v", err)
		}
		put(t, c, "more")
		if events, err := c.Events(t.Context(), client.EventOptions{Kind: "storage-damage"}); err != nil || len(events) == 0 {
			t.Errorf("%d events, %v", len(events), err)
		}
		within(t, "a new snapshot in its place", func(context.Context) error {
			names, err := filepath.Glob(filepath.Join(cfg.DataDir, "snap", "*.manifest"))
			if newest := fmt.Sprintf("%016x.manifest", rotten); err == nil && (len(names) == 0 || filepath.Base(names[len(names)-1]) <= newest) {
				err = fmt.Errorf("snapshots %v", names)
			}
			return err
		})
	})
	if err := startOnce(t, cfg); err != nil {
		t.Errorf("with the new one: %v", err)
	}
	rot()
	for _, path := range rest(t, cfg.DataDir) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := startOnce(t, cfg); err == nil || !strings.Contains(err.Error(), "nothing can be restored from it") {
		t.Errorf("control: it started: %v", err)
	}
}

// rest lists the manifests of all snapshots but the newest.
func rest(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "snap", "*.manifest"))
	if err != nil || len(names) == 0 {
		t.Fatalf("snapshots %v, %v", names, err)
	}
	return names[:len(names)-1]
}
