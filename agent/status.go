package agent

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
)

// timeStep rounds durations that people read.
const timeStep = time.Second

// now is the clock by which certificates are made and judged.
func (a *Agent) now() time.Time {
	if a.opts.wall != nil {
		return a.opts.wall()
	}
	return clock.System()
}

// apiMembers joins gossip's view of who is alive with the core's roles. An agent that the replicated
// state knows and gossip has not met yet is listed as dead.
func (a *Agent) apiMembers() []api.Member {
	roles := a.coreRoles()
	var out []api.Member
	seen := make(map[string]bool)
	for _, m := range a.memberList() {
		seen[m.Name] = true
		out = append(out, a.apiMember(m.Name, string(m.State), m.Addr.String(), m.Zone, roles))
	}
	for _, n := range a.hub.View().Nodes() {
		switch {
		case seen[n.Name]:
		case n.Left:
			out = append(out, a.apiMember(n.Name, string(membership.StateLeft), n.Address, n.Zone, roles))
		default:
			out = append(out, a.apiMember(n.Name, string(membership.StateDead), n.Address, n.Zone, roles))
		}
	}
	slices.SortFunc(out, func(x, y api.Member) int { return strings.Compare(x.Name, y.Name) })
	return out
}

func (a *Agent) apiMember(name, state, address, zone string, roles map[string]string) api.Member {
	role, ok := roles[name]
	if !ok {
		role = "none"
	}
	_, copied := a.hub.View().Fork(name)
	id, err := security.AgentID(a.issuer.td, name)
	if err != nil {
		id = spiffeid.ID{} // gossip and state admit valid names only
	}
	return api.Member{
		Name: name, SPIFFEID: id.String(),
		State: state, Address: address, Zone: zone, Core: role, Copied: copied,
	}
}

// coreRoles says who leads, votes and learns, by node name. Outside the core it is as the replicated
// state has it, which knows ids but not votes: the status of a core member is asked for those.
func (a *Agent) coreRoles() map[string]string {
	roles := make(map[string]string)
	st := a.coreStatus()
	for _, l := range st.Learners {
		roles[l.Name] = "learner"
	}
	for _, v := range st.Voters {
		roles[v.Name] = "voter"
	}
	if st.Leader != nil {
		roles[*st.Leader] = "leader"
	}
	return roles
}

// coreStatus is the core as this agent sees it. An agent outside the core shows what a core member
// last told it.
func (a *Agent) coreStatus() api.CoreStatus {
	n := a.core.member()
	if n == nil {
		return a.toldCore()
	}
	return coreStatusOf(n.Status(), a.hub.View(), a.aliveNodes())
}

// coreNow is coreStatus, and whether it is of now: an agent outside the core may not have been told.
func (a *Agent) coreNow() (status api.CoreStatus, known bool) {
	if a.core.member() != nil {
		return a.coreStatus(), true
	}
	return a.toldCore(), a.remoteCore.fresh()
}

// toldCore is what a core member last told this agent. Of an epoch that has passed nobody leads.
func (a *Agent) toldCore() api.CoreStatus {
	s, now := a.remoteCore.get(), a.epochs.current()
	if s.Epoch < now.Counter {
		s = leaderless(s)
	}
	return ofEpoch(s, now)
}

func ofEpoch(s api.CoreStatus, e state.Epoch) api.CoreStatus {
	if e.Counter == 0 {
		return s // before anything is known
	}
	s.Epoch, s.EpochID = e.Counter, hex.EncodeToString(e.ID[:])
	return s
}

// aliveNodes are the nodes that gossip holds alive, this agent among them.
func (a *Agent) aliveNodes() map[string]bool {
	alive := map[string]bool{a.ids.Node: true}
	for _, m := range a.memberList() {
		if m.State == membership.StateAlive {
			alive[m.Name] = true
		}
	}
	return alive
}

// coreStatusOf puts names to a consensus status. A voter is healthy when the leader hears from it,
// or, on a follower, when gossip does.
func coreStatusOf(st consensus.Status, v *state.View, alive map[string]bool) api.CoreStatus {
	out := api.CoreStatus{Term: st.Term, CommitIndex: st.Commit, AppliedIndex: st.Applied, Size: v.Cluster().CoreSize, ReadOnly: st.ReadOnly, Reads: readsBy(st)}
	member := func(id uint64) api.CoreMember {
		m, _ := v.CoreByID(id)
		healthy := alive[m.Node]
		if p, ok := st.Progress[id]; ok && id != st.ID {
			healthy = p.Healthy()
		}
		return api.CoreMember{Name: m.Node, RaftID: fmt.Sprintf("%x", id), Healthy: healthy}
	}
	healthy := 0
	for _, id := range st.Voters {
		m := member(id)
		out.Voters = append(out.Voters, m)
		if m.Healthy {
			healthy++
		}
		if id == st.Leader {
			out.Leader = &m.Name
		}
	}
	for _, id := range st.Learners {
		out.Learners = append(out.Learners, member(id))
	}
	out.Margin = healthy - (len(st.Voters)/2 + 1)
	for _, n := range v.Nodes() {
		if n.Held(v.Stamp()) {
			out.Held = append(out.Held, api.Hold{Name: n.Name, Until: n.HeldUntil.Wall()})
		}
	}
	if out.Leader == nil {
		out = leaderless(out)
	}
	return ofEpoch(out, v.Cluster().Epoch)
}

// leaderless is a core while nobody leads it. Writes have stopped then, however many voters are healthy, so its margin
// is below 0: who waits for a margin waits for writes.
func leaderless(s api.CoreStatus) api.CoreStatus {
	s.Leader, s.Margin = nil, min(s.Margin, -1)
	return s
}

// status answers GET /parley/v1/status.
func (a *Agent) status() api.AgentStatus {
	core := a.coreStatus()
	return api.AgentStatus{
		Name: a.ids.Node, ClusterID: a.ids.ClusterID, TrustDomain: a.ids.TrustDomain, Version: a.opts.Version,
		Ready: a.isReady(core), Core: core, SafeMode: a.safe.level(),
		SVID:   api.SVID{SPIFFEID: a.source.ID().String(), NotAfter: a.source.NotAfter().UTC()},
		Digest: stateDigest(a.hub.View()),
	}
}

func stateDigest(v *state.View) *api.StateDigest {
	public := v.ClassDigest(state.ClassPublic)
	d := &api.StateDigest{Revision: v.Revision(), Public: hex.EncodeToString(public[:])}
	if v.Holds(state.ClassKV) {
		all := v.DigestOf(revisedClasses)
		d.All = hex.EncodeToString(all[:])
	}
	return d
}

// revisedClasses are those whose rows change with the revision: what the replicas remember of requests does not.
var revisedClasses = state.NewClassSet(state.ClassPublic, state.ClassKV, state.ClassCore)
