package consensus

import (
	"go.etcd.io/raft/v3"
)

// afresh is how voters that were started together choose a leader. None of them knows of one, and each would wait for the whole
// of raft's election timeout, although there is nobody to wait for: a leader that lives is heard within a heartbeat or two, and the
// promise that a restarted voter keeps is over much sooner (see lease).
//
// So who was started a moment ago, has heard the tail of every other voter, whose log is behind none of them, and who knows of no leader
// once the promise is over, stands for election: in turn by id, so that two do not share the votes, and again until raft's own
// timeout counts, as others may have been started a little later and promise longer. The first does so at each tick, the others leave it
// hintTurnTicks each time. It asks for pre-votes first: where a leader lives that others hear, they give none, and nothing has happened.
type afresh struct {
	free  bool   // the promise is over, and all tails are heard
	since uint64 // tick of that
	stood uint64 // tick of the last time
}

// tickAfresh stands for election, if that is for us. It is called at each tick, and when the last tail was heard.
func (c *core) tickAfresh() {
	f := &c.afresh
	if !c.restarted || c.ticks > uint64(c.cfg.electionTicks) || c.promises() {
		return
	}
	turn := c.turnAfresh()
	if turn < 0 || c.leader != raft.None || c.role != raft.StateFollower && c.role != raft.StatePreCandidate {
		return
	}
	first := !f.free
	if first {
		f.free, f.since = true, c.ticks
	}
	waited := c.ticks - f.since
	due := waited >= uint64(turn*hintTurnTicks) && (turn == 0 || waited%hintTurnTicks == 0) //nolint:gosec // not negative
	if due && (first || f.stood != c.ticks) {
		f.stood = c.ticks
		_ = c.rn.Campaign() // a refusal shows as no change of role
		c.drain()
	}
}

// turnAfresh is our place among the voters whose logs are as far as the furthest, -1 if ours is not, or if not all were heard.
func (c *core) turnAfresh() (turn int) {
	own := c.ownTail()
	if c.mute() || c.abstains() || c.tails.asking || c.tails.floor != nil || c.turnAfter(raft.None) < 0 {
		return -1
	}
	for _, id := range c.otherVoters() {
		heard, ok := c.tails.heard[id]
		switch {
		case !ok || heard.beyond(own.lastTerm, own.index):
			return -1
		case id < c.cfg.id && !own.beyond(heard.lastTerm, heard.index):
			turn++
		}
	}
	return turn
}
