package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/storage"
)

// store is the durable half of a core member: its log and its snapshots.
type store struct {
	log       *storage.Log
	recovered storage.Recovered
	snapshots *storage.Snapshots
	journal   *storage.Journal // of what is being applied; nil: none
	loaded    *loadedState     // of the newest snapshot; nil: it was not, or was taken
}

// warmBytes is what of the newest snapshot is read once at a start, and not twice. A larger one is.
const warmBytes = 256 << 20

// openStore opens log and snapshots. New segments of the log have so many MiB.
func openStore(dir *dataDir, clusterID string, raftID uint64, segmentMiB int, log *zap.Logger) (*store, error) {
	s, err := openSnapshots(dir, clusterID, nil, log)
	if err != nil {
		return nil, err
	}
	if err := s.openLog(dir, clusterID, raftID, segmentMiB, log); err != nil {
		return nil, err
	}
	return s, nil
}

// openLoaded is openStore for a member that is about to run: the newest snapshot is loaded while the log is read. Those that are
// known to be unusable count as damaged.
func openLoaded(dir *dataDir, clusterID string, raftID uint64, segmentMiB int, unusable unusableSnapshots, log *zap.Logger) (*store, error) {
	s, err := openSnapshots(dir, clusterID, unusable, log)
	if err != nil {
		return nil, err
	}
	wait := beside(s.load)
	err = s.openLog(dir, clusterID, raftID, segmentMiB, log)
	wait()
	if err != nil {
		return nil, err
	}
	return s, nil
}

func openSnapshots(dir *dataDir, clusterID string, unusable unusableSnapshots, log *zap.Logger) (*store, error) {
	snapshots, err := storage.OpenSnapshots(storage.SnapshotOptions{FS: dir.fs, Dir: dir.path, ClusterID: mustID(clusterID), WarmBytes: warmBytes, Unusable: unusable, Log: log})
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	return &store{snapshots: snapshots}, nil
}

func (s *store) openLog(dir *dataDir, clusterID string, raftID uint64, segmentMiB int, log *zap.Logger) (err error) {
	s.log, s.recovered, err = storage.OpenLog(storage.LogOptions{FS: dir.fs, Dir: dir.path, ClusterID: mustID(clusterID), RaftID: raftID, SegmentBytes: int64(segmentMiB) << 20, Log: log})
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	return nil
}

// load restores a machine from the newest snapshot. If that fails nothing is loaded: consensus tries again, and says why.
func (s *store) load() {
	meta, manifest, ok := s.snapshots.Latest()
	if !ok {
		return
	}
	r, err := snapshotStore{s.snapshots}.Open(manifest)
	if err != nil {
		return
	}
	m := state.NewMachine()
	if err := errors.Join(m.RestoreVerified(r, beside), r.Close()); err == nil {
		s.loaded = &loadedState{machine: m, index: meta.Index, term: meta.Term}
	}
}

// loadedState is what the snapshot at an index held, verified.
type loadedState struct {
	machine     *state.Machine
	index, term uint64
}

func (s *store) close() error {
	err := s.log.Close()
	if s.journal != nil {
		err = errors.Join(err, s.journal.Close())
	}
	return err
}

// forgetEntries lets the recovered entries go: consensus keeps those that it needs.
func (s *store) forgetEntries() { s.recovered.Entries = nil }

// recoveredState is what consensus starts from: the newest snapshot and the entries behind it.
func (s *store) recoveredState() consensus.Recovered {
	r := consensus.Recovered{
		FirstIndex: s.recovered.FirstIndex,
		PrevTerm:   s.recovered.PrevTerm,
		Entries:    s.recovered.Entries,
		HardState:  s.recovered.HardState,
		InDoubt:    s.recovered.InDoubt,
	}
	if meta, manifest, ok := s.snapshots.Latest(); ok {
		r.Snapshot = snapshotRef(meta, manifest)
	}
	return r
}

func snapshotRef(meta storage.SnapshotMeta, manifest []byte) *consensus.SnapshotRef {
	return &consensus.SnapshotRef{Index: meta.Index, Term: meta.Term, Chain: meta.Chain, ConfState: meta.ConfState, Manifest: manifest, Size: meta.Size}
}

// snapshotStore gives storage.Snapshots the shape that consensus asks for.
type snapshotStore struct{ *storage.Snapshots }

func (s snapshotStore) Save(ref consensus.SnapshotRef, write func(io.Writer) error) ([]byte, error) {
	meta := storage.SnapshotMeta{Index: ref.Index, Term: ref.Term, Chain: ref.Chain, ConfState: ref.ConfState}
	return s.Snapshots.Save(meta, write)
}

// Open leaves the sum of the whole to the state, which holds one of its own.
func (s snapshotStore) Open(manifest []byte) (io.ReadCloser, error) { return s.OpenSummed(manifest) }

func (s snapshotStore) Parse(manifest []byte) (consensus.SnapshotRef, error) {
	meta, err := storage.ParseManifest(manifest)
	if err != nil {
		return consensus.SnapshotRef{}, err
	}
	return *snapshotRef(meta, manifest), nil
}

func (s snapshotStore) Install(ctx context.Context, manifest []byte, fetch func(context.Context, [32]byte) ([]byte, error)) error {
	return s.Snapshots.Install(ctx, manifest, fetch)
}

// unusableSnapshots are snapshots whose files are whole and whose content cannot be restored, by storage.SnapshotOptions.Unusable.
type unusableSnapshots = map[[32]byte]string

// maxUnusable bounds how many are remembered: a directory holds two, and what is fetched in their place may be no better.
const maxUnusable = 16

// foundUnusable notes the snapshot that err is about. It reports whether it is a new one: then it is worth a try to open the store
// without it.
func (c *coreRunner) foundUnusable(err error) bool {
	var found *consensus.UnusableSnapshotError
	if !errors.As(err, &found) {
		return false
	}
	name := sha256.Sum256(found.Manifest)
	if _, known := c.unusable[name]; known {
		return false
	}
	if c.unusable == nil || len(c.unusable) == maxUnusable {
		c.unusable = unusableSnapshots{}
	}
	c.unusable[name] = truncate(found.Cause.Error())
	c.log.Error("a snapshot cannot be restored though its files are whole, going on without it", zap.Uint64("index", found.Index), zap.Error(found.Cause))
	return true
}

// isFatal reports a failed sync: what is on disk is unknown, and the process must end.
func isFatal(err error) bool {
	var fatal *storage.FatalError
	return errors.As(err, &fatal)
}
