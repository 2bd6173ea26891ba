package agent

import (
	"context"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/membership"
)

// dropDead closes the RPC connection to each node that gossip has just found dead, until ctx ends.
// Without it a call to a frozen host waits for its own deadline, or for the keepalive, which is slower.
func (a *Agent) dropDead(ctx context.Context) error {
	dead := make(map[string]bool)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.gossip.Changed():
		}
		members := a.gossip.Members()
		a.starts.observe(members, clock.Boottime())
		for _, m := range members {
			gone := m.State != membership.StateAlive && m.State != membership.StateSuspect
			if gone && !dead[m.Name] {
				a.log.Info("gossip holds an agent dead, its connection is closed", zap.String("node", m.Name), zap.String("state", string(m.State)))
				a.pool.Drop(m.Name)
			}
			dead[m.Name] = gone
		}
	}
}
