package consensus

import (
	"encoding/binary"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// digests compares the replicas' states. The leader proposes a checkpoint when something was applied since the last one;
// each replica, having applied it, tells all others the chain of its log and the digest of its state at exactly that
// index. Each of them judges for itself, so that a leader whose state went bad is not the only judge:
//
//   - If a majority of the voters agrees and we differ, our state is wrong. We are fenced: we answer nothing more, hand the
//     lead over, and stop with a need to be rebuilt, from a snapshot of one of the majority. A rebuilt replica is on
//     probation: it answers again after probationMarks equal checkpoints.
//   - If no state has a majority, nor can get one from the voters that are heard, nobody can say who is right: writes are
//     refused until the replicas agree again, or an operator has chosen (core_fence.go).
//   - If somebody else differs, we say so (Status.Diverged) and go on: it fences itself.
//
// The log's chain has to be equal as well. It can only differ if Raft's own promises are broken.
type digests struct {
	at        map[uint64]map[uint64]mark // checkpoint -> member -> what it told; of each the newest few
	own       uint64                     // index of our newest checkpoint
	proposed  uint64                     // tick of the last checkpoint that we proposed as leader
	seen      uint64                     // commit index then
	before    uint64                     // what the log held when the probation began: checkpoints up to there do not count
	probation int                        // equal checkpoints still wanted before we answer again
	fenced    *RebuildNeed
	diverged  []uint64          // members whose state differs from the majority's
	noQuorum  bool              // no state has a majority
	agreed    uint64            // newest checkpoint at which a majority agreed with us
	waiting   map[uint64]uint64 // member on probation -> tick at which it said so last
	asked     bool              // a member wants a checkpoint, for a snapshot
}

// mark is what a member told about a checkpoint.
type mark struct {
	chain, state [32]byte
}

const (
	noteCheckpoint noteKind = 20
	noteProbation  noteKind = 21

	keptCheckpoints = 8
	probationMarks  = 3
	markBytes       = 8 + 32 + 32

	// controlVersion begins an entry that is not for the state machine; batches begin with batchVersion.
	controlVersion    = 2
	controlCheckpoint = 1
	controlAccept     = 2
)

// isCheckpoint reports whether an entry is a checkpoint.
func isCheckpoint(e *raftpb.Entry) bool {
	d := e.GetData()
	return e.GetType() == raftpb.EntryNormal && len(d) == 2 && d[0] == controlVersion && d[1] == controlCheckpoint
}

// tickDigests proposes a checkpoint when one is due.
func (c *core) tickDigests() {
	d := &c.digests
	wanted := d.asked || c.wantsCheckpoint()
	due := c.ticks-d.proposed >= uint64(c.cfg.checkpointTicks) || c.leads() && c.rarely(rareCheckpoint) ||
		wanted && c.ticks-d.proposed >= uint64(c.cfg.electionTicks)
	c.tellProbation()
	c.tellWant()
	if d.own > 0 && c.leads() {
		c.judge(d.own) // a voter may have fallen silent
	}
	if c.cfg.noDigests || !due || !c.leads() || c.transfer != nil || c.commit < c.termStart || c.termStart == 0 {
		return
	}
	quiet := c.commit == d.seen && d.probation == 0 && len(d.diverged) == 0 && !d.noQuorum && !c.somebodyElseWaits() && !c.probationWaits() && !wanted
	if quiet {
		return
	}
	d.proposed = c.ticks
	if c.rn.Propose([]byte{controlVersion, controlCheckpoint}) != nil {
		return
	}
	c.drain()
	d.seen, d.asked = c.log.last(), false
}

// somebodyElseWaits is true in the first checkpoints of a term: a member on probation may need them.
func (c *core) somebodyElseWaits() bool { return c.ticks-c.ledSince < c.probationTicks() }

// probationTicks is how long a probation takes where states are compared.
func (c *core) probationTicks() uint64 {
	return uint64((probationMarks + 2) * c.cfg.checkpointTicks) //nolint:gosec // positive
}

// checkpointed takes our own mark, once the checkpoint is applied.
func (c *core) checkpointed(index uint64, m mark) {
	d := &c.digests
	d.own = index
	c.forgetGone()
	c.noteMark(c.cfg.id, index, m)
	c.tellMarks()
	c.judge(index)
	c.prove()
}

// tellMarks tells all others our marks, those of earlier checkpoints once more: notes may be lost.
func (c *core) tellMarks() {
	for _, index := range sortedKeys(c.digests.at) {
		m, known := c.digests.at[index][c.cfg.id]
		if !known {
			continue
		}
		b := binary.BigEndian.AppendUint64(make([]byte, 0, markBytes), index)
		b = append(append(b, m.chain[:]...), m.state[:]...)
		for _, id := range c.members() {
			if id != c.cfg.id && id != raft.None {
				c.tell(id, noteCheckpoint, b)
			}
		}
	}
}

// hearCheckpoint takes a peer's mark. One that we have not reached waits for us.
func (c *core) hearCheckpoint(from uint64, body []byte) error {
	if len(body) != markBytes {
		return errNote
	}
	index := binary.BigEndian.Uint64(body)
	if index > 1<<62 || index+1<<20 < c.applied {
		return errNote
	}
	c.noteMark(from, index, mark{chain: [32]byte(body[8:40]), state: [32]byte(body[40:72])})
	c.judge(index)
	c.prove()
	return nil
}

// noteMark remembers a mark, of each member the newest few: whoever tells of checkpoints that never were pushes out what
// it told itself, and nobody else's.
func (c *core) noteMark(id, index uint64, m mark) {
	d := &c.digests
	if d.at == nil {
		d.at = make(map[uint64]map[uint64]mark)
	}
	var his []uint64
	for at, told := range d.at {
		if _, ok := told[id]; ok && at != index {
			his = append(his, at)
		}
	}
	if len(his) >= keptCheckpoints {
		oldest := slices.Min(his)
		if index < oldest {
			return
		}
		d.forget(oldest, id)
	}
	told := d.at[index]
	if told == nil {
		told = make(map[uint64]mark)
		d.at[index] = told
	}
	if _, known := told[id]; known || len(told) < maxPeers {
		told[id] = m
	}
}

// forget drops one mark of a member.
func (d *digests) forget(index, id uint64) {
	delete(d.at[index], id)
	if len(d.at[index]) == 0 {
		delete(d.at, index)
	}
}

// forgetGone drops the marks of who is no member any more.
func (c *core) forgetGone() {
	members := c.members()
	for index, told := range c.digests.at {
		for id := range told {
			if id != c.cfg.id && !slices.Contains(members, id) {
				c.digests.forget(index, id)
			}
		}
	}
}

// judge compares what was told about a checkpoint that we have a mark of.
func (c *core) judge(index uint64) {
	d := &c.digests
	told := d.at[index]
	own, reached := told[c.cfg.id]
	if !reached || d.fenced != nil || index != d.own || len(c.conf.GetVotersOutgoing()) > 0 {
		return
	}
	c.watchChains(index, told)
	voters := c.conf.GetVoters()
	best, count, heard, late := mark{}, 0, 0, 0
	for _, id := range voters {
		m, ok := told[id]
		if !ok {
			if !c.leads() || c.heardLately(id) { // followers do not hear each other
				late++
			}
			continue
		}
		heard++
		same := 0
		for _, other := range voters {
			if o, ok := told[other]; ok && o == m {
				same++
			}
		}
		if same > count {
			best, count = m, same
		}
	}
	majority := count > len(voters)/2
	switch {
	case majority && own != best:
		c.outvoted(index, best, told)
	case majority:
		c.agreedAt(index, best, told)
	case heard > count && count+late <= len(voters)/2 && !d.noQuorum:
		d.noQuorum = true
		c.out.changed = true
	}
}

// agreedAt notes that a majority agrees with us, and who does not.
func (c *core) agreedAt(index uint64, best mark, told map[uint64]mark) {
	d := &c.digests
	var diverged []uint64
	for _, id := range sortedKeys(told) {
		if told[id] != best {
			diverged = append(diverged, id)
		}
	}
	if !slices.Equal(diverged, d.diverged) || d.noQuorum {
		d.diverged, d.noQuorum = diverged, false
		c.out.changed = true
	}
	if index > d.agreed {
		d.agreed = index
		if d.probation > 0 && index > d.before {
			d.probation--
			c.out.changed = true
		}
	}
}
