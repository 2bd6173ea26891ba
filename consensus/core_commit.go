package consensus

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// A commit that moves is told to the followers by an append without entries, each of which raft answers, and is written to the
// log of each member. With few writers that is as many messages and writes again as the entries cost. Nobody needs either at once:
//
// An append that the leader sends only to tell the commit bears a mark, and a follower that has acknowledged as much before, in
// the same term, leaves the answer out. It would tell the leader nothing but that the follower lives, which heartbeats do. The
// leader sets no mark where it waits for an answer: to a follower whose log it probes, and after a heartbeat's answer, by which it
// finds that an acknowledgement was lost. While the leader has sent entries that are not committed yet, or sends some in the same turn,
// it does not tell a commit apart at all: those tell it, or their own commit does, and heartbeats if that does not come.
//
// A commit is a hint for the next start, so that it is written with the next entries, or at the next tick.

// acks is what is known of the message that is being stepped.
type acks struct {
	stepping raftpb.MessageType
	spare    uint64 // an acknowledgement of this index may be left out; 0: of none
	commit   bool   // the commit has moved since it was written
}

// markSpare marks an append without entries whose answer nobody waits for: its hint of a rejection, which an append has no use for, is
// its index. Members of before the mark answer all the same.
func (c *core) markSpare(m *raftpb.Message) bool {
	if len(m.GetEntries()) > 0 || c.acks.stepping == raftpb.MsgHeartbeatResp || !c.replicates(m.GetTo()) {
		return false
	}
	m.RejectHint = new(m.GetIndex())
	return true
}

// withoutCovered leaves out what only tells a commit and has another append to the same peer behind it.
func withoutCovered(messages []*raftpb.Message) []*raftpb.Message {
	kept := messages[:0]
	for i, m := range messages {
		again := func(n *raftpb.Message) bool { return n.GetType() == raftpb.MsgApp && n.GetTo() == m.GetTo() }
		if spareAck(m) == 0 || !slices.ContainsFunc(messages[i+1:], again) {
			kept = append(kept, m)
		}
	}
	return kept
}

// replicates reports whether raft takes the log of a peer for known.
func (c *core) replicates(id uint64) (yes bool) {
	c.rn.WithProgress(func(peer uint64, _ raft.ProgressType, p tracker.Progress) {
		if peer == id {
			yes = p.State == tracker.StateReplicate
		}
	})
	return yes
}

// spareAck returns the index that a message does not ask to acknowledge, 0 if it does.
func spareAck(m *raftpb.Message) uint64 {
	if m.GetType() == raftpb.MsgApp && len(m.GetEntries()) == 0 && m.GetRejectHint() == m.GetIndex() {
		return m.GetIndex()
	}
	return 0
}

// wanted leaves out an acknowledgement that its receiver does not wait for and has had.
func (c *core) wanted(responses []*raftpb.Message) []*raftpb.Message {
	spare := c.acks.spare
	if a := c.claiming.acked; spare == 0 || a.term != c.term || a.index < spare {
		return responses
	}
	return slices.DeleteFunc(responses, func(r *raftpb.Message) bool {
		return r.GetType() == raftpb.MsgAppResp && !r.GetReject() && r.GetTo() == c.leader && r.GetIndex() == spare
	})
}

// commitAlone reports whether a write would be of a commit alone, which then waits for the next.
func (c *core) commitAlone(t *appendTask) bool {
	if t.hard == nil || len(t.entries) > 0 || t.snapshot != nil ||
		t.hard.GetTerm() != c.written.GetTerm() || t.hard.GetVote() != c.written.GetVote() {
		return false
	}
	c.acks.commit = true
	return true
}

// writeCommit writes a commit that no entry took along.
func (c *core) writeCommit() {
	if w := c.written; c.acks.commit && w.GetCommit() < c.commit {
		c.written = newHardState(w.GetTerm(), w.GetVote(), c.commit)
		c.out.appends = append(c.out.appends, &appendTask{hard: c.written})
	}
	c.acks.commit = false
}
