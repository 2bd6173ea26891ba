package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/storage"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodLatest = "snapshot.latest"

	// mendTries is how often a damaged snapshot is saved anew before the next scrub has to see to it.
	mendTries = 3
	// mendWait is how long saving one may take.
	mendWait = 10 * time.Minute
	mendLook = 250 * time.Millisecond

	peerChunkWait = 10 * time.Second // for one peer's answer

	refetchPauseMin = time.Second
	refetchPauseMax = 30 * time.Second
)

// mend puts right what is damaged among the snapshots of n: a manifest from memory, a chunk from a peer by its hash, or the
// newest snapshot as a whole by saving the state, which is in memory, once more.
func (s *scrubber) mend(ctx context.Context, n *coreNode) {
	for range mendTries {
		found, err := n.store.snapshots.Mend(ctx, s.core.chunkFromAnyone)
		switch {
		case ctx.Err() != nil:
			return
		case isFatal(err):
			s.core.fatal(err)
			return
		case err != nil:
			s.log.Error("damaged snapshots were not put right", zap.Error(err))
			return
		}
		s.tell(found)
		if !found.Lost {
			return
		}
		saves := n.store.snapshots.Saves()
		n.node.RenewSnapshot()
		if !s.awaitSaved(ctx, n, saves) {
			s.log.Warn("no new snapshot was saved in place of the damaged one")
			return
		}
		s.healed.Add(1)
		s.report(api.EventHealed, s.core.self, "a new snapshot was saved from the state in place of the damaged one")
	}
}

// awaitSaved waits until one more snapshot was saved.
func (s *scrubber) awaitSaved(ctx context.Context, n *coreNode, saves uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, mendWait)
	defer cancel()
	for n.store.snapshots.Saves() == saves {
		if pause(ctx, mendLook); ctx.Err() != nil || s.core.current.Load() != n {
			return false
		}
	}
	return true
}

// tell reports what was found and what became of it.
func (s *scrubber) tell(found storage.Mended) {
	if len(found.Damaged) == 0 {
		return
	}
	s.log.Error("snapshots were damaged", zap.Int("count", len(found.Damaged)), zap.String("path", found.Damaged[0]))
	s.report(api.EventDamage, s.core.self, fmt.Sprintf("%d damaged files of snapshots, the first is %s", len(found.Damaged), found.Damaged[0]))
	if gone := found.Healed + len(found.Dropped); gone > 0 {
		s.healed.Add(uint64(gone))
		s.report(api.EventHealed, s.core.self, fmt.Sprintf("%d files of snapshots are whole again, %d older snapshots were given up", found.Healed, len(found.Dropped)))
	}
}

// replacePassedOver has a snapshot saved in place of one that the start went on without. Where its files are whole no scrub would
// find anything, and each start would look at it again.
func (c *coreRunner) replacePassedOver(n *bootedCore) {
	damage := n.store.snapshots.Damage()
	if damage == nil {
		return
	}
	if len(c.unusable) > 0 {
		c.report(api.EventDamage, c.self, truncate(damage.Error()))
	}
	n.node.RenewSnapshot()
}

// chunkFromAnyone asks the other members of the core, one after the other.
func (c *coreRunner) chunkFromAnyone(ctx context.Context, name [32]byte) ([]byte, error) {
	err := errors.New("there is no other core member")
	for _, m := range c.views.hub.View().Core() {
		if m.Node == c.self {
			continue
		}
		var chunk []byte
		asked, cancel := context.WithTimeout(ctx, peerChunkWait)
		chunk, err = c.pool.Call(asked, m.Node, methodChunk, name[:])
		cancel()
		if err == nil || ctx.Err() != nil {
			return chunk, err
		}
	}
	return nil, err
}

// mayRefetch reports whether a core member that has no usable snapshot of its own can start from another's: its log must
// be whole, and there must be others. With err nil, or about something else, there is nothing to fetch.
func (c *coreRunner) mayRefetch(err error) bool {
	var damage *storage.DamageError
	lost := errors.As(err, &damage) && damage.Snapshot || errors.Is(err, consensus.ErrNoSnapshot)
	if !lost {
		return false
	}
	for _, m := range c.views.hub.View().Core() {
		if m.Node != c.self {
			c.log.Error("no snapshot here is whole, starting with one of another core member", zap.Error(err))
			return true
		}
	}
	return false
}

// refetch replaces the damaged snapshots of this member by another member's newest, and opens the node. It tries until it
// succeeds, the id is retired, or ctx ends; nil without an error is one of the latter two.
func (c *coreRunner) refetch(ctx context.Context) (*bootedCore, error) {
	if c.fencing == nil {
		c.report(api.EventDamage, c.self, truncate(c.lost.Error()))
	}
	for wait := refetchPauseMin; ctx.Err() == nil; wait = min(2*wait, refetchPauseMax) {
		if c.isRetired(c.ids.RaftID) || c.othersSayRetired(ctx, c.ids.RaftID) {
			c.lost = nil
			return nil, c.discharge(ctx, c.ids.RaftID)
		}
		err := c.refetchOnce(ctx)
		if isFatal(err) {
			return nil, err
		}
		if damage := damagedLog(err); damage != nil {
			c.lost, c.damage = nil, damage // the log as well: it is healed first
			return nil, nil
		}
		if err == nil {
			var n *bootedCore
			c.unusable = nil // those are gone
			if n, err = c.build(c.ids.RaftID); err == nil && c.fencing == nil {
				c.report(api.EventHealed, c.self, "no snapshot on the disk was whole: one was fetched from another core member")
			}
			if err == nil {
				c.lost = nil
			}
			if !c.mayRefetch(err) { // else what was fetched is no better
				return n, err
			}
		}
		c.log.Warn("no snapshot could be fetched yet, trying again", zap.Duration("duration", wait), zap.Error(err))
		pause(ctx, wait)
	}
	return nil, nil
}

// refetchOnce asks each of the others for its newest snapshot, and takes the first that the own log continues.
func (c *coreRunner) refetchOnce(ctx context.Context) error {
	id := mustID(c.ids.ClusterID)
	snapshots, err := storage.OpenSnapshots(storage.SnapshotOptions{FS: c.dir.fs, Dir: c.dir.path, ClusterID: id, Unusable: c.unusable, Log: c.log.Named("storage")})
	if snapshots == nil {
		return err
	}
	log, recovered, err := storage.OpenLog(storage.LogOptions{FS: c.dir.fs, Dir: c.dir.path, ClusterID: id, RaftID: c.ids.RaftID, Log: c.log.Named("storage")})
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close() //nolint:errcheck // nothing was written, and the next one opens it again
	err = errors.New("there is no other core member")
	for _, m := range c.views.hub.View().Core() {
		if !c.from(m.Node) {
			continue
		}
		if err = c.takeFrom(ctx, m.Node, snapshots, log, max(recovered.FirstIndex-1, c.beyond)); err == nil || isFatal(err) {
			return err
		}
		err = fmt.Errorf("from %s: %w", m.Node, err)
	}
	return err
}

// takeFrom installs the newest snapshot of a node if it joins the own log: it begins no later than where the log can go on,
// and where both know the entries, the chain says that they are the same.
func (c *coreRunner) takeFrom(ctx context.Context, node string, snapshots *storage.Snapshots, log *storage.Log, from uint64) error {
	asked, cancel := context.WithTimeout(ctx, peerChunkWait)
	manifest, err := c.pool.Call(asked, node, methodLatest, binary.BigEndian.AppendUint64(nil, from))
	cancel()
	if err != nil {
		return err
	}
	meta, err := storage.ParseManifest(manifest)
	if err != nil {
		return err
	}
	if meta.Index < from {
		return fmt.Errorf("its snapshot is at %d, the log here begins after %d", meta.Index, from)
	}
	if chain, known := log.Chain(meta.Index); known && chain != meta.Chain {
		return fmt.Errorf("its snapshot at %d does not belong to the log here: the entries before it differ", meta.Index)
	}
	return snapshots.Install(ctx, manifest, func(ctx context.Context, name [32]byte) ([]byte, error) {
		return c.chunkFrom(ctx, 0, node, name)
	})
}

// serveLatest gives a core member the manifest of the newest snapshot at or after an index, or has one saved.
func (a *Agent) serveLatest(_ context.Context, _ transport.Peer, body []byte) ([]byte, error) {
	n := a.core.running()
	if n == nil || !a.core.mayServe() {
		return nil, &transport.Error{Code: api.CodeUnavailable, Message: "this agent runs no Raft id, or its state is not trusted"}
	}
	if len(body) != 8 {
		return nil, &transport.Error{Code: api.CodeInvalid, Message: "a snapshot is asked for by an index of 8 bytes"}
	}
	meta, manifest, ok := n.store.snapshots.Latest()
	if !ok || meta.Index < binary.BigEndian.Uint64(body) {
		n.node.RenewSnapshot()
		return nil, &transport.Error{Code: api.CodeUnavailable, Message: "a newer snapshot is being saved, ask again"}
	}
	return manifest, nil
}

// storageFailed ends the process: after a failed sync nobody knows what the disk holds, and a second one that succeeds
// proves nothing.
func (a *Agent) storageFailed(err error) {
	if a.opts.fatal != nil {
		a.opts.fatal(err)
		return
	}
	a.log.Fatal("storage failed, the process ends so that nothing unsynced is trusted", zap.Error(err))
}

// tellTimeline reports to the timeline, which is made after those that report.
func (a *Agent) tellTimeline(kind, subject, message string) {
	a.timeline.report(kind, subject, message)
}
