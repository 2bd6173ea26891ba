package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

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
