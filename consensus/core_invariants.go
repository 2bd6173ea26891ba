package consensus

import (
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// The invariants that every replica watches while it works. Each is a promise of the algorithm: that one is broken means that
// this program, the library below it, or a machine of the core is wrong, whatever the tests say. They are cheap enough to be
// on always, and change nothing: whoever is right goes on.
const (
	InvariantOneLeader    = "one-leader-a-term" // of all that this replica ever heard in the last terms
	InvariantOneVote      = "one-vote-a-term"   // what is written as this replica's vote
	InvariantTermForward  = "term-goes-forward"
	InvariantCommit       = "commit-goes-forward" // and is of entries that the log has
	InvariantApplyInOrder = "applied-in-order"    // each entry once, none left out
	InvariantLogMatching  = "log-matching"        // two logs that have the same entry have the same ones before it
)

// Invariants lists them with what they say, in a fixed order.
func Invariants() [][2]string {
	return [][2]string{
		{InvariantOneLeader, "A term has one leader."},
		{InvariantOneVote, "A voter votes for one candidate a term."},
		{InvariantTermForward, "The term never goes back."},
		{InvariantCommit, "The commit index never goes back, and is never beyond the end of the log."},
		{InvariantApplyInOrder, "Committed entries are applied in order, each of them once."},
		{InvariantLogMatching, "Logs of members are the same up to any entry that they share."},
	}
}

// Violation is an invariant that did not hold, how often, and what was seen last.
type Violation struct {
	Invariant string
	Count     uint64
	Detail    string
}

// watchedTerms is of how many terms the leader is remembered.
const watchedTerms = 64

// monitor is what the invariants are judged by.
type monitor struct {
	leaders map[uint64]uint64 // by term, of the newest few
	term    uint64
	commit  uint64
	handed  uint64 // last entry given to the applier
	chainAt uint64 // checkpoint at which a log was found to differ
	broken  map[string]Violation
}

// violated notes that an invariant does not hold.
func (c *core) violated(invariant, format string, args ...any) {
	m := &c.monitor
	if m.broken == nil {
		m.broken = make(map[string]Violation)
	}
	v := Violation{Invariant: invariant, Count: m.broken[invariant].Count + 1, Detail: fmt.Sprintf(format, args...)}
	m.broken[invariant] = v
	c.out.violations = append(c.out.violations, v)
	c.out.changed = true
}

// violations lists what was violated since the start, by name.
func (c *core) violations() (list []Violation) {
	if len(c.monitor.broken) == 0 {
		return nil // as a rule
	}
	for _, name := range slices.Sorted(maps.Keys(c.monitor.broken)) {
		list = append(list, c.monitor.broken[name])
	}
	return list
}

// watchLeader judges who leads a term, by what it sends, or because it is us.
func (c *core) watchLeader(term, id uint64) {
	m := &c.monitor
	if m.leaders == nil {
		m.leaders = make(map[uint64]uint64)
	}
	switch first, known := m.leaders[term]; {
	case known && first != id:
		c.violated(InvariantOneLeader, "%x and %x both lead term %d", first, id, term)
	case !known:
		m.leaders[term] = id
		if len(m.leaders) > watchedTerms {
			delete(m.leaders, slices.Min(slices.Collect(maps.Keys(m.leaders))))
		}
	}
}

// watchMessage judges what only a leader sends.
func (c *core) watchMessage(m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		c.watchLeader(m.GetTerm(), m.GetFrom())
	}
}

// watchState judges where we are, after each turn of raft's.
func (c *core) watchState() {
	m := &c.monitor
	if c.leads() {
		c.watchLeader(c.term, c.cfg.id)
	}
	if c.term < m.term {
		c.violated(InvariantTermForward, "from term %d to %d", m.term, c.term)
	}
	if c.commit < m.commit {
		c.violated(InvariantCommit, "from %d to %d", m.commit, c.commit)
	}
	if c.commit > c.log.last() {
		c.violated(InvariantCommit, "%d is committed and the log ends at %d", c.commit, c.log.last())
	}
	m.term, m.commit = c.term, c.commit
}

// watchVote judges the hard state that is to be written after another.
func (c *core) watchVote(before, next *raftpb.HardState) {
	if before.GetTerm() == next.GetTerm() && before.GetVote() != raft.None && next.GetVote() != raft.None && before.GetVote() != next.GetVote() {
		c.violated(InvariantOneVote, "for %x and for %x in term %d", before.GetVote(), next.GetVote(), next.GetTerm())
	}
}

// watchApply judges what is given to the applier.
func (c *core) watchApply(first, last uint64) {
	if m := &c.monitor; first != m.handed+1 && m.handed != 0 {
		c.violated(InvariantApplyInOrder, "entry %d after %d", first, m.handed)
	}
	c.monitor.handed = last
}

// watchChains judges the logs that are told at a checkpoint.
func (c *core) watchChains(index uint64, told map[uint64]mark) {
	own := told[c.cfg.id]
	for _, id := range sortedKeys(told) {
		if told[id].chain != own.chain && c.monitor.chainAt < index {
			c.monitor.chainAt = index
			c.violated(InvariantLogMatching, "up to entry %d the logs of %x and %x differ", index, c.cfg.id, id)
		}
	}
}
