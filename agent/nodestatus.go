package agent

import (
	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
)

// nodeStatus describes an agent as this one sees it. This agent's own starts come from its ledger, those of others
// from what gossip showed of them.
func (a *Agent) nodeStatus(name string) (api.NodeStatus, bool) {
	out := api.NodeStatus{Name: name}
	for _, m := range a.apiMembers() {
		if m.Name == name {
			out.State, out.Core, out.Address, out.Zone = m.State, m.Core, m.Address, m.Zone
		}
	}
	if out.State == "" {
		return out, false
	}
	for _, m := range a.memberList() {
		if m.Name == name {
			out.Incarnation, out.Version = m.Epoch, m.Version
		}
	}
	if name == a.ids.Node {
		out.Starts10m, out.CrashStarts10m, out.Reachable = a.ownStarts(), a.crashStarts()[name], true
		out.SafeMode = a.safe.level()
		return out, true
	}
	out.Starts10m, out.CrashStarts10m = a.starts.of(name, clock.Boottime()), a.crashStarts()[name]
	if pings := a.links.pings.Load(); pings != nil {
		out.Reachable, out.SafeMode = (*pings)[name].ok, (*pings)[name].safe
	}
	return out, true
}

// ownStarts counts this agent's starts in the last ten minutes.
func (a *Agent) ownStarts() int {
	if a.ledger == nil {
		return 0
	}
	return a.ledger.starts()
}

// maxStarts10m is the largest count of starts in the last ten minutes, of this agent or of any that gossip shows.
func (a *Agent) maxStarts10m() (float64, bool) {
	return float64(max(a.ownStarts(), a.starts.most(clock.Boottime()))), true
}
