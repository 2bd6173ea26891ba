package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/state"
)

// startStoppable is start for an agent that the test stops itself.
func startStoppable(t *testing.T, cfg config.Config) (r *running, stop func()) {
	t.Helper()
	ready := make(chan struct{})
	a, err := New(cfg, Options{Ready: func() { close(ready) }, Log: zaptest.NewLogger(t, zaptest.Level(zap.FatalLevel)).Named(cfg.Name)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: a stop by its context returned %v", cfg.Name, err)
		}
	}
	t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("%s ended with %v", cfg.Name, err)
	case <-time.After(30 * time.Second):
		t.Fatalf("%s is not ready", cfg.Name)
	}
	c, err := client.New("unix://" + filepath.Join(cfg.DataDir, adminSocket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &running{Client: c, agent: a, name: cfg.Name}, stop
}

// recoverBeside makes a third member, stopped beside a pair that runs on with a majority, the core of a new epoch, and
// starts it. It returns the pair, the recovered one, and the Raft ids of the pair by name.
func recoverBeside(t *testing.T) (old []*running, recovered *running, ids map[string]uint64) {
	t.Helper()
	first := startCluster(t, 0)[0]
	token, err := first.CreateToken(t.Context(), client.TokenSpec{Uses: 2, Role: "local"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := first.agent.cfg
	cfg.Join, cfg.Token = []string{cfg.Mesh.Bind}, token.Token
	join := func(name string) (*running, func()) {
		dir, err := os.MkdirTemp("", "parley-agent-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		cfg.DataDir, cfg.Name = filepath.Join(dir, "d"), name
		cfg.Mesh.Bind, cfg.HTTP.Bind = freeAddr(t), freeAddr(t)
		return startStoppable(t, cfg)
	}
	second, _ := join("a2")
	third, stop := join("a3")
	pair := []*running{first, second}
	all := append([]*running{third}, pair...)
	within(t, "a core of three", func(ctx context.Context) error { return coreOf(ctx, all, 3) })
	put(t, pair[0].Client, "before")
	ids = make(map[string]uint64)
	for _, r := range pair {
		ids[r.name] = r.agent.core.running().raftID
	}
	stop()
	r, err := OpenRecovery(cfg.DataDir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Do(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	within(t, "the pair acknowledges without the third, which is what the fence is for", func(ctx context.Context) error {
		_, err := pair[0].Put(ctx, "by the pair", []byte("lost"), client.PutOptions{})
		return err
	})
	recovered, _ = startStoppable(t, cfg)
	return pair, recovered, ids
}

// codeOf is the code of an agent's refusal.
func codeOf(err error) string {
	var refused *client.Error
	if errors.As(err, &refused) {
		return refused.Code
	}
	return ""
}

// coreOf wants so many voters and a leader, by every agent.
func coreOf(ctx context.Context, agents []*running, voters int) error {
	for _, r := range agents {
		core, err := r.Core(ctx)
		if err != nil || len(core.Voters) != voters || core.Leader == nil {
			return fmt.Errorf("%s sees the core %+v (%w)", r.name, core, err)
		}
	}
	return nil
}

// TestEpochFence: two of three members run on with a majority while the third is recovered into a new epoch. As soon as
// they meet it they leave the old epoch: its logs are kept aside, its Raft ids never come back, and the core is three
// again, of one history.
func TestEpochFence(t *testing.T) {
	t.Parallel()
	pair, recovered, ids := recoverBeside(t)
	all := append([]*running{recovered}, pair...)
	within(t, "the old pair has joined the new core", func(ctx context.Context) error {
		for _, r := range all {
			if e := r.agent.hub.View().Cluster().Epoch; e.Counter != 2 {
				return fmt.Errorf("%s lives in epoch %s", r.name, e)
			}
		}
		return coreOf(ctx, all, 3)
	})
	for _, r := range pair {
		if kept, err := filepath.Glob(filepath.Join(r.agent.dir.path, "before-epoch-2-*", "wal", "*.wal")); err != nil || len(kept) == 0 {
			t.Errorf("%s has not kept its old log (%v)", r.name, err)
		}
		disk, err := r.agent.dir.readCluster()
		if err != nil || disk.PastRaftID < ids[r.name] || disk.RaftID <= state.RecoverRaftIDs || disk.raftEpoch().Counter != 2 {
			t.Errorf("%s: cluster.toml %+v, %v", r.name, disk, err)
		}
		if _, err := r.Get(t.Context(), "by the pair", client.ReadOptions{}); codeOf(err) != "not_found" {
			t.Errorf("%s answers from the epoch that has passed: %v", r.name, err)
		}
	}
	within(t, "equal states", func(ctx context.Context) error {
		compared, err := recovered.CompareDigests(ctx)
		if err == nil && (compared.Groups != 1 || len(compared.Members) != 3) {
			err = fmt.Errorf("%+v", compared)
		}
		return err
	})
	within(t, "the timeline tells of it", func(ctx context.Context) error {
		events, err := recovered.Events(ctx, client.EventOptions{})
		seen := map[string]bool{}
		for _, e := range events {
			if e.Kind == "epoch-passed" {
				seen[e.Subject] = true
			}
		}
		if err == nil && len(seen) != 2 {
			err = fmt.Errorf("told of %v", seen)
		}
		return err
	})
}
