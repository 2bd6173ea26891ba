package consensus

import (
	"sync"
	"sync/atomic"
)

// turns says who owns the core. It is the loop, but while the loop sleeps and the core is at rest, the reader of a peer's
// connection takes the turn for what it has read: a heartbeat is then handled, and answered, by the goroutine that it woke.
// To pass it to the loop would wake a second goroutine, and each of these costs an idle host more than all that is done in
// the turn. A core that has work gets everything through the loop, which takes what has gathered in one turn.
type turns struct {
	sync.Mutex // held by the loop but while it sleeps, and by a reader during its turn. Nobody waits for it but the loop

	sleep *sleeper // the loop's
	err   error    // why a reader's turn has broken the core: the loop ends with it
	over  bool     // the loop has ended, or not begun

	queued atomic.Int64  // frames on their way to the loop, which come first
	look   chan struct{} // level, capacity 1: a reader's turn has left something to do
}

func (t *turns) init() { t.over, t.look = true, make(chan struct{}, 1) }

// end is the loop's last word.
func (t *turns) end() {
	t.over = true
	t.Unlock()
}

// takeTurn handles a frame here and now. If it may not, it reports false, and the frame is for the loop.
func (n *Node) takeTurn(in inbound) bool {
	t := &n.turns
	if !t.TryLock() {
		return false
	}
	defer t.Unlock()
	if t.over || t.err != nil || t.queued.Load() > 0 || !n.core.calm() {
		return false
	}
	ticked := false
	if t.err = n.guard(named("a peer's frame"), func() {
		ticked = n.wake(t.sleep, false)
		n.receive(in)
		n.takeRest(nil, nil)
		n.feed(&input{kind: inputFlush})
	}); t.err == nil {
		n.finishTurn(t.sleep, ticked)
	}
	if t.err != nil || !n.core.calm() {
		notify(t.look)
	}
	return true
}
