package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodStanding = "core.standing"

	// standingEvery is how often a member in doubt asks the others whether its Raft id still counts.
	standingEvery = time.Second
	// askTimeout bounds one question to one agent: a frozen one must not hold up who asks.
	askTimeout = time.Second
	// maxWitnesses is how many agents are asked about a Raft id.
	maxWitnesses = 8
)

// Answers of methodStanding.
const (
	standingCurrent = "current"
	standingRetired = "retired"
	standingUnknown = "unknown"
)

// inDoubt reports whether a member has reason to ask if its Raft id still counts. The leader drops a
// removed member at once and tells it nothing more: it sees its own removal (role none) or only silence.
func inDoubt(st consensus.Status) bool {
	return st.Leader == 0 || st.Role == consensus.RoleNone
}

// isRetired judges by this agent's own View, which may lag but is never wrong about it, whoever feeds
// it: a retirement is committed, and never undone.
func (c *coreRunner) isRetired(raftID uint64) bool {
	return c.views.hub.View().RaftIDRetired(raftID)
}

// othersSayRetired asks other agents, all at once. One that has applied the retirement is enough.
func (c *coreRunner) othersSayRetired(ctx context.Context, raftID uint64) bool {
	return anyAnswers(ctx, c.book.witnesses(), standingRetired, func(ctx context.Context, node string) ([]byte, error) {
		return c.pool.Call(ctx, node, methodStanding, fmt.Appendf(nil, "%x", raftID))
	})
}

// anyAnswers asks all nodes at once and reports whether one gives the wanted answer within askTimeout.
func anyAnswers(ctx context.Context, nodes []string, want string, ask func(ctx context.Context, node string) ([]byte, error)) bool {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answers := make(chan bool, len(nodes)) // one each: nobody waits to send
	for _, node := range nodes {
		go func() {
			answer, err := ask(ctx, node)
			answers <- err == nil && string(answer) == want
		}()
	}
	for range nodes {
		if <-answers {
			return true
		}
	}
	return false
}

// serveStanding tells an agent whether its own Raft id is still one of the core's. Agents outside the
// core answer too: who was away for long may know none of the members of today.
func (a *Agent) serveStanding(_ context.Context, peer transport.Peer, body []byte) ([]byte, error) {
	var id uint64
	if _, err := fmt.Sscanf(string(body), "%x", &id); err != nil {
		return nil, &transport.Error{Code: api.CodeInvalid, Message: "want a Raft id in hex"}
	}
	v := a.hub.View()
	m, listed := v.CoreByID(id)
	switch {
	case listed && m.Node != peer.Node:
		return []byte(standingUnknown), nil
	case v.RaftIDRetired(id):
		return []byte(standingRetired), nil
	case listed:
		return []byte(standingCurrent), nil
	}
	return []byte(standingUnknown), nil
}
