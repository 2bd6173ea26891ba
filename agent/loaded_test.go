package agent

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// A state that was loaded while the log was read is taken once, and for the snapshot that it was loaded from alone. From a
// snapshot that is damaged nothing is loaded: who restores from it hears what is wrong.
func TestStateIsLoadedBesideTheLog(t *testing.T) {
	dir, err := openDataDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const cluster = "00112233445566778899aabbccddeeff"
	s, err := openSnapshots(dir, cluster, nil, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if s.load(); s.loaded != nil {
		t.Fatal("a state was loaded from no snapshot")
	}
	genesis := newBigReplica(t, 1).machine
	v := genesis.View()
	manifest, err := snapshotStore{s.snapshots}.Save(consensus.SnapshotRef{Index: v.Index(), Term: v.Term()}, v.WriteSnapshot)
	if err != nil {
		t.Fatal(err)
	}

	unread := func() io.Reader { return iotest.ErrReader(errors.New("the snapshot was read")) }
	member := func(index uint64) *replica {
		if s.load(); s.loaded == nil {
			t.Fatal("the state was not loaded")
		}
		s.loaded.index = index
		m := state.NewMachine()
		return &replica{
			machine: m, views: &viewSwitch{hub: watch.NewHub(m.View())}, digests: &digestRing{}, loaded: s.loaded,
			spoil: new(atomic.Pointer[func([][]byte) [][]byte]),
		}
	}
	r := member(v.Index())
	if err := r.Restore(unread(), v.Index(), v.Term()); err != nil || r.machine.View().Digest() != v.Digest() {
		t.Errorf("restored from what was loaded: %v", err)
	}
	if err := r.Restore(unread(), v.Index(), v.Term()); err == nil {
		t.Error("what was loaded was taken twice")
	}
	if err := member(v.Index()-1).Restore(unread(), v.Index(), v.Term()); err == nil {
		t.Error("another snapshot's state was taken")
	}

	for _, name := range chunksOf(t, dir.join("snap", "chunks")) {
		flipAt(t, name, 3)
	}
	s.loaded = nil
	if s.load(); s.loaded != nil {
		t.Error("a state was loaded from a damaged snapshot")
	}
	src, err := snapshotStore{s.snapshots}.Open(manifest)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close() //nolint:errcheck // only read
	if _, err := io.Copy(io.Discard, src); err == nil || !strings.Contains(err.Error(), "hash") {
		t.Errorf("a damaged snapshot was read: %v", err)
	}
}

func chunksOf(t *testing.T, dir string) (paths []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		t.Fatalf("chunks %v, %v", entries, err)
	}
	for _, e := range entries {
		paths = append(paths, dir+"/"+e.Name())
	}
	return paths
}
