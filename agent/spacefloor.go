package agent

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/storage"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodRoom = "storage.room"

	spaceEvery = 250 * time.Millisecond // what is written in between has to fit above the floor

	// A small file system has a floor of its own: a part of it, so that an agent works there at all.
	floorShare = 20
	// Writes are taken again when so much more than the floor is free: a quarter.
	floorSlack = 4

	// spaceHandOver is the pause between attempts to hand the lead to a voter that has room.
	spaceHandOver = 5 * time.Second
)

// spaceFloor decides when a member of the core may take writes: while enough is free that what it has to write to stop in
// order, a snapshot and a log segment, still fits. It is a value; judge is all that changes it.
type spaceFloor struct {
	bytes uint64 // as configured; 0 is no floor
	low   bool
}

// at is the floor of a file system of so many bytes.
func (f spaceFloor) at(total uint64) uint64 { return min(f.bytes, total/floorShare) }

// judge takes a look at the file system and reports whether writes are to be refused.
func (f *spaceFloor) judge(free, total uint64) bool {
	floor := f.at(total)
	if f.low {
		f.low = free < floor+floor/floorSlack
	} else {
		f.low = free < floor
	}
	return f.low
}

// lowSpaceError is why writes are refused below the floor. It is a storage.ErrNoSpace that came in time.
type lowSpaceError struct{ free, floor uint64 }

func (e *lowSpaceError) Error() string {
	return fmt.Sprintf("%d MiB are free, and writes stop below %d MiB", e.free>>20, e.floor>>20)
}

func (e *lowSpaceError) Unwrap() error { return storage.ErrNoSpace }

// spaceKeeper looks at the free space of the data directory and refuses writes below the floor, before the disk is full.
// Reads go on, and the log of others is still followed. A leader hands over to a voter that has room.
type spaceKeeper struct {
	core   *coreRunner
	space  func() (free, total uint64, ok bool)
	call   func(ctx context.Context, node, method string, body []byte) ([]byte, error)
	report func(kind, subject, message string)
	log    *zap.Logger

	low atomic.Bool

	// Owned by run.
	floor spaceFloor
	next  time.Duration // boottime before which the lead is not handed over again
}

func newSpaceKeeper(a *Agent) *spaceKeeper {
	return &spaceKeeper{
		core: a.core, space: func() (uint64, uint64, bool) { return diskSpace(a.dir.path) }, call: a.pool.Call,
		report: a.tellTimeline, log: a.log.Named("storage"), floor: spaceFloor{bytes: uint64(a.cfg.Storage.FloorMiB) << 20}, //nolint:gosec // checked
	}
}

// run looks until ctx ends.
func (k *spaceKeeper) run(ctx context.Context) error {
	ticker := newBeat(spaceEvery)
	defer ticker.stop()
	for {
		k.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			ticker.again()
		}
	}
}

func (k *spaceKeeper) look(ctx context.Context) {
	free, total, ok := k.space()
	if !ok || k.floor.bytes == 0 {
		return
	}
	low := k.floor.judge(free, total)
	n := k.core.node()
	if n == nil { // outside the core nothing is written that could fill the disk
		k.low.Store(false)
		return
	}
	why := &lowSpaceError{free, k.floor.at(total)}
	if low {
		n.Refuse(why)
	} else {
		n.Refuse(nil)
	}
	if k.low.Swap(low) != low {
		k.tell(low, why)
	}
	if low {
		k.handOver(ctx)
	}
}

func (k *spaceKeeper) tell(low bool, why *lowSpaceError) {
	if low {
		k.log.Error("too little space, writes are refused", zap.Uint64("bytes", why.free), zap.Error(why))
		k.report(api.EventSpaceLow, k.core.self, why.Error()+": this member takes no writes")
		return
	}
	k.log.Info("there is space again, writes are taken", zap.Uint64("bytes", why.free))
	k.report(api.EventSpaceBack, k.core.self, fmt.Sprintf("%d MiB are free: this member takes writes again", why.free>>20))
}

// handOver gives the lead to a voter that has room, if this agent leads and there is one.
func (k *spaceKeeper) handOver(ctx context.Context) {
	n := k.core.node()
	if n == nil || k.core.room.now() < k.next {
		return
	}
	st := n.Status()
	if st.Leader != st.ID {
		return
	}
	k.next = k.core.room.now() + spaceHandOver
	for _, id := range st.Voters {
		node, known := k.core.nodeOf(id)
		if id == st.ID || !known || !st.Progress[id].Healthy() {
			continue
		}
		asked, cancel := context.WithTimeout(ctx, time.Second)
		answer, err := k.call(asked, node, methodRoom, nil)
		cancel()
		if err != nil || string(answer) != answerYes {
			continue
		}
		if err := n.TransferLeader(ctx, id); err == nil {
			k.log.Info("leadership handed to a voter that has space", zap.String("node", node))
			return
		}
	}
}

// serveRoom answers a leader without space: yes from a voter that has some, and that could lead.
func (a *Agent) serveRoom(context.Context, transport.Peer, []byte) ([]byte, error) {
	if n := a.core.member(); n == nil || !a.mayLead(n.Status()) {
		return []byte(answerNo), nil
	}
	return []byte(answerYes), nil
}

// refusesWrites is the metric parley_storage_writes_refused; outside the core there is none.
func (k *spaceKeeper) refusesWrites() (float64, bool) {
	if k.core.node() == nil {
		return 0, false
	}
	if k.low.Load() {
		return 1, true
	}
	return 0, true
}
