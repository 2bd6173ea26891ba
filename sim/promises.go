package sim

import (
	"time"
)

// electionTimeout is the shortest time without a leader after which a voter stands.
const electionTimeout = 10 * tick

// promiseTime is for how long a voter that has heard its leader makes nobody else one.
const promiseTime = 300 * time.Millisecond

// vote is what a host has promised: it outlives crashes.
type vote struct {
	id, term, to uint64
	life         uint64
	at           time.Duration // when the life before this one ended, or when this one began if that is not known
	used         bool          // this life began on a log that had been used
	forgot       bool          // the disk lost the newest of these promises, and the member knows that something is missing
}

// watchPromises checks what a voter may never do, whether it does harm or not: forget its vote at a restart, give
// another one in the same term, or vote right after the end of a life.
func (h *host) watchPromises() {
	v, began := &h.vote, false
	term, to := h.rep.Voted()
	if v.id != h.id {
		*v = vote{id: h.id}
	}
	if v.life != h.life {
		v.used = v.life != 0 && v.term > 1
		v.life, v.at, began = h.life, h.end, true
	}
	if v.forgets(h, term, to) {
		return
	}
	switch {
	case term < v.term:
		h.c.fail("%s went back from term %d to %d", h.name, v.term, term)
	case term == v.term && v.to != 0 && to != v.to:
		h.c.fail("%s voted for %d in term %d and now says %d", h.name, v.to, term, to)
	case to != 0 && to != h.id && (to != v.to || term != v.term) && !began && v.used && h.c.now-v.at < promiseTime-5*time.Millisecond && !h.c.handed(term):
		h.c.fail("%s voted for %d in term %d, %v after its life before ended", h.name, to, term, h.c.now-v.at)
	}
	v.term, v.to = term, to
}

// forgets reports whether the host may say less than it has promised: while it doubts the end of its log it votes for
// nobody. Afterwards it has to be past those promises, or to have written its own id as the vote of their term, unless an
// operator has taken the log as it is.
func (v *vote) forgets(h *host, term, to uint64) bool {
	switch {
	case term < v.term:
		v.forgot = h.rep.Status().Suspended != ""
		return v.forgot
	case term == v.term && v.forgot && to != v.to:
		return to == 0 || to == h.id && !h.rep.Leads()
	}
	v.forgot = v.forgot && term == v.term
	return false
}

// handed reports whether the term may come from a transfer of the lead, for which votes are given at once.
func (c *cluster) handed(uint64) bool { return c.now-c.transferAt < 2*time.Second }

// leadMark is where a leader's commit index was when it began to lead.
type leadMark struct {
	life, term, commit uint64
}

// watchCommit checks that a leader commits entries of earlier terms only along with one of its own (Raft 5.4.2): such an
// entry can be on a majority and still be replaced.
func (h *host) watchCommit() {
	if !h.rep.Leads() {
		h.lead = leadMark{}
		return
	}
	commit, term := h.rep.Commit(), h.rep.Term()
	if h.lead.term != term || h.lead.life != h.life {
		h.lead = leadMark{h.life, term, commit}
	}
	if start := h.rep.TermStart(); commit > h.lead.commit && commit < start {
		h.c.fail("%s leads term %d from %d on, and committed %d of an earlier term by counting", h.name, term, start, commit)
	}
}

// deafness is since when a host has heard nobody, and its term then.
type deafness struct {
	since time.Duration
	life  uint64
	term  uint64
}

// watchDeaf checks that a voter that hears nobody does not raise its term: it would depose the leader at its return.
func (h *host) watchDeaf() {
	deaf := h.up && !h.paused
	for _, o := range h.c.hosts {
		deaf = deaf && (o == h || h.c.isCut(o, h) || !o.up)
	}
	now := h.c.now
	switch {
	case !deaf || h.deaf.life != h.life || h.deaf.since == 0:
		h.deaf = deafness{life: h.life}
		if deaf {
			h.deaf.since, h.deaf.term = now, h.rep.Term()
		}
	case h.logBusy || h.rep.LogWaits(): // its disk is still to answer for what it heard before
		h.deaf.since, h.deaf.term = now, h.rep.Term()
	case now-h.deaf.since < 4*tick: // what was on its way
		h.deaf.term = h.rep.Term()
	case h.rep.Term() > h.deaf.term && len(h.rep.Status().Voters) > 1:
		h.c.fail("%s hears nobody and raised its term from %d to %d", h.name, h.deaf.term, h.rep.Term())
	}
}

// watchLeads checks that who leads can be heard: a leader that reaches no majority for two election timeouts must have
// stepped down, or for three if it was asked meanwhile to hand over, since raft then counts anew. One more is for ticks
// that come late.
func (c *cluster) watchLeads() {
	c.after(tick, func() {
		c.watchLeads()
		for _, h := range c.hosts {
			h.watchDeaf()
			if !h.up || h.paused || !h.rep.Leads() || c.quorumOf(h, c.reach) {
				if h.up {
					c.watchRelayed(h)
				}
				h.led = c.now
				continue
			}
			limit := 3 * electionTimeout
			if c.transferAt >= h.led {
				limit += electionTimeout
			}
			if c.now-h.led > limit {
				c.fail("%s leads term %d, cut off from its quorum for %v", h.name, h.rep.Term(), c.now-h.led)
			}
		}
	})
}

// quorumOf reports whether the host and a majority of those that it holds for voters reach each other.
func (c *cluster) quorumOf(h *host, reach func(a, b *host) bool) bool {
	s := h.rep.Status()
	for _, voters := range [][]uint64{s.Voters, s.Outgoing} {
		reached := 0
		for _, id := range voters {
			if o := c.byID(id); o == h || o != nil && o.up && !o.paused && reach(h, o) {
				reached++
			}
		}
		if len(voters) > 0 && reached <= len(voters)/2 {
			return false
		}
	}
	return true
}
