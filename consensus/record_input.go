package consensus

import (
	"time"

	"github.com/parley-mesh/parley/clock"
)

// Marks in a recording beside the kinds of input.
const (
	markTook          = 64 + iota // the effects were taken: their hash
	markTookNone                  // there were none
	markTimeout                   // raft has drawn another election timeout
	markNow                       // and the answers to what the core asked, see asks
	markFollow                    //
	markSign                      //
	markSame                      //
	markTake                      //
	markChain                     //
	markRare                      //
	markHeld                      //
	markAbstain                   //
	markMayLeaveOut               //
	markTookUnchecked             // the effects were taken, and are in part of before the recording
)

// input writes or reads what counts of an event. Tasks and requests are named by numbers: a reader has its own.
func (t *tape) input(in *input, last time.Duration) {
	switch in.kind {
	case inputStart, inputFlush, inputHandOver, inputAcceptTail, inputRenewSnapshot, inputRelayRefused:
	case inputTime:
		passed := int64(in.now - last)
		t.int(&passed)
		in.now = last + time.Duration(passed)
	case inputTick:
		t.flag(&in.yes)
	case inputStep:
		t.message(&in.message)
	case inputNote:
		t.note(&in.note)
	case inputReport:
		t.uint(&in.id)
		t.flag(&in.yes)
	case inputStraight, inputUnreachable, inputRefused, inputEarly:
		t.uint(&in.id)
	case inputPass, inputRelayed:
		if t.reading {
			in.envelope = &envelope{}
		}
		t.envelope(in.envelope)
	case inputSubmit, inputRead, inputChange, inputLeaveOut, inputAccept, inputTransfer:
		t.request(in)
	default:
		t.work(in)
	}
}

func (t *tape) note(n *note) {
	kind := byte(n.kind)
	t.uint(&n.peer)
	t.byte(&kind)
	n.kind = noteKind(kind)
	t.bytes(&n.body)
}

// envelope leaves out the frame: others' entries are in it.
func (t *tape) envelope(e *envelope) {
	for _, v := range []*uint64{&e.origin, &e.final, &e.life, &e.finalLife, &e.seq} {
		t.uint(v)
	}
	t.size(&e.raw)
}

func (t *tape) request(in *input) {
	if t.reading {
		in.request = &request{}
	}
	r := in.request
	switch in.kind {
	case inputSubmit:
		t.size(&r.command)
	case inputAccept:
		t.uint(&r.accept)
	case inputTransfer:
		t.uint(&r.target)
	case inputChange, inputLeaveOut:
		t.wanted(r)
	}
}

// work is what the disk and the state machine have done.
func (t *tape) work(in *input) {
	switch in.kind {
	case inputAppended:
		t.messages(&in.messages)
	case inputApplied:
		if t.reading {
			in.task = &applyTask{}
		}
		cut, stamp := uint64(in.cut), uint64(in.stamp) //nolint:gosec // a length
		t.uint(&in.task.serial)
		t.uint(&cut)
		t.uint(&stamp)
		in.cut, in.stamp = int(min(cut, maxFilled)), clock.Stamp(stamp) //nolint:gosec // bounded
	case inputAccepted:
		t.bytes(&in.body)
	case inputContradicted:
		t.text(&in.text)
	case inputCheckpoint:
		t.uint(&in.id)
		if t.reading {
			in.mark = &mark{}
		}
		t.fixed(in.mark.chain[:])
		t.fixed(in.mark.state[:])
	case inputSaved:
		if t.reading {
			in.ref = &SnapshotRef{}
		}
		t.snapshotRef(in.ref)
		t.error(&in.err)
	case inputInstalled:
		if t.reading {
			in.install = &installTask{}
		}
		t.uint(&in.install.serial)
		t.fixed(in.install.ref.Chain[:])
		t.uint(&in.install.ref.Size)
		t.error(&in.err)
	case inputStopped:
		if t.reading {
			in.stop = &applyStop{}
		}
		t.stop(in.stop)
	case inputHalt:
		t.error(&in.err)
	default:
		t.fail("an event of kind %d", in.kind)
	}
}

func (t *tape) stop(s *applyStop) {
	place := uint64(s.place)
	t.uint(&s.index)
	t.uint(&s.term)
	t.uint(&place)
	s.place = uint32(place) //nolint:gosec // as written
	t.fixed(s.entry[:])
	t.fixed(s.before[:])
	t.fixed(s.signature[:])
	t.byte(&s.cause)
}
