package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodLeave   = "core.leave"
	answerLeaving = "leaving"

	// leavePatience is how long one request to leave waits for the core to let this agent go; whoever wants it asks again.
	leavePatience = 8 * time.Second
	// leaveLapse is how long this agent goes on wanting to leave without being asked again: who asked has given up.
	leaveLapse = 10 * time.Second
	leaveEvery = 250 * time.Millisecond // looks, meanwhile
	// leaveGrace bounds the last steps, which nobody can take back.
	leaveGrace = 10 * time.Second
)

// leaver takes this agent out of the cluster. Until the last step, which is an entry of the log, nothing is written down:
// an agent that is stopped before is a member as before.
type leaver struct {
	agent *Agent
	turn  chan struct{} // one request at a time
	until atomic.Int64  // boottime until when this agent wants to leave
	stop  func()        // ends Run
}

func newLeaver(a *Agent) *leaver { return &leaver{agent: a, turn: make(chan struct{}, 1)} }

// wants says whether this agent asks to be let go of by the core.
func (l *leaver) wants() bool { return int64(clock.Boottime()) < l.until.Load() }

// leave serves the API.
func (a *Agent) leave(ctx context.Context, dryRun bool) (api.Leave, error) {
	if dryRun {
		return a.leaver.look(ctx)
	}
	return a.leaver.leave(ctx)
}

// look says what would become of the core, and asks nobody for anything.
func (l *leaver) look(ctx context.Context) (api.Leave, error) {
	v, err := l.ask(ctx)
	if err == nil && v.Reason != "" {
		err = l.refused(v)
	}
	return l.answer(v, false), err
}

func (l *leaver) answer(v consensus.Leave, left bool) api.Leave {
	return api.Leave{Node: l.agent.ids.Node, Core: v.Role, Heir: v.Heir, Voters: v.Voters, Left: left}
}

func (l *leaver) refused(v consensus.Leave) error {
	return api.Errorf(api.CodeGuarded, "%s is a %s of the core and may not leave: %s", l.agent.ids.Node, v.Role, v.Reason).
		WithHint("bring the dead voters back, or allow another agent in the core (parley core allow NODE) and wait until it is alive; parley core shows the voters")
}

// leave leaves, for good, and has this agent stop. It answers with a timeout while the core is still to let it go.
func (l *leaver) leave(ctx context.Context) (api.Leave, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	default:
		return api.Leave{}, api.Errorf(api.CodeBusy, "another request to leave is being served")
	}
	ctx, cancel := context.WithTimeout(ctx, leavePatience)
	defer cancel()
	first, err := l.firstAsk(ctx)
	if err != nil {
		return api.Leave{}, err
	}
	if err := l.outOfCore(ctx, first); err != nil {
		return api.Leave{}, err
	}
	if err := l.sayGoodbye(context.WithoutCancel(ctx)); err != nil {
		return api.Leave{}, err
	}
	return l.answer(first, true), nil
}

// firstAsk is ask, and waits a little when the lead is changing hands.
func (l *leaver) firstAsk(ctx context.Context) (consensus.Leave, error) {
	for until := clock.Boottime() + askTimeout; ; {
		v, err := l.ask(ctx)
		var refusal *api.Error
		if err == nil || !errors.As(err, &refusal) || refusal.Code != api.CodeNotLeader && refusal.Code != api.CodeNoLeader || clock.Boottime() >= until {
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, err
		case <-time.After(leaveEvery):
		}
	}
}

// outOfCore asks to be let go, and waits until this agent runs no Raft id and is given none.
func (l *leaver) outOfCore(ctx context.Context, v consensus.Leave) error {
	ticker := time.NewTicker(leaveEvery)
	defer ticker.Stop()
	for asked := clock.Boottime(); ; {
		if v.Reason != "" {
			l.until.Store(0)
			return l.refused(v)
		}
		l.until.Store(int64(clock.Boottime() + leaveLapse))
		if l.isOut() {
			return nil
		}
		select {
		case <-ctx.Done():
			return api.Errorf(api.CodeTimeout, "%s still is a %s of the core", l.agent.ids.Node, v.Role).
				WithHint("ask again within %v, or it stays; parley core and the log of the leader show how far its successor is", leaveLapse)
		case <-ticker.C:
		}
		if clock.Boottime()-asked >= time.Second {
			asked = clock.Boottime()
			if again, err := l.ask(ctx); err == nil { // without a leader it waits
				v = again
			}
		}
	}
}

// isOut says whether this agent is outside the core, by what it runs and by the replicated state.
func (l *leaver) isOut() bool {
	if l.agent.core.node() != nil {
		return false
	}
	for _, m := range l.agent.hub.View().Core() {
		if m.Node == l.agent.ids.Node {
			return false
		}
	}
	return true
}

// sayGoodbye writes down that this agent has left, tells gossip, marks the directory and stops. From the first step on its
// certificate counts no more, so that an answer may be lost on the way: then it asks once more.
func (l *leaver) sayGoodbye(ctx context.Context) error {
	a := l.agent
	ctx, cancel := context.WithTimeout(ctx, leaveGrace)
	defer cancel()
	if _, err := a.service.Execute(ctx, api.Internal(a.ids.Node), state.NodeSetLeft{Node: a.ids.Node, Left: true}); err != nil {
		l.until.Store(0)
		return err
	}
	a.ready.Store(false)
	if err := a.gossip.Leave(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		a.log.Warn("gossip was not told that this agent leaves; the log says it", zap.Error(err))
	}
	if err := a.dir.write(leftFile, []byte(a.ids.ClusterID+"\n")); err != nil {
		a.log.Error("the directory does not say that this agent has left", zap.Error(err))
	}
	a.log.Info("left the cluster", zap.String("node", a.ids.Node))
	time.AfterFunc(leaveEvery, l.stop) // the answer goes out first
	return nil
}

// ask has the leader judge. An agent outside the core needs nobody's word but has to find a leader for the last step.
func (l *leaver) ask(ctx context.Context) (v consensus.Leave, err error) {
	a := l.agent
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	leader, self, known := a.leader()
	if !known {
		return v, api.Errorf(api.CodeNoLeader, "the core has no leader that could let %s go", a.ids.Node)
	}
	if self {
		return a.mayLeave(a.ids.Node)
	}
	raw, err := a.call(ctx, leader, methodLeave, nil)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, api.Errorf(api.CodeInternal, "what %s says about leaving: %v", leader, err)
	}
	return v, nil
}

// serveLeave judges, as the leader, whether the agent that asks may leave.
func (a *Agent) serveLeave(_ context.Context, peer transport.Peer, _ []byte) ([]byte, error) {
	v, err := a.mayLeave(peer.Node)
	if err != nil {
		return nil, toWire(err)
	}
	return json.Marshal(v)
}

// mayLeave judges by what the controller last saw of the members, and what Raft says now.
func (a *Agent) mayLeave(node string) (consensus.Leave, error) {
	seen, n := a.control.last.Load(), a.core.member()
	if seen == nil || n == nil {
		return consensus.Leave{}, api.Errorf(api.CodeNotLeader, "%s does not lead, or has just begun to", a.ids.Node)
	}
	in, st := *seen, n.Status()
	if st.Leader != st.ID {
		return consensus.Leave{}, api.Errorf(api.CodeNotLeader, "%s leads no more", a.ids.Node)
	}
	in.Self, in.Voters, in.Outgoing, in.Learners, in.Progress, in.Commit = st.ID, st.Voters, st.Outgoing, st.Learners, st.Progress, st.Commit
	return consensus.MayLeave(in, node), nil
}

// leftFile is in the directory of an agent that has left.
const leftFile = "left"

// checkLeft refuses the directory of an agent that has left its cluster.
func (d *dataDir) checkLeft(ids clusterIDs) error {
	_, err := os.Stat(d.join(leftFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return withHint(fmt.Errorf("%s has left the cluster %s by request, and its identity counts no more", ids.Node, ids.ClusterID),
		"to join again give it an empty data directory and a token of 'parley token create --replace "+ids.Node+"'; a unit that is not needed is disabled")
}
