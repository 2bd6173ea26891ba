package consensus

import (
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/mutant"
)

// A lease lets the leader answer reads without asking anybody. It stands on two rules.
//
// A voter that has heard its leader makes nobody else one for leaseLength: it gives no vote, no pre-vote, and does not
// stand. It does not remember over a restart whom it has heard, so for so long after the end of the life before (Options.Ended)
// it does neither as well. What that life answered and is still on its way lengthens nothing: a lease counts from when its
// round began.
// All voters do so whether their own setting is on or not, and the length is no setting: a leader relies on it.
//
// A leader that completed a read round holds the lease until leaseShare of that time is over, counted from when the round
// began. Every voter that answered heard the round later, and whoever elects another leader needs one of them. The rest is
// for clocks that do not run at the same speed.
//
// Time is CLOCK_BOOTTIME, which neither steps nor stops while the process or the machine does. The core is told what the
// clock shows (clockIs) before it handles events, so that a reading is never later than what it is used for:
//
//   - The beginning of a round is the last reading: the heartbeats leave after it.
//   - A voter's promise runs from the first reading after the leader was heard, not from the last one before: a process
//     that was stopped in between would promise time that is over.
//   - Who reads takes the commit index first, then the clock, and then looks whether the lease holds (Node.readByLease).
//     The answer may leave as late as it likes. With the clock first, a pause before the commit index would be a stale read.
//
// The lease is void, and a round that is under way gives none, once
//
//   - the loop has not seen the clock for more than two ticks: something here does not go as it should;
//   - a change of the core was applied: two changes on, a majority need not meet the one that promised;
//   - a transfer of the lead begins. The successor is voted for at once, and it may be told to stand after the leader gave
//     it up: the message can be on its way for as long as the network likes. So in that term there is no lease any more.
type lease struct {
	now  time.Duration // last reading
	read bool          // there was one

	heard    bool          // the leader, since the last reading
	promised time.Duration // until then nobody else is made leader
	silent   int           // ticks that raft was told of since the leader was heard

	began  time.Duration // of the round under way
	counts bool          // that round gives a lease
	until  time.Duration // 0: there is none
	barred uint64        // term of the last transfer that began here
	wanted bool          // reads were answered by it since the last tick
}

const (
	leaseLength = 300 * time.Millisecond
	leaseShare  = leaseLength * 9 / 10
	// leaseGapTicks is how long the loop may not see the clock.
	leaseGapTicks = 2
)

// clockIs tells what the clock shows.
func (c *core) clockIs(now time.Duration) {
	l := &c.lease
	switch {
	case !l.read:
		l.read = true
		if !c.loneBefore() && !mutant.On(mutant.RestartVotesAtOnce) {
			l.promised = c.lifeEnded(now) + leaseLength
		}
	case now-l.now > leaseGapTicks*c.cfg.tick:
		c.voidLease()
	}
	if l.now = now; l.heard {
		l.heard, l.promised = false, now+leaseLength
	}
}

// lifeEnded is from when on no life of this voter before this one has heard a leader, at the first reading of the clock.
func (c *core) lifeEnded(now time.Duration) time.Duration {
	if c.cfg.ended == 0 {
		return now
	}
	return min(now, c.cfg.ended)
}

// loneBefore reports whether we start as the only voter, and were the last to lead: nobody else can hold a lease. That we
// voted for ourselves in the term of the last entry says that no lease of an earlier term was left then.
func (c *core) loneBefore() bool {
	if !c.alone() {
		return false
	}
	for _, e := range c.log.entries {
		if e.GetType() != raftpb.EntryNormal && e.GetIndex() > c.log.snap.Index {
			return false
		}
	}
	last, err := c.log.Term(c.log.last())
	h := c.log.hard
	return h.GetTerm() <= 1 || err == nil && h.GetVote() == c.cfg.id && h.GetTerm() == last
}

// alone reports whether we are the only voter.
func (c *core) alone() bool {
	return len(c.conf.GetVoters()) == 1 && c.conf.GetVoters()[0] == c.cfg.id && len(c.conf.GetVotersOutgoing()) == 0
}

// promises reports whether nobody may be made leader now, by us.
func (c *core) promises() bool { return c.lease.heard || c.lease.now < c.lease.promised }

// mayVote reports whether a message may reach raft now. A vote that the leader itself asked for, to hand over its lead,
// breaks no promise: it holds no lease any more.
func (c *core) mayVote(m *raftpb.Message) bool {
	if t := m.GetType(); t != raftpb.MsgVote && t != raftpb.MsgPreVote {
		return true
	}
	return string(m.GetContext()) == transferContext || !c.promises()
}

// mayTick keeps a tick from raft if raft could stand for election at it. With the usual timers a promise is over long
// before.
func (c *core) mayTick() bool {
	l := &c.lease
	if c.promises() && !c.leads() && l.silent+1 >= c.cfg.electionTicks {
		return false
	}
	l.silent++
	return true
}

// hearLeader notes that raft has taken a message of the leader.
func (c *core) hearLeader(m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat:
		if m.GetTerm() == c.term && m.GetFrom() == c.leader {
			c.lease.heard, c.lease.silent = true, 0
			c.hint = hint{}
		}
	}
}

// beginLease is called when a read round begins, endLease when it is complete.
func (c *core) beginLease() { c.lease.began, c.lease.counts = c.lease.now, true }

func (c *core) endLease() {
	if !c.lease.counts {
		return
	}
	c.lease.until = c.lease.began + leaseShare
	if mutant.On(mutant.LeaseTooLong) {
		c.lease.until = c.lease.began + 10*leaseLength
	}
}

func (c *core) voidLease() { c.lease.until, c.lease.counts = 0, false }

// barLease gives the lease up for this term.
func (c *core) barLease() {
	if mutant.On(mutant.LeaseOverTransfer) {
		return
	}
	c.voidLease()
	c.lease.barred = c.term
}

// leaseUntil is when the lease ends, 0 if there is none. It is asked for after each turn, before anything leaves.
func (c *core) leaseUntil() time.Duration {
	if c.lease.until == 0 || !c.leaseFits() {
		return 0
	}
	return c.lease.until
}

// leaseFits reports whether we could answer by a lease: what read and flushReads ask for, and no transfer in this term.
func (c *core) leaseFits() bool {
	return !c.cfg.noLease && c.leads() && c.lease.barred != c.term && c.termStart > 0 && c.commit >= c.termStart &&
		c.halted == nil && c.unfit() == nil && !c.investigates()
}

// renewLease begins a round without readers while reads use the lease, so that none of them has to wait for one.
func (c *core) renewLease() bool {
	l := &c.lease
	wanted := l.wanted
	l.wanted = false
	return wanted && l.until > 0 && l.until-l.now < leaseLength/2 && c.leaseFits()
}

// leadLost forgets what belongs to a leadership.
func (l *lease) leadLost() { l.until, l.counts, l.wanted, l.silent = 0, false, false, 0 }

// leaseState says for people whether reads are answered by a lease.
func (c *core) leaseState() string {
	switch {
	case !c.leads():
		return ""
	case c.cfg.noLease:
		return LeaseOff
	case c.lease.barred == c.term:
		return LeaseBarred
	}
	return LeaseOn
}

// What Status.Lease says on a leader.
const (
	LeaseOn     = "on"     // reads are answered by a lease as long as there are some
	LeaseOff    = "off"    // Options.NoLease
	LeaseBarred = "barred" // a transfer of the lead began in this term: reads take a round of heartbeats each
)
