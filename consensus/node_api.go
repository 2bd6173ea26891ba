package consensus

import (
	"context"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
)

// Propose replicates one command and returns when it is committed and applied on this node, which
// must lead. Errors: *NotLeaderError, ErrBusy, ErrTooLarge, *UnavailableError, ErrStopped and ctx's
// (wrapped) mean that nothing happened; *OutcomeUnknownError that it may have.
func (n *Node) Propose(ctx context.Context, command []byte) (Proposed, error) {
	if why := n.full.Load(); why != nil && n.status.Load().Role == "leader" {
		return Proposed{}, &UnavailableError{Cause: *why}
	}
	o := n.ask(ctx, n.proposals, &request{command: command})
	return o.done, o.err
}

// ReadIndex returns an index such that a read after WaitApplied of it sees everything that was
// acknowledged before the call. This node must lead. All waiting calls share one round of
// heartbeats. On *NotLeaderError ask the next leader.
func (n *Node) ReadIndex(ctx context.Context) (uint64, error) {
	o := n.ask(ctx, n.reads, &request{})
	return o.index, o.err
}

// WaitApplied waits until the machine has applied everything up to index.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error { return n.waits.wait(ctx, index) }

// ChangeCore proposes a change of voters and learners and returns when it is applied here. A joint
// change is then in its joint phase, which raft leaves by itself (Status.Outgoing empties). One at
// a time: ErrChangePending. ErrChangeInvalid says what is wrong with it.
func (n *Node) ChangeCore(ctx context.Context, change *raftpb.ConfChangeV2) error {
	return n.ask(ctx, n.control, &request{change: change}).err
}

// TransferLeader moves the lead to a voter and returns when it leads, or ErrTransfer (wrapped).
func (n *Node) TransferLeader(ctx context.Context, to uint64) error {
	return n.ask(ctx, n.control, &request{target: to}).err
}

// AcceptTail is an operator's word that the end of this node's log, which is in doubt, is to be taken as it is. It
// reports whether there was a doubt. The node then votes and counts without having heard all others.
func (n *Node) AcceptTail(ctx context.Context) (accepted bool, err error) {
	answers := make(chan bool, 1)
	n.events.put(func(c *core) { answers <- c.acceptTail() })
	select {
	case accepted = <-answers:
		return accepted, nil
	case <-n.done:
		return false, n.stopError()
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// Entries returns entries of the log that end with the one of index last, at most maxBytes of them and none up to after,
// and the term of the entry before them. Fewer than asked for come from a log that was compacted, none when it does not
// reach there.
func (n *Node) Entries(ctx context.Context, after, last uint64, maxBytes int) (prevTerm uint64, entries []*raftpb.Entry, err error) {
	answers := make(chan func(), 1)
	n.events.put(func(c *core) {
		term, found := c.log.upTo(after, last, maxBytes)
		answers <- func() { prevTerm, entries = term, found }
	})
	select {
	case take := <-answers:
		take()
		return prevTerm, entries, nil
	case <-n.done:
		return 0, nil, n.stopError()
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	}
}

// Status returns this node's view of the core. It never blocks.
func (n *Node) Status() Status {
	s := *n.status.Load()
	s.Commit, s.Applied = max(s.Commit, n.commit.Load()), n.waits.applied.Load()
	select {
	case <-n.done:
		s.Stopped = n.stopError()
	default:
	}
	return s
}

// Changed signals that leader, role, term or membership changed: look at Status again. A level of
// capacity 1, for one reader.
func (n *Node) Changed() <-chan struct{} { return n.changed }

// ask hands r to the loop and waits for the answer.
func (n *Node) ask(ctx context.Context, inbox chan<- *request, r *request) outcome {
	answers := make(chan outcome, 1)
	r.reply = func(o outcome) { answers <- o }
	if err := ctx.Err(); err != nil {
		return outcome{err: fmt.Errorf("consensus: nothing was proposed: %w", err)}
	}
	if n.stopping.Load() {
		return outcome{err: ErrStopped}
	}
	select {
	case inbox <- r:
	default:
		return outcome{err: ErrBusy}
	}
	select {
	case o := <-answers:
		return o
	case <-ctx.Done():
		return abandoned(r, answers, ctx.Err())
	case <-n.done:
		return abandoned(r, answers, n.stopError())
	}
}

// abandoned decides what a caller may conclude that waits no longer.
func abandoned(r *request, answers <-chan outcome, cause error) outcome {
	if r.cancel() {
		return outcome{err: fmt.Errorf("consensus: given up before it was proposed: %w", cause)}
	}
	select {
	case o := <-answers:
		return o
	default:
		return outcome{err: &OutcomeUnknownError{Cause: cause}}
	}
}
