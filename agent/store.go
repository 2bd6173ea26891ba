package agent

import (
	"context"
	"errors"
	"fmt"
	"io"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/storage"
)

// store is the durable half of a core member: its log and its snapshots.
type store struct {
	log       *storage.Log
	recovered storage.Recovered
	snapshots *storage.Snapshots
	journal   *storage.Journal // of what is being applied; nil: none
}

// warmBytes is what of the newest snapshot is read once at a start, and not twice. A larger one is.
const warmBytes = 256 << 20

// openStore opens log and snapshots. New segments of the log have so many MiB.
func openStore(dir *dataDir, clusterID string, raftID uint64, segmentMiB int, log *zap.Logger) (*store, error) {
	id := mustID(clusterID)
	snapshots, err := storage.OpenSnapshots(storage.SnapshotOptions{FS: dir.fs, Dir: dir.path, ClusterID: id, WarmBytes: warmBytes, Log: log})
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	l, recovered, err := storage.OpenLog(storage.LogOptions{FS: dir.fs, Dir: dir.path, ClusterID: id, RaftID: raftID, SegmentBytes: int64(segmentMiB) << 20, Log: log})
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &store{log: l, recovered: recovered, snapshots: snapshots}, nil
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
	return &consensus.SnapshotRef{Index: meta.Index, Term: meta.Term, Chain: meta.Chain, ConfState: meta.ConfState, Manifest: manifest}
}

// snapshotStore gives storage.Snapshots the shape that consensus asks for.
type snapshotStore struct{ *storage.Snapshots }

func (s snapshotStore) Save(ref consensus.SnapshotRef, write func(io.Writer) error) ([]byte, error) {
	meta := storage.SnapshotMeta{Index: ref.Index, Term: ref.Term, Chain: ref.Chain, ConfState: ref.ConfState}
	return s.Snapshots.Save(meta, write)
}

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

// isFatal reports a failed sync: what is on disk is unknown, and the process must end.
func isFatal(err error) bool {
	var fatal *storage.FatalError
	return errors.As(err, &fatal)
}
