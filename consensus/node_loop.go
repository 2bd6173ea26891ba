package consensus

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/mutant"
)

// PanicError is returned by Run when the core panicked. The state in memory is not to be trusted
// any more, so the node stops; what is on disk is as before. Message is what was being handled.
type PanicError struct {
	Value   any
	Message string
	Stack   []byte
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("consensus core panicked while handling %s: %v; the node is stopped, restart it and report the log",
		e.Message, e.Value)
}

// loop has the turns of the core until ctx ends and the lead is handed over, until inner ends because another
// goroutine failed, or until the core panics.
func (n *Node) loop(ctx, inner context.Context) error {
	n.turns.Lock()
	defer n.turns.end()
	sleep := newSleeper(n)
	defer sleep.timer.Stop()
	n.turns.sleep, n.turns.over = sleep, false
	defer n.leases.held.Store(nil)
	defer n.stopping.Store(true)
	n.tellTime()
	if err := n.guard(named("start"), func() { n.feed(&input{kind: inputStart}) }); err != nil {
		return err
	}
	n.perform()
	stop, limit := ctx.Done(), (<-chan time.Time)(nil)
	for {
		ended, ticked := false, false
		err := n.guard(named("a local event"), func() { ended, ticked = n.turn(inner, sleep, stop, limit) })
		if err := cmp.Or(err, n.turns.err); err != nil {
			return err
		}
		n.finishTurn(sleep, ticked)
		if need := n.core.tails.need; need != nil {
			n.recorder.save(n.core, "repair")
			return &RepairNeededError{*need}
		}
		if need := n.core.rebuild(); need != nil {
			n.recorder.save(n.core, "rebuild")
			return &RebuildNeededError{*need}
		}
		switch {
		case inner.Err() != nil:
			return nil
		case limit == nil && ctx.Err() != nil:
			stop, limit = nil, time.After(n.opts.HandOver)
			if ended = !n.beginHandOver(); !ended {
				continue
			}
		case limit != nil:
			ended = ended || n.core.transfer == nil
		}
		if ended {
			return nil
		}
	}
}

// turn waits for one event, takes what else is there, and flushes.
func (n *Node) turn(inner context.Context, sleep *sleeper, stop <-chan struct{}, limit <-chan time.Time) (ended, ticked bool) {
	proposals, reads := n.proposals, n.reads
	if n.core.room() == 0 {
		proposals = nil
	}
	if n.core.readRoom(n.opts.InboxSize) == 0 {
		reads = nil
	}
	n.turns.Unlock()
	var first firstEvent
	select {
	case <-inner.Done():
	case <-stop:
	case <-limit:
		ended = true
	case at := <-sleep.timer.C:
		first.at = at
	case first.frame = <-n.inbound:
		first.framed = true
	case <-n.events.signal:
	case <-n.turns.look:
	case first.control = <-n.control:
	case first.proposal = <-proposals:
	case first.read = <-reads:
	}
	n.turns.Lock()
	if ended {
		return true, false
	}
	ticked = n.wake(sleep, sleep.ended(first.at))
	n.take(first)
	if first.proposal != nil {
		// Callers that are about to propose do so first and share the entry: a turn of the scheduler costs far less
		// than another entry, which is a write and a sync on three disks and four messages.
		runtime.Gosched()
	}
	n.takeRest(proposals, reads)
	n.feed(&input{kind: inputFlush})
	return false, ticked
}

// firstEvent is what woke the loop, if it is more than a signal to look.
type firstEvent struct {
	at                      time.Time // of the timer
	frame                   inbound
	framed                  bool
	control, proposal, read *request
}

func (n *Node) take(first firstEvent) {
	switch {
	case first.framed:
		n.turns.queued.Add(-1)
		n.receive(first.frame)
	case first.control != nil:
		n.handleControl(first.control)
	case first.proposal != nil:
		n.feed(&input{kind: inputSubmit, request: first.proposal})
	case first.read != nil:
		n.feed(&input{kind: inputRead, request: first.read})
	}
}

// finishTurn does what the core asked for in a turn, and sets the time of the next.
func (n *Node) finishTurn(sleep *sleeper, ticked bool) {
	if ticked {
		n.publish()
	}
	n.perform()
	sleep.set()
}

// takeRest handles what arrived meanwhile, so that it shares the entry, the round and the sync of
// what woke us. Each source is bounded: a turn must end for the ticks to be seen.
func (n *Node) takeRest(proposals, reads <-chan *request) {
	n.told = n.events.swap(n.told)
	for i := range n.told {
		n.feed(&n.told[i])
	}
	for range inboundSize {
		select {
		case in := <-n.inbound:
			n.turns.queued.Add(-1)
			n.receive(in)
			continue
		default:
		}
		break
	}
	for proposals != nil && n.core.room() > 0 {
		select {
		case r := <-proposals:
			n.feed(&input{kind: inputSubmit, request: r})
			continue
		default:
		}
		break
	}
	for reads != nil && n.core.readRoom(n.opts.InboxSize) > 0 {
		select {
		case r := <-reads:
			n.feed(&input{kind: inputRead, request: r})
			continue
		default:
		}
		break
	}
}

func (n *Node) handleControl(r *request) {
	switch {
	case r.change != nil:
		n.feed(&input{kind: inputChange, request: r})
	case r.leaveOut != nil:
		n.feed(&input{kind: inputLeaveOut, request: r})
	case r.accept != 0:
		n.feed(&input{kind: inputAccept, request: r})
	default:
		n.feed(&input{kind: inputTransfer, request: r})
	}
}

// receive hands a peer's frame to the core, message by message.
func (n *Node) receive(in inbound) {
	n.receiveStraight(in)
	n.receiveRelayed(in)
}

func (n *Node) receiveItems(in inbound) {
	for _, m := range in.messages {
		err := n.guard(func() string { return describe(m) }, func() {
			if err := n.feedPeer(&input{kind: inputStep, message: m}); err != nil {
				n.refused.log(n.log, n.core.ticks, m, err)
			}
		})
		if err != nil {
			panic(err) // caught by the turn's guard, with the message named
		}
	}
	for _, r := range in.reports {
		n.feed(&input{kind: inputReport, id: r.from, yes: r.ok})
	}
	for _, heard := range in.notes {
		if err := n.feedPeer(&input{kind: inputNote, note: heard}); err != nil {
			n.refused.note(n.log, n.core.ticks, heard, err)
		}
	}
}

func describe(m *raftpb.Message) string {
	return fmt.Sprintf("%v from %x (term %d, log term %d, index %d, commit %d, %d entries)",
		m.GetType(), m.GetFrom(), m.GetTerm(), m.GetLogTerm(), m.GetIndex(), m.GetCommit(), len(m.GetEntries()))
}

func named(what string) func() string { return func() string { return what } }

// guard turns a panic into a *PanicError. what names the event, and is only asked then.
func (n *Node) guard(what func() string, f func()) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case *PanicError:
			err = p
		default:
			err = &PanicError{Value: p, Message: what(), Stack: debug.Stack()}
			n.recorder.save(n.core, "panic in "+panickedAt())
			n.log.Error("consensus core panicked", zap.Any("error", p), zap.String("message", what()), zap.ByteString("stack", debug.Stack()))
		}
	}()
	f()
	return nil
}

func (n *Node) beginHandOver() bool {
	n.stopping.Store(true)
	under := false
	err := n.guard(named("the hand-over"), func() { n.feed(&input{kind: inputHandOver, told: func(yes bool) { under = yes }}) })
	n.perform()
	return err == nil && under
}

// perform does what the core asked for. Nothing here blocks.
func (n *Node) perform() {
	out := n.core.take()
	n.recorder.took(n.core, &out)
	n.commit.Store(n.core.commit) // before who reads by the lease can have heard of what is committed
	n.publishLease()
	for _, h := range out.holds {
		n.opts.Guard.Hold(h.index, h.term)
	}
	for _, t := range out.appends {
		if mutant.On(mutant.AckBeforeFsync) {
			n.acknowledge(t)
		}
		n.logTasks.put(logTask{append: t})
	}
	if out.routes {
		n.peers.setRoutes(maps.Clone(n.core.relay.routes))
	}
	for _, e := range out.passes {
		n.peers.pass(e)
	}
	for _, m := range out.messages {
		if isBulk(m) || !n.rarely(rareMessageLost) {
			n.peers.send(m)
		}
	}
	n.applies.put(out.applies...)
	n.resumes.put(out.resumes...)
	for _, t := range out.saves {
		n.logTasks.put(logTask{save: t})
	}
	if out.settled {
		n.logTasks.put(logTask{settled: true})
	}
	if out.compact > 0 {
		n.logTasks.put(logTask{compact: out.compact})
	}
	n.installs.put(out.installs...)
	for _, r := range out.reports {
		if n.rarely(rareReportLost) {
			continue
		}
		n.peers.report(r.to, peerReport{from: n.opts.ID, index: r.index, ok: r.ok})
	}
	for _, told := range out.notes {
		if n.rarely(rareNoteLost) {
			continue
		}
		n.peers.tell(n.opts.ID, told)
	}
	n.peers.ring(n.core.calm())
	for _, a := range out.answers {
		a.to.reply(a.outcome)
	}
	for _, v := range out.violations {
		n.recorder.save(n.core, "invariant "+v.Invariant)
		n.log.Error("an invariant does not hold, this program or a machine of the core is wrong", zap.String("reason", v.Invariant+": "+v.Detail),
			zap.Uint64("count", v.Count), zap.String("hint", "run: parley runbook run incorrect-algorithm"))
	}
	if out.clockErr != nil && n.core.ticks >= n.clockQuiet {
		n.clockQuiet = n.core.ticks + clockQuietTicks
		n.log.Warn("clock refused a stamp from the log", zap.Error(out.clockErr))
	}
	if out.changed {
		n.peers.retain(n.core.members())
		n.peers.ring(false)
		n.publish()
		notify(n.changed)
	}
}

// acknowledge is a planted mistake: it answers for a write that has not begun.
func (n *Node) acknowledge(t *appendTask) {
	n.peers.send(t.remote...)
	if local := t.local; len(local) > 0 && t.snapshot == nil {
		n.events.put(input{kind: inputAppended, messages: local})
		t.local = nil
	}
	t.remote = nil
}

func (n *Node) publish() {
	s := n.core.status()
	n.status.Store(&s)
}

// lost is called by a peer's writer when messages were dropped.
func (n *Node) lost(id uint64, snapshot bool) {
	n.events.put(input{kind: inputUnreachable, id: id})
	if snapshot {
		n.events.put(input{kind: inputReport, id: id})
	}
}

// feed gives the core one event, which nobody keeps: it may be on the stack.
func (n *Node) feed(in *input) { _ = n.feedPeer(in) } // only what came from a peer has errors

// feedPeer is feed for what came from a peer, which may be refused.
func (n *Node) feedPeer(in *input) error {
	n.recorder.before(n.core, in)
	yes, err := n.core.handle(in)
	n.recorder.after()
	switch in.kind {
	case inputHalt:
		n.recorder.save(n.core, "halt")
	case inputStopped:
		n.recorder.save(n.core, fmt.Sprintf("crash %x", in.stop.signature[:6]))
	}
	if in.told != nil {
		in.told(yes)
	}
	return err
}

// rarely is core.rarely for what the core does not decide.
func (n *Node) rarely(point string) bool { return n.opts.Rare != nil && n.opts.Rare(point) }
