package consensus

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/parley-mesh/parley/mutant"
)

// planNode is one node with everything that planning asks about it. A Raft id in the configuration
// without a member behind it (retired, evicted) has member false and is not wanted.
type planNode struct {
	id             uint64
	node, zone     string
	member         bool
	granted        bool
	ready          bool
	leaving, held  bool
	alive          bool
	aliveFor, dead time.Duration
	active         bool // heard by Raft, or this node
	match          uint64
	caughtUp       bool
	voter, learner bool
}

// wanted reports whether the cluster and the node itself want it in the core.
func (n *planNode) wanted() bool { return n.member && n.granted && !n.leaving }

func (n *planNode) name() string {
	if n.node == "" {
		return fmt.Sprintf("raft id %x", n.id)
	}
	return n.node
}

// lost says why a voter should be replaced, "" if it should not.
func (n *planNode) lost(after time.Duration) string {
	switch {
	case !n.member:
		return "its raft id is retired"
	case !n.granted:
		return "it may not be or does not want to be in the core"
	case n.leaving:
		return "it leaves"
	case n.gone(after):
		return fmt.Sprintf("not heard for %v", n.dead.Truncate(time.Second))
	}
	return ""
}

// gone reports whether the node counts as dead: held so by Raft and gossip for after, or by Raft
// alone for three times that. One in maintenance is expected back.
func (n *planNode) gone(after time.Duration) bool {
	if n.active || n.held {
		return false
	}
	if n.alive {
		after *= hearsayFactor
	}
	return n.dead >= after
}

// planner is the input, digested.
type planner struct {
	in     PlanInput
	size   int
	after  time.Duration
	nodes  []*planNode // members by name, then unknown ids
	voters []*planNode // ascending id
	kept   map[uint64]bool
}

func newPlanner(in PlanInput) *planner {
	p := &planner{in: in, size: coreSize(in.Size), after: in.ReplaceAfter, kept: make(map[uint64]bool)}
	if p.after <= 0 {
		p.after = DefaultReplaceAfter
	}
	known := make(map[uint64]bool)
	for _, m := range in.Members {
		p.nodes = append(p.nodes, p.describe(m))
		known[m.RaftID] = true
	}
	slices.SortFunc(p.nodes, func(a, b *planNode) int { return cmp.Compare(a.node, b.node) })
	rest := slices.Sorted(slices.Values(slices.Concat(in.Voters, in.Learners)))
	for _, id := range slices.Compact(rest) {
		if !known[id] {
			n := p.describe(PlanMember{RaftID: id})
			n.member = false
			p.nodes = append(p.nodes, n)
		}
	}
	for _, n := range p.nodes {
		if n.voter {
			p.voters = append(p.voters, n)
		}
	}
	slices.SortFunc(p.voters, func(a, b *planNode) int { return cmp.Compare(a.id, b.id) })
	return p
}

func (p *planner) describe(m PlanMember) *planNode {
	pr := p.in.Progress[m.RaftID]
	self := m.RaftID == p.in.Self
	return &planNode{
		id: m.RaftID, node: m.Node, zone: m.Zone, member: true, granted: m.Granted && !m.Withdrawn, ready: m.Ready,
		leaving: m.Leaving, held: m.Held,
		alive: m.Alive, aliveFor: m.AliveFor, dead: m.DeadFor,
		active: self || pr.Healthy() && m.RaftID != 0, match: pr.Match,
		caughtUp: self || pr.caughtUp(p.in.Commit) || mutant.On(mutant.PromoteBehind),
		voter:    m.RaftID != 0 && slices.Contains(p.in.Voters, m.RaftID),
		learner:  m.RaftID != 0 && slices.Contains(p.in.Learners, m.RaftID),
	}
}

// coreSize returns the largest size of 1, 3, 5 and 7 that is not above n.
func coreSize(n int) int {
	n = min(max(n, 1), maxCoreSize)
	return n - 1 + n%2
}

// score says what a set of voters survives.
type score struct {
	margin int // live voters beyond a quorum: how many more may fail
	zone   int // the same after the loss of the worst zone; an unnamed zone is a zone of its own node
}

// better compares the margin first: zones are about what may happen, the dead about what has.
func (s score) better(o score) bool {
	return s.margin > o.margin || s.margin == o.margin && s.zone > o.zone
}

func (p *planner) score(voters []*planNode) score {
	live, quorum := 0, len(voters)/2+1
	zones := make(map[string]int)
	for _, v := range voters {
		if !v.active {
			continue
		}
		live++
		zone := "zone " + v.zone
		if v.zone == "" {
			zone = fmt.Sprintf("id %d of %s", v.id, v.node)
		}
		zones[zone]++
	}
	largest := 0
	for _, n := range zones {
		largest = max(largest, n)
	}
	return score{margin: live - quorum, zone: live - largest - quorum}
}

// choose picks up to count spares to vote beside voters: those that spread the zones best, and
// among equals those that are furthest on their way, so that the choice does not wander.
func (p *planner) choose(voters []*planNode, count int, aliveFor time.Duration) []*planNode {
	var spares []*planNode
	for _, n := range p.nodes {
		if !n.voter && n.wanted() && !n.held && n.alive && n.aliveFor >= aliveFor && !(n.learner && n.gone(p.after)) {
			spares = append(spares, n)
		}
	}
	var chosen []*planNode
	for len(chosen) < count && len(spares) > 0 {
		beside := slices.Concat(voters, chosen)
		best := spares[0]
		for _, n := range spares[1:] {
			if p.prefer(beside, n, best) {
				best = n
			}
		}
		chosen = append(chosen, best)
		spares = without(spares, best)
	}
	return chosen
}

func (p *planner) prefer(beside []*planNode, a, b *planNode) bool {
	if za, zb := sharing(beside, a), sharing(beside, b); za != zb {
		return za < zb
	}
	if sa, sb := a.stage(), b.stage(); sa != sb {
		return sa > sb
	}
	return a.node < b.node
}

// unsettled reports whether one of the chosen, or of the voters, would share its zone, and one of the chosen is so new that
// a better choice may be about to come.
func (p *planner) unsettled(chosen []*planNode) bool {
	after := slices.Concat(p.voters, chosen)
	crowded := slices.ContainsFunc(chosen, func(n *planNode) bool { return sharing(without(after, n), n) > 0 })
	return crowded && slices.ContainsFunc(chosen, func(n *planNode) bool { return n.aliveFor < settleFor })
}

// sharing counts the voters in the zone of n.
func sharing(voters []*planNode, n *planNode) int {
	count := 0
	for _, v := range voters {
		if n.zone != "" && v.zone == n.zone {
			count++
		}
	}
	return count
}

// stage tells how far a node is on its way to vote.
func (n *planNode) stage() int {
	switch {
	case n.learner && n.caughtUp && n.ready:
		return 3
	case n.learner:
		return 2
	case n.id != 0:
		return 1
	}
	return 0
}

// keep marks nodes that a step waits for, so that tidy leaves them alone.
func (p *planner) keep(nodes []*planNode) {
	for _, n := range nodes {
		p.kept[n.id] = true
	}
}

func allReady(nodes []*planNode) bool {
	for _, n := range nodes {
		if !n.learner || !n.caughtUp || !n.ready {
			return false
		}
	}
	return true
}

func without(nodes []*planNode, drop *planNode) []*planNode {
	var rest []*planNode
	for _, n := range nodes {
		if n != drop {
			rest = append(rest, n)
		}
	}
	return rest
}

func ids(nodes []*planNode) []uint64 {
	var list []uint64
	for _, n := range nodes {
		list = append(list, n.id)
	}
	slices.Sort(list)
	return list
}
