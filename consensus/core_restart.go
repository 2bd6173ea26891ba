package consensus

import (
	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/mutant"
)

// mayVote reports whether a message may reach raft now. In the first election timeout after a restart requests for a
// vote are dropped, as they are while a leader is heard: before the restart one may have been, and may rely on it. A
// vote that the leader itself asked for, to hand over its lead, breaks no promise. A new id has promised nothing.
func (c *core) mayVote(m *raftpb.Message) bool {
	switch {
	case m.GetType() != raftpb.MsgVote && m.GetType() != raftpb.MsgPreVote:
	case string(m.GetContext()) == transferContext:
	case !c.restarted || c.ticks >= uint64(c.cfg.electionTicks) || mutant.On(mutant.RestartVotesAtOnce):
	default:
		return false
	}
	return true
}
