package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/transport"
)

// methodApply asks a core member where it is; the answer is an applyAnswer in JSON.
const methodApply = "apply.status"

// applyWait is how long one core member may take to answer.
const applyWait = 3 * time.Second

type applyAnswer struct {
	Member api.MemberApply `json:"member"`
	Cases  []api.ApplyCase `json:"cases"`
}

// ownApply says where this core member is.
func (a *Agent) ownApply() (applyAnswer, error) {
	n := a.core.node()
	if n == nil {
		return applyAnswer{}, api.Errorf(api.CodeUnavailable, "%s runs no Raft id now", a.ids.Node)
	}
	st := n.Status()
	out := applyAnswer{Member: api.MemberApply{Name: a.ids.Node, Commit: st.Commit, Applied: st.Applied, Withheld: st.Withheld}}
	out.Member.Lag = st.Commit - min(st.Commit, st.Applied)
	if s := st.StoppedAt; s != nil {
		out.Member.StoppedAt = &api.StoppedAt{Index: s.Index, Command: s.Place, Cause: s.Cause, Signature: fmt.Sprintf("%x", s.Signature[:8])}
	}
	for _, one := range st.Cases {
		told := api.ApplyCase{Index: one.Index, Command: one.Place, Verdict: one.Verdict, Answers: make(map[string]string)}
		for _, id := range one.Stopped {
			told.Stopped = append(told.Stopped, a.coreName(id))
		}
		for id, answer := range one.Answers {
			told.Answers[a.coreName(id)] = answer
		}
		out.Cases = append(out.Cases, told)
	}
	return out, nil
}

// coreName names the agent of a Raft id, or the id.
func (a *Agent) coreName(id uint64) string {
	name, _ := a.core.nodeOf(id)
	return cmp.Or(name, fmt.Sprintf("%x", id))
}

func (a *Agent) serveApplyStatus(context.Context, transport.Peer, []byte) ([]byte, error) {
	own, err := a.ownApply()
	if err != nil {
		return nil, toWire(err)
	}
	return json.Marshal(own)
}

// applyStatus asks all core members where they are.
func (a *Agent) applyStatus(ctx context.Context) (report api.ApplyReport, err error) {
	ctx, cancel := context.WithTimeout(ctx, applyWait)
	defer cancel()
	names := a.coreNames()
	answers, failed := make([]applyAnswer, len(names)), make([]error, len(names))
	var asked sync.WaitGroup
	for i, name := range names {
		asked.Go(func() { answers[i], failed[i] = a.askApply(ctx, name) })
	}
	asked.Wait()
	for i, name := range names {
		if failed[i] != nil {
			report.Unreachable = append(report.Unreachable, name)
			continue
		}
		report.Members = append(report.Members, answers[i].Member)
		report.Cases = append(report.Cases, answers[i].Cases...)
	}
	for _, q := range a.hub.View().Quarantined() {
		report.Quarantined = append(report.Quarantined, api.LeftOut{Index: q.Index, Command: q.Place, Kind: q.Kind, Hash: fmt.Sprintf("%x", q.Command), At: q.At.Wall()})
	}
	slices.SortFunc(report.Cases, func(a, b api.ApplyCase) int { return cmp.Compare(a.Index, b.Index) })
	return report, nil
}

func (a *Agent) askApply(ctx context.Context, node string) (answer applyAnswer, err error) {
	if node == a.ids.Node {
		return a.ownApply()
	}
	raw, err := a.pool.Call(ctx, node, methodApply, nil)
	if err != nil {
		return answer, err
	}
	return answer, json.Unmarshal(raw, &answer)
}

// quarantine takes an operator's decision, on the leader.
func (a *Agent) quarantine(ctx context.Context, index uint64, place int) error {
	n := a.core.node()
	if n == nil {
		return api.Errorf(api.CodeUnavailable, "%s runs no Raft id now", a.ids.Node).WithHint("ask the leader: parley core names it")
	}
	var notLeader *consensus.NotLeaderError
	err := n.Quarantine(ctx, index, place)
	switch {
	case errors.As(err, &notLeader):
		leader, _ := a.core.nodeOf(notLeader.Leader)
		return api.Errorf(api.CodeNotLeader, "%s does not lead", a.ids.Node).WithHint("the leader decides: run it on the host of %s", cmp.Or(leader, "the leader that parley core names"))
	case errors.Is(err, consensus.ErrQuarantine):
		return api.Errorf(api.CodeConflict, "%v", err).WithHint("parley apply status shows where members stopped, and what is missing")
	case err != nil:
		return a.consensusError(err)
	}
	a.log.Warn("an operator had a command left out", zap.Uint64("index", index), zap.Int("count", place))
	a.tellTimeline(api.EventApplyStopped, a.ids.Node, fmt.Sprintf("an operator had command %d of entry %d left out", place, index))
	return nil
}
