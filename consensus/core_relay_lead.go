package consensus

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// relayLead moves the lead to where no relay is needed.
//
// Relays carry what the core says, and nothing else: a client at a member that is reached through a hub only cannot have
// its write sent on to such a leader. The hub reaches both. So a leader for which another voter stands better, because
// that one hears and is heard by more voters straight, hands over to it once its log is as long.
//
// It keeps the lead while it decides about a quarantine, and gives it to nobody who is held for maintenance or has stopped
// applying.
//
// Better means more: of two that see the same links none gives the lead to the other and gets it back. Links that come and
// go could still send it round, so a member waits after each hand-over, longer each time.
type relayLead struct {
	better, since uint64 // who stands better without a break, 0 for nobody, and since when (tick)
	next          uint64 // tick of the next hand-over at the earliest
	pause         uint64 // ticks, after the last one
}

// In election timeouts.
const (
	leadAfterTimeouts    = 4
	leadPauseTimeouts    = 20 // 10 s by default
	leadMaxPauseTimeouts = 64 * leadPauseTimeouts
)

func (c *core) tickRelayLead() {
	l := &c.relay.lead
	better := raft.None
	if c.leads() && c.transfer == nil && len(c.relay.routes) > 0 && !c.undecided() {
		better = c.betterPlaced()
	}
	if better == raft.None || better != l.better {
		l.better, l.since = better, c.ticks
		return
	}
	if c.ticks-l.since < c.ticksOf(leadAfterTimeouts) || c.ticks < l.next || !c.closeBehind(better) {
		return
	}
	if c.ticks >= l.next+c.ticksOf(leadMaxPauseTimeouts) {
		l.pause = 0 // long ago
	}
	l.pause = min(max(2*l.pause, c.ticksOf(leadPauseTimeouts)), c.ticksOf(leadMaxPauseTimeouts))
	l.next, l.better = c.ticks+l.pause, raft.None
	c.relay.counts.Leads++
	c.beginTransfer(better, nil)
}

// betterPlaced returns the voter that reaches most others straight, if it reaches more than we do; else none.
func (c *core) betterPlaced() (best uint64) {
	most := c.straightLinks(c.cfg.id)
	for _, id := range c.conf.GetVoters() {
		if id == c.cfg.id || !c.heardLately(id) || c.doubted(id) || c.held(id) || c.reportsStop(id) {
			continue
		}
		if n := c.straightLinks(id); n > most {
			best, most = id, n
		}
	}
	return best
}

// closeBehind reports whether a member's log lacks no more than what is on its way, so that it can take the lead at once.
func (c *core) closeBehind(id uint64) (is bool) {
	c.visitProgress(func(member uint64, pr tracker.Progress) {
		if member == id {
			is = pr.State == tracker.StateReplicate && pr.Match+uint64(c.cfg.inflightBatches) >= c.commit //nolint:gosec // a few
		}
	})
	return is
}

// straightLinks counts the voters that hear the member and are heard by it without a hub.
func (c *core) straightLinks(id uint64) (n int) {
	for _, other := range c.conf.GetVoters() {
		if other != id && c.hearsStraight(id, other) && c.hearsStraight(other, id) {
			n++
		}
	}
	return n
}

// hearsStraight is what a says of b, as far as we know.
func (c *core) hearsStraight(a, b uint64) bool {
	if a == c.cfg.id {
		_, hears := c.relay.straight[b]
		return hears
	}
	return slices.Contains(c.relay.lines[a].hears, b)
}
