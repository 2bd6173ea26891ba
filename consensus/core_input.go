package consensus

import (
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/clock"
)

// input is one event of the core, as a value: all that changes a core goes through handle, so that it can be kept and be
// done again. Which fields count is up to the kind. There are several for each command: what is large and seldom is pointed to.
type input struct {
	kind     inputKind
	yes      bool
	id       uint64 // of a member, or an index
	now      time.Duration
	stamp    clock.Stamp
	message  *raftpb.Message
	messages []*raftpb.Message
	note     note
	envelope *envelope
	request  *request
	task     *applyTask
	cut      int // not 0: only so many entries of the task, and a task of the rest comes later
	install  *installTask
	ref      *SnapshotRef
	mark     *mark
	stop     *applyStop
	text     string
	body     []byte
	err      error
	look     func(c *core)  // looks and changes nothing: not kept
	told     func(yes bool) // what handle returns
}

// inputKind is in recordings. Numbers are never reused.
type inputKind byte

const (
	inputStart         inputKind = iota + 1
	inputTime                    // now
	inputTick                    // yes: reads were answered by the lease
	inputStep                    // message
	inputNote                    // note
	inputReport                  // id, yes
	inputStraight                // id
	inputPass                    // envelope
	inputRelayed                 // envelope
	inputRelayRefused            //
	inputSubmit                  // request, and for the next four
	inputRead                    //
	inputChange                  //
	inputLeaveOut                //
	inputAccept                  //
	inputTransfer                //
	inputFlush                   //
	inputAppended                // messages
	inputApplied                 // task, cut, stamp
	inputAccepted                // body
	inputContradicted            // text
	inputCheckpoint              // id, mark
	inputSaved                   // ref, err
	inputInstalled               // install, err
	inputStopped                 // stop
	inputEarly                   // id
	inputHalt                    // err
	inputRenewSnapshot           //
	inputAcceptTail              //
	inputUnreachable             // id
	inputRefused                 // id
	inputHandOver                //
	inputLook                    // look
)

// handle performs one event. An error is about a peer's message, which is refused.
func (c *core) handle(in *input) (yes bool, err error) {
	switch in.kind {
	case inputStart:
		c.start()
	case inputTime:
		c.clockIs(in.now)
	case inputTick:
		c.lease.wanted = in.yes
		c.tick()
	case inputFlush:
		c.flush()
	case inputHandOver:
		return c.handOver(), nil
	case inputAcceptTail:
		return c.acceptTail(), nil
	case inputLook:
		in.look(c)
	case inputSubmit, inputRead, inputChange, inputLeaveOut, inputAccept, inputTransfer:
		c.handleRequest(in)
	case inputStep, inputNote, inputReport, inputStraight, inputPass, inputRelayed, inputRelayRefused, inputUnreachable, inputRefused:
		return false, c.handlePeer(in)
	default:
		c.handleWork(in)
	}
	return false, nil
}

// handleRequest takes what a caller wants.
func (c *core) handleRequest(in *input) {
	switch in.kind {
	case inputSubmit:
		c.submit(in.request)
	case inputRead:
		c.read(in.request)
	case inputChange:
		c.changeCore(in.request)
	case inputLeaveOut:
		c.forceQuarantine(in.request)
	case inputAccept:
		c.accept(in.request)
	default:
		c.transferTo(in.request)
	}
}

// handlePeer takes what came from a peer, or is known of one.
func (c *core) handlePeer(in *input) error {
	switch in.kind {
	case inputStep:
		return c.step(in.message)
	case inputNote:
		return c.hear(in.note)
	case inputReport:
		c.report(in.id, in.yes)
	case inputStraight:
		c.hearStraight(in.id)
	case inputPass:
		return c.pass(*in.envelope)
	case inputRelayed:
		return c.admitRelayed(*in.envelope)
	case inputRelayRefused:
		c.relay.counts.Refused++
	case inputUnreachable:
		c.unreachable(in.id)
	default:
		c.refused(in.id)
	}
	return nil
}

// handleWork takes what the disk and the state machine have done.
func (c *core) handleWork(in *input) {
	switch in.kind {
	case inputAppended:
		c.appended(in.messages)
	case inputApplied:
		c.appliedTask(in.task, in.stamp)
	case inputAccepted:
		c.accepted(in.body)
	case inputContradicted:
		c.contradicted(in.text)
	case inputCheckpoint:
		c.checkpointed(in.id, *in.mark)
	case inputSaved:
		c.saved(*in.ref, in.err)
	case inputInstalled:
		c.installed(in.install, in.err)
	case inputStopped:
		c.stopped(*in.stop)
	case inputEarly:
		c.early(in.id)
	case inputHalt:
		c.halt(in.err)
	case inputRenewSnapshot:
		c.renewSnapshot()
	default:
		panic(fmt.Sprintf("the core knows no event %d", in.kind))
	}
}
