package agent

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/parley-mesh/parley/membership"
)

const (
	// callEvery is how often a host that nobody knew calls on those that have not come to it.
	callEvery = time.Second
	// maxCalling is how many it calls at once.
	maxCalling = 16
)

// callOn makes a host known that began the present epoch by the recovery key. The others have the address of no member
// of the new core, and gossip does not take the word of a stranger. So this host opens a connection to each: its greeting
// proves the epoch by what the root signs, which names this host. Whoever follows is alive in gossip from then on, and
// is not called any more. On every other host it does nothing.
func (a *Agent) callOn(ctx context.Context) error {
	if !a.isFounder() {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(callEvery)
	defer ticker.Stop()
	for {
		var calls errgroup.Group
		calls.SetLimit(maxCalling)
		for _, node := range a.strangers() {
			calls.Go(func() error {
				ctx, cancel := context.WithTimeout(ctx, callEvery)
				defer cancel()
				_, _ = a.pool.Call(ctx, node, methodStanding, nil) // the greeting says it, whatever the answer
				return nil
			})
		}
		_ = calls.Wait()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// isFounder reports whether a root has brought this host in with the present epoch.
func (a *Agent) isFounder() bool {
	v := a.hub.View()
	for _, s := range v.EpochStatements() {
		if s.Node == a.ids.Node && len(s.HostKey) > 0 && s.Epoch == v.Cluster().Epoch {
			return true
		}
	}
	return false
}

// strangers are the nodes that gossip does not hold alive.
func (a *Agent) strangers() []string {
	alive := map[string]bool{a.ids.Node: true}
	for _, m := range a.memberList() {
		alive[m.Name] = m.State == membership.StateAlive
	}
	var out []string
	for _, n := range a.hub.View().Nodes() {
		if !n.Left && !alive[n.Name] {
			out = append(out, n.Name)
		}
	}
	return out
}
