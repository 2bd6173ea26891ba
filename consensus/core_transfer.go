package consensus

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// transfer is a leadership transfer under way. Raft gives up after one election timeout.
type transfer struct {
	to  uint64
	req *request // nil for a hand-over
}

// transferTo starts moving the lead to r.target.
func (c *core) transferTo(r *request) {
	switch {
	case !c.leads():
		c.fail(r, c.notLeader())
	case r.target == c.cfg.id:
		c.answer(r, outcome{})
	case !slices.Contains(c.conf.GetVoters(), r.target):
		c.fail(r, fmt.Errorf("%w: %x is not a voter", ErrTransfer, r.target))
	case c.doubted(r.target):
		c.fail(r, fmt.Errorf("%w: the state of %x differs from the majority's, or was rebuilt and is not trusted yet", ErrTransfer, r.target))
	case c.transfer != nil:
		c.fail(r, fmt.Errorf("%w: a transfer to %x is in progress", ErrTransfer, c.transfer.to))
	default:
		c.cfg.asks.take(r)
		c.beginTransfer(r.target, r)
	}
}

func (c *core) beginTransfer(to uint64, r *request) {
	c.barLease()
	c.transfer = &transfer{to: to, req: r}
	c.rn.TransferLeader(to)
	c.drain()
}

// handOver passes the lead to a voter that was heard lately: to one that could serve, as far as we know, before one that
// could not, and of those to the one that is furthest in the log. It reports whether there is one.
func (c *core) handOver() bool {
	if !c.leads() || c.transfer != nil {
		return c.leads()
	}
	best, least, match := raft.None, 0, uint64(0)
	c.visitProgress(func(id uint64, pr tracker.Progress) {
		if id == c.cfg.id || pr.IsLearner || !pr.RecentActive || !slices.Contains(c.conf.GetVoters(), id) || c.doubted(id) {
			return
		}
		if not := c.reluctance(id); best == raft.None || not < least || not == least && pr.Match > match {
			best, least, match = id, not, pr.Match
		}
	})
	if best == raft.None {
		return false
	}
	c.beginTransfer(best, nil)
	return true
}

// reluctance is how much speaks against giving a voter the lead while there is another: that its disk takes nothing, that it
// stopped at a command, that it did not take the lead the last time (the end of its log may be in doubt, which it tells
// nobody), that an operator does maintenance there.
func (c *core) reluctance(id uint64) (n int) {
	for i, against := range []bool{c.held(id), c.vain == id, c.reportsStop(id), c.stalled(id)} {
		if against {
			n |= 1 << i
		}
	}
	return n
}

func (c *core) held(id uint64) bool { return c.cfg.held != nil && c.cfg.held(id) }

// visitProgress calls f for every member in ascending order of id. Only the leader's are real.
func (c *core) visitProgress(f func(id uint64, pr tracker.Progress)) {
	c.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) { f(id, pr) })
}

// transferMoved is called when leader or role changed. The transfer ends when the next leader is
// known, not when we step down: with two voters our vote is still needed in between.
func (c *core) transferMoved() {
	if c.transfer == nil || c.leads() || c.leader == raft.None {
		return
	}
	t := c.transfer
	c.transfer = nil
	switch {
	case t.req == nil:
	case c.leader == t.to:
		c.answer(t.req, outcome{})
	default:
		c.fail(t.req, fmt.Errorf("%w: %x was elected instead", ErrTransfer, c.leader))
	}
}

// tickTransfer notices that raft gave up, and lets a halted leader try again.
func (c *core) tickTransfer() {
	c.tickChange()
	if c.transfer != nil && c.leads() && c.rn.BasicStatus().LeadTransferee == raft.None {
		t := c.transfer
		c.transfer, c.vain = nil, t.to
		if t.req != nil {
			c.fail(t.req, fmt.Errorf("%w: %x did not take over within an election timeout", ErrTransfer, t.to))
		}
	}
	waits := c.guard.stop != nil && c.digests.fenced == nil // for what the others say: it may be on all of them
	if (c.halted != nil && !waits || c.unfit() != nil) && c.leads() && c.ticks%uint64(c.cfg.electionTicks) == 0 {
		c.handOver()
	}
}
