package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// RebuildNeed says that this replica's state is not what it has to be. It is to be rebuilt from a snapshot and the log behind
// it.
type RebuildNeed struct {
	Index  uint64   // the checkpoint, or what was applied when it was found out
	Reason string   // for people
	From   []uint64 // members whose snapshots are right, as far as is known
	Agreed uint64   // newest checkpoint at which the state here was right: an own snapshot of up to there is, too; 0: not known
	Own    bool     // the replica has found out by itself: what it wrote earlier need not be wrong
	Again  bool     // it was rebuilt before, and is wrong again: the fault is not in the memory
	Log    bool     // it is the log that differs: a snapshot does not help
	Chain  [32]byte // that the majority's log has at Index, if Log
	Beyond uint64   // the snapshot to begin with has to be at or behind this entry, which this replica cannot apply; 0: any
	Gate   uint64   // see Guard.Gate
}

// RebuildNeededError is returned by Node.Run for a RebuildNeed.
type RebuildNeededError struct{ RebuildNeed }

func (e *RebuildNeededError) Error() string {
	if e.Own {
		return fmt.Sprintf("the state of this member is wrong at entry %d: %s", e.Index, e.Reason)
	}
	return fmt.Sprintf("the state of this member differs from that of the majority at entry %d: %s", e.Index, e.Reason)
}

// fence ends this replica's service: it answers nothing more, hands the lead over, and stops to be rebuilt. One that was
// rebuilt often enough (coreConfig.fenced) goes on voting and replicating instead, and answers nothing.
func (c *core) fence(need *RebuildNeed) {
	d := &c.digests
	if d.fenced != nil || c.cfg.fenced {
		return
	}
	need.Again = d.probation > 0
	if need.Agreed == 0 {
		need.Agreed = d.agreed
	}
	d.fenced = need
	err := fmt.Errorf("%w: %w", ErrStopped, &RebuildNeededError{*need})
	c.halted = err
	c.failProposals(err)
	c.failReads(err)
	c.out.changed = true
	c.handOver()
}

// outvoted fences a replica that differs from a majority.
func (c *core) outvoted(index uint64, best mark, told map[uint64]mark) {
	need := &RebuildNeed{Index: index, Reason: "its memory, or this program on this machine, does not compute what the others do"}
	if told[c.cfg.id].chain != best.chain {
		need.Reason, need.Log, need.Chain = "its log differs from that of the majority", true, best.chain
	}
	for _, id := range sortedKeys(told) {
		if told[id] == best {
			need.From = append(need.From, id)
		}
	}
	c.fence(need)
}

// contradicted fences a replica that has found out by itself that it is wrong.
func (c *core) contradicted(reason string) {
	need := &RebuildNeed{Index: c.applied, Reason: reason, Own: true}
	for _, id := range c.members() {
		if id != c.cfg.id && id != raft.None && !c.doubted(id) {
			need.From = append(need.From, id)
		}
	}
	c.fence(need)
	c.drain()
}

// unfit says why this replica answers nothing for now although it applies, nil as a rule.
func (c *core) unfit() error {
	switch {
	case c.cfg.fenced:
		return fmt.Errorf("%w: its state was rebuilt and was wrong again each time", ErrProbation)
	case c.digests.probation > 0:
		return fmt.Errorf("%w: its state was rebuilt, and %d more checkpoints have to agree", ErrProbation, c.digests.probation)
	}
	return nil
}

// rebuild returns the need to be rebuilt, once the lead has been handed over or cannot be.
func (c *core) rebuild() *RebuildNeed {
	if c.leads() && c.transfer != nil {
		return nil
	}
	return c.digests.fenced
}

// doubted reports whether another member's state is not to be relied on.
func (c *core) doubted(id uint64) bool {
	return slices.Contains(c.digests.diverged, id) || c.onProbation(id)
}

// tellProbation lets the leader know that we wait for checkpoints: with nothing written it would propose none.
func (c *core) tellProbation() {
	if c.digests.probation > 0 && !c.cfg.fenced && c.leader != raft.None && !c.leads() && c.ticks%uint64(c.cfg.checkpointTicks) == 0 {
		c.tell(c.leader, noteProbation, nil)
	}
}

// hearProbation notes that a member waits for checkpoints.
func (c *core) hearProbation(from uint64, body []byte) error {
	d := &c.digests
	if len(body) != 0 || !slices.Contains(c.members(), from) {
		return errNote
	}
	if d.waiting == nil {
		d.waiting = make(map[uint64]uint64)
	}
	d.waiting[from] = c.ticks
	return nil
}

func (c *core) onProbation(id uint64) bool {
	at, ok := c.digests.waiting[id]
	return ok && c.ticks-at <= 2*uint64(c.cfg.checkpointTicks)
}

// probationWaits reports whether some member waits for checkpoints, and forgets those that wait no more.
func (c *core) probationWaits() bool {
	maps.DeleteFunc(c.digests.waiting, func(id, _ uint64) bool { return !c.onProbation(id) })
	return len(c.digests.waiting) > 0
}

// errAgreed refuses a choice that nobody has to make.
var errAgreed = errors.New("consensus: the states of the core members have a majority: there is nothing to choose")

// accept lets an operator say, while no state has a majority, whose is right. It goes through the log, so that all fence
// themselves that differ from it, the leader as well.
func (c *core) accept(r *request) {
	d := &c.digests
	chosen, known := d.at[d.own][r.accept]
	switch {
	case c.halted != nil:
		c.fail(r, c.halted)
	case !c.leads():
		c.fail(r, c.notLeader())
	case !d.noQuorum:
		c.fail(r, errAgreed)
	case !known:
		c.fail(r, fmt.Errorf("consensus: member %x has not told its state at the last checkpoint, entry %d: it cannot be chosen", r.accept, d.own))
	default:
		c.cfg.asks.take(r)
		b := binary.BigEndian.AppendUint64([]byte{controlVersion, controlAccept}, d.own)
		b = append(append(b, chosen.chain[:]...), chosen.state[:]...)
		if err := c.rn.Propose(b); err != nil {
			c.fail(r, c.notLeader())
			return
		}
		c.drain()
		c.answer(r, outcome{index: d.own})
	}
}

// accepted takes an operator's choice from the log.
func (c *core) accepted(body []byte) {
	d := &c.digests
	index, chosen := binary.BigEndian.Uint64(body), mark{chain: [32]byte(body[8:40]), state: [32]byte(body[40:72])}
	if d.noQuorum {
		d.noQuorum, c.out.changed = false, true
	}
	told := d.at[index]
	if own, known := told[c.cfg.id]; known && own != chosen {
		c.outvoted(index, chosen, told)
	}
	maps.DeleteFunc(told, func(_ uint64, m mark) bool { return m != chosen }) // these are given up, and judged no more
	c.drain()
}

// control returns what an entry that is not for the state machine says, "" for all others.
func control(e *raftpb.Entry) (kind byte, body []byte) {
	d := e.GetData()
	switch {
	case isCheckpoint(e):
		return controlCheckpoint, nil
	case e.GetType() == raftpb.EntryNormal && len(d) == quarantineBytes && d[0] == controlVersion && d[1] == controlQuarantine:
		return controlQuarantine, nil
	case e.GetType() == raftpb.EntryNormal && len(d) == 2+markBytes && d[0] == controlVersion && d[1] == controlAccept:
		return controlAccept, d[2:]
	}
	return 0, nil
}
