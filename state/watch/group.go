package watch

import "sync"

// Group is many subscriptions of one reader, which cost it one channel and one goroutine together. A subscription of a
// group is remembered once from the time it is woken until the reader takes it, so a reader that is slow holds no more
// than it subscribed to, and misses nothing but how often.
//
//	g := hub.Group()
//	s, err := g.Subscribe(sel, 7)
//	<-g.C()
//	for _, t := range g.Take(nil) { ... t.Sub.Tag() == 7 ... }
//
// All methods are safe for concurrent use. Close each subscription; what was woken before it was closed may still come.
type Group struct {
	hub *Hub
	c   chan struct{} // capacity 1, a level: there is something to take
	mu  struct {
		sync.Mutex // nothing is called under it
		woken      []Woken
	}
}

// Woken is a subscription that something touched. More says that it was more than one change since the last time it was
// taken.
type Woken struct {
	Sub  *Subscription
	More bool
}

// Group begins with no subscription.
func (h *Hub) Group() *Group { return &Group{hub: h, c: make(chan struct{}, 1)} }

// Subscribe is Hub.Subscribe for the group. Tag is the reader's own name for it. A selector of all changes is not for
// groups and panics.
func (g *Group) Subscribe(sel Selector, tag uint64) (*Subscription, error) {
	if sel.All {
		panic("watch: a group's subscription names rows")
	}
	s := &Subscription{hub: g.hub, group: g, sel: sel, tag: tag}
	if err := g.hub.enter(s); err != nil {
		return nil, err
	}
	return s, nil
}

// Tag is what Subscribe was given.
func (s *Subscription) Tag() uint64 { return s.tag }

// Selector is what Subscribe was given.
func (s *Subscription) Selector() Selector { return s.sel }

// C returns the signal: something was woken since the last Take.
func (g *Group) C() <-chan struct{} { return g.c }

// Wake has s taken as if something had touched it.
func (g *Group) Wake(s *Subscription) { g.wake(s, false) }

func (g *Group) wake(s *Subscription, more bool) {
	g.mu.Lock()
	if s.queued > 0 {
		g.mu.woken[s.queued-1].More = true
	} else {
		g.mu.woken = append(g.mu.woken, Woken{Sub: s, More: more})
		s.queued = len(g.mu.woken)
	}
	g.mu.Unlock()
	select {
	case g.c <- struct{}{}:
	default: // not taken yet
	}
}

// Take returns what was woken since the last Take, in that order. It keeps space, whose contents it drops, for those to
// come.
func (g *Group) Take(space []Woken) []Woken {
	clear(space)
	g.mu.Lock()
	defer g.mu.Unlock()
	taken := g.mu.woken
	g.mu.woken = space[:0]
	for _, w := range taken {
		w.Sub.queued = 0
	}
	return taken
}

// Stopped is closed when the hub's Run has ended: nobody is woken any more.
func (h *Hub) Stopped() <-chan struct{} { return h.done }

// Subscriptions counts all that are open, waits and streams included.
func (h *Hub) Subscriptions() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.index.count + len(h.mu.waiting)
}
