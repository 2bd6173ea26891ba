package agent

import (
	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/consensus"
)

// invariants is what the core member of this agent watches. It ends with the member, and begins anew with the next.
func (a *Agent) invariants() (out api.InvariantReport) {
	n := a.core.node()
	if n == nil {
		return out
	}
	return invariantReport(n.Status().Violations)
}

func invariantReport(violations []consensus.Violation) (out api.InvariantReport) {
	for _, known := range consensus.Invariants() {
		i := api.Invariant{ID: known[0], What: known[1], Holds: true}
		for _, v := range violations {
			if v.Invariant == i.ID {
				i.Holds, i.Violations, i.Detail = false, v.Count, v.Detail
				out.Count += v.Count
			}
		}
		out.Invariants = append(out.Invariants, i)
	}
	return out
}

// tellViolations reports each invariant that does not hold, once.
func (c *coreRunner) tellViolations(st consensus.Status, told map[string]bool) {
	for _, v := range st.Violations {
		if !told[v.Invariant] {
			told[v.Invariant] = true
			c.report(api.EventViolated, c.self, truncate(v.Invariant+": "+v.Detail))
		}
	}
}
