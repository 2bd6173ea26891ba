package sim

import (
	"time"

	"github.com/parley-mesh/parley/storage"
)

// elapsed is the host's CLOCK_BOOTTIME: it never steps, goes on during a pause, and is a little fast or slow.
func (h *host) elapsed() time.Duration {
	return h.boottime + time.Duration((1-h.drift)*float64(h.c.now-h.boottimeAt))
}

// setDrift makes the clock slower or faster from now on.
func (h *host) setDrift(drift float64) {
	h.boottime, h.boottimeAt = h.elapsed(), h.c.now
	h.drift = drift
}

// readIndex asks a replica for an index, and checks an answer by lease: nobody may lead a later term then.
func (h *host) readIndex(done func(index uint64, err error)) error {
	before, atOnce := h.rep.Reads().ByLease, true
	defer func() { atOnce = false }()
	return h.rep.ReadIndex(func(index uint64, err error) {
		switch {
		case err != nil:
		case !atOnce || h.rep.Reads().ByLease == before:
			h.c.note("read by round")
		default:
			h.c.note("read by lease")
			for _, o := range h.c.hosts {
				if o != h && o.up && o.rep.Leads() && o.rep.Term() > h.rep.Term() {
					h.c.fail("%s answered a read by its lease of term %d while %s leads term %d", h.name, h.rep.Term(), o.name, o.rep.Term())
				}
			}
		}
		done(index, err)
	})
}

// ledBy is who a read is asked of: whoever believes to lead, if there are several any of them, even one that is stopped.
func (cl *clients) ledBy() *host {
	var few [8]*host
	all := few[:0]
	for _, h := range cl.c.hosts {
		if h.up && h.rep.Leads() {
			all = append(all, h)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[cl.c.rnd.IntN(len(all))]
}

// probe lets clients read from a host that goes on after a pause, before it has heard of anything.
func (cl *clients) probe(h *host) {
	if cl.stopped {
		return
	}
	asked := 0
	for i := range clientCount {
		if asked == 8 {
			return
		}
		if cl.open[i] != nil {
			continue
		}
		if a := cl.keys.read(); a != nil {
			a.client, a.began, a.host, a.tried, a.tries = i, cl.c.now, h, cl.c.now, 1
			cl.open[i] = a
			cl.begun++
			cl.read(a, h)
			asked++
		}
	}
}

// attackPause stops the leader for so long that another one is elected, and asks it when it goes on.
func (c *cluster) attackPause() {
	l := c.leader()
	if l == nil || l.paused {
		return
	}
	c.stepBack(l)
	l.pauseFor(300*time.Millisecond + c.upTo(2*time.Second))
}

// stepBack sets the wall clock of a host back, one time in two.
func (c *cluster) stepBack(h *host) {
	if c.chance(2) {
		c.note("clock set back")
		h.skew -= 300*time.Millisecond + c.upTo(2*time.Second)
	}
}

func (h *host) pauseFor(d time.Duration) {
	h.paused = true
	life := h.life
	h.c.after(d, func() {
		if h.life == life {
			h.thaw()
		}
	})
}

// attackLease takes the leader away from everybody while it is sure of its lease, and restarts a voter that promised it.
// Another voter has not heard the leader for a while by then, and asks for votes.
func (c *cluster) attackLease() {
	l := c.leader()
	if l == nil {
		return
	}
	var eager, promised *host
	for _, h := range c.voters() {
		switch {
		case h == l || !h.up || h.paused:
		case eager == nil:
			eager = h
		default:
			promised = h
		}
	}
	if promised == nil {
		return
	}
	c.cutFor(2*time.Second, both(l, eager)...)
	c.later(550*time.Millisecond+c.upTo(300*time.Millisecond), func() {
		var pairs [][2]*host
		for _, h := range c.hosts {
			if h != l {
				pairs = append(pairs, both(h, l)...)
			}
		}
		if c.chance(2) {
			c.net.cut[link{l, promised}] = true // it answers who asks for its tail, and is not heard again
			c.cutFor(time.Second, [2]*host{l, promised})
			c.later(c.upTo(60*time.Millisecond), func() { c.cutFor(time.Second, pairs...) })
		} else {
			c.cutFor(time.Second, pairs...)
		}
		c.stepBack(l)
		promised.crash(storage.KeepUnsynced)
		c.after(time.Millisecond+c.upTo(10*time.Millisecond), func() { c.boot(promised) })
	})
}

// attackLate hands the lead over while the old leader does not hear who takes it. Voters give their votes at once then,
// whatever they promised. One time in two the order to take over arrives when the old leader has given the transfer up
// long ago, and has answered reads since.
func (c *cluster) attackLate() {
	l, to := c.leader(), c.anyHost()
	if l == nil || to == nil || to == l || !c.votes(to) {
		return
	}
	c.transferAt = c.now
	transfer := func() bool {
		if l.up && !l.paused && l.rep.Leads() {
			l.do(func() error { return l.rep.TransferLeader(to.id, func(error) {}) })
			return true
		}
		return false
	}
	if c.chance(2) {
		if transfer() {
			c.deafenOnce(l, to, electionTimeout)
		}
		return
	}
	c.clients.held = true // so that nobody's log is longer than that of the successor
	const quiet = 150 * time.Millisecond
	c.later(quiet, func() {
		d := electionTimeout + 2*tick + c.upTo(200*time.Millisecond)
		c.net.lastAt[link{l, to}] = c.now + d // frames keep their order
		if !transfer() {
			c.clients.held = false
			return
		}
		for at := -5 * tick; at < 5*tick; at += tick / 2 {
			c.later(d+at, func() {
				if l.up && !l.paused {
					c.clients.probe(l)
				}
			})
		}
		c.deafenOnce(l, to, 2*electionTimeout)
		c.later(d+5*tick, func() { c.clients.held = false })
	})
}

// deafenOnce lets a leader hear nobody for a while from the moment in which another stands for election.
func (c *cluster) deafenOnce(l, to *host, patience time.Duration) {
	switch {
	case patience <= 0 || !l.up || !to.up || !l.rep.Leads():
	case to.rep.Term() <= l.rep.Term():
		c.later(200*time.Microsecond, func() { c.deafenOnce(l, to, patience-200*time.Microsecond) })
	default:
		c.note("taken over unheard")
		var pairs [][2]*host
		for _, o := range c.hosts {
			if o != l {
				pairs = append(pairs, [2]*host{o, l})
			}
		}
		c.cutFor(time.Second, pairs...)
	}
}

// attackRefusal cuts the leader off while it holds its lease, and has its connections refused as if its process had ended.
func (c *cluster) attackRefusal() {
	l := c.leader()
	if l == nil {
		return
	}
	var pairs [][2]*host
	for _, h := range c.hosts {
		if h == l {
			continue
		}
		pairs = append(pairs, both(h, l)...)
		if h.up {
			h.at(c.upTo(20*time.Millisecond), func() { h.do(func() error { return h.rep.Refused(l.id) }) })
		}
	}
	c.cutFor(500*time.Millisecond+c.upTo(time.Second), pairs...)
}
