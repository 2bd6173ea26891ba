package consensus

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// changesAhead lets changes of the core take effect that are committed behind an entry at which applying stopped.
//
// Raft has nobody stand for election who knows of a committed change that it has not applied: it would count the votes of
// a core that is no more. As a rule a change is applied in its turn, behind what the machine does. But when every member
// stops in front of it, and all are started again, nobody could lead, and without a leader it is never decided what becomes
// of the entry. A change needs nothing of the machine, so it may take effect as soon as it is committed; and it does only
// where it has to: nobody was heard to lead for an election timeout.
//
// Two things go by the configuration of before all the same. Who is asked whether an entry was applied: a voter that the change
// removed may have, and its clients were told. And what is captured of the machine while it is behind the change: that is
// given up, see captured.
func (c *core) changesAhead() {
	g := &c.guard
	stopped := g.stop != nil || g.withheld() > 0
	if !stopped || c.knownLeader() != raft.None || c.ticks < uint64(c.cfg.electionTicks) || !c.changeWaits() {
		return
	}
	if c.applied >= c.log.confIndex {
		g.former = nil // everything that took effect ahead was applied since
	}
	from := max(c.applied, g.ahead, c.log.offset) + 1
	if from > c.applying {
		return
	}
	entries := c.log.entries[from-c.log.first() : c.applying+1-c.log.first()]
	for _, e := range entries {
		if e.GetType() != raftpb.EntryNormal {
			g.former = append(g.former, c.allVoters()...)
			c.applyConfChange(e)
		}
	}
	g.ahead = c.applying
	// Raft gives out what comes next, and takes these entries as applied. It hears of them once more when they are.
	_ = c.rn.Step(&raftpb.Message{
		Type: raftpb.MsgStorageApplyResp.Enum(), To: new(c.cfg.id), From: new(raft.LocalApplyThread), Entries: entries,
	})
	c.drain()
}

// changeWaits reports whether a change of the core is committed and has not taken effect.
func (c *core) changeWaits() bool {
	for i := max(c.applied, c.log.confIndex, c.log.offset) + 1; i <= min(c.commit, c.log.last()); i++ {
		if c.log.entries[i-c.log.first()].GetType() != raftpb.EntryNormal {
			return true
		}
	}
	return false
}
