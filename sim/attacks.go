package sim

import (
	"time"

	"github.com/parley-mesh/parley/storage"
)

// attacks are faults in an order that chance would seldom find.
var attacks = []fault{
	{"attack: tail zeroed, crash of all", (*cluster).attackTail},
	{"attack: last frame spoiled, crash of all", (*cluster).attackLast},
	{"attack: slow learner", (*cluster).attackLearner},
	{"attack: transfer into a partition", (*cluster).attackTransfer},
	{"attack: stale snapshot", (*cluster).attackSnapshot},
	{"attack: constrained election", (*cluster).attackHub},
	{"attack: elections in a row", (*cluster).attackLeaders},
	{"attack: lying hub", (*cluster).attackLiar},
	{"attack: entries of an earlier term", (*cluster).attackPrior},
	{"attack: paused leader", (*cluster).attackPause},
	{"attack: lease holder isolated, a voter restarted", (*cluster).attackLease},
	{"attack: leader refused in its name", (*cluster).attackRefusal},
	{"attack: transfer that the leader does not hear of", (*cluster).attackLate},
}

// attackTail lets a bare quorum acknowledge writes, one of which is the victim; then all lose their power, the end of
// the victim's log is zeroed, and it comes back with those that were cut off. It must see that frames are missing:
// else these elect a leader that knows nothing of what was acknowledged.
func (c *cluster) attackTail() {
	c.attackLog("damage: tail zeroed", func(h *host) bool { return c.zeroTail(h, 12) })
}

// attackLast does the same to the last frame alone, which the anchor may not cover yet. Nothing on that disk says whether
// the frame was acknowledged: the victim has to ask the others, all of them.
func (c *cluster) attackLast() {
	c.attackLog("damage: last frame spoiled", c.spoilLast)
}

func (c *cluster) attackLog(what string, spoil func(*host) bool) {
	l, victim := c.leader(), c.anyHost()
	if l == nil || victim == nil || victim == l || !c.mayLose(victim) || !c.votes(victim) {
		return
	}
	with, without := []*host{l}, []*host{}
	for _, h := range c.voters() {
		switch {
		case h == l || h == victim:
		case len(with)+1 < c.size/2+1:
			with = append(with, h)
		default:
			without = append(without, h)
		}
	}
	var pairs [][2]*host
	for _, out := range without {
		for _, in := range append(with, victim) {
			pairs = append(pairs, both(out, in)...)
		}
	}
	c.cutFor(300*time.Millisecond, pairs...)
	life := victim.life
	victim.doomed = true // no other host may lose its disk until then
	c.later(220*time.Millisecond, func() { c.clients.held = true })
	// What is zeroed whole while the anchor does not cover it yet leaves no trace on any disk: storage/FORMAT.md. So the
	// anchor gets its 20 ms.
	c.laterWhen(300*time.Millisecond, func() bool { return !victim.up || !victim.logBusy && !victim.anchorBusy }, func() {
		victim.doomed, c.clients.held = false, false
		if !victim.up || victim.life != life {
			return
		}
		for _, h := range c.hosts {
			h.crash(storage.KeepUnsynced)
		}
		c.trace("%s: %s", victim.name, what)
		if spoil(victim) {
			victim.damaged = true
			c.note(what)
		}
		for _, h := range append(without, victim) {
			c.after(50*time.Millisecond, func() { c.boot(h) })
		}
		for _, h := range c.hosts {
			c.after(2500*time.Millisecond, func() { c.boot(h) })
		}
	})
}

// votes reports whether the leader counts the host as a voter.
func (c *cluster) votes(h *host) bool {
	for _, v := range c.voters() {
		if v == h {
			return true
		}
	}
	return false
}

// zeroTail overwrites the last pages with frames in the host's newest segment, if there are more.
func (c *cluster) zeroTail(h *host, pages int) bool {
	path, _, last := c.newestPages(h)
	if last-pages < 1 {
		return false
	}
	return h.overwrite(path, (last-pages+1)*page, make([]byte, pages*page))
}

// spoilLast flips a byte in the last page with a frame.
func (c *cluster) spoilLast(h *host) bool {
	path, data, last := c.newestPages(h)
	if last < 1 {
		return false
	}
	used := page
	for used > 0 && data[last*page+used-1] == 0 {
		used--
	}
	h.disk.Flip(path, int64(last*page+c.rnd.IntN(used)), byte(1<<c.rnd.IntN(8)))
	return true
}

// attackLearner gives a voter's place to a learner whose disk is so slow that it stays behind.
func (c *cluster) attackLearner() {
	h := c.anyHost()
	if h == nil || h == c.leader() || !c.mayLose(h) {
		return
	}
	h.crash(storage.KeepUnsynced)
	c.lose(h)
	h.slow = 400
	c.after(3*time.Second, func() { h.slow = 1 })
}

// attackTransfer hands the lead to somebody who is cut off in that moment.
func (c *cluster) attackTransfer() {
	l, to := c.leader(), c.anyHost()
	if l == nil || to == nil || to == l {
		return
	}
	c.transferAt = c.now
	l.do(func() error { return l.rep.TransferLeader(to.id, func(error) {}) })
	c.later(c.upTo(4*time.Millisecond), func() {
		var pairs [][2]*host
		for _, h := range c.hosts {
			if h != to {
				pairs = append(pairs, both(h, to)...)
			}
		}
		c.cutFor(time.Second+c.upTo(time.Second), pairs...)
	})
}

// attackSnapshot keeps a voter away until the others have compacted what it needs, and lets it come and go while it
// restores: what it is sent is old when it arrives.
func (c *cluster) attackSnapshot() {
	h := c.anyHost()
	if h == nil || h == c.leader() {
		return
	}
	var pairs [][2]*host
	for _, o := range c.hosts {
		if o != h {
			pairs = append(pairs, both(o, h)...)
		}
	}
	c.cutFor(1200*time.Millisecond, pairs...)
	for i := range 6 {
		c.later(1200*time.Millisecond+time.Duration(i)*60*time.Millisecond, func() { c.cutFor(c.upTo(50*time.Millisecond), pairs...) })
	}
}

// attackHub leaves a core in which everybody reaches one lagging voter alone, and nobody the old leader: who leads then
// leads by way of that one.
func (c *cluster) attackHub() {
	if l, hub := c.leader(), c.anyHost(); l != nil && hub != nil && hub != l {
		c.constrain(l, hub, 3*time.Second)
	}
}

// attackLeaders ends one leader after the other as soon as it leads, before or while it replicates.
func (c *cluster) attackLeaders() {
	left := 3
	var strike func()
	strike = func() {
		l := c.leader()
		if l == nil {
			c.later(5*time.Millisecond, strike)
			return
		}
		left--
		var pairs [][2]*host
		for _, h := range c.hosts {
			if h != l {
				pairs = append(pairs, both(h, l)...)
			}
		}
		c.cutFor(700*time.Millisecond, pairs...)
		c.later(c.upTo(20*time.Millisecond), func() {
			l.crash(c.crashMode())
			c.after(300*time.Millisecond+c.upTo(time.Second), func() { c.boot(l) })
		})
		if left > 0 {
			c.later(50*time.Millisecond, strike)
		}
	}
	strike()
}

// attackPrior makes a leader of somebody who alone has entries of the term before, which nobody knows to be committed
// (figure 8 of the Raft paper). It may commit them along with an entry of its own term only: until then whoever lacks them
// may still be elected, and replace them.
func (c *cluster) attackPrior() {
	l, heir := c.leader(), c.anyHost()
	if l == nil || heir == nil || heir == l || heir.paused || heir.lied || !c.votes(heir) {
		return
	}
	heir.crash(storage.KeepUnsynced)
	heir.oneEntry = true // so that the entries of the two terms travel apart
	c.boot(heir)
	c.later(700*time.Millisecond, func() { c.bequeath(heir) })
}

func (c *cluster) bequeath(heir *host) {
	l := c.leader()
	if l == nil || heir == l || !heir.up || heir.paused || !c.votes(heir) || !c.votes(l) {
		return
	}
	old, apart := [][2]*host{{heir, l}}, [][2]*host{} // what the heir acknowledges does not arrive
	for _, a := range c.hosts {
		if a == l || a == heir {
			continue
		}
		old = append(old, both(a, l)...)
		for _, b := range c.hosts {
			if b != a && b != l && b != heir {
				apart = append(apart, [2]*host{a, b}) // they have a majority in a core of five, and shall elect the heir
			}
		}
	}
	d := 25*time.Millisecond + c.upTo(40*time.Millisecond)
	c.cutFor(d, old...)
	c.cutFor(1500*time.Millisecond, apart...)
	c.later(d, func() {
		l.crash(c.crashMode())
		c.after(500*time.Millisecond+c.upTo(time.Second), func() { c.boot(l) })
	})
}
