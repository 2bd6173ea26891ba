package sim

import (
	"errors"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/storage"
)

// repairTries is how often a damaged host asks its peers for what it lacks before it gives up its Raft id.
const repairTries = 12

// unprovenTries is how often it asks for what a leader counts without its word for it. Then, or when all others have said
// that they do not have it, it goes on without: a leader that lies must not stop it.
const unprovenTries = 50

// heal brings a damaged host back as production does: under its id when the missing entries can be had from peers, which
// prove themselves by their chain, else under a new one. target is where its log has to end, nil for what its own files say.
func (c *cluster) heal(h *host, why error, target *storage.Point, tries int) {
	if h.up {
		return
	}
	behind := h.beyond > 0 || h.gate > 0 // of a command: nothing is lost, and the snapshot will come
	outcome := never
	switch {
	case snapshotLost(why) && (tries < repairTries || behind):
		outcome = c.fetchSnapshot(h)
	case !errors.Is(why, consensus.ErrLost):
		outcome = c.repair(h, target)
	}
	switch outcome {
	case repaired:
		h.unproven = false
		c.note("log repaired")
		c.trace("%s is repaired under its id", h.name)
		h.damaged = false
		c.boot(h)
	case nobody, later:
		if h.unproven && outcome == nobody && c.past(h, target.Index) {
			c.lose(h)
			return
		}
		if h.unproven && (outcome == nobody || tries >= unprovenTries) {
			c.note("went on without what a leader counts")
			c.trace("%s goes on without entry %d", h.name, target.Index)
			h.unproven, h.ownWordOnly, h.damaged = false, true, false
			c.boot(h)
			return
		}
		if h.unproven || behind || tries < repairTries {
			life := h.life
			c.after(200*time.Millisecond, func() {
				if h.life == life {
					c.heal(h, why, target, tries+1)
				}
			})
			return
		}
		c.lose(h)
	case never:
		c.lose(h)
	}
}

// snapshotLost reports whether a start failed for want of a snapshot alone.
func snapshotLost(why error) bool {
	var damage *storage.DamageError
	return errors.Is(why, consensus.ErrNoSnapshot) || errors.As(why, &damage) && damage.Snapshot
}

// past reports whether another member has applied that entry: there it is, in a snapshot, and what the leader counts is true.
func (c *cluster) past(h *host, index uint64) bool {
	return slices.ContainsFunc(c.others(h), func(p *host) bool { return p.up && p.rep.Status().Applied >= index })
}

type repairOutcome int

const (
	repaired repairOutcome = iota
	later                  // no peer that can be reached has what is missing
	nobody                 // all others were asked, and none has it
	never
)

func (c *cluster) repair(h *host, target *storage.Point) repairOutcome {
	var newest *storage.SnapshotMeta
	snaps, err := storage.OpenSnapshots(h.snapshotOptions())
	if err != nil {
		return never
	}
	if meta, _, ok := snaps.Latest(); ok {
		newest = &meta
	}
	s, err := storage.Salvage(h.logOptions(), newest)
	if err != nil {
		c.trace("%s cannot be salvaged: %v", h.name, err)
		return never
	}
	if target != nil {
		s.Reach(*target)
	}
	for gap, more := s.Missing(); more; gap, more = s.Missing() {
		if filled, asked := c.fill(h, s, gap); !filled && asked == len(c.others(h)) {
			return nobody
		} else if !filled {
			return later
		}
	}
	if err := s.Repair(h.logOptions()); err != nil {
		c.trace("%s is not repaired: %v", h.name, err)
		return never
	}
	return repaired
}

// others are the voters but h, as the leader or else everybody knows them.
func (c *cluster) others(h *host) []*host {
	return slices.DeleteFunc(slices.Clone(c.voters()), func(p *host) bool { return p == h })
}

// fill asks the peers in turn, and believes none. It returns how many answered.
func (c *cluster) fill(h *host, s *storage.Salvaged, gap storage.Gap) (filled bool, asked int) {
	for _, p := range c.others(h) {
		if !p.up || p.paused || c.isCut(h, p) || c.isCut(p, h) {
			continue
		}
		asked++
		prevTerm, entries := p.rep.Entries(gap.After, gap.Last, 1<<20)
		if len(entries) == 0 {
			continue
		}
		prev := storage.Point{Index: entries[0].GetIndex() - 1, Term: prevTerm}
		if prev.Chain, _ = p.log.Chain(prev.Index); s.Offer(prev, copyEntries(entries)) == nil {
			return true, asked
		}
	}
	return false, asked
}

func copyEntries(entries []*raftpb.Entry) []*raftpb.Entry {
	out := make([]*raftpb.Entry, len(entries))
	for i, e := range entries {
		out[i] = &raftpb.Entry{Term: new(e.GetTerm()), Index: new(e.GetIndex()), Type: e.Type, Data: append([]byte(nil), e.GetData()...)}
	}
	return out
}

// operate is what somebody does in the end whom the agent has asked: a voter that has lost its Raft id before it could be
// replaced is heard by nobody, so that a member in doubt about its last frame would wait for ever. No acknowledged write is
// lost by that: whoever loses a disk does so alone, and what a crash leaves unfinished was not acknowledged.
func (c *cluster) operate() {
	for _, h := range c.hosts {
		if !h.up || h.rep.Status().Suspended == "" {
			continue
		}
		status := h.rep.Status()
		for _, id := range slices.Concat(status.Voters, status.Outgoing) {
			if c.byID(id) != nil {
				continue
			}
			var accepted bool
			h.do(func() (err error) {
				accepted, err = h.rep.AcceptTail()
				return err
			})
			if accepted {
				c.note("end of the log accepted by an operator")
				c.trace("%s: an operator accepts the end of its log", h.name)
				h.vote.term, h.vote.to = 0, 0 // nobody remembers them
			}
			break
		}
	}
}
