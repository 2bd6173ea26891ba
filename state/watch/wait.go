package watch

import (
	"container/heap"
	"context"

	"github.com/parley-mesh/parley/state"
)

// Wait returns the first View in which what sel names has changed after the given revision, at
// once if it has already. It returns the context's error when that ends first, ErrTooMany or
// ErrStopped.
func (h *Hub) Wait(ctx context.Context, sel Selector, after uint64) (*state.View, error) {
	if v := h.View(); sel.Changed(v) > after {
		return v, nil
	}
	s, err := h.Subscribe(sel)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	for {
		// Looked at after subscribing: a change in between is seen here, a later one wakes us.
		if v := h.View(); sel.Changed(v) > after {
			return v, nil
		}
		if err := h.pause(ctx, s); err != nil {
			return nil, err
		}
	}
}

// WaitFor returns when the View's index is at least index. Its errors are those of Wait.
func (h *Hub) WaitFor(ctx context.Context, index uint64) error {
	if h.View().Index() >= index {
		return nil
	}
	s := &Subscription{hub: h, until: index}
	if err := h.enter(s); err != nil {
		return err
	}
	defer s.Close()
	if h.View().Index() >= index {
		return nil
	}
	return h.pause(ctx, s)
}

func (h *Hub) pause(ctx context.Context, s *Subscription) error {
	select {
	case <-s.c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-h.done:
		return ErrStopped
	}
}

// waitHeap orders the waits for an index, the nearest first.
type waitHeap []*Subscription

func (w waitHeap) Len() int           { return len(w) }
func (w waitHeap) Less(i, j int) bool { return w[i].until < w[j].until }
func (w waitHeap) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].heap, w[j].heap = i, j
}

// Push and Pop are container/heap's; use add, drop and reached.
func (w *waitHeap) Push(x any) {
	s := x.(*Subscription)
	s.heap = len(*w)
	*w = append(*w, s)
}

func (w *waitHeap) Pop() any {
	old := *w
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*w = old[:len(old)-1]
	s.heap = -1
	return s
}

func (w *waitHeap) add(s *Subscription) { heap.Push(w, s) }

// drop removes s unless it was reached already.
func (w *waitHeap) drop(s *Subscription) {
	if s.heap >= 0 {
		heap.Remove(w, s.heap)
	}
}

// reached takes out the waits for index and less.
func (w *waitHeap) reached(index uint64) []*Subscription {
	var out []*Subscription
	for len(*w) > 0 && (*w)[0].until <= index {
		out = append(out, heap.Pop(w).(*Subscription))
	}
	return out
}
