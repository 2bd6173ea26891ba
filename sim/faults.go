package sim

import (
	"time"

	"github.com/parley-mesh/parley/storage"
)

// fault is one kind of bad thing. It begins now and ends by itself, or when everything is healed.
type fault struct {
	name string
	do   func(c *cluster)
}

// faults is drawn from with equal chance.
var faults = []fault{
	{"crash", (*cluster).crashOne},
	{"process killed amid its work", (*cluster).killAmid},
	{"power cut amid work", (*cluster).cutAmid},
	{"I/O error", func(c *cluster) { c.ioError(12) }},
	{"crash of all", (*cluster).crashAll},
	{"pause", (*cluster).pauseOne},
	{"partition", (*cluster).partition},
	{"isolated leader", (*cluster).isolateLeader},
	{"one-way cut", (*cluster).oneWay},
	{"partial partition", (*cluster).partial},
	{"flapping link", (*cluster).flap},
	{"bad network", (*cluster).badNetwork},
	{"slow disk", (*cluster).slowDisk},
	{"full disk", (*cluster).fullDisk},
	{"lying disk", (*cluster).lyingDisk},
	{"clock step", (*cluster).clockStep},
	{"transfer", (*cluster).transferLead},
	{"replacement", (*cluster).replaceOne},
}

// trouble begins faults until end.
func (c *cluster) trouble(end time.Duration) {
	c.after(150*time.Millisecond+c.upTo(600*time.Millisecond), func() {
		if c.now >= end {
			return
		}
		list := faults
		switch {
		case c.chance(4):
			list = damages
		case c.chance(2):
			list = attacks
		}
		if c.memory && c.chance(6) {
			list = memoryFaults
		}
		f := list[c.rnd.IntN(len(list))]
		c.trace("fault: %s", f.name)
		c.note(f.name)
		f.do(c)
		c.trouble(end)
	})
}

// later makes f happen d from now, unless the faults have ended by then.
func (c *cluster) later(d time.Duration, f func()) {
	c.after(d, func() {
		if !c.healed {
			f()
		}
	})
}

// laterWhen is later, and waits on until it is the moment.
func (c *cluster) laterWhen(d time.Duration, moment func() bool, f func()) {
	c.later(d, func() {
		if moment() {
			f()
		} else {
			c.laterWhen(time.Millisecond, moment, f)
		}
	})
}

// anyHost draws one that is up, nil if none is.
func (c *cluster) anyHost() *host {
	start := c.rnd.IntN(len(c.hosts))
	for i := range c.hosts {
		if h := c.hosts[(start+i)%len(c.hosts)]; h.up {
			return h
		}
	}
	return nil
}

func (c *cluster) crashMode() storage.CrashMode {
	return []storage.CrashMode{storage.LoseUnsynced, storage.KeepUnsynced, storage.LosePart, storage.GarblePart}[c.rnd.IntN(4)]
}

// crashNames are by mode.
var crashNames = []string{"power cut: unsynced lost", "process killed: unsynced kept", "power cut: a part lost", "power cut: garbage"}

// killAmid ends a process in the midst of what it does to its disk: the page cache survives.
func (c *cluster) killAmid() { c.endAmid(storage.KeepUnsynced, storage.FaultCrash) }

// cutAmid ends the power there.
func (c *cluster) cutAmid() {
	mode := []storage.CrashMode{storage.LoseUnsynced, storage.LosePart, storage.GarblePart}[c.rnd.IntN(3)]
	c.endAmid(mode, []storage.Fault{storage.FaultCrash, storage.FaultTorn}[c.rnd.IntN(2)])
}

func (c *cluster) endAmid(mode storage.CrashMode, fault storage.Fault) {
	if h := c.anyHost(); h != nil {
		h.cut = mode
		h.disk.FailSoon("", c.rnd.IntN(12), fault, func() { c.note("ended amid an operation") })
	}
}

// ioError makes a write, a sync or a read of a host fail. The first two end its process. So does a read at the start, after
// which its log is taken for damaged: one host at a time, as soon as the core can afford that. Reads are seldom but at a
// start, so they have half of the turns.
func (c *cluster) ioError(tries int) {
	h := c.anyHost()
	if h == nil {
		return
	}
	kind := []string{"write", "sync", "read", "read"}[c.rnd.IntN(4)]
	c.failSoon(h, kind, tries)
}

func (c *cluster) failSoon(h *host, kind string, tries int) {
	if kind == "read" {
		if !h.up || !c.mayLose(h) {
			if tries > 0 {
				c.later(150*time.Millisecond, func() { c.failSoon(h, kind, tries-1) })
			}
			return
		}
		h.crash(storage.KeepUnsynced)
		h.damaged = true
		c.after(c.upTo(100*time.Millisecond), func() { c.boot(h) })
	}
	h.disk.FailSoon(kind, c.rnd.IntN(4), storage.FaultIO, func() { c.note("I/O error: " + kind) })
}

func (c *cluster) crashOne() {
	h := c.anyHost()
	if h == nil {
		return
	}
	mode := c.crashMode()
	c.trace("%s crashes, mode %d", h.name, mode)
	h.crash(mode)
	c.after(100*time.Millisecond+c.upTo(2*time.Second), func() { c.boot(h) })
}

func (c *cluster) crashAll() {
	for _, h := range c.hosts {
		h.crash(c.crashMode())
		c.after(50*time.Millisecond+c.upTo(500*time.Millisecond), func() { c.boot(h) })
	}
}

// pauseOne stops a host as SIGSTOP does; what arrived meanwhile comes at once at the thaw, but for ticks.
func (c *cluster) pauseOne() {
	h := c.anyHost()
	if h == nil || h.paused {
		return
	}
	h.pauseFor(200*time.Millisecond + c.upTo(3*time.Second))
}

func (h *host) thaw() {
	list := h.missed
	h.paused, h.missed = false, nil
	if h.up && h.rep.Leads() {
		h.c.clients.probe(h)
	}
	for _, m := range list {
		h.happen(m.life, m.do)
	}
}

func (c *cluster) cutFor(d time.Duration, pairs ...[2]*host) {
	for _, p := range pairs {
		c.net.cut[link{p[0], p[1]}] = true
	}
	c.after(d, func() {
		for _, p := range pairs {
			delete(c.net.cut, link{p[0], p[1]})
		}
	})
}

func both(a, b *host) [][2]*host { return [][2]*host{{a, b}, {b, a}} }

func (c *cluster) partition() {
	side := map[*host]bool{}
	for _, h := range c.hosts {
		side[h] = c.chance(2)
	}
	var pairs [][2]*host
	for _, a := range c.hosts {
		for _, b := range c.hosts {
			if side[a] != side[b] {
				pairs = append(pairs, [2]*host{a, b})
			}
		}
	}
	c.cutFor(500*time.Millisecond+c.upTo(3*time.Second), pairs...)
}

func (c *cluster) isolateLeader() {
	l := c.leader()
	if l == nil {
		return
	}
	var pairs [][2]*host
	for _, h := range c.hosts {
		if h != l {
			pairs = append(pairs, both(h, l)...)
		}
	}
	c.cutFor(500*time.Millisecond+c.upTo(3*time.Second), pairs...)
	c.stepBack(l)
	if c.chance(2) { // and a voter that promised it its lead restarts
		c.later(c.upTo(300*time.Millisecond), func() {
			if h := c.anyHost(); h != nil && h != l {
				h.crash(c.crashMode())
				c.after(20*time.Millisecond, func() { c.boot(h) })
			}
		})
	}
}

func (c *cluster) twoHosts() (a, b *host) {
	i := c.rnd.IntN(len(c.hosts))
	return c.hosts[i], c.hosts[(i+1+c.rnd.IntN(len(c.hosts)-1))%len(c.hosts)]
}

func (c *cluster) oneWay() {
	a, b := c.twoHosts()
	c.cutFor(500*time.Millisecond+c.upTo(3*time.Second), [2]*host{a, b})
}

func (c *cluster) partial() {
	a, b := c.twoHosts()
	c.cutFor(500*time.Millisecond+c.upTo(3*time.Second), both(a, b)...)
}

func (c *cluster) flap() {
	a, b := c.twoHosts()
	for i := range 8 {
		c.later(time.Duration(i)*200*time.Millisecond, func() { c.cutFor(100*time.Millisecond, both(a, b)...) })
	}
}

func (c *cluster) badNetwork() {
	c.net.drop, c.net.duplicate, c.net.reorder = c.rnd.IntN(150), c.rnd.IntN(100), c.rnd.IntN(300)
	c.net.slow = c.upTo(20 * time.Millisecond)
	c.after(500*time.Millisecond+c.upTo(2*time.Second), c.calmNetwork)
}

func (c *cluster) calmNetwork() { c.net.drop, c.net.duplicate, c.net.reorder, c.net.slow = 0, 0, 0, 0 }

func (c *cluster) slowDisk() {
	h := c.anyHost()
	if h == nil {
		return
	}
	h.slow = 10 + float64(c.rnd.IntN(100))
	c.after(500*time.Millisecond+c.upTo(2*time.Second), func() { h.slow = 1 })
}

func (c *cluster) fullDisk() {
	h := c.anyHost()
	if h == nil {
		return
	}
	h.disk.Limit(h.disk.Used())
	c.after(500*time.Millisecond+c.upTo(2*time.Second), func() { h.disk.Limit(0) })
}

// lyingDisk makes the syncs of one host do nothing for a while; then it loses its power. Nothing is promised of
// such a disk but that the others notice: it is given up with the Raft id.
func (c *cluster) lyingDisk() {
	h := c.anyHost()
	if h == nil || !c.mayLose(h) {
		return
	}
	h.disk.Lie(func(string) bool { return true })
	h.lied = true
	c.later(c.upTo(time.Second), func() {
		if h.up && h.lied {
			h.crash(storage.LoseUnsynced)
			c.boot(h)
		}
	})
}

func (c *cluster) clockStep() {
	h := c.anyHost()
	if h == nil {
		return
	}
	h.skew = c.upTo(2*time.Second) - time.Second
	h.setDrift((c.rnd.Float64() - 0.5) / 50)
}

func (c *cluster) transferLead() {
	l, to := c.leader(), c.anyHost()
	if l == nil || to == nil {
		return
	}
	c.transferAt = c.now
	l.do(func() error { return l.rep.TransferLeader(to.id, func(error) {}) })
}

// mayLose reports whether the core can afford that this host loses its disk: the others, all up, are a quorum, and
// none of them is being replaced.
func (c *cluster) mayLose(h *host) bool {
	l := c.leader()
	if l == nil {
		return false
	}
	for _, o := range c.hosts {
		if o.lied || o.damaged || o.doomed || o.tainted || o.skewed {
			return false
		}
		if o.up && o.rep.Status().Suspended != "" {
			return false // its damage is not over: it votes for nobody until it has heard all
		}
	}
	s := l.rep.Status()
	if len(s.Outgoing) > 0 || !s.Confirmed {
		return false
	}
	for _, id := range s.Voters {
		if c.byID(id) == nil {
			return false // it was lost, and is not replaced yet
		}
	}
	others, quorum := 0, len(s.Voters)/2+1
	for _, id := range s.Voters {
		if o := c.byID(id); o != nil && o != h && o.up && s.Progress[id].Match+200 > s.Commit || o == l && o != h {
			others++
		}
	}
	return others >= quorum
}

// lose gives up a host's Raft id: it comes back empty, under a new one, as a learner.
func (c *cluster) lose(h *host) {
	c.note("rejoin under a new id")
	c.renew(h)
}

func (c *cluster) renew(h *host) {
	old := h.id
	h.past, h.id = max(h.past, old), c.nextID
	c.nextID++
	h.disk, h.life, h.lied, h.damaged = storage.NewMem(), h.life+1, false, false
	h.beyond, h.gate, h.probation = 0, 0, false
	c.trace("%s gives up id %d for %d", h.name, old, h.id)
	if err := h.start(); err != nil {
		c.fail("%s does not start empty: %v", h.name, err)
		return
	}
}

// replaceOne gives a host a new Raft id though its disk is well.
func (c *cluster) replaceOne() {
	if h := c.anyHost(); h != nil && c.mayLose(h) {
		h.crash(storage.KeepUnsynced)
		c.lose(h)
	}
}

func contains(ids []uint64, id uint64) bool {
	for _, i := range ids {
		if i == id {
			return true
		}
	}
	return false
}

// calm ends all faults and starts everybody.
func (c *cluster) calm() {
	c.healed, c.clients.held = true, false
	clear(c.net.cut)
	c.calmNetwork()
	for _, h := range c.hosts {
		h.slow, h.lies = 1, false
		h.disk.Limit(0)
		h.disk.Lie(nil)
		h.doomed = false
		if h.paused {
			h.thaw()
		}
		c.boot(h)
	}
}
