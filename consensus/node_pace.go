package consensus

import (
	"sync"
	"time"

	"github.com/parley-mesh/parley/clock"
)

// paceKeeper measures how fast this node is. The log writer and the loop tell it, anyone asks.
type paceKeeper struct {
	bounds Pace
	now    func() time.Duration // boottime; tests set another one

	mu struct {
		sync.Mutex // nothing is called under it
		fsync      paceMeter
		late       paceMeter
		began      time.Duration // of the sync under way
		syncing    bool
		ticked     time.Duration // when the loop saw the last tick, 0 = none yet
	}
}

func newPaceKeeper(tick time.Duration, electionTicks int) *paceKeeper {
	return &paceKeeper{bounds: PaceBounds(tick, electionTicks), now: clock.Boottime}
}

// timeSync runs one write of the log that ends with a sync.
func (k *paceKeeper) timeSync(write func() error) error {
	began := k.now()
	k.mu.Lock()
	k.mu.began, k.mu.syncing = began, true
	k.mu.Unlock()
	err := write()
	ended := k.now()
	k.mu.Lock()
	k.mu.syncing = false
	k.mu.fsync.add(ended, ended-began)
	k.mu.Unlock()
	return err
}

// tick notes that the loop has seen a tick. How much longer than one the time since the last was is how late it is: a
// process that was stopped, starved or throttled finds out that way, and so does a loop that was busy.
func (k *paceKeeper) tick(every time.Duration) {
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mu.ticked > 0 {
		k.mu.late.add(now, max(0, now-k.mu.ticked-every))
	}
	k.mu.ticked = now
}

func (k *paceKeeper) pace() Pace {
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	underWay := time.Duration(0)
	if k.mu.syncing {
		underWay = now - k.mu.began
	}
	return Pace{Fsync: k.mu.fsync.p99(now, underWay, k.bounds.Fsync), Late: k.mu.late.p99(now, 0, 0)}
}

// Pace says how fast this node was lately. It never blocks.
func (n *Node) Pace() Pace { return n.paces.pace() }

// PaceBounds says how slow this node may be while it leads.
func (n *Node) PaceBounds() Pace { return n.paces.bounds }
