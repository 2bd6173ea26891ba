package agent

import (
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/ops"
)

// readCore notes the core. Without a fresh word of it only one thing is known: no leader.
func readCore(r ops.Readings, core api.CoreStatus, known bool) {
	r.SetBool(ops.CoreLeaderKnown, known && core.Leader != nil)
	if !known || len(core.Voters) == 0 {
		return
	}
	unhealthy := 0
	for _, v := range core.Voters {
		if !v.Healthy {
			unhealthy++
		}
	}
	r[ops.CoreVoters] = float64(len(core.Voters))
	r[ops.CoreLearners] = float64(len(core.Learners))
	r[ops.CoreQuorumMargin] = float64(core.Margin)
	r[ops.CoreUnhealthyVoters] = float64(unhealthy)
	r[ops.CoreTerm] = float64(core.Term)
	r[ops.CoreCommitIndex] = float64(core.CommitIndex)
	r[ops.CoreAppliedIndex] = float64(core.AppliedIndex)
}

func readMembers(r ops.Readings, members []membership.Member) {
	states := map[membership.State]string{
		membership.StateAlive: ops.MembersAlive, membership.StateSuspect: ops.MembersSuspect,
		membership.StateDead: ops.MembersDead, membership.StateLeft: ops.MembersLeft,
	}
	for _, metric := range states {
		r[metric] = 0
	}
	for _, m := range members {
		r[states[m.State]]++
	}
}

// readIdentity notes how much of the certificate's life is left.
func readIdentity(r ops.Readings, notBefore, notAfter, now time.Time) {
	if life := notAfter.Sub(notBefore); life > 0 {
		r[ops.IdentityRemaining] = min(1, max(0, float64(notAfter.Sub(now))/float64(life)))
	}
}

func readDisk(r ops.Readings, dir string) {
	free, total, ok := diskSpace(dir)
	if ok && total > 0 {
		r[ops.StorageFreeBytes] = float64(free)
		r[ops.StorageFreeRatio] = float64(free) / float64(total)
	}
}

// coreFacts joins what Raft and gossip hold of each core member.
func coreFacts(core api.CoreStatus, members []membership.Member, self string) []ops.CoreFact {
	byName := make(map[string]membership.Member, len(members))
	for _, m := range members {
		byName[m.Name] = m
	}
	var out []ops.CoreFact
	add := func(list []api.CoreMember, learner bool) {
		for _, c := range list {
			f := ops.CoreFact{Name: c.Name, Learner: learner, Healthy: c.Healthy, Member: ops.MemberUnknown}
			if m, ok := byName[c.Name]; ok {
				f.Member, f.Since = string(m.State), m.Since
			} else if c.Name == self {
				f.Member = string(membership.StateAlive)
			}
			out = append(out, f)
		}
	}
	add(core.Voters, false)
	add(core.Learners, true)
	return out
}

// memberFacts are the agents that are not simply alive.
func memberFacts(members []membership.Member) []ops.MemberFact {
	var out []ops.MemberFact
	for _, m := range members {
		if m.State != membership.StateAlive {
			out = append(out, ops.MemberFact{Name: m.Name, State: string(m.State), Since: m.Since})
		}
	}
	return out
}
