package agent

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// survivorFile writes the report of another survivor.
func survivorFile(t *testing.T, s SurvivorReport, change func(*SurvivorReport)) string {
	t.Helper()
	s.Node, s.RaftID = "a2", "2"
	change(&s)
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), s.Node+".json")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDisasterRecover: what the log of a stopped member holds is the beginning of a new epoch, with every key, and once
// more after that. The recovery is refused while a better survivor is known, by term before length, and for a report
// that is foreign, damaged, of another epoch, or there twice; then nothing changes.
func TestDisasterRecover(t *testing.T) {
	cfg := single(t)
	runFor(t, cfg, nil, func(c *client.Client) {
		put(t, c, "kept")
		put(t, c, "last")
	})
	own, err := Inspect(cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	if own.Node != "a1" || own.Epoch != 1 || own.LastIndex == 0 || own.CommitIndex > own.LastIndex || len(own.Voters) != 1 || len(own.Chain) != 64 {
		t.Errorf("inspected %+v", own)
	}
	before := listFiles(t, cfg.DataDir)
	for _, test := range []struct {
		what, message, hint string
		change              func(*SurvivorReport)
	}{
		{"a later term", "may hold acknowledged writes", "recover on a2", func(s *SurvivorReport) { s.LastTerm++; s.LastIndex = 1 }},
		{"a longer log of the same term", "may hold acknowledged writes", "recover on a2", func(s *SurvivorReport) { s.LastIndex++ }},
		{"another cluster", "is of cluster", "leave that file out", func(s *SurvivorReport) { s.ClusterID = strings.Repeat("0", 32) }},
		{"itself", "two reports of a1", "one --peer file", func(s *SurvivorReport) { s.Node = "a1" }},
		{"a newer epoch", "is in epoch 2", "recover on a2", func(s *SurvivorReport) { s.Epoch = 2 }},
		{"a split", "recovered twice", "decide which", func(s *SurvivorReport) { s.EpochID = strings.Repeat("0", 32) }},
		{"an empty report", "not the report of a survivor", "disaster inspect", func(s *SurvivorReport) { *s = SurvivorReport{} }},
	} {
		r, err := OpenRecovery(cfg.DataDir, []string{survivorFile(t, own, test.change)})
		if err == nil {
			_ = r.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.message) || !strings.Contains(Hint(err), test.hint) {
			t.Errorf("%s: %v, hint %q", test.what, err, Hint(err))
		}
	}
	dir := &dataDir{path: cfg.DataDir, fs: storage.OS()}
	if err := dir.writeEpoch(state.Epoch{Counter: 5}, state.EncodeEpochProof(nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRecovery(cfg.DataDir, nil); err == nil || !strings.Contains(err.Error(), "knows of epoch 5") {
		t.Errorf("a host that knows of a newer epoch: %v", err)
	}
	if err := os.Remove(dir.join(epochFile)); err != nil {
		t.Fatal(err)
	}
	if after := listFiles(t, cfg.DataDir); after != before {
		t.Errorf("refusals changed the directory from %v to %v", before, after)
	}
	worse := survivorFile(t, own, func(s *SurvivorReport) { s.LastTerm--; s.LastIndex += 100 })
	for i := range uint64(2) {
		peers := []string{worse}
		r, err := OpenRecovery(cfg.DataDir, peers[:1-i])
		if err != nil {
			t.Fatal(err)
		}
		if r.Report.Epoch != 2+i || r.Report.Index <= own.LastIndex || r.Report.MayBeLost || len(r.Report.MissingLogs) != 0 {
			t.Errorf("recovery %d: %+v", i, r.Report)
		}
		if err := r.Do(); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if old, err := filepath.Glob(filepath.Join(r.Report.Aside, "wal", "*.wal")); err != nil || len(old) == 0 {
			t.Errorf("the log of before is not in %s", r.Report.Aside)
		}
		runFor(t, cfg, nil, func(c *client.Client) {
			put(t, c, "after")
			for _, key := range []string{"kept", "last"} {
				if _, err := c.Get(t.Context(), key, client.ReadOptions{}); err != nil {
					t.Errorf("%s: %v", key, err)
				}
			}
		})
	}
}

// TestMissingLogs: acknowledged writes may be missing exactly if a majority of the voters was not seen.
func TestMissingLogs(t *testing.T) {
	own := SurvivorReport{Node: "a1", RaftID: "1", Epoch: 1, LastTerm: 2, LastIndex: 9, CommitIndex: 7, Voters: []string{"1", "2", "3"}}
	two := SurvivorReport{Node: "a2", RaftID: "2", Epoch: 1}
	if got := missingLogs(own, nil); strings.Join(got, " ") != "2 3" {
		t.Errorf("alone: %v", got)
	}
	if got := missingLogs(own, []SurvivorReport{two}); strings.Join(got, " ") != "3" {
		t.Errorf("with another: %v", got)
	}
	report := RecoveryReport{Survivor: own, UnprovenFrom: 8, UnprovenTo: 9, MayBeLost: true}
	if got := report.Unproven(); !strings.Contains(got, "entries 8 to 9") || !strings.Contains(got, "after index 9 may be lost") {
		t.Error(got)
	}
	if got := (RecoveryReport{}).Unproven(); !strings.Contains(got, "nothing") {
		t.Error(got)
	}
}

// TestRecoveryAfterACut: wherever a recovery is cut, the same command finds the log of before again, and ends what it
// began. It once found none, and said that the host had never been in the core. An agent that made a log of its own in
// between keeps it.
func TestRecoveryAfterACut(t *testing.T) {
	t.Parallel()
	cfg := single(t)
	runFor(t, cfg, nil, func(c *client.Client) { put(t, c, "kept") })
	own, err := Inspect(cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	pristine := filepath.Join(t.TempDir(), "pristine")
	copyDir(t, cfg.DataDir, pristine)
	cut, hidden := errors.New("cut off"), 0
	for at := 0; ; at++ {
		if err := os.RemoveAll(cfg.DataDir); err != nil {
			t.Fatal(err)
		}
		copyDir(t, pristine, cfg.DataDir)
		r, err := OpenRecovery(cfg.DataDir, nil)
		if err != nil {
			t.Fatal(err)
		}
		step := 0
		r.before = func() error {
			if step++; step > at {
				return cut
			}
			return nil
		}
		done := r.Do()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if done != nil && !errors.Is(done, cut) {
			t.Fatalf("step %d: %v", at, done)
		}
		if logs, _ := filepath.Glob(filepath.Join(cfg.DataDir, walDir, "*.wal")); len(logs) == 0 {
			hidden++
		}
		again, err := OpenRecovery(cfg.DataDir, nil)
		if err != nil {
			t.Fatalf("step %d: again: %v", at, err)
		}
		finished := again.Report.Survivor.Epoch == 2 // cut in the last step
		if !finished && again.Report.Survivor.LastIndex != own.LastIndex || again.Report.Keys != 1 {
			t.Errorf("step %d: again from index %d of epoch %d with %d keys, at first %d", at, again.Report.Survivor.LastIndex,
				again.Report.Survivor.Epoch, again.Report.Keys, own.LastIndex)
		}
		if err := errors.Join(again.Do(), again.Close()); err != nil {
			t.Fatalf("step %d: again: %v", at, err)
		}
		if old, _ := filepath.Glob(filepath.Join(cfg.DataDir, "before-recover-*", walDir, "*.wal")); len(old) == 0 {
			t.Errorf("step %d: the log of before is gone", at)
		}
		if done == nil {
			break
		}
	}
	if hidden == 0 {
		t.Error("no cut left the directory without its log: the steps are not cut where it matters")
	}
	if err := startOnce(t, cfg); err != nil {
		t.Error(err)
	}
}
