package watch

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-mesh/parley/state"
)

// MaxSubscriptions bounds subscriptions, waits and streams together.
const MaxSubscriptions = 1 << 17

var (
	// ErrTooMany is returned by Subscribe, Wait, WaitFor and Stream beyond MaxSubscriptions: shed
	// the caller, or send it to another agent.
	ErrTooMany = errors.New("too many watches on this agent")

	// ErrStopped is returned to those who wait when Run ends.
	ErrStopped = errors.New("the watch hub has stopped")
)

// Timing paces the change streams.
type Timing struct {
	// Quiet is how often a follower hears of progress that changed nothing it is sent. Shorter
	// lets it serve waits for an index sooner, and costs a small frame each time (100 ms).
	Quiet time.Duration
	// Heartbeat is the longest silence on a stream (1 s): also how often the follower's digest
	// is compared.
	Heartbeat time.Duration
}

// DefaultTiming is what NewHub uses.
var DefaultTiming = Timing{Quiet: 100 * time.Millisecond, Heartbeat: time.Second}

// Hub holds the newest View and wakes those who wait for changes. All methods are safe for
// concurrent use, except that Publish has one caller at a time.
type Hub struct {
	timing Timing
	told   place // how far those who wait were told; Turn's alone
	view   atomic.Pointer[state.View]
	ring   ring
	look   chan struct{} // capacity 1: the ring has something new
	done   chan struct{} // closed when Run ends
	mu     struct {
		sync.Mutex // guards who waits; nobody is woken under it
		index      *index
		waiting    waitHeap
	}
}

// NewHub returns a hub that offers v. It wakes nobody until Run runs.
func NewHub(v *state.View) *Hub { return NewHubTiming(v, DefaultTiming) }

// NewHubTiming is NewHub with another pace of the streams. Both durations must be positive.
func NewHubTiming(v *state.View, t Timing) *Hub {
	if t.Quiet <= 0 || t.Heartbeat <= 0 {
		panic("watch: timing must be positive")
	}
	h := &Hub{
		timing: t, told: place{revision: v.Revision()},
		look: make(chan struct{}, 1), done: make(chan struct{}),
	}
	h.mu.index = newIndex()
	h.ring.mu.view = v
	h.view.Store(v)
	return h
}

// View returns the newest View.
func (h *Hub) View() *state.View { return h.view.Load() }

// Publish offers v, which t led to from the View published before it, and never blocks.
func (h *Hub) Publish(v *state.View, t state.Touched) {
	h.view.Store(v)
	h.ring.push(v, t)
	select {
	case h.look <- struct{}{}:
	default: // Run has not looked yet, and will see this too
	}
}

// Run wakes subscriptions until ctx ends. It is called once; afterwards all waits end with
// ErrStopped.
func (h *Hub) Run(ctx context.Context) error {
	defer close(h.done)
	for {
		h.Turn()
		select {
		case <-ctx.Done():
			return nil
		case <-h.look:
		}
	}
}

// Turn wakes whom the changes since the last Turn concern. Run calls it; who has no Run calls it by himself.
func (h *Hub) Turn() {
	now := h.ring.since(h.told)
	h.told = now.place
	for _, s := range h.woken(now) {
		s.wake()
	}
}

// woken takes whom the news concern: subscriptions, and waits for an index that has come.
func (h *Hub) woken(now recent) []*Subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []*Subscription
	if now.gone {
		out = h.mu.index.everyone()
		for _, s := range out {
			s.twice = true // nobody knows how often
		}
	} else {
		out = h.mu.index.touched(now.entries)
	}
	return append(out, h.mu.waiting.reached(now.view.Index())...)
}

// Subscription is woken after each change that its selector names.
type Subscription struct {
	hub     *Hub
	sel     Selector
	classes state.ClassSet // not 0: all changes of these, instead of sel
	c       chan struct{}  // capacity 1; nil in a group
	group   *Group         // nil outside one
	tag     uint64         // the group's reader's own

	// Guarded by hub.mu.
	next, prev *Subscription // of the same key or prefix
	round      uint64
	closed     bool
	twice      bool   // touched more than once in this round
	until      uint64 // the index it waits for; 0 unless it is in hub.mu.waiting
	heap       int    // its place there

	queued int // guarded by group.mu: its place in woken, from 1; 0: not there
}

// Subscribe begins to watch. What changed before is not signalled: look at the View afterwards.
// Close it, or it counts against MaxSubscriptions for ever.
func (h *Hub) Subscribe(sel Selector) (*Subscription, error) {
	s := &Subscription{hub: h, sel: sel}
	if sel.All {
		s.classes = state.AllClasses
	}
	if err := h.enter(s); err != nil {
		return nil, err
	}
	return s, nil
}

func (h *Hub) enter(s *Subscription) error {
	if s.group == nil {
		s.c = make(chan struct{}, 1)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.index.count+len(h.mu.waiting) >= MaxSubscriptions {
		return ErrTooMany
	}
	if s.until > 0 {
		h.mu.waiting.add(s)
	} else {
		h.mu.index.add(s)
	}
	return nil
}

// C returns the signal: something changed since the last receive, look at the View.
func (s *Subscription) C() <-chan struct{} { return s.c }

// Close ends the subscription. It is safe to call twice.
func (s *Subscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	if s.until > 0 {
		s.hub.mu.waiting.drop(s)
	} else {
		s.hub.mu.index.remove(s)
	}
}

// wake is called by Turn alone, in whose round twice was set.
func (s *Subscription) wake() {
	if s.group != nil {
		s.group.wake(s, s.twice)
		return
	}
	select {
	case s.c <- struct{}{}:
	default: // not received yet: it will look anyway
	}
}
