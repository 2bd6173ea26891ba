package consensus

import (
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// A core that nobody asks anything has nothing to do at most of its ticks: a follower counts how long its leader has been
// silent, and is about to hear it again; a leader waits for the moment of its next heartbeats. So the loop may sleep over
// some ticks and make up for them when it wakes, before it handles what has woken it. The core then goes through the same
// events in the same order; only the ticks come late, by less than a heartbeat, as they do on a busy machine. Nothing that
// is safe stands on a tick: see lease.
//
// A follower that misses two heartbeats is not at rest any more, and counts on tick by tick: it stands for election when it
// would have stood. While anything is under way here that goes by ticks, no tick is slept over.

// restTicks is for how many ticks at most the loop may sleep.
func (c *core) restTicks() int {
	switch {
	case !c.calm():
		return 1
	case c.leads():
		return max(1, c.cfg.heartbeatTicks-int(c.ticks-c.beat)) //nolint:gosec // few
	}
	return max(1, c.followerRest()-c.lease.silent)
}

// followerRest is for how many ticks without a word of its leader a follower is at rest. With the time of one heartbeat alone,
// each that came a little late found the loop awake, and Go also wakes at the times to which a timer was set before it was
// set anew.
func (c *core) followerRest() int {
	return max(c.cfg.heartbeatTicks, min(2*c.cfg.heartbeatTicks, c.cfg.electionTicks/2))
}

// restSlack is how much longer than restTicks the loop may sleep: a heartbeat is given the time to come first, so that it
// wakes the loop and not the clock.
func (c *core) restSlack() time.Duration {
	if c.leads() || !c.calm() {
		return 0
	}
	return c.cfg.tick / 2
}

// calm reports whether nothing is under way here that goes by ticks but heartbeats.
func (c *core) calm() bool {
	r := &c.relay
	if c.transfer != nil || c.change != nil || c.halted != nil || c.tails.asking || c.tails.need != nil || c.hint.leader != raft.None ||
		c.guard.stop != nil || c.guard.hold > 0 || c.guard.gate > 0 || len(c.guard.inquiries) > 0 || c.digests.fenced != nil ||
		len(r.routes) > 0 || len(r.small.waiting) > 0 || len(r.bulk.waiting) > 0 {
		return false
	}
	if len(c.props.queue) > 0 || len(c.props.flight) > 0 || c.reads.running || len(c.reads.waiting) > 0 {
		return false
	}
	switch {
	case c.leads():
		l := &c.lease
		return c.beat > 0 && c.termStart > 0 && c.commit >= c.termStart && !l.wanted && l.until <= l.now
	case c.role == raft.StateFollower && c.leader != raft.None:
		return c.lease.silent < c.followerRest()
	}
	return false
}

// noteBeat notes that raft has sent heartbeats at this tick, among the messages from number before on.
func (c *core) noteBeat(before int) {
	isBeat := func(m *raftpb.Message) bool { return m.GetType() == raftpb.MsgHeartbeat }
	switch {
	case !c.leads():
		c.beat = 0
	case slices.ContainsFunc(c.out.messages[min(before, len(c.out.messages)):], isBeat):
		c.beat = c.ticks
	}
}
