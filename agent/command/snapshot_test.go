package command

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/agent"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// restorable founds a cluster and writes a backup of it without an agent: its first snapshot is the state.
func restorable(t *testing.T) (dir, file string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "d")
	if _, err := agent.Init(t.Context(), agent.InitOptions{DataDir: dir, TrustDomain: "cli.test", Name: "a1", SegmentMiB: 16}); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "b.parley")
	v := firstState(t, dir)
	cluster, digest := v.Cluster(), v.Digest()
	manifest, err := json.Marshal(agent.BackupManifest{
		ClusterID: cluster.ID, TrustDomain: cluster.TrustDomain, Epoch: cluster.Epoch.Counter, EpochID: hex.EncodeToString(cluster.Epoch.ID[:]),
		Index: v.Index(), Term: v.Term(), Revision: v.Revision(), Digest: hex.EncodeToString(digest[:]),
		Rows: map[string]int{"node": 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.SaveBackup(file, false, func(w io.Writer) error {
		b, err := storage.NewBackupWriter(w, manifest)
		if err != nil {
			return err
		}
		return errors.Join(v.WriteSnapshot(b), b.Close())
	}); err != nil {
		t.Fatal(err)
	}
	return dir, file
}

// firstState is the state that a founded cluster begins with.
func firstState(t *testing.T, dir string) *state.View {
	t.Helper()
	manifests, err := filepath.Glob(filepath.Join(dir, "snap", "*.manifest"))
	if err != nil || len(manifests) != 1 {
		t.Fatalf("snapshots %v, %v", manifests, err)
	}
	text, err := os.ReadFile(manifests[0])
	if err != nil {
		t.Fatal(err)
	}
	snapshots, err := storage.OpenSnapshots(storage.SnapshotOptions{FS: storage.OS(), Dir: dir, ClusterID: [16]byte(text[16:32])})
	if err != nil {
		t.Fatal(err)
	}
	r, err := snapshots.Open(text)
	if err != nil {
		t.Fatal(err)
	}
	machine := state.NewMachine()
	if err := errors.Join(machine.Restore(r), r.Close()); err != nil {
		t.Fatal(err)
	}
	return machine.View()
}

func snapshotRun(t *testing.T, in string, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{in: strings.NewReader(in), out: &stdout, err: &stderr, getenv: func(string) string { return "" }}
	code = a.run(t.Context(), args)
	return code, stdout.String(), stderr.String()
}

// TestSnapshotRestoreIsGuarded: a dry run and a wrong name change nothing; what is lost is shown before; the cluster's
// name, or --yes, does it.
func TestSnapshotRestoreIsGuarded(t *testing.T) {
	dir, file := restorable(t)
	ids := func() string {
		text, err := os.ReadFile(filepath.Join(dir, "cluster.toml"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	before := ids()
	code, out, _ := snapshotRun(t, "", "snapshot", "restore", file, "--data-dir", dir, "--dry-run", "-o", "json", "--expect", ".dry_run and .epoch==2")
	if code != exitOK || !strings.Contains(out, `"backup_index": 1`) || ids() != before {
		t.Errorf("dry run: exit %d, %s", code, out)
	}
	code, _, errs := snapshotRun(t, "other.test\n", "snapshot", "restore", file, "--data-dir", dir)
	if code != exitDenied || !strings.Contains(errs, "the only member of the core of cli.test") || !strings.Contains(errs, "not confirmed") || ids() != before {
		t.Errorf("another name: exit %d, %s", code, errs)
	}
	code, out, errs = snapshotRun(t, "cli.test\n", "snapshot", "restore", file, "--data-dir", dir)
	if code != exitOK || !strings.Contains(out, "start the agent on this host") || ids() == before {
		t.Errorf("confirmed: exit %d, %s%s", code, out, errs)
	}
	if code, _, errs := snapshotRun(t, "", "snapshot", "restore", file, "--data-dir", t.TempDir(), "--yes"); code != exitFailed || !strings.Contains(errs, "belongs to no cluster") {
		t.Errorf("another directory: exit %d, %s", code, errs)
	}
}

// TestSnapshotVerifyExits: 0 for an intact file, 1 with what is wrong for a damaged one, 2 for a false --expect alone.
func TestSnapshotVerifyExits(t *testing.T) {
	_, file := restorable(t)
	if code, out, errs := snapshotRun(t, "", "snapshot", "verify", file, "-o", "json", "--expect", ".digest==.expected"); code != exitOK {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	for _, command := range []string{"verify", "inspect"} {
		if code, out, errs := snapshotRun(t, "", "snapshot", command, file); code != exitOK || !strings.Contains(out, "intact") {
			t.Errorf("%s: exit %d: %s%s", command, code, out, errs)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-100] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"verify", "inspect"} {
		code, out, errs := snapshotRun(t, "", "snapshot", command, file)
		if code != exitFailed || !strings.Contains(out, "NOT intact") || !strings.Contains(errs, "take another backup") {
			t.Errorf("%s of a damaged file: exit %d: %s%s", command, code, out, errs)
		}
	}
	if code, _, _ := snapshotRun(t, "", "snapshot", "verify", file, "--expect", ".digest==.expected"); code != exitExpectFalse {
		t.Errorf("expect on a damaged file: exit %d", code)
	}
	if code, _, errs := snapshotRun(t, "", "snapshot", "verify", file+".gone"); code != exitFailed || !strings.Contains(errs, "snapshot save") {
		t.Errorf("no file: exit %d: %s", code, errs)
	}
}
