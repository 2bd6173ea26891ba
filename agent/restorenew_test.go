package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
)

// startUntil runs an agent until stop is called.
func startUntil(t *testing.T, cfg config.Config) (r *running, stop func()) {
	t.Helper()
	ready := make(chan struct{})
	a, err := New(cfg, Options{Ready: func() { close(ready) }, Log: zaptest.NewLogger(t, zaptest.Level(zap.FatalLevel))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("%s ended with %v", cfg.Name, err)
	case <-time.After(30 * time.Second):
		t.Fatalf("%s is not ready", cfg.Name)
	}
	c, err := client.New("unix://" + filepath.Join(cfg.DataDir, adminSocket))
	if err != nil {
		t.Fatal(err)
	}
	return &running{Client: c, agent: a, name: cfg.Name}, func() {
		c.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: a stop by its context returned %v", cfg.Name, err)
		}
	}
}

// foundWithKey is single, with the recovery key.
func foundWithKey(t *testing.T) (config.Config, *security.RecoveryKey) {
	t.Helper()
	cfg := single(t)
	if err := os.RemoveAll(cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	made, err := Init(t.Context(), InitOptions{DataDir: cfg.DataDir, TrustDomain: "agent.test", Name: "a1", Address: cfg.Mesh.Bind})
	if err != nil {
		t.Fatal(err)
	}
	key, err := security.ParseRecoveryKey(made.RecoveryKey)
	if err != nil {
		t.Fatal(err)
	}
	return cfg, key
}

// hostBeside is a config of another agent of the same test.
func hostBeside(t *testing.T, cfg config.Config, name string) config.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "parley-agent-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg.DataDir, cfg.Name = filepath.Join(dir, "d"), name
	cfg.Mesh.Bind, cfg.HTTP.Bind = freeAddr(t), freeAddr(t)
	return cfg
}

// restoredOn makes a host that nobody knew the first of a core, by a backup and the recovery key. It returns the state of the
// backup as well.
func restoredOn(t *testing.T, born config.Config, file string, key *security.RecoveryKey) (*running, *state.View) {
	t.Helper()
	r, err := OpenRestoreNew(born.DataDir, file, NewHost{Name: born.Name, Address: born.Mesh.Bind, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	if r.Report.Aside != "" {
		t.Errorf("a log of before in %s, on a host that had none", r.Report.Aside)
	}
	if err := errors.Join(r.Do(), r.Close()); err != nil {
		t.Fatal(err)
	}
	return start(t, born, 0), r.view
}

// TestRecoveryKeyBringsTheClusterBack: all disks of the core are gone. A backup and the recovery key make a core on a
// host that nobody knew, and an agent that ran all the time follows it, with the certificate and the trust that it had.
// A join token of the backup counts no more.
func TestRecoveryKeyBringsTheClusterBack(t *testing.T) {
	cfg, key := foundWithKey(t)
	cfg.Gossip.Profile = "fast"
	a1, stop := startUntil(t, cfg)
	token, err := a1.CreateToken(t.Context(), client.TokenSpec{Uses: 1, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	put(t, a1.Client, "kept")
	file := filepath.Join(t.TempDir(), "b.parley")
	joiner := hostBeside(t, cfg, "a2")
	joiner.Join, joiner.Token, joiner.Core.Eligible = []string{cfg.Mesh.Bind}, token.Token, false
	a2 := start(t, joiner, 0)
	serial := a2.agent.source.Leaf().SerialNumber
	if _, err := saveFrom(t, a1.Client, file, false); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := os.RemoveAll(cfg.DataDir); err != nil {
		t.Fatal(err)
	}

	r1, backup := restoredOn(t, hostBeside(t, cfg, "r1"), file, key)
	put(t, r1.Client, "after")
	within(t, "a2 follows, and writes through the new core", func(ctx context.Context) error {
		_, err := a2.Put(ctx, "through", []byte("v"), client.PutOptions{})
		return err
	})
	if _, err := a2.Get(t.Context(), "kept", client.ReadOptions{}); err != nil {
		t.Errorf("what the backup held: %v", err)
	}
	if got := a2.agent.source.Leaf().SerialNumber; got.Cmp(serial) != 0 {
		t.Error("a2 had to get another certificate")
	}
	if _, roots := a2.agent.source.Bundle(); len(roots) != 1 || !bytes.Equal(roots[0], backup.Bundle().Roots[0]) {
		t.Errorf("a2 trusts %d roots", len(roots))
	}
	within(t, "gossip holds both alive", func(ctx context.Context) error {
		members, err := a2.Members(ctx)
		for _, m := range members {
			if m.Name == "r1" && m.State == "alive" {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("%+v", members))
	})
	late := hostBeside(t, cfg, "a3")
	late.Join, late.Token = []string{r1.agent.cfg.Mesh.Bind}, token.Token
	if err := runUntilRefused(t, late); err == nil || !strings.Contains(err.Error(), "token") {
		t.Errorf("the token of the backup, which a2 has used: %v", err)
	}
}

// runUntilRefused runs an agent that is not let in.
func runUntilRefused(t *testing.T, cfg config.Config) error {
	t.Helper()
	a, err := New(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return a.Run(ctx)
}

// TestRestoreOnNewHostRefuses: without the recovery key of the cluster a backup brings no root back, and the refusal says
// so. Nothing is left behind. The restore at the end is the control.
func TestRestoreOnNewHostRefuses(t *testing.T) {
	backupOf := func(cfg config.Config) string {
		file := filepath.Join(t.TempDir(), "b.parley")
		runFor(t, cfg, nil, func(c *client.Client) {
			put(t, c, "k")
			if _, err := saveFrom(t, c, file, false); err != nil {
				t.Fatal(err)
			}
		})
		return file
	}
	cfg, key := foundWithKey(t)
	file := backupOf(cfg)
	without := single(t)
	if err := os.RemoveAll(without.DataDir); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), InitOptions{DataDir: without.DataDir, TrustDomain: "agent.test", Name: "a1", NoRecovery: true}); err != nil {
		t.Fatal(err)
	}
	bare := backupOf(without)
	other, err := security.NewRecoveryKey()
	if err != nil {
		t.Fatal(err)
	}
	good := NewHost{Name: "r1", Address: "10.0.0.9:8310", Key: key}
	for what, test := range map[string]struct {
		dir, file     string
		edit          func(*NewHost)
		message, hint string
	}{
		"another key":       {"", file, func(h *NewHost) { h.Key = other }, "sealed for another recovery key", "find that key"},
		"no recovery key":   {"", bare, func(*NewHost) {}, "no root for a recovery key", "can be restored on: a1"},
		"a name that is":    {"", file, func(h *NewHost) { h.Name = "a1" }, "belongs to another host", "--name"},
		"a bad name":        {"", file, func(h *NewHost) { h.Name = "../r1" }, "node name", ""},
		"an address of all": {"", file, func(h *NewHost) { h.Address = "0.0.0.0:8310" }, "cannot be reached", "--advertise"},
		"a known host":      {cfg.DataDir, file, func(*NewHost) {}, "belongs to cluster", "needs no recovery key"},
	} {
		dir := test.dir
		if dir == "" {
			dir = filepath.Join(t.TempDir(), "d")
		}
		h := good
		test.edit(&h)
		r, err := OpenRestoreNew(dir, test.file, h)
		if err == nil {
			_ = r.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.message) || !strings.Contains(Hint(err), test.hint) {
			t.Errorf("%s: %v, hint %q", what, err, Hint(err))
		}
	}
	// Without the key a new host is told what it lacks; the bug: it was told of --data-dir alone.
	if _, err := OpenRestore(filepath.Join(t.TempDir(), "new"), file); err == nil || !strings.Contains(Hint(err), "--recovery-key") {
		t.Errorf("a new host without the recovery key: %v, hint %q", err, Hint(err))
	}
	foreign := single(t)
	if _, err := OpenRestore(foreign.DataDir, file); err == nil {
		t.Error("a host of another cluster was restored on")
	}
	dir := filepath.Join(t.TempDir(), "d")
	r, err := OpenRestoreNew(dir, file, good)
	if err != nil {
		t.Fatal(err)
	}
	if left := listFiles(t, dir); strings.Contains(left, "identity") || strings.Contains(left, clusterFile) {
		t.Errorf("before Do there is %s", left)
	}
	if err := errors.Join(r.Do(), r.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestRecoveryKeyIsNowhere: after init neither the recovery key nor the root's key is in any file of the data directory,
// in PEM or DER. The control finds the host key.
func TestRecoveryKeyIsNowhere(t *testing.T) {
	cfg := single(t)
	if err := os.RemoveAll(cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	made, err := Init(t.Context(), InitOptions{DataDir: cfg.DataDir, TrustDomain: "agent.test", Name: "a1"})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "recovery.key")
	if err := os.WriteFile(path, made.RecoveryKey, 0o600); err != nil {
		t.Fatal(err)
	}
	found := func(keyFile string) (in []string) {
		text, err := os.ReadFile(keyFile)
		if err != nil {
			t.Fatal(err)
		}
		needles := keyNeedles(t, keyFile)
		needles["PEM"] = bytes.Split(text, []byte("\n"))[1]
		for name, needle := range needles {
			err := filepath.WalkDir(cfg.DataDir, func(path string, d os.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				data, err := os.ReadFile(path)
				if err == nil && bytes.Contains(data, needle) {
					in = append(in, name+" in "+path)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		return in
	}
	if got := found(path); len(got) != 0 {
		t.Errorf("the recovery key: %v", got)
	}
	if got := found(filepath.Join(cfg.DataDir, "identity", "host.key")); len(got) == 0 {
		t.Error("control: the host key is not found either")
	}
}
