package consensus

import (
	"go.etcd.io/raft/v3"

	"github.com/parley-mesh/parley/mutant"
)

// hint is a word that the leader's process has ended: its host refuses connections. It saves the rest of the election timeout
// and no more than that. What was promised to the leader is kept: it may live all the same, cut off from us by somebody who
// refuses connections in its name, and rely on the promise. And whoever stands asks for pre-votes first, so that a leader
// that others hear is not deposed.
//
// Voters stand one after the other, in the order of their ids, so that two do not share the votes.
type hint struct {
	leader, term uint64 // whom it is about; 0: there is none
	free         bool   // the promise is over, and raft has forgotten that leader
	since        uint64 // tick of that
}

// hintTurnTicks is how long each voter leaves the election to the one before.
const hintTurnTicks = 2

// refused hears that a member's host refused a connection.
func (c *core) refused(id uint64) {
	if id == raft.None || id != c.leader || c.leads() || c.hint.leader == id && c.hint.term == c.term {
		return
	}
	c.hint = hint{leader: id, term: c.term}
	if mutant.On(mutant.CampaignAtOnceOnReset) {
		c.lease.heard, c.lease.promised = false, 0
		_ = c.rn.ForgetLeader()
		_ = c.rn.Campaign()
		c.drain()
	}
}

// tickHint follows a hint once the promise is over. A message of the leader ends it: see hearLeader.
func (c *core) tickHint() {
	h := &c.hint
	turn := c.turnAfter(h.leader)
	switch {
	case h.leader == raft.None:
	case turn < 0 || c.term != h.term || c.role != raft.StateFollower || c.leader != raft.None && c.leader != h.leader:
		c.hint = hint{}
	case c.promises():
	case !h.free:
		h.free, h.since = true, c.ticks
		_ = c.rn.ForgetLeader() // else raft gives no vote for an election timeout
		c.drain()
		c.standByHint(turn)
	default:
		c.standByHint(turn)
	}
}

func (c *core) standByHint(turn int) {
	if c.ticks-c.hint.since < uint64(turn*hintTurnTicks) { //nolint:gosec // not negative
		return
	}
	c.hint = hint{}
	_ = c.rn.Campaign() // a refusal shows as no change of role
	c.drain()
}

// turnAfter is our place among the voters beside the leader, -1 if we have none.
func (c *core) turnAfter(leader uint64) int {
	turn, ours := 0, false
	for _, id := range c.conf.GetVoters() {
		switch {
		case id == leader:
		case id == c.cfg.id:
			ours = true
		case id < c.cfg.id:
			turn++
		}
	}
	if !ours {
		return -1
	}
	return turn
}
