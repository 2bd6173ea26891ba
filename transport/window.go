package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

// itemOverhead is what an item costs beside its length, in bytes of credit, so that empty items
// cannot fill a reader's memory either.
const itemOverhead = 64

// window is the sender's side of a stream's flow control. Credit is in bytes. An item may be sent
// while credit is positive and may take it below zero once: the reader holds at most its window and
// one item, and no item is too large for a window.
type window struct {
	limit  int
	opened chan struct{} // capacity 1, a level: credit came in

	mu     sync.Mutex
	credit int
}

func newWindow(limit int) *window {
	return &window{limit: limit, credit: limit, opened: make(chan struct{}, 1)}
}

// spend takes the credit for an item of n bytes, waiting until there is any.
func (w *window) spend(ctx context.Context, n int) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if w.trySpend(n + itemOverhead) {
			return nil
		}
		select {
		case <-w.opened:
		case <-ctx.Done():
		}
	}
}

func (w *window) trySpend(cost int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.credit <= 0 {
		return false
	}
	w.credit -= cost
	return true
}

// grant adds credit that the reader returned. More than it was lent is a lie.
func (w *window) grant(n int) error {
	w.mu.Lock()
	w.credit += n
	over := w.credit > w.limit
	w.mu.Unlock()
	if over {
		return fmt.Errorf("%w: credit over the window", errProtocol)
	}
	select {
	case w.opened <- struct{}{}:
	default:
	}
	return nil
}

func (c *serverConn) sendItem(ctx context.Context, call *serverCall, item []byte) error {
	if limit := c.server.options.MaxBody; len(item) > limit {
		return errTooLarge("item", len(item), limit)
	}
	if err := call.window.spend(ctx, len(item)); err != nil {
		return err
	}
	err := c.send(&outFrame{kind: kindItem, id: call.id, body: item}, ctx.Done())
	if errors.Is(err, errCallEnded) {
		return ctx.Err()
	}
	return err
}

// credit hands a credit frame to its stream. The stream may have ended meanwhile.
func (c *serverConn) credit(h header) error {
	payload, err := c.in.payload(h.payload)
	if err != nil {
		return err
	}
	if len(payload) != creditBytes {
		return fmt.Errorf("%w: credit frame of %d bytes", errProtocol, len(payload))
	}
	c.mu.Lock()
	call := c.mu.calls[h.id]
	c.mu.Unlock()
	if call == nil || call.window == nil {
		return nil
	}
	return call.window.grant(int(binary.BigEndian.Uint32(payload)))
}
