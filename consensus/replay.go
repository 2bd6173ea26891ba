package consensus

import (
	"bytes"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/clock"
)

// Replayed is what a core did when it was given the events of a recording again.
type Replayed struct {
	Events     uint64         `json:"events"`
	Turns      uint64         `json:"turns"`      // of which the effects were compared
	Violations uint64         `json:"violations"` // invariants that did not hold
	First      *ReplayedEvent `json:"first"`      // the first of them
	Panic      *ReplayedEvent `json:"panic"`      // nil if it did not panic
	Diverged   *ReplayedEvent `json:"diverged"`   // where it did something else than what was recorded, nil if it never did
}

// ReplayedEvent is something that was seen in a replay.
type ReplayedEvent struct {
	Event     uint64 `json:"event"` // counted from the start of the core
	Invariant string `json:"invariant,omitempty"`
	Detail    string `json:"detail"`
}

// Replay gives a core the events of a recording, with the answers that it got, and compares what it does with what was done.
// Build is this program's name, as in RecordOptions; with "" a recording of any build is tried. It is pure: equal
// recordings give equal results.
func Replay(recording []byte, build string) (Replayed, error) {
	h, halves, err := openRecording(recording)
	if err != nil {
		return Replayed{}, err
	}
	if build != "" && h.Build != build {
		return Replayed{}, fmt.Errorf("%w: %s, this is %s: use that program, or --any-build to try with this one", ErrRecordingBuild, h.Build, build)
	}
	if len(halves) == 0 {
		return Replayed{}, fmt.Errorf("%w: it is empty", errTape)
	}
	p, err := newReplayer(halves[0].state)
	if err != nil {
		return Replayed{}, err
	}
	for i, half := range halves {
		if i > 0 {
			p.compareState(half.state)
		}
		if err := p.play(half.events); err != nil {
			return p.result, err
		}
		if p.over() {
			break
		}
	}
	return p.result, nil
}

// replayer is a core that gets its events from a recording.
type replayer struct {
	c       *core
	state   *recordedState
	timeout *int // raft's
	drawn   int  // what it was when this was recorded: raft draws anew, and may have drawn the same
	tape    tape
	event   uint64 // under way, or the last one
	result  Replayed
}

func newReplayer(state []byte) (*replayer, error) {
	s, err := readState(state)
	if err != nil {
		return nil, err
	}
	p := &replayer{c: s.core, state: s, event: s.events}
	if p.timeout, err = electionTimeout(s.core.rn); err != nil {
		return nil, err
	}
	p.drawn = *p.timeout
	p.answer()
	return p, nil
}

// diverged is the panic by which a replay leaves the core.
type diverged string

// over reports whether there is no more sense in going on.
func (p *replayer) over() bool { return p.result.Diverged != nil || p.result.Panic != nil }

// compareState looks whether the core remembers what the recorded one did.
func (p *replayer) compareState(want []byte) {
	got, err := writeState(nil, p.state)
	if err != nil || !bytes.Equal(got, want) {
		p.result.Diverged = &ReplayedEvent{Event: p.event, Detail: "after it the core remembers something else"}
	}
}

// play goes through the events of a half. An error is about the recording.
func (p *replayer) play(events []byte) (err error) {
	p.tape = tape{b: events, reading: true}
	defer func() {
		switch what := recover().(type) {
		case nil:
		case diverged:
			p.result.Diverged = &ReplayedEvent{Event: p.event, Detail: string(what)}
		default:
			p.result.Panic = &ReplayedEvent{Event: p.event, Detail: fmt.Sprint(what)}
		}
		if p.tape.err != nil {
			err = p.tape.err
		}
	}()
	for p.tape.err == nil && p.tape.at < len(events) {
		var mark byte
		p.tape.byte(&mark)
		if mark < markTook {
			p.handle(inputKind(mark))
			continue
		}
		if err := p.marked(mark); err != nil {
			return err
		}
	}
	return nil
}

// handle gives the core one event.
func (p *replayer) handle(kind inputKind) {
	in := input{kind: kind}
	p.tape.input(&in, p.c.lease.now)
	p.state.events++
	p.event = p.state.events
	p.result.Events++
	switch {
	case p.tape.err != nil:
		return
	case in.request != nil:
		p.state.nextRequest++
		in.request.serial = p.state.nextRequest
	case kind == inputApplied:
		p.findTask(&in)
	case kind == inputInstalled:
		t := p.state.installs[in.install.serial]
		if t == nil {
			panic(diverged(fmt.Sprintf("it never asked for snapshot %d to be fetched", in.install.serial)))
		}
		delete(p.state.installs, in.install.serial)
		t.ref.Chain = in.install.ref.Chain
		in.install = t
	}
	_, _ = p.c.handle(&in) // a refusal is the same one
	*p.timeout = p.drawn
}

// findTask finds the task that was worked on, or the part of it that was.
func (p *replayer) findTask(in *input) {
	serial := in.task.serial
	whole := p.state.tasks[serial]
	if whole == nil || in.cut > len(whole.entries) {
		panic(diverged(fmt.Sprintf("it never had task %d applied", serial)))
	}
	delete(p.state.tasks, serial)
	in.task = whole
	if in.cut > 0 {
		in.task, p.state.tasks[serial] = whole.split(in.cut)
	}
}

// marked takes what stands between events.
func (p *replayer) marked(mark byte) error {
	switch mark {
	case markTook, markTookNone, markTookUnchecked:
		p.take(mark)
	case markTimeout:
		var v uint64
		p.tape.uint(&v)
		p.drawn = int(min(v, maxFilled)) //nolint:gosec // bounded
		*p.timeout = p.drawn
	default:
		panic(diverged(fmt.Sprintf("it did not ask for what was answered (%d)", mark)))
	}
	return p.tape.err
}

// take takes the effects, and compares.
func (p *replayer) take(mark byte) {
	out := p.c.take()
	for _, t := range out.applies {
		p.state.nextTask++
		t.serial = p.state.nextTask
		p.state.tasks[t.serial] = t
	}
	for _, t := range out.installs {
		p.state.nextInstall++
		t.serial = p.state.nextInstall
		p.state.installs[t.serial] = t
	}
	for _, v := range out.violations {
		p.result.Violations++
		if p.result.First == nil {
			p.result.First = &ReplayedEvent{Event: p.event, Invariant: v.Invariant, Detail: v.Detail}
		}
	}
	if mark == markTookUnchecked {
		return
	}
	want := uint64(0)
	if mark == markTook {
		p.tape.uint(&want)
	}
	p.result.Turns++
	if got := sumEffects(&out); got != want && p.tape.err == nil {
		panic(diverged("the effects up to it are others than those recorded"))
	}
}

// next takes the answer to a question. The core asks in the order in which it asked, or does something else.
func (p *replayer) next(kind byte) *tape {
	var mark byte
	if p.tape.at < len(p.tape.b) {
		p.tape.byte(&mark)
	}
	if mark != kind {
		panic(diverged(fmt.Sprintf("it asks something that was not asked (%d, not %d)", kind, mark)))
	}
	return &p.tape
}

func (p *replayer) yes(kind byte) (yes bool) {
	p.next(kind).flag(&yes)
	return yes
}

// answer has the core ask the recording.
func (p *replayer) answer() {
	cfg, bits := &p.c.cfg, p.state.asks
	cfg.asks = asks{
		now: func() (clock.Stamp, error) {
			var v uint64
			var err error
			p.next(markNow).uint(&v)
			p.tape.error(&err)
			return clock.Stamp(v), err
		},
		follow: func(clock.Stamp) (err error) { p.next(markFollow).error(&err); return err },
		same:   func(*raftpb.Entry, [32]byte) bool { return p.yes(markSame) },
		take:   func(*request) bool { return p.yes(markTake) },
	}
	if bits&asksSign != 0 {
		cfg.asks.sign = func(claim, [16]byte, uint64) (mac [32]byte) { p.next(markSign).fixed(mac[:]); return mac }
	}
	if bits&asksChain != 0 {
		cfg.chain = func(uint64) (chain [32]byte, known bool) {
			p.next(markChain).fixed(chain[:])
			p.tape.flag(&known)
			return chain, known
		}
	}
	if bits&asksRare != 0 {
		cfg.rare = func(string) bool { return p.yes(markRare) }
	}
	if bits&asksHeld != 0 {
		cfg.held = func(uint64) bool { return p.yes(markHeld) }
	}
	if bits&asksAbstain != 0 {
		cfg.abstain = func() bool { return p.yes(markAbstain) }
	}
	if cfg.guard != nil {
		cfg.guard.Quarantinable = func([]byte) bool { return p.yes(markMayLeaveOut) }
	}
}

// Differs reports whether the replay was not what was recorded.
func (r Replayed) Differs() error {
	if r.Diverged == nil {
		return nil
	}
	return errors.New("the replay differs from the recording at event " + fmt.Sprint(r.Diverged.Event) + ": " + r.Diverged.Detail)
}
