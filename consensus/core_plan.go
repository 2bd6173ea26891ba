package consensus

import (
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// PlanInput is what the leader knows when it looks after the membership of the core.
type PlanInput struct {
	Size         int    // wanted voters: 1, 3, 5 or 7; others count as the next smaller one
	Self         uint64 // this node, which leads
	Members      []PlanMember
	Voters       []uint64
	Outgoing     []uint64 // not empty: a joint change is not finished
	Learners     []uint64
	Progress     map[uint64]Progress // the others; an id without an entry counts as not active
	Commit       uint64
	ReplaceAfter time.Duration // 0 = DefaultReplaceAfter
	Held         bool          // an operator does maintenance: change nothing
}

// PlanMember is one node that could be, is or was in the core.
type PlanMember struct {
	Node, Zone string
	Granted    bool // the cluster allows it in the core
	Withdrawn  bool // it asks not to be in the core
	Leaving    bool // it leaves the cluster, and asks to be let go
	Held       bool // an operator does maintenance there: not replaced while it is away, and chosen for nothing
	Ready      bool // it has opened the sealed root and may vote
	RaftID     uint64
	Alive      bool          // gossip holds it alive
	AliveFor   time.Duration // since when, if Alive
	// DeadFor is for how long Raft has not heard it; while Alive is false, the shorter of that and
	// of the time that gossip holds it dead.
	DeadFor time.Duration
}

// Defaults and constants of planning.
const (
	DefaultReplaceAfter = 10 * time.Minute
	// hearsayFactor: dead in Raft but alive in gossip is more often a broken link than a broken node.
	hearsayFactor = 3
	// stableZone is how long a node must be alive before a voter moves to it only for its zone.
	stableZone = 30 * time.Minute
	// settleFor is how long agents must be alive before they crowd a zone of a core that grows: at the start of a cluster
	// those of other zones may be about to join, and once it has grown nobody moves for stableZone.
	settleFor = 5 * time.Second
	// caughtUpWithin is how many entries behind a learner may vote: less than a heartbeat's worth. One that has none is not
	// behind, it is nobody yet: see Progress.caughtUp.
	caughtUpWithin = 256
	maxCoreSize    = 7
)

// ActionKind says which fields of an Action count.
type ActionKind string

// The kinds of Action.
const (
	ActionNone        ActionKind = "none"
	ActionAssignID    ActionKind = "assign-id"    // Node: allocate a Raft id for it
	ActionAddLearners ActionKind = "add-learners" // IDs
	ActionChange      ActionKind = "change"       // AddVoters, DropVoters, DropLearners, Demote in one joint change
	ActionRetire      ActionKind = "retire"       // RaftID: out of the core for good, never used again
	ActionTransfer    ActionKind = "transfer"     // To: move the lead
)

// Action is the one next step. The caller performs it, waits for its effect, and plans again.
type Action struct {
	Kind         ActionKind
	Reason       string // for people
	Node         string
	IDs          []uint64
	AddVoters    []uint64
	DropVoters   []uint64
	DropLearners []uint64
	Demote       []uint64 // voters that become learners
	RaftID       uint64
	To           uint64

	plain bool // a planted mistake: not jointly
}

// ConfChange returns the change to propose for AddLearners and Change, nil for the others. Voters
// change jointly, so that no intermediate set of voters ever decides.
func (a Action) ConfChange() *raftpb.ConfChangeV2 {
	cc := &raftpb.ConfChangeV2{}
	add := func(t raftpb.ConfChangeType, ids []uint64) {
		for _, id := range ids {
			cc.Changes = append(cc.Changes, &raftpb.ConfChangeSingle{Type: t.Enum(), NodeId: new(id)})
		}
	}
	switch a.Kind {
	case ActionAddLearners:
		add(raftpb.ConfChangeAddLearnerNode, a.IDs)
	case ActionChange:
		add(raftpb.ConfChangeAddNode, a.AddVoters)
		add(raftpb.ConfChangeRemoveNode, a.DropVoters)
		add(raftpb.ConfChangeRemoveNode, a.DropLearners)
		add(raftpb.ConfChangeAddLearnerNode, a.Demote)
		if len(a.AddVoters)+len(a.DropVoters) > 0 && !a.plain {
			cc.Transition = raftpb.ConfChangeTransitionJointImplicit.Enum()
		}
	default:
		return nil
	}
	return cc
}

// Plan returns the next step towards a core of Size voters that the cluster allows, alive, and
// spread over zones. It is a pure function: run it again whenever anything changed.
//
// It is made so that a mistaken input cannot cost the quorum. Voters change one at a time (two when
// growing or shrinking by an even step, so that their number stays odd), only to learners that have
// caught up, never so that fewer failures are survived than before, except when an operator lowers
// Size or has a member leave without which the others have their quorum. A node's absence alone never removes it: it is replaced when there is another, or kept.
// Without the rule of improvement a flapping network would rotate voters for ever; without the
// waits a reboot would.
//
// The order: finish what is begun, shrink, grow, replace, let go, spread, tidy up.
func Plan(in PlanInput) Action {
	p := newPlanner(in)
	if in.Held || len(in.Outgoing) > 0 || !slices.Contains(in.Voters, in.Self) {
		return Action{Kind: ActionNone}
	}
	for _, step := range []func() (Action, bool){p.plantedShrink, p.shrink, p.grow, p.replace, p.letGo, p.spread, p.tidy} {
		if a, ok := step(); ok {
			return p.plantedChange(a)
		}
	}
	return Action{Kind: ActionNone}
}

// shrink drops voters when Size was lowered: to the next odd number, the worst ones.
func (p *planner) shrink() (Action, bool) {
	if len(p.voters) <= p.size {
		return Action{}, false
	}
	drop := oddStep(len(p.voters))
	left := slices.Clone(p.voters)
	var dropped []*planNode
	for range drop {
		v := p.worst(left)
		if v == nil {
			return Action{}, false
		}
		left = without(left, v)
		dropped = append(dropped, v)
	}
	if p.score(left).margin < 0 {
		return Action{}, false // the rest would have no quorum
	}
	return Action{Kind: ActionChange, DropVoters: ids(dropped), Reason: fmt.Sprintf("core size is %d", p.size)}, true
}

// oddStep returns by how much the number of voters may change so that the next is odd.
func oddStep(voters int) int { return 1 + voters%2 }

// worst returns the voter that is missed least: unwanted, then dead, then the one without which the
// zones stand best. Never this node.
func (p *planner) worst(voters []*planNode) *planNode {
	var worst *planNode
	rank := func(n *planNode) (int, score) {
		switch rest := p.score(without(voters, n)); {
		case !n.wanted():
			return 0, rest
		case !n.active:
			return 1, rest
		default:
			return 2, rest
		}
	}
	for _, n := range voters {
		if n.id == p.in.Self {
			continue
		}
		if worst == nil {
			worst = n
			continue
		}
		r, s := rank(n)
		wr, ws := rank(worst)
		if r < wr || r == wr && s.better(ws) {
			worst = n
		}
	}
	return worst
}

// grow adds voters up to Size, by the number that keeps theirs odd; with fewer spares than that
// they learn and wait. With two agents one votes and one learns.
func (p *planner) grow() (Action, bool) {
	if len(p.voters) >= p.size {
		return Action{}, false
	}
	need := oddStep(len(p.voters))
	chosen := p.choose(p.voters, need, 0)
	p.keep(chosen)
	if p.unsettled(chosen) {
		return Action{}, false
	}
	if a, ok := p.prepare(chosen, "the core grows"); ok {
		return a, true
	}
	if len(chosen) < need || !allReady(chosen) {
		return Action{}, false
	}
	after := slices.Concat(p.voters, chosen)
	if !p.score(after).better(p.score(p.voters)) {
		return Action{}, false
	}
	return Action{Kind: ActionChange, AddVoters: ids(chosen), Reason: fmt.Sprintf("core grows to %d voters", len(after))}, true
}

// replace swaps one voter that is not wanted any more or dead for long enough.
func (p *planner) replace() (Action, bool) {
	for _, v := range p.voters {
		reason := v.lost(p.after)
		if reason == "" {
			continue
		}
		rest := without(p.voters, v)
		chosen := p.choose(rest, 1, 0)
		p.keep(chosen)
		if len(chosen) == 0 {
			continue
		}
		if a, ok := p.prepare(chosen, fmt.Sprintf("%s is to replace %s: %s", chosen[0].node, v.name(), reason)); ok {
			return a, true
		}
		before, after := p.score(p.voters), p.score(append(rest, chosen...))
		worse := after.margin < before.margin || v.wanted() && !after.better(before)
		if worse || !allReady(chosen) {
			continue
		}
		return p.swap(v, chosen[0], fmt.Sprintf("%s replaces %s: %s", chosen[0].node, v.name(), reason))
	}
	return Action{}, false
}

// spread swaps one voter when that makes the loss of the worst zone less bad.
func (p *planner) spread() (Action, bool) {
	before := p.score(p.voters)
	var drop, add *planNode
	best := before
	for _, v := range p.voters {
		rest := without(p.voters, v)
		chosen := p.choose(rest, 1, stableZone)
		if len(chosen) == 0 || !v.active || !v.wanted() || v.held {
			continue
		}
		caught := *chosen[0] // it is swapped in only once it has caught up
		caught.active = true
		after := p.score(append(rest, &caught))
		if after.margin >= before.margin && after.zone > best.zone || after == best && drop != nil && drop.id == p.in.Self {
			drop, add, best = v, chosen[0], after
		}
	}
	if drop == nil {
		return Action{}, false
	}
	chosen := []*planNode{add}
	p.keep(chosen)
	reason := fmt.Sprintf("zone %q for zone %q", add.zone, drop.zone)
	if a, ok := p.prepare(chosen, reason); ok {
		return a, true
	}
	if !allReady(chosen) {
		return Action{}, false
	}
	return p.swap(drop, add, reason)
}

// swap replaces one voter by one learner; this node first gives the lead away.
func (p *planner) swap(drop, add *planNode, reason string) (Action, bool) {
	if drop.id != p.in.Self {
		return Action{Kind: ActionChange, AddVoters: []uint64{add.id}, DropVoters: []uint64{drop.id}, Reason: reason}, true
	}
	to := p.successor()
	if to == nil {
		return p.joinFirst(add, reason)
	}
	return Action{Kind: ActionTransfer, To: to.id, Reason: "leader makes room: " + reason}, true
}

// successor is the voter that should lead when this node goes, nil if there is none.
func (p *planner) successor() *planNode {
	better := func(a, b *planNode) bool { return a.held != b.held && b.held || a.held == b.held && a.match > b.match }
	var to *planNode
	for _, v := range p.voters {
		if v.id != p.in.Self && v.active && v.wanted() && v.lost(p.after) == "" && (to == nil || better(v, to)) {
			to = v
		}
	}
	return to
}

// joinFirst handles the only voter that must go: nobody else can lead before the other is in, and
// two voters would be an even set. The joint change drops this node at the end of it.
func (p *planner) joinFirst(add *planNode, reason string) (Action, bool) {
	if len(p.voters) > 1 {
		return Action{}, false
	}
	return Action{Kind: ActionChange, AddVoters: []uint64{add.id}, DropVoters: []uint64{p.in.Self}, Reason: reason}, true
}

// prepare makes learners of the chosen: ids first, one by one, then all in one change.
func (p *planner) prepare(chosen []*planNode, reason string) (Action, bool) {
	var join []*planNode
	for _, n := range chosen {
		if n.id == 0 {
			return Action{Kind: ActionAssignID, Node: n.node, Reason: reason}, true
		}
		if !n.learner {
			join = append(join, n)
		}
	}
	if len(join) == 0 {
		return Action{}, false
	}
	return Action{Kind: ActionAddLearners, IDs: ids(join), Reason: reason}, true
}

// tidy removes learners that nothing waits for, and retires ids that are out of the core. While a
// voter is not heard its possible successors stay: a link that comes and goes must not cost a
// snapshot and a Raft id each time.
func (p *planner) tidy() (Action, bool) {
	complete := !slices.ContainsFunc(p.voters, func(v *planNode) bool { return !v.active })
	for _, n := range p.nodes {
		useful := n.wanted() && !n.gone(p.after) && (p.kept[n.id] || n.held || !complete)
		switch {
		case n.id == 0 || n.voter || useful:
		case n.learner:
			return Action{Kind: ActionChange, DropLearners: []uint64{n.id}, Reason: n.name() + " is not needed as a learner"}, true
		case n.member:
			return Action{Kind: ActionRetire, RaftID: n.id, Reason: n.name() + " has left the core"}, true
		}
	}
	return Action{}, false
}
