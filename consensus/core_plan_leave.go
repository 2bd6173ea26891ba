package consensus

import (
	"fmt"
	"slices"
)

// Leave says what becomes of the core when a node leaves the cluster.
type Leave struct {
	Role   string `json:"core"`           // of the node: leader, voter, learner or none
	Heir   string `json:"heir,omitempty"` // who takes its place, "" when nobody has to, or can
	Voters int    `json:"voters"`         // how many there are afterwards
	Reason string `json:"reason"`         // why it must not go, "" when it may
}

// MayLeave judges whether a node may leave the cluster. One outside the core may, and so may a voter when another node can
// take its place. Else the core becomes smaller by it, and only if the others, as they are now, have the quorum of the
// present voters: what was acknowledged is on enough of their disks, and nothing waits for the one that goes. While one
// voter of three is dead neither of the other two may leave.
func MayLeave(in PlanInput, node string) Leave {
	in.Members = slices.Clone(in.Members)
	for i := range in.Members {
		if in.Members[i].Node == node {
			in.Members[i].Leaving = true
		}
	}
	p := newPlanner(in)
	l := Leave{Role: "none", Voters: len(p.voters)}
	i := slices.IndexFunc(p.nodes, func(n *planNode) bool { return n.node == node && (n.voter || n.learner) })
	if i < 0 {
		return l
	}
	n := p.nodes[i]
	switch {
	case n.learner:
		l.Role = "learner"
		return l
	case n.id == in.Self:
		l.Role = "leader"
	default:
		l.Role = "voter"
	}
	rest := without(p.voters, n)
	if heirs := p.choose(rest, 1, 0); len(heirs) > 0 {
		l.Heir = heirs[0].node
		return l
	}
	if l.Reason = p.needed(n); l.Reason == "" {
		l.Voters = len(rest) - (1 - len(rest)%2) // see letGo
	}
	return l
}

// needed says why the others have no quorum without a voter, "" if they have. Another one that leaves does not count.
func (p *planner) needed(v *planNode) string {
	staying := 0
	for _, o := range p.voters {
		if o != v && o.active && o.wanted() {
			staying++
		}
	}
	if quorum := len(p.voters)/2 + 1; staying < quorum {
		return fmt.Sprintf("%d of the other %d voters stay and are healthy, %d are needed, and no other agent can take its place",
			staying, len(p.voters)-1, quorum)
	}
	return ""
}

// letGo drops a voter that leaves the cluster and that nobody can replace. Their number stays odd: another voter becomes a
// learner, so that of three one votes and one learns, as with two agents at the beginning. The same voters take part in
// both sets of the joint change, so that nothing acknowledged is left behind.
func (p *planner) letGo() (Action, bool) {
	for _, v := range p.voters {
		rest := without(p.voters, v)
		if !v.member || !v.leaving || len(p.choose(rest, 1, 0)) > 0 || p.needed(v) != "" {
			continue
		}
		reason := v.name() + " leaves, and no other agent can take its place"
		if v.id == p.in.Self {
			to := p.successor()
			if to == nil {
				continue
			}
			return Action{Kind: ActionTransfer, To: to.id, Reason: reason}, true
		}
		a := Action{Kind: ActionChange, DropVoters: []uint64{v.id}, Reason: reason}
		if len(rest)%2 == 0 {
			learns := p.worst(rest)
			if learns == nil || !caughtUpAfter(without(rest, learns)) {
				continue
			}
			a.Demote = []uint64{learns.id}
			p.keep([]*planNode{learns})
		}
		return a, true
	}
	return Action{}, false
}

// caughtUpAfter reports whether a set of voters has, live and complete, a majority of itself.
func caughtUpAfter(voters []*planNode) bool {
	complete := 0
	for _, v := range voters {
		if v.active && v.caughtUp {
			complete++
		}
	}
	return complete >= len(voters)/2+1
}
