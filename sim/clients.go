package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/state"
)

const (
	clientCount = 192
	patience    = 2 * time.Second        // of a client, for one request
	tryPatience = 600 * time.Millisecond // for one try
	maxTries    = 6
)

// clients is the load: each client asks, waits for the answer or its patience, thinks, and asks again. What they ask is
// drawn by workloads, which keep what was answered and check it in the end.
type clients struct {
	c       *cluster
	keys    *keyLoad
	groups  *groupLoad
	counts  *countLoad
	locks   *lockLoad
	all     []workload
	open    [clientCount]*call  // a client has one request at a time
	wake    [clientCount]func() // it has thought
	known   [clientCount]uint64 // the highest log index that a client was told of
	begun   int
	ended   int // requests that were answered
	stopped bool
	held    bool // nobody asks for now
	think   time.Duration
}

// A workload draws what a client does next, nil if nothing, and judges in the end.
type workload interface {
	next(client int) *call
	last(v *state.View) // the state in the end, which all replicas have
	check() error
}

// call is one request under way.
type call struct {
	client  int
	began   time.Duration
	command state.Command // nil: a read
	// end is told what became of it, once. It is not called for what certainly was not done.
	end func(outcome)

	id      [16]byte
	encoded []byte
	host    *host // asked, nil while it waits for the next try
	tried   time.Duration
	tries   int
	plain   bool // without a request id: it may be sent once only
	patient bool // asks again until it knows
	unsure  bool // a try may have been done
	over    bool
}

// outcome is what the client was told: unknown, or the result of its command, or a View to read.
type outcome struct {
	unknown bool
	result  state.Result
	view    *state.View
	at      time.Duration
}

func newClients(c *cluster, o Options) *clients {
	cl := &clients{c: c, think: o.Think}
	cl.keys, cl.groups, cl.counts, cl.locks = newKeyLoad(cl), newGroupLoad(cl), newCountLoad(cl), newLockLoad(cl)
	cl.all = []workload{cl.keys, cl.groups, cl.counts, cl.locks}
	return cl
}

func (cl *clients) start() {
	for i := range clientCount {
		cl.wake[i] = func() { cl.ask(i) }
		cl.later(i)
	}
	cl.lookAtClocks()
}

// lookAtClocks lets clients lose their patience: with one event for all of them, as most are answered long before.
func (cl *clients) lookAtClocks() {
	for _, a := range cl.open {
		switch {
		case a == nil:
		case cl.c.now-a.began > patience:
			a.unsure = a.unsure || a.host != nil // it is under way
			cl.finish(a, outcome{unknown: true})
		case a.host != nil && a.command != nil && cl.c.now-a.tried > tryPatience:
			a.unsure, a.host = true, nil
			cl.again(a)
		}
	}
	cl.c.after(25*time.Millisecond, cl.lookAtClocks)
}

// later lets a client think and ask.
func (cl *clients) later(client int) { cl.c.after(cl.c.upTo(2*cl.think), cl.wake[client]) }

func (cl *clients) ask(client int) {
	if cl.stopped || cl.open[client] != nil {
		return
	}
	if !cl.held {
		if a := cl.draw().next(client); a != nil {
			cl.begin(client, a)
			return
		}
	}
	cl.later(client)
}

func (cl *clients) draw() workload {
	switch n := cl.c.rnd.IntN(40); {
	case n < 33:
		return cl.keys
	case n < 37:
		return cl.groups
	case n < 38:
		return cl.counts
	}
	return cl.locks
}

func (cl *clients) begin(client int, a *call) {
	a.client, a.began = client, cl.c.now
	if a.command != nil {
		var random [8]byte
		for i := range random {
			random[i] = byte(cl.c.rnd.Uint32())
		}
		if !a.plain {
			a.id = state.NewRequestID(cl.known[client], random)
		}
		var err error
		if a.encoded, err = state.Encode(state.Envelope{Caller: "sim", Request: a.id, Command: a.command}, state.Version); err != nil {
			cl.c.fail("encode: %v", err)
			return
		}
		a.patient = !a.plain && (a.patient || !cl.c.chance(3))
	}
	cl.open[client] = a
	cl.begun++
	cl.try(a)
}

// beginAny begins a request of a client that has none. It reports whether there is one.
func (cl *clients) beginAny(a *call) bool {
	for i := range clientCount {
		if cl.open[i] == nil {
			cl.begin(i, a)
			return true
		}
	}
	return false
}

// try sends the request to somebody; a write under the same id as before.
func (cl *clients) try(a *call) {
	if a.over {
		return
	}
	a.host = cl.target(a)
	if a.host == nil {
		cl.again(a)
		return
	}
	h := a.host
	a.tries++
	a.tried = cl.c.now
	h.at(200*time.Microsecond, func() {
		switch {
		case a.over, a.host != h:
		case a.command == nil:
			cl.read(a, h)
		default:
			h.do(func() error {
				return h.rep.Propose(a.encoded, func(p consensus.Proposed, err error) { cl.written(a, h, p, err) })
			})
		}
	})
	if a.command != nil && !a.plain && cl.c.chance(16) {
		cl.straggle(a)
	}
}

// straggle lets a copy of the request arrive somewhere later: a connection that broke may still deliver what it holds.
func (cl *clients) straggle(a *call) {
	a.unsure = true
	cl.c.after(cl.c.upTo(700*time.Millisecond), func() {
		if h := cl.c.leader(); h != nil && !cl.stopped {
			cl.c.note("late copy of a request")
			h.do(func() error {
				return h.rep.Propose(a.encoded, func(p consensus.Proposed, err error) {
					if err == nil && !h.tainted {
						cl.compare(a, p)
					}
				})
			})
		}
	})
}

// target is mostly the leader, and sometimes somebody who says that it is not. A read may be asked of anybody.
func (cl *clients) target(a *call) *host {
	odds, h := 50, cl.c.leader()
	if a.command == nil {
		odds, h = 6, cl.ledBy()
	}
	if h != nil && !cl.c.chance(odds) {
		return h
	}
	h = cl.c.hosts[cl.c.rnd.IntN(len(cl.c.hosts))]
	if !h.up {
		return nil
	}
	return h
}

// again sends the request once more if its client is patient; else it is over.
func (cl *clients) again(a *call) {
	switch {
	case a.over:
	case cl.c.now-a.began > patience, a.unsure && (!a.patient || a.tries >= maxTries || cl.stopped):
		cl.finish(a, outcome{unknown: true})
	case !a.unsure: // it certainly was not done
		a.over = true
		cl.free(a)
	default:
		cl.c.note("request sent again")
		a.host = nil
		cl.c.after(20*time.Millisecond+cl.c.upTo(100*time.Millisecond), func() { cl.try(a) })
	}
}

func (cl *clients) written(a *call, h *host, p consensus.Proposed, err error) {
	var unknown *consensus.OutcomeUnknownError
	switch {
	case errors.As(err, &unknown), err == nil && h.tainted: // what a wrong replica says before it is found out
		a.unsure = true
		cl.again(a)
		return
	case err != nil:
		cl.again(a)
		return
	}
	cl.compare(a, p)
	r, err := state.DecodeResult(p.Data)
	switch {
	case err != nil:
		cl.c.fail("result: %v", err)
	case r.Code == state.CodeForgotten || r.Code == state.CodeReused || r.Code == state.CodeInvalid:
		cl.c.fail("%#v was answered by %q: %s", a.command, r.Code, r.Message)
	default:
		cl.known[a.client] = max(cl.known[a.client], p.Index)
		cl.finish(a, outcome{result: r})
	}
}

// compare holds an answer against that of the first time that the request was done anywhere.
func (cl *clients) compare(a *call, p consensus.Proposed) {
	if a.plain {
		return
	}
	if first, ok := cl.c.log.answers[a.id]; ok && string(first) != string(p.Data) && !bothLeftOut(first, p.Data) {
		cl.c.fail("request %x was answered %x, and first %x", a.id, p.Data, first)
	}
}

// bothLeftOut reports whether two answers say that a request was left out. One that a client has repeated is in the log twice, and a
// replica that crashes on it before it has looked whether it was answered crashes twice: each answer names its own place.
func bothLeftOut(a, b []byte) bool {
	x, err := state.DecodeResult(a)
	y, err2 := state.DecodeResult(b)
	return err == nil && err2 == nil && x.Code == state.CodeQuarantined && y.Code == state.CodeQuarantined
}

// read asks the leader for an index, and reads here once it is applied.
func (cl *clients) read(a *call, h *host) {
	l := cl.ledBy()
	if h.rep.Leads() {
		l = h
	}
	if l == nil || l != h && (cl.c.isCut(l, h) || cl.c.isCut(h, l)) {
		cl.again(a)
		return
	}
	if l == h {
		cl.askIndex(a, h, l)
		return
	}
	l.at(300*time.Microsecond, func() { cl.askIndex(a, h, l) })
}

// askIndex asks l for the index, for a read at h.
func (cl *clients) askIndex(a *call, h, l *host) {
	l.do(func() error {
		return l.readIndex(func(index uint64, err error) {
			switch {
			case err != nil:
				cl.again(a)
			case l == h:
				cl.readAt(a, h, index)
			default:
				h.at(300*time.Microsecond, func() { cl.readAt(a, h, index) })
			}
		})
	})
}

// readAt answers once the index is applied.
func (cl *clients) readAt(a *call, h *host, index uint64) {
	if a.over {
		return
	}
	if !h.rep.Reached(index) {
		h.readers = append(h.readers, func() { cl.readAt(a, h, index) })
		return
	}
	if h.tainted {
		cl.again(a)
		return
	}
	cl.finish(a, outcome{view: h.machine.View()})
}

// crashed ends what waited for an answer of the host.
func (cl *clients) crashed(h *host) {
	for _, a := range cl.open {
		if a != nil && a.host == h {
			a.unsure = a.unsure || a.command != nil
			cl.again(a)
		}
	}
}

// waits counts the requests under way.
func (cl *clients) waits() int {
	n := 0
	for _, a := range cl.open {
		if a != nil {
			n++
		}
	}
	return n
}

// finish tells the workload.
func (cl *clients) finish(a *call, o outcome) {
	if a.over {
		return
	}
	a.over = true
	o.at = cl.c.now
	switch {
	case o.unknown && (a.command == nil || !a.unsure): // says nothing
	case o.unknown:
		cl.c.note("outcome unknown")
		a.end(o)
	default:
		cl.ended++
		a.end(o)
	}
	cl.free(a)
}

func (cl *clients) free(a *call) {
	if cl.open[a.client] == a {
		cl.open[a.client] = nil
		cl.later(a.client)
	}
}

// judge lets every workload say whether what it was answered is possible. v is the state in the end.
func (cl *clients) judge(v *state.View) error {
	all := cl.all
	if cl.c.poisons != nil {
		all = append(slices.Clone(all), cl.c.poisons)
	}
	for _, w := range all {
		w.last(v)
		if err := w.check(); err != nil {
			return err
		}
	}
	return nil
}
