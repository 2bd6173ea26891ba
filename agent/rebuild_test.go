package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// comparing makes the members compare their states often.
func comparing(cfg *config.Config) { cfg.Core.CheckpointEvery = 300 * time.Millisecond }

// flip changes one bit of a value in an agent's memory.
func flip(t *testing.T, r *running, key string) {
	t.Helper()
	var kv state.KV
	within(t, r.name+" holds "+key, func(context.Context) (err error) {
		var ok bool
		if kv, ok = r.agent.hub.View().Get(key); !ok || !r.agent.views.ownLog() {
			err = errors.New("not yet")
		}
		return err
	})
	kv.Value[0] ^= 1
}

// keepWriting writes until the test ends, by way of r, so that there is something to compare.
func keepWriting(t *testing.T, agents []*running) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			_, _ = agents[i%len(agents)].Put(ctx, fmt.Sprintf("busy/%d", i%50), []byte("x"), client.PutOptions{})
			pause(ctx, 20*time.Millisecond)
		}
	}()
}

func (r *running) leads() bool {
	n := r.agent.core.node()
	return n != nil && n.Status().Leader == n.Status().ID
}

func leaderAndOther(t *testing.T, agents []*running) (leader, other *running) {
	t.Helper()
	within(t, "one leads", func(context.Context) error {
		i := slices.IndexFunc(agents, (*running).leads)
		if i < 0 {
			return errors.New("nobody leads")
		}
		leader, other = agents[i], agents[(i+1)%len(agents)]
		return nil
	})
	return leader, other
}

// neverServed reads from a member until ctx ends: once it is fenced it must not answer with what it holds.
func neverServed(ctx context.Context, t *testing.T, r *running, key, value string) {
	before := r.agent.core.fencings.Load()
	for stale := false; ctx.Err() == nil; stale = !stale {
		n := r.agent.core.node()
		fenced := r.agent.core.fencings.Load() > before || n != nil && n.Status().Stopped != nil
		kv, err := r.Get(ctx, key, client.ReadOptions{Stale: stale})
		if err == nil && fenced && string(kv.Value) != value {
			t.Errorf("%s is fenced and says %q (stale %v)", r.name, kv.Value, stale)
		}
		pause(ctx, 2*time.Millisecond)
	}
}

// heals waits until r was rebuilt once more than before, all agree, and the value is right everywhere, and looks at what was
// said about it.
func heals(t *testing.T, agents []*running, r *running, before uint64, key, value string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan struct{})
	go func() { defer close(watched); neverServed(ctx, t, r, key, value) }()
	defer func() { cancel(); <-watched }()
	within(t, r.name+" heals", func(ctx context.Context) error {
		if got := r.agent.core.rebuilds.Load(); got <= before {
			return fmt.Errorf("%d rebuilds", got)
		}
		found, err := agents[0].CompareDigests(ctx)
		if err == nil && (found.Groups != 1 || len(found.Members) != len(agents)) {
			err = fmt.Errorf("they hold %+v", found)
		}
		return err
	})
	for _, a := range agents {
		for _, stale := range []bool{false, true} {
			kv, err := a.Get(t.Context(), key, client.ReadOptions{Stale: stale})
			if err != nil || string(kv.Value) != value {
				t.Errorf("%s (stale %v) says %q, %v", a.name, stale, kv.Value, err)
			}
		}
	}
	within(t, "it is in the timeline", func(ctx context.Context) error {
		events, err := agents[0].Events(ctx, client.EventOptions{})
		for _, kind := range []string{api.EventFenced, api.EventRebuilt} {
			if err == nil && !slices.ContainsFunc(events, func(e client.TimelineEvent) bool { return e.Kind == kind && e.Subject == r.name }) {
				err = fmt.Errorf("no %s of %s", kind, r.name)
			}
		}
		return err
	})
	files, _ := filepath.Glob(filepath.Join(r.agent.dir.path, evidenceDir, "state-*.snap"))
	if len(files) == 0 || len(files) > evidenceKept {
		t.Fatalf("evidence: %q", files)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 || info.Size() == 0 {
		t.Errorf("evidence: %v, %v", info, err)
	}
	if _, err := os.Stat(r.agent.dir.join(fencedFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still written down as fenced: %v", err)
	}
}

// TestFlippedMemoryHeals: a bit of a row flips in the memory of a follower, then of the leader. The next checkpoint finds it,
// nobody is served it afterwards, and the member is rebuilt and answers again by itself.
func TestFlippedMemoryHeals(t *testing.T) {
	t.Parallel()
	agents := startClusterWith(t, comparing, 0, 0, 0)
	if _, err := agents[0].Put(t.Context(), "flipped", []byte("value"), client.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	keepWriting(t, agents)
	_, follower := leaderAndOther(t, agents)
	flip(t, follower, "flipped")
	heals(t, agents, follower, 0, "flipped", "value")
	leader, _ := leaderAndOther(t, agents)
	before := leader.agent.core.rebuilds.Load()
	flip(t, leader, "flipped")
	heals(t, agents, leader, before, "flipped", "value")
}

// TestFlippedMemoryIsServed is the control: while nobody compares, the wrong value is what a member answers.
func TestFlippedMemoryIsServed(t *testing.T) {
	cfg := single(t)
	cfg.Core.CheckpointEvery = time.Hour
	a := start(t, cfg, 0)
	if _, err := a.Put(t.Context(), "flipped", []byte("value"), client.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	flip(t, a, "flipped")
	kv, err := a.Get(t.Context(), "flipped", client.ReadOptions{})
	if err != nil || string(kv.Value) != "walue" {
		t.Errorf("got %q, %v", kv.Value, err)
	}
}

// TestLoneMemberHeals: an only member finds out by itself, and rebuilds from its own snapshot and log.
func TestLoneMemberHeals(t *testing.T) {
	cfg := single(t)
	comparing(&cfg)
	a := start(t, cfg, 0)
	if _, err := a.Put(t.Context(), "flipped", []byte("value"), client.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	keepWriting(t, []*running{a})
	flip(t, a, "flipped")
	heals(t, []*running{a}, a, 0, "flipped", "value")
}

// TestMiscomputingMember: a member that computes something else is outvoted, although what it holds is what it wrote, and
// rebuilt from another's snapshot. One that does so again and again stays fenced, votes on, and the others go on.
func TestMiscomputingMember(t *testing.T) {
	t.Parallel()
	agents := startClusterWith(t, comparing, 0, 0, 0)
	keepWriting(t, agents)
	_, bad := leaderAndOther(t, agents)
	spoil := func(commands [][]byte) [][]byte {
		out := slices.Clone(commands)
		for i, command := range commands {
			e, err := state.Decode(command)
			put, ok := e.Command.(state.Put)
			if err != nil || !ok {
				continue
			}
			put.Value = []byte("y")
			e.Command = put
			if out[i], err = state.Encode(e, state.Version); err != nil {
				out[i] = command
			}
		}
		return out
	}
	bad.agent.core.spoil.Store(&spoil)
	within(t, "it stays fenced", func(context.Context) error {
		if f := bad.agent.core.isFenced.Load(); !f.hopeless() {
			return fmt.Errorf("fenced: %+v", f)
		}
		if n := bad.agent.core.node(); n == nil || n.Status().Role == "none" {
			return errors.New("it does not run")
		}
		return nil
	})
	for _, a := range agents {
		if kv, err := a.Get(t.Context(), "busy/1", client.ReadOptions{}); err != nil || string(kv.Value) != "x" {
			t.Errorf("%s says %q, %v", a.name, kv.Value, err)
		}
	}
}

// TestFencingOutlivesARestart: who was fenced when the process ended begins on probation, with new chances; a file that
// cannot be read counts as well.
func TestFencingOutlivesARestart(t *testing.T) {
	c := &coreRunner{dir: &dataDir{path: t.TempDir(), fs: storage.OS()}}
	if c.loadFencing(); c.fencing != nil || !c.mayServe() {
		t.Fatalf("fenced without a file: %+v", c.fencing)
	}
	if err := c.setFencing(&fencing{Index: 7, Reason: "memory", Tries: rebuildTries}); err != nil {
		t.Fatal(err)
	}
	if !c.fencing.hopeless() || c.mayServe() {
		t.Errorf("not fenced: %+v", c.fencing)
	}
	next := &coreRunner{dir: c.dir}
	if next.loadFencing(); next.fencing == nil || next.fencing.Index != 7 || next.fencing.hopeless() || next.mayServe() {
		t.Errorf("after a restart: %+v", next.fencing)
	}
	if err := os.WriteFile(c.dir.join(fencedFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if next.loadFencing(); next.fencing == nil || !strings.Contains(next.fencing.Reason, "cannot be read") {
		t.Errorf("with a damaged file: %+v", next.fencing)
	}
	if err := next.setFencing(nil); err != nil || next.fencing != nil || next.setFencing(nil) != nil {
		t.Errorf("taken back: %+v, %v", next.fencing, err)
	}
}

// TestFencedMemberGoesOnNowhere: one that is rebuilt because it crashed on a command that others have applied does not stand
// at that command any more. It told the timeline before that the command was left out on all members.
func TestFencedMemberGoesOnNowhere(t *testing.T) {
	c := testRunner(t, testMachine(), nil)
	c.ids.RaftID, c.report = 1, func(string, string, string) {}
	st, err := openStore(c.dir, c.ids.ClusterID, 1, 1, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer st.close() //nolint:errcheck // nothing was written
	n := &bootedCore{coreNode: &coreNode{raftID: 1, store: st}, machine: &replica{machine: state.NewMachine(), views: c.views}}
	c.stoppedAt.Store(&consensus.ApplyStop{Index: 7})
	if err := c.rebuild(n, &consensus.RebuildNeed{Index: 7, Log: true}); err != nil {
		t.Fatal(err)
	}
	if at := c.stoppedAt.Load(); at != nil {
		t.Errorf("it still stands at %d, and will say that it goes on", at.Index)
	}
}

// TestEvidenceIsBounded: the newest two are kept, each of a limited size.
func TestEvidenceIsBounded(t *testing.T) {
	d := &dataDir{path: t.TempDir(), fs: storage.OS()}
	for i := range uint64(5) {
		if err := d.keepEvidence(i, func(w io.Writer) error { _, err := w.Write([]byte("state")); return err }); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := filepath.Glob(d.join(evidenceDir, "*"))
	if len(files) != evidenceKept || !strings.HasSuffix(files[0], "3.snap") || !strings.HasSuffix(files[1], "4.snap") {
		t.Errorf("kept: %q", files)
	}
	var out bytes.Buffer
	w := &limitedWriter{&out, 10}
	for range 3 {
		_, _ = w.Write([]byte("12345678"))
	}
	if _, err := w.Write([]byte("x")); !errors.Is(err, errEvidenceLimit) || out.Len() != 10 {
		t.Errorf("%d bytes were written, %v", out.Len(), err)
	}
}
