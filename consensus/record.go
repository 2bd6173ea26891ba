package consensus

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/clock"
)

// RecordOptions says how the core's inputs are kept, so that what it did can be done again, see Replay.
type RecordOptions struct {
	// Bytes are kept of the newest inputs, at most, with the state that they begin with. 0 = nothing is recorded.
	Bytes int
	// Build names this program: a recording is replayed by the same one, since another may decide otherwise.
	Build string
	// Save is given a recording when something happened that must not: an invariant that does not hold, a panic, a state that
	// differs, a halt. Called by the loop; it must not block. At most one a RecordPause for each reason.
	Save func(reason string, recording []byte)
}

// recordPauseTicks is between two recordings that are saved for one reason: 10 s at the default tick. What goes on
// being wrong is in the first.
const recordPauseTicks = 200

// recordRetryTurns is how many turns pass before the state is tried again that did not fit.
const recordRetryTurns = 1 << 16

// recorder keeps the newest inputs of one core. It belongs to who owns the core. A nil one records nothing.
//
// The ring is two halves. Each begins with the state of the core at that moment, and goes on with all that came in; when one
// is full the other is emptied and goes on. So at least the last half of the ring can be replayed, whatever came before.
// The writing of the state is what costs: it walks the log in memory, and is done once for half a ring of events.
type recorder struct {
	opts       RecordOptions
	now, old   segment
	tape       tape // where it writes: now.b
	tasks      map[uint64]*applyTask
	installs   map[uint64]*installTask
	count      recordedState // its numbers
	timeout    *int          // raft's
	timeoutWas int
	within     bool // an event is being handled
	unchecked  bool // the next effects are in part of before the state was written
	wait       int  // turns before the state is tried again; 0: it records
	off        error
	saved      map[string]uint64 // reason -> tick before which none is saved for it
}

// segment is a half of the ring.
type segment struct {
	b      []byte
	events int // where the events begin, behind the state
}

var errStateTooLarge = errors.New("the state of the core does not fit into half of the recorder's ring")

// newRecorder watches a core that has handled nothing yet. What the core asks is asked through it.
func newRecorder(opts RecordOptions, c *core) *recorder {
	if opts.Bytes <= 0 {
		return nil
	}
	r := &recorder{
		opts: opts, tasks: make(map[uint64]*applyTask), installs: make(map[uint64]*installTask), saved: make(map[string]uint64),
	}
	if r.timeout, r.off = electionTimeout(c.rn); r.off != nil {
		return r
	}
	r.now.b, r.old.b = make([]byte, 0, opts.Bytes/2), make([]byte, 0, opts.Bytes/2)
	r.listen(&c.cfg)
	r.begin(c)
	return r
}

// begin starts the other half with the state of the core.
func (r *recorder) begin(c *core) {
	r.count.core, r.count.tasks, r.count.installs = c, r.tasks, r.installs
	b, err := writeState(r.old.b[:0], &r.count)
	if err == nil && len(b) > r.half()*3/4 {
		err = fmt.Errorf("%w: %d of %d bytes", errStateTooLarge, len(b), r.opts.Bytes)
	}
	if r.off = err; err != nil {
		r.wait = recordRetryTurns
		r.now.b, r.old.b, r.now.events, r.old.events = r.now.b[:0], r.old.b[:0], 0, 0
		return
	}
	r.now, r.old = segment{b: b, events: len(b)}, r.now
	r.tape.b = r.now.b
	r.timeoutWas = *r.timeout
	r.unchecked = !c.out.nothing()
}

func (r *recorder) half() int { return r.opts.Bytes / 2 }

func (r *recorder) on() bool { return r != nil && r.off == nil }

// before notes an event that is about to be handled. Numbers are given whether or not it records.
func (r *recorder) before(c *core, in *input) {
	if r == nil || in.kind == inputLook {
		return
	}
	r.count.events++
	switch {
	case in.request != nil:
		r.count.nextRequest++
		in.request.serial = r.count.nextRequest
	case in.kind == inputApplied:
		r.applied(in)
	case in.kind == inputInstalled:
		delete(r.installs, in.install.serial)
	}
	if r.off != nil {
		return
	}
	kind := byte(in.kind)
	r.tape.byte(&kind)
	r.tape.input(in, c.lease.now)
	r.within = true
}

// applied forgets a task, or what was done of it.
func (r *recorder) applied(in *input) {
	serial := in.task.serial
	whole, known := r.tasks[serial]
	delete(r.tasks, serial)
	if known && in.cut > 0 {
		_, r.tasks[serial] = whole.split(in.cut)
	}
}

// after ends the event.
func (r *recorder) after() {
	if !r.on() {
		return
	}
	r.within = false
	if now := *r.timeout; now != r.timeoutWas {
		r.timeoutWas = now
		r.tape.b = append(r.tape.b, markTimeout)
		v := uint64(now) //nolint:gosec // ticks
		r.tape.uint(&v)
	}
}

// took notes the effects of a turn. Between two turns nothing is under way, so the halves change here.
func (r *recorder) took(c *core, e *effects) {
	if r == nil {
		return
	}
	for _, t := range e.applies {
		r.count.nextTask++
		t.serial = r.count.nextTask
		r.tasks[t.serial] = t
	}
	for _, t := range e.installs {
		r.count.nextInstall++
		t.serial = r.count.nextInstall
		r.installs[t.serial] = t
	}
	if r.off != nil {
		if r.wait--; r.wait == 0 {
			r.begin(c)
		}
		return
	}
	switch h := sumEffects(e); {
	case r.unchecked:
		r.tape.b, r.unchecked = append(r.tape.b, markTookUnchecked), false
	case h == 0:
		r.tape.b = append(r.tape.b, markTookNone)
	default:
		r.tape.b = append(r.tape.b, markTook)
		r.tape.uint(&h)
	}
	r.now.b = r.tape.b
	if len(r.now.b) >= r.half() {
		r.begin(c)
	}
}

// save gives a recording away, unless one was lately for that reason.
func (r *recorder) save(c *core, reason string) {
	if !r.on() || r.opts.Save == nil || c.ticks < r.saved[reason] {
		return
	}
	r.saved[reason] = c.ticks + recordPauseTicks
	if recording, err := r.recording(reason); err == nil {
		r.opts.Save(reason, recording)
	}
}

// mark begins the answer to a question, and returns where it goes. Questions of others than the core are not kept.
func (r *recorder) mark(kind byte) *tape {
	if !r.within || r.off != nil {
		return nil
	}
	r.tape.b = append(r.tape.b, kind)
	return &r.tape
}

func (r *recorder) yes(kind byte, yes bool) bool {
	if t := r.mark(kind); t != nil {
		t.flag(&yes)
	}
	return yes
}

// listen puts the recorder between the core and whom it asks.
func (r *recorder) listen(cfg *coreConfig) {
	a, asked := &cfg.asks, cfg.asks
	a.now = func() (clock.Stamp, error) {
		s, err := asked.now()
		if t := r.mark(markNow); t != nil {
			v := uint64(s)
			t.uint(&v)
			t.error(&err)
		}
		return s, err
	}
	a.follow = func(s clock.Stamp) error {
		err := asked.follow(s)
		if t := r.mark(markFollow); t != nil {
			t.error(&err)
		}
		return err
	}
	if asked.sign != nil {
		a.sign = func(m claim, cluster [16]byte, id uint64) [32]byte {
			mac := asked.sign(m, cluster, id)
			if t := r.mark(markSign); t != nil {
				t.fixed(mac[:])
			}
			return mac
		}
	}
	a.same = func(e *raftpb.Entry, hash [32]byte) bool { return r.yes(markSame, asked.same(e, hash)) }
	a.take = func(q *request) bool { return r.yes(markTake, asked.take(q)) }
	r.listenBeside(cfg)
}

func (r *recorder) listenBeside(cfg *coreConfig) {
	if chain := cfg.chain; chain != nil {
		cfg.chain = func(index uint64) ([32]byte, bool) {
			sum, known := chain(index)
			if t := r.mark(markChain); t != nil {
				t.fixed(sum[:])
				t.flag(&known)
			}
			return sum, known
		}
	}
	if rare := cfg.rare; rare != nil {
		cfg.rare = func(point string) bool { return r.yes(markRare, rare(point)) }
	}
	if held := cfg.held; held != nil {
		cfg.held = func(id uint64) bool { return r.yes(markHeld, held(id)) }
	}
	if abstain := cfg.abstain; abstain != nil {
		cfg.abstain = func() bool { return r.yes(markAbstain, abstain()) }
	}
	if g := cfg.guard; g != nil {
		listening := *g
		listening.Quarantinable = func(command []byte) bool { return r.yes(markMayLeaveOut, g.Quarantinable(command)) }
		cfg.guard = &listening
	}
}
