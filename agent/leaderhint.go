package agent

import (
	"slices"
	"sync/atomic"
)

// leaderHint remembers which core member an agent outside the core should ask. It is a guess: whoever
// is asked and does not lead names the leader in its answer, which becomes the next guess.
type leaderHint struct {
	node atomic.Pointer[string]
	turn atomic.Uint32
}

// get returns the guess while it is among the core's members, else each of them in turn.
func (h *leaderHint) get(core []string) (node string, self, known bool) {
	if len(core) == 0 {
		return "", false, false
	}
	if p := h.node.Load(); p != nil && slices.Contains(core, *p) {
		return *p, false, true
	}
	return core[int(h.turn.Add(1))%len(core)], false, true
}

// forget drops the guess if it is node, which did not answer.
func (h *leaderHint) forget(node string) {
	if p := h.node.Load(); p != nil && *p == node {
		h.node.CompareAndSwap(p, nil)
	}
}

// set takes the name that an answer gave; "" forgets the guess, because nobody leads.
func (h *leaderHint) set(node string) {
	if node == "" {
		h.node.Store(nil)
		return
	}
	h.node.Store(&node)
}
