package agent

import (
	"context"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
)

// acceptTail ends the doubt about the end of this agent's log, by an operator's word.
func (a *Agent) acceptTail(ctx context.Context) (bool, error) {
	n := a.core.running()
	if n == nil {
		return false, api.Errorf(api.CodeUnavailable, "this agent runs no Raft id now").
			WithHint("an agent outside the core has no log, and one that heals its log needs no word: see parley events")
	}
	accepted, err := n.node.AcceptTail(ctx)
	if err == nil && accepted {
		a.log.Warn("an operator accepted the end of the log as it is", zap.Uint64("raft_id", n.raftID))
		a.tellTimeline(api.EventDoubt, a.ids.Node, "an operator accepted the end of the log as it is")
	}
	return accepted, err
}
