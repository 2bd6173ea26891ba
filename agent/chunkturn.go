package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/transport"
)

const (
	// chunkTurn is how long a peer that fetches a snapshot may be silent before another one has its turn.
	chunkTurn = 2 * time.Second
	// chunkAgain is the pause of one that has to wait, or whose call was lost.
	chunkAgain = 250 * time.Millisecond
	// chunkTries bounds the calls for one chunk that are lost; waiting for a turn is bounded by the context.
	chunkTries = 5
)

// chunkTurns lets one peer at a time fetch a snapshot from this agent, so that members which come back together do not
// take the leader's disk and network all at once.
type chunkTurns struct {
	now func() time.Duration // boottime
	mu  struct {
		sync.Mutex // no call under it
		peer       string
		until      time.Duration
	}
}

// take gives peer the turn, or keeps it with it, unless another has it.
func (c *chunkTurns) take(peer string) bool {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.peer != peer && now < c.mu.until {
		return false
	}
	c.mu.peer, c.mu.until = peer, now+chunkTurn
	return true
}

func newChunkTurns() *chunkTurns { return &chunkTurns{now: clock.Boottime} }

// chunkFrom asks a node for one chunk, again while another peer has its turn there, and a few times when the call was lost:
// what was fetched before need not be fetched again, and a new beginning costs more than a pause. A node that is not
// reached is asked through the one that relays.
func (c *coreRunner) chunkFrom(ctx context.Context, id uint64, node string, name [32]byte) ([]byte, error) {
	for lost := 0; ; {
		ask, method, body := c.chunkRoute(id, node, name)
		chunk, err := c.pool.Call(ctx, ask, method, body)
		var refused *transport.Error
		switch {
		case err == nil || ctx.Err() != nil:
			return chunk, err
		case errors.As(err, &refused) && refused.Code == api.CodeNotFound:
			return nil, err // the sender has a newer snapshot now
		case errors.As(err, &refused) && refused.Code == api.CodeBusy:
		default:
			if lost++; lost == chunkTries {
				return nil, err
			}
		}
		if pause(ctx, chunkAgain); ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}
