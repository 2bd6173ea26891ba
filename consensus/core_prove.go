package consensus

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// A snapshot outlives the memory that it was made from: it is what this replica starts with again, and what others are given.
// A state that went wrong, and was captured before a checkpoint found it, would be handed on by it:
//
//  1. n2 computes something else than the others.
//  2. n2 is captured, and the snapshot written. It is intact as a file.
//  3. The row that was wrong is overwritten, so that no checkpoint finds anything. Or one does, and n2 is rebuilt.
//  4. n3 is behind and gets that snapshot, from n2 itself or by way of who got it before.
//
// So the machine is captured at checkpoints alone, whose digests all members tell each other, and what was captured is written
// once a majority of the voters has told the same. Until then nothing is lost: the log is kept as long. There are two cases
// in which a snapshot is written without proof, if nobody contradicts: the log grows beyond what memory is for it; and a
// member needs one for so long that it may be the very one whose word is missing, without which nothing commits. That one
// may run no Raft id at present and ask from outside, and we may not lead: two of three that begin again with what the third
// has are a majority.
//
// What is captured cannot change until it is written without being noticed: Views are immutable, and each row is compared with
// its hash when it is written.

const noteWant noteKind = 22

// proofTimeouts is how many election timeouts whoever needs a snapshot waits for its proof.
const proofTimeouts = 6

// proves reports whether snapshots need a proof: whether states are compared at all.
func (c *core) proves() bool { return !c.cfg.noDigests }

// pressed reports whether a snapshot is needed more than its proof.
func (c *core) pressed() bool {
	late := c.snaps.wantedAt > 0 && c.ticks-c.snaps.wantedAt >= uint64(proofTimeouts*c.cfg.electionTicks) && !c.cfg.fenced
	return (late || c.log.bytes > c.cfg.maxLogBytes/2) && !c.digests.noQuorum && c.digests.fenced == nil
}

// tickProof notes since when a snapshot is needed. The log may have grown too much, or the wait too long, meanwhile.
func (c *core) tickProof() {
	switch s := &c.snaps; {
	case !s.asked && !(c.log.wanted && c.leads()):
		s.wantedAt = 0
	case s.wantedAt == 0:
		s.wantedAt = c.ticks
	}
	c.prove()
}

// captures reports whether the machine may be captured after an entry, the last that is there or not.
func (c *core) captures(e *raftpb.Entry, last bool) bool {
	if c.proves() && !c.pressed() {
		return isCheckpoint(e)
	}
	return last
}

// prove has what was captured written, once a majority of the voters has told that it holds the same.
func (c *core) prove() {
	s := c.snaps.pending
	if s == nil {
		return
	}
	told := c.digests.at[s.ref.Index]
	own, reached := told[c.cfg.id]
	switch {
	case c.halted != nil || !reached && c.digests.own >= s.ref.Index:
		c.dropPending() // wrong, or forgotten
	case reached && c.majorityTold(told, own) || c.pressed():
		c.snaps.pending = nil
		c.out.saves = append(c.out.saves, s)
	}
}

// dropPending gives up what was captured. Another is captured at the next checkpoint.
func (c *core) dropPending() {
	if c.snaps.pending != nil {
		c.snaps.pending, c.snaps.saving, c.snaps.renew = nil, false, true
	}
}

// majorityTold reports whether a majority of the voters, of both sets during a change of the core, has told a mark.
func (c *core) majorityTold(told map[uint64]mark, want mark) bool {
	for _, voters := range [][]uint64{c.conf.GetVoters(), c.conf.GetVotersOutgoing()} {
		same := 0
		for _, id := range voters {
			if m, ok := told[id]; ok && m == want {
				same++
			}
		}
		if len(voters) > 0 && same <= len(voters)/2 {
			return false
		}
	}
	return true
}

// wantsCheckpoint reports whether a snapshot waits for a checkpoint: to be captured, or to be proven by what is told again.
// A replica that applies nothing comes to none, and a wrong one proves nothing, however many there are.
func (c *core) wantsCheckpoint() bool {
	return c.proves() && c.halted == nil && !c.cfg.fenced && (c.snapshotDue() || c.snaps.pending != nil)
}

// tellWant lets the leader know that a snapshot waits for a checkpoint: with nothing written it would propose none.
func (c *core) tellWant() {
	if c.wantsCheckpoint() && c.leader != raft.None && !c.leads() && c.ticks%uint64(c.cfg.electionTicks) == 0 {
		c.tell(c.leader, noteWant, nil)
	}
}

// hearWant notes that a member wants a checkpoint.
func (c *core) hearWant(from uint64, body []byte) error {
	if len(body) != 0 || !slices.Contains(c.members(), from) {
		return errNote
	}
	c.digests.asked = true
	return nil
}
