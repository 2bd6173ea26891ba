package agent

import (
	"fmt"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/ops"
)

// undecidedRunbook is for a core whose members hold different states, of which none has a majority.
const undecidedRunbook = "data-corruption"

// coreTold is what one life of a core node has said of itself in the timeline. It compares levels: what is with what was
// said last.
type coreTold struct {
	suspended string // why it votes for nobody, "" if it does
	undecided bool   // that it leads a core in which no state has a majority
	violated  map[string]bool
	enlisted  bool // it stands for a Raft id that was given up, and has not said yet that it votes
}

// tell reports what is new since the last call.
func (c *coreRunner) tell(st consensus.Status, told *coreTold) {
	told.suspended = c.tellDoubt(st.Suspended, told.suspended)
	told.undecided = c.tellUndecided(st, told.undecided)
	c.tellViolations(st, told.violated)
	if told.enlisted && votes(st) {
		told.enlisted = false
		c.report(api.EventRejoined, c.self, fmt.Sprintf("it votes again, under the new Raft id %x", st.ID))
	}
}

// votes reports whether the node of a status is a voter, and no change of the core is under way.
func votes(st consensus.Status) bool {
	for _, id := range st.Voters {
		if id == st.ID {
			return len(st.Outgoing) == 0
		}
	}
	return false
}

// tellDoubt reports that this member votes for nobody, and that it does again. It returns what was reported.
func (c *coreRunner) tellDoubt(now, before string) string {
	switch {
	case now != "" && before == "":
		c.log.Warn("this member does not take part fully", zap.String("reason", now))
		c.report(api.EventDoubt, c.self, truncate(now))
	case now == "" && before != "":
		c.log.Info("this member takes part again, it has heard all others or an operator has accepted its log")
		c.report(api.EventHealed, c.self, "the end of the log is in doubt no more")
	}
	return now
}

// tellUndecided reports, while this member leads, that no state has a majority, and that one has again. The event of the
// beginning is written after the end only, as all writes are; logs and alerts say it at once.
func (c *coreRunner) tellUndecided(st consensus.Status, before bool) bool {
	leads := st.Leader == st.ID && st.ID != 0
	switch now := st.ReadOnly && leads; {
	case now && !before:
		c.log.Error("the core members hold different states and none has a majority, writes are refused",
			zap.String("hint", "run: parley digest compare; then: parley runbook run "+undecidedRunbook))
		c.report(api.EventUndecided, c.self, "the core members hold different states and none has a majority: writes are refused")
		return true
	case before && !st.ReadOnly:
		c.log.Info("a state has a majority of the core members again, writes are taken")
		c.report(api.EventDecided, c.self, "a state has a majority of the core members again: writes are taken")
		return false
	}
	return before && leads
}

// suspended is the metric parley_core_suspended; there is no figure outside the core.
func (c *coreRunner) suspended() (float64, bool) {
	n := c.current.Load()
	if n == nil {
		return 0, false
	}
	if n.node.Status().Suspended != "" {
		return 1, true
	}
	return 0, true
}

// healReadings adds how this agent's copy of the state is, and what was healed since its start. Only a running node
// knows whether the states have a majority; that this member is fenced is known between two nodes as well.
func (c *coreRunner) healReadings(r ops.Readings) {
	r[ops.CoreFencings], r[ops.CoreRebuilds] = float64(c.fencings.Load()), float64(c.rebuilds.Load())
	r[ops.CoreLogRepairs], r[ops.CoreIDsGivenUp] = float64(c.repairs.Load()), float64(c.replaced.Load())
	n, fenced := c.node(), c.isFenced.Load() != nil
	if n == nil && !fenced {
		return
	}
	r.SetBool(ops.CoreFenced, fenced)
	if n != nil {
		st := n.Status()
		r.SetBool(ops.CoreUndecided, st.ReadOnly)
		r[ops.CoreViolations] = float64(invariantReport(st.Violations).Count)
	}
}
