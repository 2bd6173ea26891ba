package sim

import (
	"time"

	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/storage"
)

const (
	planEvery    = 200 * time.Millisecond
	replaceAfter = 2 * time.Second
)

// control lets the leader look after the membership of the core, by the planner of production.
func (c *cluster) control() {
	c.after(planEvery, func() {
		c.control()
		if l := c.leader(); l != nil && !c.frozen {
			c.plan(l)
		}
	})
}

func (c *cluster) plan(l *host) {
	s := l.rep.Status()
	if !s.Confirmed {
		return
	}
	in := consensus.PlanInput{
		Size: c.size, Self: l.id, Voters: s.Voters, Outgoing: s.Outgoing, Learners: s.Learners,
		Progress: s.Progress, Commit: s.Commit, ReplaceAfter: replaceAfter,
	}
	for _, h := range c.hosts {
		m := consensus.PlanMember{Node: h.name, Granted: true, Ready: true, RaftID: h.id, Alive: h.up || h.id == 0}
		if since := c.now - h.since; m.Alive {
			m.AliveFor = since
		} else {
			m.DeadFor = since
		}
		in.Members = append(in.Members, m)
	}
	a := consensus.Plan(in)
	change := a.ConfChange()
	c.checkPlan(s, a)
	switch {
	case a.Kind == consensus.ActionTransfer:
		c.trace("plan: transfer to %d: %s", a.To, a.Reason)
		c.transferAt = c.now
		l.do(func() error { return l.rep.TransferLeader(a.To, func(error) {}) })
	case a.Kind == consensus.ActionRetire:
		if h := c.byID(a.RaftID); h != nil && h.up {
			c.trace("plan: %s is retired: %s", h.name, a.Reason)
			h.crash(storage.LoseUnsynced)
			h.past, h.id = h.id, 0
		}
	case a.Kind == consensus.ActionAssignID:
		for _, h := range c.hosts {
			if h.name == a.Node && h.id == 0 {
				c.note("id assigned")
				c.renew(h)
			}
		}
	case change != nil:
		c.note("plan: " + string(a.Kind))
		c.trace("plan: %s %v %v %v %v: %s", a.Kind, a.IDs, a.AddVoters, a.DropVoters, a.DropLearners, a.Reason)
		l.do(func() error { return l.rep.ChangeCore(change, func(error) {}) })
	}
}

// checkPlan holds the planner to its promises.
func (c *cluster) checkPlan(s consensus.Status, a consensus.Action) {
	if a.Kind != consensus.ActionChange {
		return
	}
	for _, id := range a.AddVoters {
		if match := s.Progress[id].Match; match == 0 || match+300 < s.Commit {
			c.fail("the plan makes %d a voter that is at %d of %d", id, match, s.Commit)
		}
	}
	if len(a.DropVoters) > 1 && len(a.AddVoters) > 0 {
		c.fail("the plan replaces %v at once", a.DropVoters)
	}
	if after := len(s.Voters) + len(a.AddVoters) - len(a.DropVoters); after < len(s.Voters) {
		c.fail("the plan makes the core smaller: %d voters of %d", after, len(s.Voters))
	}
}
