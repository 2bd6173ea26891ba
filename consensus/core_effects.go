package consensus

import (
	"io"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/clock"
)

// effects is what a turn of the core asks the shell to do. appends and applies must be performed
// in order, each kind by one goroutine; the rest in any order.
type effects struct {
	appends    []*appendTask
	applies    []*applyTask
	messages   []*raftpb.Message
	answers    []answer
	installs   []*installTask
	saves      []*saveTask
	reports    []snapReport
	notes      []note
	resumes    []resumption
	holds      []hold
	routes     bool        // who is reached by whom has changed
	passes     []envelope  // of others, to be passed on to their receivers
	settled    bool        // the end of the log is in doubt no more
	compact    uint64      // compact the log on disk up to here; 0 = no
	changed    bool        // leader, role, term or membership changed: publish the status
	violations []Violation // invariants that did not hold
	clockErr   error       // a stamp from a peer that the clock refused
}

// appendTask is one write of the log. The responses go out when it is written, and if sync is set
// durable. Without responses nobody depends on it yet; a commit index alone is only a hint for the
// next start. So a sync is due with the first response after entries, term or vote were written.
type appendTask struct {
	entries  []*raftpb.Entry
	hard     *raftpb.HardState // nil if unchanged
	snapshot *SnapshotRef      // not nil: restart the log behind it before anything else
	local    []*raftpb.Message // to be stepped by us, in order; MsgStorageAppendResp is the last
	remote   []*raftpb.Message // to be sent
	sync     bool
}

// applyTask is committed entries for the machine, or a snapshot to restore instead. batches runs
// parallel to entries: the waiting proposers where the entry is our own batch, else nil.
type applyTask struct {
	entries   []*raftpb.Entry
	batches   []*batch
	skips     [][]int // places that are quarantined, by entry; nil = none
	responses []*raftpb.Message
	restore   *SnapshotRef
	index     uint64 // last index of the task
	term      uint64
	capture   bool   // capture the machine's state when done
	proof     bool   // the last entry is a checkpoint: others tell whether what is captured is right
	serial    uint64 // by which a recording names it, 0: none was made
	write     func(io.Writer) error
}

// skip returns the places of entry i that are quarantined.
func (t *applyTask) skip(i int) []int {
	if t.skips == nil {
		return nil
	}
	return t.skips[i]
}

// saveTask is a captured state to be written as a snapshot. Chain is still to be filled in.
type saveTask struct {
	ref   SnapshotRef
	write func(io.Writer) error
}

// onlyCaptures reports whether nothing is to be applied.
func (t *applyTask) onlyCaptures() bool { return t.capture && t.restore == nil && len(t.entries) == 0 }

// installTask is a peer's snapshot to be fetched and made durable; then msg is stepped.
type installTask struct {
	from   uint64
	ref    SnapshotRef
	msg    *raftpb.Message
	serial uint64 // by which a recording names it
	behind bool   // raft is not to hear of it: see core.beginBehind
}

// snapReport tells the sender of a snapshot how it ended.
type snapReport struct {
	to, index uint64
	ok        bool
}

// resumption lets the applier go on where it stopped, without the commands at those places.
type resumption struct {
	index uint64
	skip  []int
}

// hold is a promise to be noted before anything else of the same turn leaves: not to apply an entry or a later one, to the
// leader of that term. Index 0 ends it.
type hold struct{ index, term uint64 }

// answer ends a request.
type answer struct {
	to *request
	outcome
}

type outcome struct {
	done  Proposed
	index uint64
	err   error
}

// Proposed is the receipt of a command: where it stands in the log, the leader's stamp, and what
// the state machine returned.
type Proposed struct {
	Index, Term uint64
	Stamp       clock.Stamp
	Data        []byte
}

// request is one caller's wait: a proposal, a read, a change of the core or a transfer. The core
// treats reply as opaque; the shell calls it once.
type request struct {
	command  []byte               // proposal
	change   *raftpb.ConfChangeV2 // change of the core
	target   uint64               // transfer
	accept   uint64               // whose state is right
	leaveOut *quarantine          // an operator's decision
	state    atomic.Uint32        // requestWaiting, then one of the others, once
	reply    func(outcome)
	serial   uint64 // by which a recording names it
}

const (
	requestWaiting   = iota
	requestTaken     // handed to the log: the outcome may be unknown from here on
	requestCancelled // the caller left before that: certain not to happen
)

// take claims the request for the log. False: the caller has gone.
func (r *request) take() bool { return r.state.CompareAndSwap(requestWaiting, requestTaken) }

// cancel gives the request up. False: it is too late, the log has it.
func (r *request) cancel() bool { return r.state.CompareAndSwap(requestWaiting, requestCancelled) }

// take returns the effects since the last call.
func (c *core) take() effects {
	out := c.out
	c.out = effects{}
	return out
}

func (c *core) answer(r *request, o outcome) {
	c.out.answers = append(c.out.answers, answer{to: r, outcome: o})
}

func (c *core) fail(r *request, err error) { c.answer(r, outcome{err: err}) }

// drain turns everything that raft has ready into effects.
func (c *core) drain() {
	for {
		for c.rn.HasReady() {
			c.ready(c.rn.Ready())
			c.watchState()
		}
		if !c.snapshotOnDemand() {
			c.releasePair()
			return
		}
	}
}

func (c *core) ready(rd raft.Ready) {
	c.hardState(rd)
	if rd.SoftState != nil {
		c.softState(rd.SoftState)
	}
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			c.onAppend(m)
		case raft.LocalApplyThread:
			c.onApply(m)
		default:
			c.send(m)
		}
	}
	c.searchCommitted()
	for _, rs := range rd.ReadStates {
		c.readDone(rs)
	}
}

func (c *core) hardState(rd raft.Ready) {
	if raft.IsEmptyHardState(rd.HardState) {
		return
	}
	if term := rd.GetTerm(); term != c.term {
		c.term, c.termStart, c.issued = term, 0, 0
		c.out.changed = true
	}
	c.commit = rd.GetCommit()
}

func (c *core) softState(s *raft.SoftState) {
	led := c.leads()
	c.role, c.leader = s.RaftState, s.Lead
	c.out.changed = true
	if !led && c.leads() {
		c.ledSince = c.ticks
	}
	if led && !c.leads() {
		c.lostLeadership()
	}
	c.transferMoved()
}

// lostLeadership fails what was not proposed and lets what was wait a little for its fate.
func (c *core) lostLeadership() {
	c.termStart, c.issued = 0, 0
	c.props.dropQueue(c, c.notLeader())
	c.failReads(c.notLeader())
	c.lease.leadLost()
	deadline := c.ticks + uint64(lostLeaderTimeouts*c.cfg.electionTicks)
	c.props.deadline = deadline
	if c.change != nil {
		c.change.deadline = deadline
	}
	clear(c.snaps.sent)
}

// send queues a message for a peer and notes what its answer will be checked against.
func (c *core) send(m *raftpb.Message) {
	if !c.maySend(m) {
		return
	}
	switch m.GetType() {
	case raftpb.MsgHeartbeat:
		if ctx := m.GetContext(); len(ctx) == readRoundContextLen {
			c.issued = max(c.issued, readPosition(ctx))
		}
	case raftpb.MsgSnap:
		c.snaps.note(m.GetTo(), c.ticks)
	}
	c.out.messages = append(c.out.messages, m)
}

// onAppend turns a storage write into a task. The entries enter the log in memory now, before any
// of the responses can be stepped.
func (c *core) onAppend(m *raftpb.Message) {
	t := &appendTask{entries: m.GetEntries()}
	if m.Term != nil || m.Vote != nil || m.Commit != nil {
		t.hard = newHardState(m.GetTerm(), m.GetVote(), m.GetCommit())
	}
	if !raft.IsEmptySnap(m.GetSnapshot()) {
		t.snapshot = c.restored(m.GetSnapshot())
	}
	t.hard = c.kept(t.hard)
	if len(t.entries) > 0 {
		c.durable = min(c.durable, t.entries[0].GetIndex()-1)
	}
	c.log.append(t.entries)
	c.markSync(t, len(m.GetResponses()) > 0)
	for _, r := range m.GetResponses() {
		if r.GetTo() == c.cfg.id {
			t.local = append(t.local, r)
		} else if c.maySend(r) {
			c.acknowledging(r)
			t.remote = append(t.remote, r)
		}
	}
	for _, e := range t.entries {
		c.ownEntry(e)
	}
	c.out.appends = append(c.out.appends, t)
}

// newHardState makes it in one place in memory: each write of the log has one.
func newHardState(term, vote, commit uint64) *raftpb.HardState {
	all := &struct {
		hard               raftpb.HardState
		term, vote, commit uint64
	}{term: term, vote: vote, commit: commit}
	all.hard.Term, all.hard.Vote, all.hard.Commit = &all.term, &all.vote, &all.commit
	return &all.hard
}

func (c *core) markSync(t *appendTask, responses bool) {
	voteMoved := t.hard != nil && (t.hard.GetTerm() != c.written.GetTerm() || t.hard.GetVote() != c.written.GetVote())
	c.unsynced = c.unsynced || len(t.entries) > 0 || voteMoved
	if t.hard != nil {
		c.watchVote(c.written, t.hard)
		c.written = t.hard
	}
	if responses && c.unsynced {
		t.sync, c.unsynced = true, false
	}
}

// ownEntry recognizes what we just put into the log as leader: the first entry of the term, a
// batch or a change of the core that is being proposed right now.
func (c *core) ownEntry(e *raftpb.Entry) {
	if !c.leads() || e.GetTerm() != c.term {
		return
	}
	if c.termStart == 0 {
		c.termStart = e.GetIndex()
		return
	}
	switch {
	case e.GetType() != raftpb.EntryNormal:
		if c.change != nil && c.change.index == 0 {
			c.change.index, c.change.term = e.GetIndex(), e.GetTerm()
		}
	case len(e.GetData()) > 0 && c.props.proposing != nil:
		c.props.proposing.index, c.props.proposing.term = e.GetIndex(), e.GetTerm()
	}
}

// onApply hands committed entries to the applier together with the proposers that wait for them.
func (c *core) onApply(m *raftpb.Message) {
	c.searchCommitted()
	ents := plantedOrder(c.notPlanted(m.GetEntries()))
	if len(ents) == 0 {
		c.hand(&applyTask{responses: m.GetResponses(), index: c.applying, term: c.term})
		return
	}
	for responses := m.GetResponses(); len(ents) > 0; {
		t := c.nextTask(ents)
		if ents = ents[len(t.entries):]; len(ents) == 0 {
			t.responses = responses
		} else {
			t.responses, responses = splitResponses(responses, t.index)
		}
		c.hand(t)
	}
}

// nextTask takes entries up to where the machine is to be captured, or all.
func (c *core) nextTask(ents []*raftpb.Entry) *applyTask {
	t := &applyTask{}
	for i, e := range ents {
		t.batches = append(t.batches, c.props.committed(c, e))
		c.snaps.bytes += len(e.GetData())
		c.applying = e.GetIndex()
		if c.captures(e, i == len(ents)-1) && c.captureDue() {
			t.capture = true
			break
		}
	}
	t.entries = ents[:len(t.batches)]
	last := t.entries[len(t.entries)-1]
	c.watchApply(ents[0].GetIndex(), last.GetIndex())
	t.index, t.term, t.proof = last.GetIndex(), last.GetTerm(), isCheckpoint(last)
	return t
}
