package consensus

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"

	"go.etcd.io/raft/v3/raftpb"
)

// Propose replicates one command and returns when it is committed and applied on this node, which
// must lead. Errors: *NotLeaderError, ErrBusy, ErrTooLarge, *UnavailableError, ErrStopped and ctx's
// (wrapped) mean that nothing happened; *OutcomeUnknownError that it may have.
func (n *Node) Propose(ctx context.Context, command []byte) (Proposed, error) {
	if err := n.refuses(command); err != nil {
		return Proposed{}, err
	}
	o := n.ask(ctx, n.proposals, &asked{request: request{command: command}})
	return o.done, o.err
}

// Begin is Propose for who does not wait: done is told what Propose would have returned, once, perhaps before Begin returns. It
// is called by whatever goroutine has the answer, mostly the one that applies, so it must neither wait nor panic. giveUp is what
// the end of the context is to Propose; it may be called at any time.
func (n *Node) Begin(command []byte, done func(Proposed, error)) (giveUp func(cause error)) {
	b := &begun{node: n, done: done}
	b.command, b.reply = command, b.answer
	if err := n.refuses(command); err != nil {
		b.answer(outcome{err: err})
	} else if n.stopping.Load() || !n.waits.add(b) {
		b.answer(outcome{err: ErrStopped})
	} else {
		select {
		case n.proposals <- &b.request:
		default:
			b.answer(outcome{err: ErrBusy})
		}
	}
	return b.giveUp
}

// refuses says why a command is not even handed to the loop.
func (n *Node) refuses(command []byte) error {
	if why := cmp.Or(n.full.Load(), n.refusing.Load()); why != nil && n.status.Load().Role == "leader" {
		return &UnavailableError{Cause: *why}
	}
	if g := n.opts.Guard; g != nil {
		return g.Refuse(command)
	}
	return nil
}

// ReadIndex returns an index such that a read after WaitApplied of it sees everything that was
// acknowledged before the call. This node must lead. It answers by its lease if it holds one; else
// all waiting calls share one round of heartbeats, which begins the next lease. On *NotLeaderError ask the next leader.
func (n *Node) ReadIndex(ctx context.Context) (uint64, error) {
	if index, ok := n.readByLease(); ok {
		return index, nil
	}
	o := n.ask(ctx, n.reads, &asked{})
	n.leases.answered(o)
	return o.index, o.err
}

// WaitApplied waits until the machine has applied everything up to index.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error { return n.waits.wait(ctx, index) }

// ChangeCore proposes a change of voters and learners and returns when it is applied here. A joint
// change is then in its joint phase, which raft leaves by itself (Status.Outgoing empties). One at
// a time: ErrChangePending. ErrChangeInvalid says what is wrong with it.
func (n *Node) ChangeCore(ctx context.Context, change *raftpb.ConfChangeV2) error {
	return n.ask(ctx, n.control, &asked{request: request{change: change}}).err
}

// TransferLeader moves the lead to a voter and returns when it leads, or ErrTransfer (wrapped).
func (n *Node) TransferLeader(ctx context.Context, to uint64) error {
	return n.ask(ctx, n.control, &asked{request: request{target: to}}).err
}

// Refuse has Propose answer with *UnavailableError for why while this node leads, until it is called with
// nil. Reads, changes of the core and transfers go on, and so does what other leaders replicate.
func (n *Node) Refuse(why error) {
	if why == nil {
		n.refusing.Store(nil)
		return
	}
	n.refusing.Store(&why)
}

// RenewSnapshot has a snapshot saved soon, whether or not one is due: the last one turned out damaged. It
// returns at once.
func (n *Node) RenewSnapshot() { n.events.put(input{kind: inputRenewSnapshot}) }

// AcceptDigest says, while Status.ReadOnly, that the state of that member is right, and returns the checkpoint. All others
// fence themselves and are rebuilt. This node must lead.
func (n *Node) AcceptDigest(ctx context.Context, id uint64) (index uint64, err error) {
	o := n.ask(ctx, n.control, &asked{request: request{accept: id}})
	return o.index, o.err
}

// Fence ends this node's service because something outside has found that its state is wrong: Run returns a
// *RebuildNeededError once the lead has been handed over.
func (n *Node) Fence(reason string) { n.events.put(input{kind: inputContradicted, text: reason}) }

// Status returns this node's view of the core. It never blocks.
func (n *Node) Status() Status {
	s := *n.status.Load()
	s.Commit, s.Applied = max(s.Commit, n.commit.Load()), n.waits.applied.Load()
	s.Relayed.Sent, s.Relayed.SentBytes = n.peers.sent.Load(), n.peers.sentBytes.Load()
	select {
	case <-n.done:
		s.Stopped = n.stopError()
	default:
	}
	return s
}

// Leads reports whether this node leads and serves, by what Status says. It costs much less.
func (n *Node) Leads() bool {
	if s := n.status.Load(); s.Role != "leader" || s.Leader != s.ID || s.Stopped != nil {
		return false
	}
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// Changed signals that leader, role, term or membership changed: look at Status again. A level of
// capacity 1, for one reader.
func (n *Node) Changed() <-chan struct{} { return n.changed }

// Recording returns what the recorder has of this node: see Replay. reason is kept in it.
func (n *Node) Recording(ctx context.Context, reason string) ([]byte, error) {
	type answer struct {
		recording []byte
		err       error
	}
	answers := make(chan answer, 1)
	n.events.put(input{kind: inputLook, look: func(*core) {
		b, err := n.recorder.recording(reason)
		answers <- answer{b, err}
	}})
	select {
	case a := <-answers:
		return a.recording, a.err
	case <-n.done: // nobody owns the core any more
		return n.recorder.recording(reason)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// asked is a request with the channel that its caller waits at.
type asked struct {
	request
	answers  chan outcome // capacity 1
	answered atomic.Bool
}

// answer hands the caller its answer. A second one would be that of somebody else, who has the channel by then.
func (a *asked) answer(o outcome) {
	if !a.answered.Swap(true) {
		a.answers <- o
	}
}

// ask hands a request to the loop and waits for the answer.
func (n *Node) ask(ctx context.Context, inbox chan<- *request, a *asked) outcome {
	if err := ctx.Err(); err != nil {
		return outcome{err: fmt.Errorf("consensus: %w: %w", ErrGivenUp, err)}
	}
	if n.stopping.Load() {
		return outcome{err: ErrStopped}
	}
	a.answers, a.reply = n.waits.channel(), a.answer
	select {
	case inbox <- &a.request:
	default:
		return outcome{err: ErrBusy}
	}
	select {
	case o := <-a.answers:
		n.waits.answered.Put(a.answers)
		return o
	case <-ctx.Done():
		return a.abandon(ctx.Err())
	case <-n.done:
		return a.abandon(n.stopError())
	}
}

// abandon decides what a caller may conclude that waits no longer.
func (a *asked) abandon(cause error) outcome {
	if a.cancel() {
		return outcome{err: fmt.Errorf("consensus: %w: %w", ErrGivenUp, cause)}
	}
	select {
	case o := <-a.answers:
		return o
	default:
		return outcome{err: &OutcomeUnknownError{Cause: cause}}
	}
}

// begun is a proposal that nobody waits for.
type begun struct {
	request
	node     *Node
	done     func(Proposed, error)
	answered atomic.Bool
	next     *begun // in the list of those without an answer, as prev
	prev     *begun
}

// answer tells the first outcome.
func (b *begun) answer(o outcome) {
	if b.answered.Swap(true) {
		return
	}
	b.node.waits.remove(b)
	b.done(o.done, o.err)
}

func (b *begun) giveUp(cause error) {
	switch {
	case b.answered.Load():
	case b.cancel():
		b.answer(outcome{err: fmt.Errorf("consensus: %w: %w", ErrGivenUp, cause)})
	default:
		b.answer(outcome{err: &OutcomeUnknownError{Cause: cause}})
	}
}
