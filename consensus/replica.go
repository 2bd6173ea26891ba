package consensus

import (
	"context"
	"errors"
	"net"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// Replica is a Node without goroutines: its owner decides what happens next, one step at a time. All that a
// step does is done by the code of Node, the codec of frames and the checks of what peers send included.
// The simulator drives clusters of these. Not safe for concurrent use.
//
// Work piles up in four queues, as it does between the goroutines of a Node: the log's, the applier's, the
// snapshot writer's and the snapshot fetcher's. Each step takes from one of them.
type Replica struct {
	n     *Node
	redo  []logTask // appends that found no room, to be done again before anything else
	slept int       // ticks that were slept over
}

// NewReplica is New. Peers.Dial is not used: frames are taken by TakeFrames.
func NewReplica(options Options) (*Replica, error) {
	options.Peers.Dial = func(context.Context, uint64) (net.Conn, error) { return nil, errors.New("nobody dials for a replica") }
	n, err := New(options)
	if err != nil {
		return nil, err
	}
	n.pause = func(context.Context, time.Duration) bool { return false }
	return &Replica{n: n}, nil
}

// Start performs what is due before the first event.
func (r *Replica) Start() error {
	return r.event("start", input{kind: inputStart})
}

// Tick advances the timers. Ticks that a Node may sleep over are made up for at the next event, or when it may no longer.
func (r *Replica) Tick() error {
	if r.slept+1 < r.n.core.restTicks() {
		r.slept++
		return nil
	}
	err := r.turn("a tick", r.n.tick)
	r.n.publish()
	return err
}

// event runs events and performs their effects.
func (r *Replica) event(what string, events ...input) error {
	return r.turn(what, func() {
		for i := range events {
			r.n.feed(&events[i])
		}
	})
}

// turn runs what f feeds the core with, and performs the effects.
func (r *Replica) turn(what string, f func()) error {
	r.n.tellTime()
	ticked := r.slept > 0
	err := r.n.guard(named(what), func() {
		for ; r.slept > 0; r.slept-- {
			r.n.tick()
		}
		f()
		r.n.feed(&input{kind: inputFlush})
	})
	if ticked {
		r.n.publish()
	}
	r.n.perform()
	return err
}

// settle handles what the workers have to tell the core.
func (r *Replica) settle() error {
	for {
		r.n.told = r.n.events.swap(r.n.told)
		if len(r.n.told) == 0 {
			return nil
		}
		if err := r.event("a local event", r.n.told...); err != nil {
			return err
		}
	}
}

// A Frame is what one replica sends to another at once, as it is on the wire without its length.
type Frame struct {
	To   uint64
	Body []byte
}

// TakeFrames returns what waits for the peers, in ascending order of their ids, at most one frame each.
func (r *Replica) TakeFrames() []Frame { return r.n.peers.takeFrames() }

// Receive handles a frame of the node with that name in its certificate. An error that is not a *PanicError
// is about the frame: a Node would close the connection.
func (r *Replica) Receive(node string, body []byte) error {
	in, err := decodeFrame(body)
	if err == nil {
		err = r.n.checkInbound(&in, node)
	}
	if err != nil {
		return err
	}
	return r.turn("a local event", func() { r.n.receive(in) })
}

// Lost says that what was sent to a peer did not arrive, as a broken connection does.
func (r *Replica) Lost(to uint64, snapshot bool) error {
	r.n.lost(to, snapshot)
	return r.settle()
}

// Refused says that the host of a peer refused a connection.
func (r *Replica) Refused(id uint64) error {
	r.n.peers.refused(id)
	return r.settle()
}

// Propose is Node.Propose. done is called once, later or at once.
func (r *Replica) Propose(command []byte, done func(Proposed, error)) error {
	if why := r.n.full.Load(); why != nil && r.n.core.leads() {
		done(Proposed{}, &UnavailableError{Cause: *why})
		return nil
	}
	if r.n.core.room() == 0 {
		done(Proposed{}, ErrBusy)
		return nil
	}
	if g := r.n.opts.Guard; g != nil {
		if err := g.Refuse(command); err != nil {
			done(Proposed{}, err)
			return nil
		}
	}
	req := &request{command: command, reply: func(o outcome) { done(o.done, o.err) }}
	return r.event("a proposal", input{kind: inputSubmit, request: req})
}

// ReadIndex is Node.ReadIndex. The reader then waits until Applied is at least the index.
func (r *Replica) ReadIndex(done func(index uint64, err error)) error {
	if index, ok := r.n.readByLease(); ok {
		done(index, nil)
		return nil
	}
	req := &request{reply: func(o outcome) {
		r.n.leases.answered(o)
		done(o.index, o.err)
	}}
	return r.event("a read", input{kind: inputRead, request: req})
}

// ChangeCore is Node.ChangeCore.
func (r *Replica) ChangeCore(change *raftpb.ConfChangeV2, done func(error)) error {
	req := &request{change: change, reply: func(o outcome) { done(o.err) }}
	return r.event("a change of the core", input{kind: inputChange, request: req})
}

// TransferLeader is Node.TransferLeader.
func (r *Replica) TransferLeader(to uint64, done func(error)) error {
	req := &request{target: to, reply: func(o outcome) { done(o.err) }}
	return r.event("a transfer", input{kind: inputTransfer, request: req})
}

// Reads is Node.Reads.
func (r *Replica) Reads() Reads { return r.n.Reads() }

// Status is Node.Status.
func (r *Replica) Status() Status { return r.n.Status() }

// Recording is Node.Recording.
func (r *Replica) Recording(reason string) ([]byte, error) { return r.n.recorder.recording(reason) }

// Leads reports whether this replica believes to lead. Cheap, unlike Status.
func (r *Replica) Leads() bool { return r.n.core.leads() }

// TermStart is, on a leader, the index of the first entry of its term, 0 while there is none.
func (r *Replica) TermStart() uint64 { return r.n.core.termStart }

// Violations are the invariants that did not hold.
func (r *Replica) Violations() []Violation { return r.n.core.violations() }

// Term, Commit and Applied are where the replica is.
func (r *Replica) Term() uint64    { return r.n.core.term }
func (r *Replica) Commit() uint64  { return r.n.core.commit }
func (r *Replica) Applied() uint64 { return r.n.waits.applied.Load() }

// HandingOver reports whether this replica is moving the lead to another.
func (r *Replica) HandingOver() bool { return r.n.core.transfer != nil }

// Reached reports whether a read at index, which ReadIndex returned, may be answered: what WaitApplied waits for.
func (r *Replica) Reached(index uint64) bool { return r.n.waits.reached(index) }

// Voted returns the term that is durable, and the candidate that got this replica's vote in it, 0 for none. Before the
// first write since the start it is what was recovered.
func (r *Replica) Voted() (term, candidate uint64) {
	h := r.n.synced
	if h == nil {
		h = r.n.core.log.hard
	}
	return h.GetTerm(), h.GetVote()
}

// LogWaits, ApplyWaits, SaveWaits and InstallWaits report whether there is work of that kind.
func (r *Replica) LogWaits() bool { return len(r.redo) > 0 || r.n.logTasks.waits() }
func (r *Replica) ApplyWaits() bool {
	return r.n.resumes.waits() || r.n.applies.waits()
}
func (r *Replica) SaveWaits() bool    { return r.n.saves.waits() }
func (r *Replica) InstallWaits() bool { return r.n.installs.waits() }

// LogWork does what waits for the log writer: one group commit, or one job that stands alone. When the log
// has no room the work stays for the next call. An error is final: the process would end.
func (r *Replica) LogWork() error {
	tasks := append(r.redo, r.n.logTasks.take()...)
	n := firstGroup(tasks)
	r.redo = tasks[n:]
	switch err := r.n.writeAll(context.Background(), tasks[:n]); {
	case errors.Is(err, errGivenUp):
		r.redo = tasks
	case err != nil:
		return err
	}
	return r.settle()
}

// firstGroup returns how many of the tasks make one write.
func firstGroup(tasks []logTask) int {
	for i, t := range tasks {
		if t.append == nil || t.append.snapshot != nil {
			return max(i, 1)
		}
	}
	return len(tasks)
}

// ApplyWork applies what waits. Where the guard has stopped it does nothing until the core has decided; after a halt for good
// it never does anything again.
func (r *Replica) ApplyWork() error {
	if r.n.core.halted != nil && !r.n.applier.stopped {
		r.n.applies.take()
		return r.settle()
	}
	err := r.n.applyWaiting(func() bool { return !r.n.rarely(rareApplyOne) })
	if unreadable(err) {
		return err
	} else if err != nil {
		r.n.halt(err)
	}
	return r.settle()
}

// SaveWork writes the captured state that waits.
func (r *Replica) SaveWork() error {
	for _, t := range r.n.saves.take() {
		if err := r.n.save(t); err != nil {
			return err
		}
	}
	return r.settle()
}

// InstallWork fetches the peer's snapshot that waits.
func (r *Replica) InstallWork(ctx context.Context) error {
	for _, t := range r.n.installs.take() {
		if err := r.n.fetch(ctx, t); err != nil {
			return err
		}
	}
	return r.settle()
}

// RepairNeeded is what a Node's Run returns a *RepairNeededError for, nil if there is none. The replica does nothing more.
func (r *Replica) RepairNeeded() *RepairNeed { return r.n.core.tails.need }

// RebuildNeeded is the same for a *RebuildNeededError.
func (r *Replica) RebuildNeeded() *RebuildNeed { return r.n.core.rebuild() }

// Entries is Node.Entries.
func (r *Replica) Entries(after, last uint64, maxBytes int) (prevTerm uint64, entries []*raftpb.Entry) {
	return r.n.core.log.upTo(after, last, maxBytes)
}

// RenewSnapshot is Node.RenewSnapshot.
func (r *Replica) RenewSnapshot() error {
	return r.event("a snapshot that is asked for", input{kind: inputRenewSnapshot})
}

// AcceptTail is Node.AcceptTail.
func (r *Replica) AcceptTail() (accepted bool, err error) {
	err = r.event("a tail that is accepted", input{kind: inputAcceptTail, told: func(yes bool) { accepted = yes }})
	return accepted, err
}
