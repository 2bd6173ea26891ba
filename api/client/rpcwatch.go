package client

import (
	"context"
	"errors"
	"time"

	"github.com/parley-mesh/parley/api/wire"
)

// runRPC is run over RPC: one subscription that says when to look, and a look at the agent's own copy, which has what it
// told of.
func (w *watcher) runRPC(ctx context.Context) (greeted bool, err error) {
	level := make(chan struct{}, 1)
	stream, err := w.client.OpenWatches(ctx, func(Notice) {
		select {
		case level <- struct{}{}:
		default:
		}
	})
	var refused *Error
	if errors.As(err, &refused) && refused.Code == codeUnsupported {
		return w.runReads(ctx)
	}
	if err != nil {
		return false, err
	}
	defer stream.Close()
	if err := stream.Add(ctx, Subscription{Key: w.key, Prefix: w.prefix}); err != nil {
		return false, err
	}
	for {
		select {
		case <-stream.Done():
			return true, stream.Err()
		case <-level:
			if _, err := w.look(ctx, wire.Get{Stale: true}); err != nil {
				return true, err
			}
		}
	}
}

// readWait is how long one read waits for a change.
const readWait = 30 * time.Second

// runReads is for an agent outside the core, which passes blocking reads on and no stream.
func (w *watcher) runReads(ctx context.Context) (greeted bool, err error) {
	for q := (wire.Get{}); ; q.Wait = readWait {
		if q.MinRevision, err = w.look(ctx, q); err != nil {
			return greeted, err
		}
		q.MinRevision = max(q.MinRevision, 1)
		greeted = true
	}
}

// look reads, reports what differs from what the callback was told, and returns the revision of what was read.
func (w *watcher) look(ctx context.Context, q wire.Get) (uint64, error) {
	q.Key, q.Prefix = w.key, w.prefix
	answer, err := w.client.rows(ctx, q)
	if err != nil {
		return 0, err
	}
	seen := map[string]bool{}
	for _, row := range answer.Rows {
		if err := w.show(pairOf(row), seen); err != nil {
			return 0, err
		}
	}
	return answer.Revision, w.caughtUp(seen, answer.Revision)
}
