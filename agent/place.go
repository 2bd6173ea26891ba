package agent

import (
	"context"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

const (
	// placeEvery is the least time between two words about where this agent is: two processes that run with one
	// identity contradict each other without end.
	placeEvery    = 10 * time.Second
	placeRetryMin = 500 * time.Millisecond
	placeRetryMax = 15 * time.Second
)

// takeZone makes the configured zone this agent's, if one is configured. Its row follows: see keepPlace.
func (a *Agent) takeZone(ids *clusterIDs) error {
	if a.cfg.Zone == "" || a.cfg.Zone == ids.Zone {
		return nil
	}
	a.log.Info("this agent's zone changes", zap.String("node", ids.Node), zap.String("zone", a.cfg.Zone))
	ids.Zone = a.cfg.Zone
	return a.dir.writeCluster(*ids)
}

// keepPlace tells the cluster where this agent is whenever its row says something else: after a move, or because
// it founded the cluster and had no address then. Gossip spreads a move faster; the row is where an agent that was
// off meanwhile looks.
func (a *Agent) keepPlace(ctx context.Context) error {
	sub, err := a.hub.Subscribe(watch.Selector{Table: state.TableNode, Key: a.ids.Node})
	if err != nil {
		return err
	}
	defer sub.Close()
	retry := placeRetryMin
	for ctx.Err() == nil {
		row, ok := a.hub.View().Node(a.ids.Node)
		if !ok || row.Zone == a.ids.Zone && row.Address == a.address.String() {
			select {
			case <-sub.C():
			case <-ctx.Done():
			}
			continue
		}
		err := a.tellPlace(ctx)
		if err == nil {
			retry = placeRetryMin
			pause(ctx, placeEvery)
			continue
		}
		a.log.Debug("where this agent is could not be recorded yet", zap.Error(err))
		pause(ctx, retry/2+rand.N(retry))
		retry = min(2*retry, placeRetryMax)
	}
	return nil
}

func (a *Agent) tellPlace(ctx context.Context) error {
	_, err := a.service.Execute(ctx, api.Internal(a.ids.Node), state.NodePlace{
		Node: a.ids.Node, Zone: a.ids.Zone, Address: a.address.String(),
	})
	return err
}
