package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/storage"
)

// apiOptions fills the API's table of functions with what the parts offer.
func (a *Agent) apiOptions() api.Options {
	return api.Options{
		Local: api.Local{
			Node: a.ids.Node, TrustDomain: a.source.ID().TrustDomain(), Hub: a.hub, HoldsKV: func() bool { return a.core.member() != nil }, Leader: a.leader, Leaderless: a.leaderWatch.get,
			MembersChanged: a.membersChanged, Starts: func() uint64 { return a.incarnation },
			Propose: a.propose, Begin: a.begin, ReadIndex: a.readIndex, Call: a.call, RoleOf: a.roleOf, CoreNodes: a.book.coreNodes,
			ClusterVersion: func() uint32 { return a.held.clusterVersion(a.hub.View()) },
			Members:        a.apiMembers, Core: a.coreStatus, Status: a.status, Health: a.health, Invariants: a.invariants,
			CreateToken: a.createToken, Ops: a.watcher.board.Snapshot, Metrics: a.watcher.registry.Handler(),
			EventTime: a.eventTime, PendingEvents: a.timeline.pending,
			CompareDigests: func(ctx context.Context) (api.DigestComparison, error) {
				return a.comparison.get(ctx, a.compareAndLocate)
			},
			Debug:      api.Debug{Bundle: a.debugBundle, Recordings: a.recordings.list, Forget: a.recordings.forget},
			Digests:    api.Digests{Diff: a.diffDigests, Accept: a.acceptDigest},
			LinkMatrix: func(ctx context.Context) (api.LinkMatrix, error) { return a.matrix.get(ctx, a.linkMatrix) },
			NodeStatus: a.nodeStatus,
			Check:      a.check, Scrub: a.apiScrub, AcceptTail: a.acceptTail, ApplyStatus: a.applyStatus, Quarantine: a.quarantine,
			RenewSession: a.sessions.renew, WriteSnapshot: a.writeSnapshot, Leave: a.leave, Certifies: a.certifiesHere, SignOperator: a.signOperator, CAStatus: a.caStatus, UseTokenKey: a.useTokenKey,
			CARequest: a.requestAuthority, CAExternal: a.useAuthority, CAReseal: a.resealByRecoveryKey,
			Identities: api.Identities{Show: a.showIdentities, Explain: a.explainIdentity},
		},
		AnonymousRole: policy.Role(a.cfg.HTTP.AnonymousRole),
		IdentifyTLS:   a.identifyTLS,
		Log:           a.log.Named("api"), Observe: a.watcher.observer(), Elapsed: a.watcher.elapsed,
	}
}

// leader names the leader: by the own node inside the core, else by asking nobody: any core member
// that gossip holds alive answers not_leader with the right name.
func (a *Agent) leader() (node string, self, known bool) {
	if a.safe.static() {
		return "", false, false
	}
	if a.core.leads() { // which most writes ask
		return a.ids.Node, true, true
	}
	n := a.core.member()
	if n == nil {
		return a.leaderHint.get(a.book.coreNodes())
	}
	st := n.Status()
	if st.Leader == 0 {
		return "", false, false
	}
	if st.Leader == st.ID {
		return a.ids.Node, true, true
	}
	name, ok := a.core.nodeOf(st.Leader)
	return name, false, ok
}

func (a *Agent) propose(ctx context.Context, command []byte) (api.Proposed, error) {
	n := a.core.running()
	if n == nil {
		return api.Proposed{}, api.Errorf(api.CodeNotLeader, "%s is outside the core", a.ids.Node)
	}
	p, err := n.node.Propose(ctx, command)
	return a.proposed(n, p, err)
}

// begin is propose for who does not wait.
func (a *Agent) begin(command []byte, done func(api.Proposed, error)) (giveUp func(cause error)) {
	n := a.core.running()
	if n == nil {
		done(api.Proposed{}, api.Errorf(api.CodeNotLeader, "%s is outside the core", a.ids.Node))
		return func(error) {}
	}
	return n.node.Begin(command, func(p consensus.Proposed, err error) { done(a.proposed(n, p, err)) })
}

// proposed is what the API is told of a proposal to n.
func (a *Agent) proposed(n *coreNode, p consensus.Proposed, err error) (api.Proposed, error) {
	if errors.Is(err, consensus.ErrGivenUp) && errors.Is(err, context.DeadlineExceeded) {
		return api.Proposed{}, api.Errorf(api.CodeDeadline, "deadline exceeded, not proposed")
	}
	if err != nil {
		return api.Proposed{}, a.consensusError(err)
	}
	if a.epochs.passed(n.epoch) {
		return api.Proposed{}, api.Errorf(api.CodeOutcomeUnknown, "the cluster was recovered into a new epoch, and this write was one of the epoch before").
			WithHint("read the key again: the new core does not have the write, unless it was recovered from a log that held it")
	}
	return api.Proposed{Index: p.Index, Term: p.Term, Stamp: p.Stamp, Data: p.Data}, nil
}

func (a *Agent) readIndex(ctx context.Context) (uint64, error) {
	n := a.core.running()
	if n == nil {
		return 0, api.Errorf(api.CodeNotLeader, "%s is outside the core", a.ids.Node)
	}
	index, err := n.node.ReadIndex(ctx)
	if err != nil {
		return 0, a.consensusError(err)
	}
	if a.epochs.passed(n.epoch) {
		return 0, api.Errorf(api.CodeNotLeader, "%s led in an epoch that has passed", a.ids.Node)
	}
	return index, nil
}

// consensusError gives the errors of a proposal or a read index their place in the API's table.
func (a *Agent) consensusError(err error) error {
	var notLeader *consensus.NotLeaderError
	var unknown *consensus.OutcomeUnknownError
	var refused *consensus.UnavailableError
	var low *lowSpaceError
	switch {
	case errors.As(err, &notLeader):
		e := api.Errorf(api.CodeNotLeader, "%s does not lead", a.ids.Node)
		if name, ok := a.core.nodeOf(notLeader.Leader); ok {
			e = e.WithLeader(name)
		}
		return e
	case errors.As(err, &unknown):
		return api.Errorf(api.CodeOutcomeUnknown, "%v", err)
	case errors.Is(err, consensus.ErrBusy):
		return api.Errorf(api.CodeBusy, "the leader has no room for another write")
	case errors.Is(err, consensus.ErrTooLarge):
		return api.Errorf(api.CodeTooLarge, "%v", err)
	case errors.As(err, &low):
		return api.Errorf(api.CodeNoSpace, "the disk of %s is almost full: %v", a.ids.Node, low)
	case errors.Is(err, storage.ErrNoSpace):
		return api.Errorf(api.CodeNoSpace, "the disk of %s is full", a.ids.Node)
	case errors.Is(err, consensus.ErrUndecided):
		return api.Errorf(api.CodeReadOnly, "writes are refused: %v", consensus.ErrUndecided)
	case errors.As(err, &refused):
		return api.Errorf(api.CodeUnavailable, "%s leads and takes no writes for now: %v", a.ids.Node, refused.Cause).
			WithHint("nothing was written; the log of %s says more, and the write may be sent again", a.ids.Node)
	case errors.Is(err, consensus.ErrStopped):
		return api.Errorf(api.CodeNotLeader, "%s is stopping", a.ids.Node)
	}
	return api.AsError(err)
}

// call asks another agent by RPC.
func (a *Agent) call(ctx context.Context, node, method string, body []byte) ([]byte, error) {
	out, err := a.pool.Call(ctx, node, method, body)
	err = fromWire(err)
	var e *api.Error
	switch {
	case err == nil:
	case errors.As(err, &e) && e.Code == api.CodeNotLeader:
		a.leaderHint.set(e.Leader)
	case ctx.Err() != nil || e != nil && (e.Code == api.CodeUnavailable || e.Code == api.CodeOutcomeUnknown):
		a.leaderHint.forget(node)
	}
	return out, err
}

// roleOf is what the cluster lets an agent do on behalf of others. The core grant implies operator.
func (a *Agent) roleOf(node string) policy.Role {
	v := a.hub.View()
	role, _ := a.held.roleOf(v, false, node, func() (policy.Role, bool) {
		row, ok := v.Node(node)
		if !ok || row.Left {
			return policy.None, false
		}
		return row.EffectiveRole(), true
	})
	return role
}

// health lists what this agent can do at the moment, and why not. What needs no leader goes on without.
func (a *Agent) health() []api.Capability {
	core := a.coreStatus()
	led := core.Leader != nil
	view, serving := a.hub.View(), a.ready.Load()
	left := a.source.NotAfter().Sub(a.now())
	stale := a.hasLiveCore()
	leaderless, cramped := unless(led, "no leader is known"), a.core.room.lack()
	return []api.Capability{
		{Name: "serving", OK: serving, Detail: unless(serving, "starting or stopping")},
		{Name: "identity", OK: left > 0, Detail: fmt.Sprintf("certificate valid for %s", left.Round(timeStep))},
		{Name: "view", OK: view.Index() > 0, Detail: fmt.Sprintf("at index %d", view.Index())},
		{Name: "discovery", OK: view.Index() > 0, Detail: unless(view.Index() > 0, "nothing is known of the cluster yet")},
		{Name: "stale_reads", OK: stale, Detail: unless(stale, "no core member is alive")},
		{Name: "runbooks", OK: true},
		{Name: "writes", OK: led && !core.ReadOnly, Detail: cmp.Or(leaderless, unless(!core.ReadOnly, "the core members hold different states and none has a majority"))},
		{Name: "linearizable_reads", OK: led, Detail: leaderless},
		{Name: "full_service", OK: !a.safe.quiet(), Detail: safeSays[a.safe.level()]},
		{Name: "core_room", OK: cramped == "", Detail: cramped},
	}
}

func unless(ok bool, detail string) string {
	if ok {
		return ""
	}
	return detail
}
