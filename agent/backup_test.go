package agent

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

func saveFrom(t *testing.T, c *client.Client, path string, overwrite bool) (BackupReport, error) {
	t.Helper()
	return SaveBackup(path, overwrite, func(w io.Writer) error { return c.SaveSnapshot(t.Context(), false, w) })
}

// TestBackupAndRestore: a backup of a running agent is verified, mode 0600, holds no secret in clear, and is restored
// into the stopped agent's directory: what was written after it is gone, all else is there, the new epoch takes writes,
// and another restore jumps further. The log of before is kept.
func TestBackupAndRestore(t *testing.T) {
	cfg := single(t)
	file := filepath.Join(t.TempDir(), "b.parley")
	var before client.CoreStatus
	var token client.TokenAnswer
	runFor(t, cfg, nil, func(c *client.Client) {
		put(t, c, "kept")
		var err error
		if token, err = c.CreateToken(t.Context(), client.TokenSpec{Uses: 1, TTL: time.Hour}); err != nil {
			t.Fatal(err)
		}
		report, err := saveFrom(t, c, file, false)
		if err != nil || !report.OK || report.Digest == "" || report.Digest != report.Expected || report.Bytes == 0 || report.Manifest.Rows["kv"] != 1 {
			t.Fatalf("%+v, %v", report, err)
		}
		if _, err := saveFrom(t, c, file, false); !errors.Is(err, ErrBackupExists) {
			t.Errorf("an existing file: %v", err)
		}
		if _, err := saveFrom(t, c, file, true); err != nil {
			t.Errorf("an existing file that may be replaced: %v", err)
		}
		if _, err := OpenRestore(cfg.DataDir, file); !errors.Is(err, storage.ErrLocked) || !strings.Contains(Hint(err), "stop the agent") {
			t.Errorf("a restore beside the running agent: %v", err)
		}
		put(t, c, "undone")
		before, _ = c.Core(t.Context())
		within(t, "the copy of the public state", func(context.Context) error {
			_, err := os.Stat(filepath.Join(cfg.DataDir, viewDir, lkgFile))
			return err
		})
	})
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the backup: %v, %v", info.Mode(), err)
	}
	noSecrets(t, cfg.DataDir, file, token.Token)

	for i := range uint64(2) {
		r, err := OpenRestore(cfg.DataDir, file)
		if err != nil {
			t.Fatal(err)
		}
		if r.Report.Epoch != 2+i || r.Report.Keys != 1 || r.Report.Index <= before.CommitIndex || r.Report.Node != "a1" {
			t.Errorf("restore %d: %+v", i, r.Report)
		}
		if err := errors.Join(r.Do(), r.Close()); err != nil {
			t.Fatal(err)
		}
		old, err := filepath.Glob(filepath.Join(r.Report.Aside, "wal", "*.wal"))
		if err != nil || len(old) == 0 {
			t.Errorf("the log of before is not in %s", r.Report.Aside)
		}
		runFor(t, cfg, nil, func(c *client.Client) {
			put(t, c, "after") // there is a leader from here on
			if _, err := c.Get(t.Context(), "kept", client.ReadOptions{}); err != nil {
				t.Errorf("kept: %v", err)
			}
			if _, err := c.Get(t.Context(), "undone", client.ReadOptions{}); err == nil {
				t.Error("what was written after the backup is there")
			}
			core, err := c.Core(t.Context())
			if err != nil || core.CommitIndex <= before.CommitIndex || core.Term <= before.Term || len(core.Voters) != 1 || core.Voters[0].RaftID == before.Voters[0].RaftID {
				t.Errorf("core %+v after %+v, %v", core, before, err)
			}
			if tokens, err := c.Tokens(t.Context()); err != nil || len(tokens) != 0 {
				t.Errorf("tokens %+v, %v", tokens, err)
			}
			before = core
			within(t, "the event, and the copy of the public state", func(ctx context.Context) error {
				events, err := c.Events(ctx, client.EventOptions{Kind: state.EventRecovered})
				if err == nil && len(events) == 0 {
					err = errors.New("no event")
				}
				if copied := loadCopy(&dataDir{path: cfg.DataDir}, zap.NewNop()); err == nil && copied.Cluster().Epoch.Counter != 2+i {
					err = errors.New("the copy is old")
				}
				return err
			})
		})
	}
}

// noSecrets looks for private keys and the token's secret in a backup as a reader of it has it: decompressed.
func noSecrets(t *testing.T, dir, file, token string) {
	t.Helper()
	var content []byte
	err := storage.ReadStream(storage.OS(), file, func(r io.Reader, _ int64) error {
		b, err := storage.OpenBackup(r)
		if err == nil {
			content, err = io.ReadAll(b)
			content = append(content, b.Manifest()...)
		}
		return err
	})
	if err != nil || !bytes.Contains(content, []byte("kept")) {
		t.Fatalf("control: the key is not in the backup: %v", err)
	}
	needles := map[string][]byte{"PEM": []byte("PRIVATE KEY"), "token": []byte(token)}
	for _, key := range []string{"host.key", "seal.key", "leaf.key", "issuer.key"} {
		for name, needle := range keyNeedles(t, filepath.Join(dir, "identity", key)) {
			needles[key+" "+name] = needle
		}
	}
	for name, needle := range needles {
		if len(needle) == 0 || bytes.Contains(content, needle) {
			t.Errorf("%s (%d bytes) is in the backup", name, len(needle))
		}
	}
}

// TestRestoreRefuses: what is foreign, damaged, or of a host that could not be the core is refused, with what to do, and
// nothing changes. The restore at the end is the control.
func TestRestoreRefuses(t *testing.T) {
	cfg, other := single(t), single(t)
	file := filepath.Join(t.TempDir(), "b.parley")
	runFor(t, cfg, nil, func(c *client.Client) {
		put(t, c, "k")
		if _, err := saveFrom(t, c, file, false); err != nil {
			t.Fatal(err)
		}
	})
	before := listFiles(t, cfg.DataDir)
	refused := func(what, dir, file, message, hint string) {
		t.Helper()
		r, err := OpenRestore(dir, file)
		if err == nil {
			_ = r.Close()
		}
		if err == nil || !strings.Contains(err.Error(), message) || !strings.Contains(Hint(err), hint) {
			t.Errorf("%s: %v, hint %q", what, err, Hint(err))
		}
	}
	refused("another cluster", other.DataDir, file, "is a backup of cluster", "choose a backup of this cluster")
	refused("no cluster", t.TempDir(), file, "belongs to no cluster", "--data-dir")
	refused("no file", cfg.DataDir, file+".gone", "no such file", "snapshot save")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{20, len(data) / 2, len(data) - 1} {
		bad := bytes.Clone(data)
		bad[at] ^= 1
		if err := os.WriteFile(file+".bad", bad, 0o600); err != nil {
			t.Fatal(err)
		}
		refused("a damaged file", cfg.DataDir, file+".bad", "is no intact backup", "nothing was changed")
		report, err := VerifyBackup(file + ".bad")
		if err != nil || report.OK || report.Problem == "" {
			t.Errorf("verify a flip at %d: %+v, %v", at, report, err)
		}
	}
	if err := os.Rename(filepath.Join(cfg.DataDir, "identity", "host.key"), filepath.Join(cfg.DataDir, "identity", "kept.key")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(other.DataDir, "identity", "host.key"), filepath.Join(cfg.DataDir, "identity", "host.key")); err != nil {
		t.Fatal(err)
	}
	refused("another host's keys", cfg.DataDir, file, "other host keys", "can be restored on: a1")
	if err := os.Rename(filepath.Join(cfg.DataDir, "identity", "kept.key"), filepath.Join(cfg.DataDir, "identity", "host.key")); err != nil {
		t.Fatal(err)
	}
	if after := listFiles(t, cfg.DataDir); after != before {
		t.Errorf("a refusal changed the directory:\n%s\n%s", before, after)
	}
	r, err := OpenRestore(cfg.DataDir, file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.Do(), r.Close()); err != nil {
		t.Errorf("control: %v", err)
	}
}

// TestInspectShowsNoSecret: inspect tells what is in a backup, and no key or value.
func TestInspectShowsNoSecret(t *testing.T) {
	v := state.Genesis(state.GenesisOptions{
		ClusterID: strings.Repeat("ab", 16), TrustDomain: "x.test", Bundle: state.Bundle{Roots: [][]byte{[]byte("root")}}, Sealed: []byte("sealed root key"),
		Node: state.Node{Name: "a1", HostKey: []byte("host"), SealKey: make([]byte, state.SealKeyBytes)},
	})
	command, err := state.Encode(state.Envelope{Command: state.Put{Key: "needle-key", Value: []byte("needle-value")}}, state.Version)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := v.Apply(2, 1, 1<<16, [][]byte{command}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "b.parley")
	if _, err := SaveBackup(file, false, func(w io.Writer) error { return writeBackup(w, v.View(), "a1", "v1", time.Unix(1, 0)) }); err != nil {
		t.Fatal(err)
	}
	found, err := InspectBackup(file)
	if err != nil || !found.OK || found.Keys != 1 || found.KVBytes != len("needle-keyneedle-value") || len(found.Nodes) != 1 || !found.Nodes[0].Restore {
		t.Errorf("%+v, %v", found, err)
	}
	if text := jsonOf(t, found); strings.Contains(text, "needle") || strings.Contains(text, hex.EncodeToString([]byte("sealed"))) {
		t.Errorf("it shows secrets: %s", text)
	}
}

// TestBackupIsAtomic: whatever operation of the file system fails, the backup that was there stays whole, and what is
// under the name is always intact.
func TestBackupIsAtomic(t *testing.T) {
	m := state.Genesis(state.GenesisOptions{
		ClusterID: strings.Repeat("ab", 16), TrustDomain: "x.test", Bundle: state.Bundle{Roots: [][]byte{{1}}}, Sealed: []byte("s"),
		Node: state.Node{Name: "a1", HostKey: []byte("host"), SealKey: make([]byte, state.SealKeyBytes)},
	})
	write := func(w io.Writer) error { return writeBackup(w, m.View(), "a1", "v1", time.Unix(1, 0)) }
	for _, fault := range []storage.Fault{storage.FaultCrash, storage.FaultTorn, storage.FaultNoSpace, storage.FaultIO} {
		for at := 0; ; at++ {
			fsys := storage.NewMem()
			if err := fsys.MkdirAll("d", 0o700); err != nil {
				t.Fatal(err)
			}
			if _, err := saveBackup(fsys, "d/b", write); err != nil {
				t.Fatal(err)
			}
			began := len(fsys.Ops())
			fsys.Inject(began+at, fault)
			_, err := saveBackup(fsys, "d/b", write)
			over := len(fsys.Ops()) <= began+at
			if !over && err == nil && (fault == storage.FaultCrash || fault == storage.FaultIO) && fsys.Ops()[began+at].Kind != "remove" {
				t.Errorf("fault %d at %d was not reported", fault, at)
			}
			next := fsys.Crash(storage.LoseUnsynced, 1)
			report, _, err := openBackup(next, "d/b")
			if err != nil || !report.OK {
				t.Errorf("fault %d at operation %d: %+v, %v", fault, at, report, err)
			}
			if over {
				break
			}
		}
	}
}

// keyNeedles are the secret bytes of a key file in the forms in which they could lie in a state.
func keyNeedles(t *testing.T, path string) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s holds no PEM", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{"DER": block.Bytes}
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		if out["scalar"], err = k.Bytes(); err != nil {
			t.Fatal(err)
		}
	case *ecdh.PrivateKey:
		out["scalar"] = k.Bytes()
	}
	return out
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// listFiles is every file of a directory with its size.
func listFiles(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		fmt.Fprintln(&b, path, info.Size())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestRestoreCrashes: a restore that is cut off before any of its steps leaves a directory whose agent starts as it was,
// starts restored, or refuses; it never starts with half of each. The same restore again makes it whole, and the log of
// before is still somewhere.
func TestRestoreCrashes(t *testing.T) {
	t.Parallel()
	cfg := single(t)
	cfg.Core.SegmentMiB = 16
	file := filepath.Join(t.TempDir(), "b.parley")
	runFor(t, cfg, nil, func(c *client.Client) {
		put(t, c, "kept")
		if _, err := saveFrom(t, c, file, false); err != nil {
			t.Fatal(err)
		}
		put(t, c, "undone")
	})
	pristine := filepath.Join(t.TempDir(), "pristine")
	copyDir(t, cfg.DataDir, pristine)
	cut := errors.New("cut off")
	refused := 0
	for at := 0; ; at++ {
		if err := os.RemoveAll(cfg.DataDir); err != nil {
			t.Fatal(err)
		}
		copyDir(t, pristine, cfg.DataDir)
		r, err := OpenRestore(cfg.DataDir, file)
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
		err = r.Do()
		if closeErr := r.Close(); closeErr != nil {
			t.Fatal(closeErr)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, cut) {
			t.Fatalf("step %d: %v", at, err)
		}
		if err := startOnce(t, cfg); err != nil {
			refused++
		}
		again, err := OpenRestore(cfg.DataDir, file)
		if err != nil {
			t.Fatalf("step %d: again: %v", at, err)
		}
		if err := errors.Join(again.Do(), again.Close()); err != nil {
			t.Fatalf("step %d: again: %v", at, err)
		}
		if logs, _ := filepath.Glob(filepath.Join(cfg.DataDir, "before-restore-*", "wal", "*.wal")); len(logs) == 0 {
			t.Errorf("step %d: the log of before is gone", at)
		}
		runFor(t, cfg, nil, func(c *client.Client) {
			put(t, c, "after")
			_, kept := c.Get(t.Context(), "kept", client.ReadOptions{})
			_, undone := c.Get(t.Context(), "undone", client.ReadOptions{})
			if kept != nil || undone == nil {
				t.Errorf("step %d: kept %v, undone %v", at, kept, undone)
			}
		})
	}
	if refused == 0 {
		t.Error("no cut made a directory that is refused: the steps are not cut where it matters")
	}
}

// startOnce starts the agent and stops it once it is ready; the error is of the start. What it finds must be whole.
func startOnce(t *testing.T, cfg config.Config) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ready := make(chan struct{})
	a, err := New(cfg, Options{Ready: func() { close(ready) }})
	if err != nil {
		return err
	}
	over := make(chan error, 1)
	go func() { over <- a.Run(ctx) }()
	select {
	case err := <-over:
		return err
	case <-ready:
	}
	c, err := client.New("unix://" + filepath.Join(cfg.DataDir, adminSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Get(ctx, "kept", client.ReadOptions{}); err != nil {
		t.Errorf("an agent that starts has lost a key: %v", err)
	}
	cancel()
	return <-over
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy: %v: %s", err, out)
	}
}
