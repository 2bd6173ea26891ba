package agent

import (
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/ops"
)

// leaseReadings adds how reads were answered, nothing outside the core.
func (c *coreRunner) leaseReadings(r ops.Readings) {
	if n := c.node(); n != nil {
		reads := n.Reads()
		r[ops.ReadsByLease], r[ops.ReadsByRound] = float64(reads.ByLease), float64(reads.ByRound)
	}
}

// readsBy says how a leader answers linearizable reads, "" of who does not lead.
func readsBy(st consensus.Status) string {
	switch st.Lease {
	case "":
		return ""
	case consensus.LeaseOn:
		return "lease"
	}
	return "round"
}
