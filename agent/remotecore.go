package agent

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodCoreStatus = "core.status"

	remoteCoreEvery = 500 * time.Millisecond
	// remoteCoreStale is how long an answer is shown when no further one comes.
	remoteCoreStale = 3 * time.Second
)

// remoteCore is what an agent outside the core shows of it: the last answer of a core member.
type remoteCore struct {
	last atomic.Pointer[remoteAnswer]
	now  func() time.Time
}

type remoteAnswer struct {
	status api.CoreStatus
	at     time.Time
}

// get returns the last answer. Without a fresh one nobody is known to lead.
func (r *remoteCore) get() api.CoreStatus {
	last := r.last.Load()
	if last == nil {
		return leaderless(api.CoreStatus{})
	}
	if !r.fresh() {
		return leaderless(last.status)
	}
	return last.status
}

// fresh tells whether a core member answered lately.
func (r *remoteCore) fresh() bool {
	last := r.last.Load()
	return last != nil && r.now().Sub(last.at) <= remoteCoreStale
}

// followCore keeps remoteCore fresh while this agent is outside the core, and counts how long nobody has led it.
func (a *Agent) followCore(ctx context.Context) error {
	ticker := newBeat(remoteCoreEvery)
	defer ticker.stop()
	for {
		led := a.core.member() == nil && a.askCore(ctx)
		a.lookForLeader(led)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			ticker.again()
		}
	}
}

// askCore takes the first answer, that of the supposed leader if there is one. Each node has a short
// time of its own: a frozen one must not keep the others from being asked. It returns whether somebody leads by that answer.
func (a *Agent) askCore(ctx context.Context) (led bool) {
	nodes := a.book.coreNodes()
	if leader, _, ok := a.leaderHint.get(nodes); ok {
		nodes = append([]string{leader}, nodes...)
	}
	for _, node := range nodes {
		status, err := a.askCoreStatus(ctx, node)
		if err != nil {
			a.leaderHint.forget(node)
			continue
		}
		a.remoteCore.last.Store(&remoteAnswer{status: status, at: a.now()})
		if status.Leader != nil {
			a.leaderHint.set(*status.Leader)
		}
		return status.Leader != nil
	}
	return false
}

func (a *Agent) askCoreStatus(ctx context.Context, node string) (status api.CoreStatus, err error) {
	ctx, cancel := context.WithTimeout(ctx, remoteCoreEvery)
	defer cancel()
	raw, err := a.pool.Call(ctx, node, methodCoreStatus, nil)
	if err != nil {
		return status, err
	}
	return status, json.Unmarshal(raw, &status)
}

// serveCoreStatus answers any agent; the core's make-up is public.
func (a *Agent) serveCoreStatus(_ context.Context, peer transport.Peer, _ []byte) ([]byte, error) {
	a.sessions.contact(peer.Node) // agents outside the core ask the leader twice a second
	if a.core.member() == nil {
		return nil, &transport.Error{Code: api.CodeUnavailable, Message: "this agent is outside the core"}
	}
	return json.Marshal(a.coreStatus())
}
