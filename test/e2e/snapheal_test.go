package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// TestSnapshotsHeal: what is damaged among the snapshots of one member of three is put right by itself while writes go
// on: while it runs, after a scrub; and when it starts and has nothing whole to start from, with a snapshot of another.
func TestSnapshotsHeal(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	whole(t, clients)
	load := startWriters(t, l, 5*time.Millisecond)
	progress(t, load, 100)
	victim := named(t, l, agentInRole(t, clients, "voter"))
	c := clients[victim.Name]

	var healed uint64
	for _, what := range []string{"chunks/*", "*.manifest"} {
		damageSnapshots(t, victim, what)
		own := false
		// Its own scrub may run just now, or have run since, and found it.
		eventually(t, 20*time.Second, what+" found", func(ctx context.Context) error {
			report, err := c.ScrubStorage(ctx, 1000)
			var busy *client.Error
			if errors.As(err, &busy) && busy.Retryable {
				own = true
				return err
			}
			if err != nil || report.Errors == 0 && report.Healed == healed && !own {
				t.Fatalf("%s: the scrub found %+v, %v", what, report, err)
			}
			return nil
		})
		eventually(t, 20*time.Second, what+" whole again", func(ctx context.Context) error {
			report, err := c.ScrubStorage(ctx, 1000)
			if err == nil && report.Errors > 0 {
				err = fmt.Errorf("%d problems, the first %+v", report.Errors, report.Problems[0])
			}
			healed = report.Healed
			return err
		})
	}
	told(t, c, victim.Name, "storage-damage", "storage-healed")

	kill(t, l, victim.Name)
	damageSnapshots(t, victim, "chunks/*")
	damageSnapshots(t, victim, "*.manifest")
	progress(t, load, 50)
	restart(t, l, victim.Name)
	began := time.Now()
	eventually(t, 30*time.Second, "a member with whole snapshots again", func(ctx context.Context) error {
		report, err := c.ScrubStorage(ctx, 1000)
		if err == nil && (report.Errors > 0 || report.Snapshots == 0) {
			err = fmt.Errorf("%+v", report)
		}
		return err
	})
	t.Logf("healed within %s", time.Since(began).Round(10*time.Millisecond))
	whole(t, clients)
	progress(t, load, 50)
	load.end()
	writesKept(t, load, clients)
	if report, code := func() (client.ScrubReport, int) { kill(t, l, victim.Name); return scrubOffline(t, victim) }(); code != 0 {
		t.Errorf("afterwards: %+v", report)
	}
}

// damageSnapshots flips a byte in each file that matches.
func damageSnapshots(t *testing.T, a *lab.Agent, pattern string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(a.DataDir, "snap", pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s of %s: %v, %v", pattern, a.Name, files, err)
	}
	for _, path := range files {
		flipOnDisk(t, path, 9)
	}
}

// told waits until the timeline has an event of each kind about node.
func told(t *testing.T, c *client.Client, node string, kinds ...string) {
	t.Helper()
	for _, kind := range kinds {
		eventually(t, 20*time.Second, "event "+kind, func(ctx context.Context) error {
			events, err := c.Events(ctx, client.EventOptions{Kind: kind})
			for _, e := range events {
				if e.Subject == node {
					return nil
				}
			}
			return fmt.Errorf("%d events, none about %s (%w)", len(events), node, err)
		})
	}
}
