package agent

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/storage"
	"github.com/parley-mesh/parley/transport"
)

const (
	// coreRoomBytes is what a file system must have free before its agent says that it may be in the
	// core: the first log segment and the spare one that is kept ready.
	coreRoomBytes = 2 * storage.DefaultSegmentBytes

	// Of a file system that is smaller than diskShare times the usual distance between two snapshots, a share is their distance
	// under load. What is kept of the log goes back to the snapshot before the last, so it takes an eighth of it, or a quarter with a large state.
	diskShare        = 16
	minSnapshotBytes = 16 << 20

	// After a log could not be made for want of space this long passes before the next attempt, doubled
	// each time.
	roomPauseMin = 5 * time.Second
	roomPauseMax = 5 * time.Minute
)

// coreRoom says whether there is room for a log of the core. An agent without stays outside and works;
// it must not end, or a supervisor would start it into the same again and again.
type coreRoom struct {
	free func() (bytes uint64, known bool)
	now  func() time.Duration // boottime
	log  *zap.Logger

	held  atomic.Bool  // there is a log already, which needs no room to begin
	until atomic.Int64 // boottime until which the last failure counts, whatever is free
	told  atomic.Bool  // the log says that there is no room

	pause time.Duration // before the next attempt; owned by coreRunner.run
}

func newCoreRoom(dir *dataDir, log *zap.Logger) *coreRoom {
	return &coreRoom{
		free: func() (uint64, bool) { free, _, ok := diskSpace(dir.path); return free, ok },
		now:  clock.Boottime, log: log,
	}
}

// snapshotBytes is how far apart snapshots are under load on a file system of that size, 0 for the usual.
func snapshotBytes(total uint64, known bool) int {
	if share := total / diskShare; known && share < consensus.DefaultSnapshotBytes {
		return int(max(share, minSnapshotBytes)) //nolint:gosec // checked
	}
	return 0
}

// lack says what is missing, "" if there is room.
func (r *coreRoom) lack() string {
	if r.held.Load() {
		return ""
	}
	if free, known := r.free(); known && free < coreRoomBytes {
		return fmt.Sprintf("%d MiB are free for a log of the core, which takes %d MiB: free space on the file system of the data directory",
			free>>20, coreRoomBytes>>20)
	}
	if r.now() < time.Duration(r.until.Load()) {
		return "a log of the core could not be made for want of space: free space on the file system of the data directory, or raise its quota"
	}
	return ""
}

// willing answers the leader, and logs when the answer changes.
func (r *coreRoom) willing() bool {
	lack := r.lack()
	if changed := r.told.Swap(lack != "") != (lack != ""); changed && lack != "" {
		r.log.Warn("no room for a log, staying outside the core", zap.String("reason", lack))
	} else if changed {
		r.log.Info("there is room for a log again")
	}
	return lack == ""
}

// failed notes that there was no room and waits before the next attempt.
func (r *coreRoom) failed(ctx context.Context, raftID uint64, err error) {
	r.pause = min(max(2*r.pause, roomPauseMin), roomPauseMax)
	r.until.Store(int64(r.now() + r.pause))
	r.told.Store(true)
	r.log.Warn("no room for a log, staying outside the core", zap.Uint64("raft_id", raftID), zap.Duration("duration", r.pause), zap.Error(err))
	pause(ctx, r.pause)
}

// has notes whether there is a log now.
func (r *coreRoom) has(held bool) {
	r.held.Store(held)
	if held {
		r.pause = 0
		r.until.Store(0)
	}
}

// serveWilling says whether this agent's configuration and its disk let it into the core, or that it leaves the cluster.
func (a *Agent) serveWilling(context.Context, transport.Peer, []byte) ([]byte, error) {
	if a.leaver.wants() {
		return []byte(answerLeaving), nil
	}
	if a.cfg.Core.Eligible && a.sealKeeper.mayBeSealedFor() && a.core.room.willing() {
		return []byte(answerYes), nil
	}
	return []byte(answerNo), nil
}
