package consensus

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/parley-mesh/parley/mutant"
)

// clockCountsSuspends says that clock.Boottime goes on while the machine sleeps. A lease would outlast its term by that time.
const clockCountsSuspends = runtime.GOOS == "linux"

// leaseReads is the shell's part of leases: what the loop has published, and readers in any goroutine look at.
type leaseReads struct {
	now   func() time.Duration // Options.Elapsed
	gap   time.Duration        // see leaseGapTicks
	held  atomic.Pointer[heldLease]
	loop  atomic.Int64 // the loop's last reading of the clock
	used  atomic.Bool  // since the last tick
	count atomic.Uint64
	round atomic.Uint64
	ticks atomic.Uint64 // for a planted mistake
}

// heldLease is a lease of the leadership of a term.
type heldLease struct {
	term  uint64
	until time.Duration
}

func newLeaseReads(o Options) *leaseReads {
	return &leaseReads{now: o.Elapsed, gap: leaseGapTicks * o.Tick}
}

// elapsed reads the clock.
func (n *Node) elapsed() time.Duration {
	switch {
	case mutant.On(mutant.LeaseWallClock):
		return time.Duration(n.opts.Clock.Wall().UnixNano())
	case mutant.On(mutant.LeaseTicksAfterPause):
		return time.Duration(n.leases.ticks.Load()) * n.opts.Tick //nolint:gosec // a planted mistake
	}
	return n.leases.now()
}

// tellTime reads the clock for the core.
func (n *Node) tellTime() {
	now := n.elapsed()
	n.leases.loop.Store(int64(now))
	n.feed(&input{kind: inputTime, now: now})
}

// tick is one tick of the core.
func (n *Node) tick() {
	n.leases.ticks.Add(1)
	n.feed(&input{kind: inputTick, yes: n.leases.used.Swap(false)})
}

// publishLease lets readers see the lease, or that there is none, before anything leaves that would break it.
func (n *Node) publishLease() {
	until := n.core.leaseUntil()
	switch had := n.leases.held.Load(); {
	case until == 0 && had != nil:
		n.leases.held.Store(nil)
	case until != 0 && (had == nil || had.until != until || had.term != n.core.term):
		n.leases.held.Store(&heldLease{n.core.term, until})
	}
}

// readByLease answers a read at once if the lease holds.
//
// The order matters. A lease of this term was there before the commit index was taken, so this node led then, and the
// index is at least that of its term's first entry. The clock is read after the index, and the lease looked at after the
// clock: whoever is stopped for a while at any place in between finds that the lease is over, or has taken an index that
// was the newest in the whole core at the moment of the reading. A lease that was renewed since the reading, in the same
// term, says as much: had another been elected before, no majority would have answered.
func (n *Node) readByLease() (index uint64, ok bool) {
	l := n.leases
	had := l.held.Load()
	if had == nil || n.stopping.Load() {
		return 0, false
	}
	index = n.commit.Load()
	now := n.elapsed()
	has := l.held.Load()
	if has == nil || has.term != had.term || now >= has.until || now-time.Duration(l.loop.Load()) > l.gap {
		return 0, false
	}
	l.count.Add(1)
	if !l.used.Load() {
		l.used.Store(true)
	}
	return index, true
}

// answered counts a read that was answered by the loop.
func (l *leaseReads) answered(o outcome) {
	if o.err == nil {
		l.round.Add(1)
	}
}

// Reads counts the linearizable reads that this node answered as leader since it started.
type Reads struct {
	ByLease uint64 // at once
	ByRound uint64 // after a majority was asked
}

// Reads is safe for concurrent use and never blocks.
func (n *Node) Reads() Reads {
	return Reads{ByLease: n.leases.count.Load(), ByRound: n.leases.round.Load()}
}
