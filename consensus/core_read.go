package consensus

import (
	"encoding/binary"

	"go.etcd.io/raft/v3"

	"github.com/parley-mesh/parley/mutant"
)

// readRounds makes one read-index round serve all reads that wait when it starts. A read that
// arrives later needs the next round: the running one fixed its index before, and a write that was
// acknowledged in between may be above it.
//
// Raft repeats the round's mark in every heartbeat, so lost messages need no care here. Rounds die
// with the leadership; the waiting reads are then sent to the new leader by their callers.
type readRounds struct {
	waiting []*request // for the next round
	active  []*request // of the running round
	running bool
	id      uint64 // of the running or last round
	since   uint64 // tick at which the round started
}

// readRoom returns how many more reads may wait.
func (c *core) readRoom(limit int) int { return max(0, limit-len(c.reads.waiting)) }

// read queues a read for the next round.
func (c *core) read(r *request) {
	switch {
	case c.halted != nil:
		c.fail(r, c.halted)
	case c.unfit() != nil:
		c.fail(r, c.unfit())
	case !c.leads():
		c.fail(r, c.notLeader())
	case c.investigates():
		c.fail(r, &UnavailableError{Cause: errInvestigating})
	case mutant.On(mutant.ReadWithoutReadIndex):
		c.answer(r, outcome{index: c.applied})
	default:
		c.reads.waiting = append(c.reads.waiting, r)
	}
}

// flushReads starts a round. Not before an entry of this term is committed: until then the leader
// does not know what its predecessors committed. Raft itself checks that, except in a core of one
// voter, where it answers with a commit index that may lag behind what was acknowledged.
func (c *core) flushReads() {
	if c.reads.running || len(c.reads.waiting) == 0 && !c.renewLease() || !c.leads() {
		return
	}
	if c.termStart == 0 || c.commit < c.termStart {
		return
	}
	c.reads.active, c.reads.waiting = c.reads.waiting, nil
	c.startRound()
}

func (c *core) startRound() {
	c.reads.running, c.reads.since = true, c.ticks
	c.beginLease()
	c.reads.id++
	c.rn.ReadIndex(binary.LittleEndian.AppendUint64(nil, c.reads.id))
	c.drain()
}

// readDone ends the running round. Marks of abandoned rounds are ignored.
func (c *core) readDone(rs raft.ReadState) {
	if !c.reads.running || len(rs.RequestCtx) != readRoundContextLen || readPosition(rs.RequestCtx) != c.reads.id {
		return
	}
	c.reads.running = false
	c.endLease()
	c.finishReads(&c.reads.active, rs.Index)
}

func (c *core) finishReads(list *[]*request, index uint64) {
	for _, r := range *list {
		c.answer(r, outcome{index: index})
	}
	*list = nil
}

// tickReads repeats a round that has not ended for an election timeout, with a later and therefore
// still correct index. It happens when the core shrinks to one voter under a running round: raft
// then waits for an answer that nobody is left to give.
func (c *core) tickReads() {
	if c.reads.running && c.leads() && (c.ticks-c.reads.since >= uint64(c.cfg.electionTicks) || c.rarely(rareReadAnew)) {
		c.startRound()
	}
	c.flushReads()
}

func (c *core) failReads(err error) {
	c.failAll(c.reads.active, err)
	c.failAll(c.reads.waiting, err)
	c.reads.active, c.reads.waiting, c.reads.running = nil, nil, false
}

// readPosition decodes the mark that raft puts into heartbeats, or ours. b has 8 bytes.
func readPosition(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
