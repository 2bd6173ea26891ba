package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

func segmentsOf(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "wal", "0*.wal"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("segments %v, %v", paths, err)
	}
	return paths
}

// TestRunningLogHeals: damage that a scrub finds in the log of a running agent is healed from its own memory, without a
// restart of the process, and nothing is lost: even in a core of one, which has nobody to ask.
func TestRunningLogHeals(t *testing.T) {
	cfg := single(t)
	runFor(t, cfg, nil, func(c *client.Client) {
		put(t, c, "before")
		flipAt(t, segmentsOf(t, cfg.DataDir)[0], 4096+40)
		report, err := c.ScrubStorage(t.Context(), 100)
		if err != nil || report.Errors == 0 {
			t.Fatalf("the damage is not found: %+v, %v", report, err)
		}
		until(t, "the log is healed", func(ctx context.Context) bool {
			events, err := c.Events(ctx, client.EventOptions{Kind: api.EventHealed})
			return err == nil && len(events) > 0
		})
		put(t, c, "after")
		until(t, "a clean scrub", func(ctx context.Context) bool {
			report, err := c.ScrubStorage(ctx, 100)
			return err == nil && report.Errors == 0 && report.Entries > 2
		})
		if kv, err := c.Get(t.Context(), "before", client.ReadOptions{}); err != nil || kv.Key != "before" {
			t.Errorf("what was written before the damage: %+v, %v", kv, err)
		}
	})
	kept, err := filepath.Glob(filepath.Join(cfg.DataDir, "wal", "damaged-*.wal"))
	if err != nil || len(kept) != 1 {
		t.Errorf("the damaged segment is not kept aside: %v, %v", kept, err)
	}
}

// TestRunningAnchorHeals: so is a damaged slot of the anchor, which nobody writes while nobody writes.
func TestRunningAnchorHeals(t *testing.T) {
	cfg := single(t)
	runFor(t, cfg, nil, func(c *client.Client) {
		put(t, c, "k")
		flipAt(t, filepath.Join(cfg.DataDir, "anchor"), 100)
		flipAt(t, filepath.Join(cfg.DataDir, "anchor"), 4096+100)
		until(t, "a clean scrub", func(ctx context.Context) bool {
			report, err := c.ScrubStorage(ctx, 100)
			return err == nil && report.Errors == 0
		})
	})
}

// until polls for up to ten seconds.
func until(t *testing.T, what string, holds func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for !holds(ctx) {
		if pause(ctx, 50*time.Millisecond); ctx.Err() != nil {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// TestOnlyCopyIsNotTouched: a core of one whose log is damaged does not start and says what to do, and changes nothing: it
// has nobody to heal from, and wiping it would lose the cluster.
func TestOnlyCopyIsNotTouched(t *testing.T) {
	for what, damage := range map[string]func(t *testing.T, dir string){
		"damaged": func(t *testing.T, dir string) { flipAt(t, segmentsOf(t, dir)[0], 4096+40) },
		"gone": func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "wal")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			cfg := single(t)
			runFor(t, cfg, nil, func(c *client.Client) { put(t, c, "k") })
			damage(t, cfg.DataDir)
			before := listing(t, cfg.DataDir)
			a, err := New(cfg, Options{})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err = a.Run(ctx)
			if err == nil || !strings.Contains(err.Error()+Hint(err), "backup") {
				t.Errorf("it runs, or does not say what to do: %v, hint %q", err, Hint(err))
			}
			if after := listing(t, cfg.DataDir); after != before {
				t.Errorf("files before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	for _, part := range []string{"wal", "snap"} {
		entries, _ := os.ReadDir(filepath.Join(dir, part))
		for _, e := range entries {
			b.WriteString(part + "/" + e.Name() + "\n")
		}
	}
	return b.String()
}

// TestGapOnTheWire: a question about entries has one form.
func TestGapOnTheWire(t *testing.T) {
	gap := storage.Gap{After: 3, Last: 9, Chain: [32]byte{7}}
	if got, ok := decodeGap(encodeGap(gap)); !ok || got != gap {
		t.Errorf("%+v, %v", got, ok)
	}
	for _, bad := range [][]byte{nil, encodeGap(gap)[1:], append(encodeGap(gap), 0), encodeGap(storage.Gap{After: 9, Last: 9})} {
		if _, ok := decodeGap(bad); ok {
			t.Errorf("%x is taken", bad)
		}
	}
}

// TestDamagedFilesOfAGivenUpLogAreBounded: of a log that is given up the newest segments stay, at most 128 MiB.
func TestDamagedFilesOfAGivenUpLogAreBounded(t *testing.T) {
	c := testRunner(t, testMachine(), nil)
	for round := range 2 {
		for _, dir := range []string{"wal"} {
			if err := os.MkdirAll(c.dir.join(dir), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		for n := range 5 {
			name := "000000000000000" + string(rune('1'+n)) + ".wal"
			if err := os.WriteFile(c.dir.join("wal", name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(c.dir.join("wal", name), 50<<20); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.dir.keepDamaged(); err != nil {
			t.Fatal(err)
		}
		kept, err := os.ReadDir(c.dir.join(damagedDir))
		if err != nil || len(kept) != 2 || kept[1].Name() != "0000000000000005.wal" {
			t.Errorf("round %d: kept %v, %v", round, kept, err)
		}
	}
}

// TestClaimKeyStays: the key is made once, for this user alone, and anew when it is damaged.
func TestClaimKeyStays(t *testing.T) {
	c := testRunner(t, testMachine(), nil)
	first, err := c.dir.claimKey()
	if err != nil || len(first) != claimKeyBytes {
		t.Fatal(first, err)
	}
	if again, err := c.dir.claimKey(); err != nil || string(again) != string(first) {
		t.Errorf("another key at the second call: %v", err)
	}
	if info, err := os.Stat(c.dir.join(claimKeyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.WriteFile(c.dir.join(claimKeyFile), []byte("cut"), 0o600); err != nil {
		t.Fatal(err)
	}
	if anew, err := c.dir.claimKey(); err != nil || len(anew) != claimKeyBytes || string(anew) == string(first) {
		t.Errorf("a damaged key: %v", err)
	}
}

// TestMayRunOnlyNewIDs: see also TestRetiredIDIsNotRunAgain.
func TestMayRunOnlyNewIDs(t *testing.T) {
	m := testMachine()
	c := testRunner(t, m, nil)
	c.ids.PastRaftID = 1
	if id, _ := c.assignedID(); id != 0 || consensus.MayRun(1, 1) || !consensus.MayRun(2, 1) {
		t.Errorf("it would run the Raft id %d again", id)
	}
	change(t, m, state.CoreRetire{RaftID: 1})
}

// A member whose log is whole and begins behind its snapshot needs a snapshot, and not the entries between, which others may have
// dropped. One that lacks entries for another reason needs those.
func TestWholeLogFetchesASnapshot(t *testing.T) {
	behind := fmt.Errorf("%w: %w", consensus.ErrLost, consensus.ErrNoSnapshot)
	if damage := damagedLog(errors.Join(behind, &storage.DamageError{Snapshot: true})); damage != nil {
		t.Errorf("its log is to be healed: %v", damage.err)
	}
	if damage := damagedLog(fmt.Errorf("%w: the log ends too early", consensus.ErrLost)); damage == nil {
		t.Error("control: a log that lacks entries is not healed")
	}
	if damage := damagedLog(&storage.DamageError{}); damage == nil {
		t.Error("control: a damaged log is not healed")
	}
}
