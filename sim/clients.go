package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/state"
)

// clients is the load: each client asks, waits for the answer or its patience, thinks, and asks again.
type clients struct {
	c       *cluster
	keys    []string
	unsure  map[string]int // operations of unknown outcome, by key
	uses    map[string]int
	made    int
	values  uint64
	done    []porcupine.Operation // of the present keys
	open    map[*asked]bool
	ended   int // operations that were answered
	begun   int
	stopped bool
	held    bool              // nobody asks for now
	known   map[string]uint64 // last revision that somebody was told, by key
	think   time.Duration
}

// asked is one operation under way.
type asked struct {
	client int
	op     kvOp
	at     time.Duration
	host   *host
}

const (
	clientCount = 128
	patience    = 2 * time.Second
	liveKeys    = 32
	keyUses     = 90 // operations after which a key is retired: the checker's work grows faster than a history
)

type opKind uint8

const (
	opGet opKind = iota
	opPut
	opCAS
	opDelete
)

// kvOp is what a client asked for; kvSeen what it was told. Values are unique, 0 is no key.
type kvOp struct {
	kind   opKind
	key    string
	value  uint64
	expect uint64
}

type kvSeen struct {
	unknown  bool // it happened when it did, if at all
	conflict bool
	value    uint64
	revision uint64
}

func newClients(c *cluster, o Options) *clients {
	cl := &clients{c: c, unsure: map[string]int{}, uses: map[string]int{}, open: map[*asked]bool{}, known: map[string]uint64{}, think: o.Think}
	for range liveKeys {
		cl.keys = append(cl.keys, cl.newKey())
	}
	return cl
}

func (cl *clients) newKey() string {
	cl.made++
	return keyName(cl.made)
}

func keyName(n int) string { return fmt.Sprintf("k/%05d", n) }

func (cl *clients) start() {
	for i := range clientCount {
		cl.next(i)
	}
}

// next lets a client think and ask.
func (cl *clients) next(client int) {
	cl.c.after(cl.c.upTo(2*cl.think), func() {
		if !cl.stopped {
			cl.ask(client)
		}
	})
}

func (cl *clients) ask(client int) {
	h := cl.target()
	if h == nil || cl.held {
		cl.next(client)
		return
	}
	i := cl.c.rnd.IntN(len(cl.keys))
	key := cl.keys[i]
	if cl.uses[key]++; cl.uses[key] >= keyUses || cl.unsure[key] >= 5 {
		cl.keys[i] = cl.newKey()
	}
	op := kvOp{kind: opGet, key: key}
	switch n := cl.c.rnd.IntN(10); {
	case n < 4:
	case n < 7:
		cl.values++
		op.kind, op.value = opPut, cl.values
	case n < 9:
		cl.values++
		op.kind, op.value, op.expect = opCAS, cl.values, cl.known[key]
	default:
		op.kind = opDelete
	}
	a := &asked{client: client, op: op, at: cl.c.now, host: h}
	cl.open[a] = true
	cl.begun++
	cl.c.after(patience, func() { cl.end(a, kvSeen{unknown: true}) })
	h.at(200*time.Microsecond, func() {
		if !cl.open[a] {
			return
		}
		if op.kind == opGet {
			cl.read(a)
		} else {
			cl.write(a)
		}
	})
}

// target is mostly the leader, and sometimes somebody who says that it is not.
func (cl *clients) target() *host {
	if h := cl.c.leader(); h != nil && !cl.c.chance(50) {
		return h
	}
	h := cl.c.hosts[cl.c.rnd.IntN(len(cl.c.hosts))]
	if !h.up {
		return nil
	}
	return h
}

func (cl *clients) write(a *asked) {
	var command state.Command
	value := binary.BigEndian.AppendUint64(nil, a.op.value)
	switch a.op.kind {
	case opPut:
		command = state.Put{Key: a.op.key, Value: value}
	case opCAS:
		command = state.Put{Key: a.op.key, Value: value, Compare: new(a.op.expect)}
	default:
		command = state.Delete{Key: a.op.key}
	}
	encoded, err := state.Encode(state.Envelope{Caller: "sim", Command: command}, state.Version)
	if err != nil {
		cl.c.fail("encode: %v", err)
		return
	}
	a.host.do(func() error {
		return a.host.rep.Propose(encoded, func(p consensus.Proposed, err error) { cl.written(a, p, err) })
	})
}

func (cl *clients) written(a *asked, p consensus.Proposed, err error) {
	var unknown *consensus.OutcomeUnknownError
	switch {
	case errors.As(err, &unknown):
		cl.end(a, kvSeen{unknown: true})
		return
	case err != nil:
		cl.drop(a)
		return
	}
	r, err := state.DecodeResult(p.Data)
	switch {
	case err != nil:
		cl.c.fail("result: %v", err)
	case r.Code == state.CodeOK:
		cl.end(a, kvSeen{revision: r.Revision})
	case r.Code == state.CodeConflict || r.Code == state.CodeNotFound:
		cl.end(a, kvSeen{conflict: true})
	default:
		cl.c.fail("%v was answered by %q: %s", a.op, r.Code, r.Message)
	}
}

func (cl *clients) read(a *asked) {
	h := a.host
	h.do(func() error {
		return h.rep.ReadIndex(func(index uint64, err error) {
			if err != nil {
				cl.drop(a)
				return
			}
			cl.readAt(a, index)
		})
	})
}

// readAt answers once the index is applied.
func (cl *clients) readAt(a *asked, index uint64) {
	if !cl.open[a] {
		return
	}
	h := a.host
	if !h.rep.Reached(index) {
		h.at(500*time.Microsecond, func() { cl.readAt(a, index) })
		return
	}
	if h.tainted {
		cl.end(a, kvSeen{unknown: true}) // what a wrong replica says before it is found out
		return
	}
	seen := kvSeen{}
	if kv, ok := h.machine.View().Get(a.op.key); ok {
		seen.value, seen.revision = binary.BigEndian.Uint64(kv.Value), kv.ModRevision
	}
	cl.end(a, seen)
}

// crashed ends what waited for an answer of the host.
func (cl *clients) crashed(h *host) {
	for _, a := range cl.waiting() {
		if a.host == h {
			cl.end(a, kvSeen{unknown: true})
		}
	}
}

// waiting lists what is under way, in a fixed order.
func (cl *clients) waiting() []*asked {
	list := make([]*asked, 0, len(cl.open))
	byClient := make([]*asked, clientCount)
	for a := range cl.open {
		byClient[a.client] = a // a client has one at a time
	}
	for _, a := range byClient {
		if a != nil {
			list = append(list, a)
		}
	}
	return list
}

// drop forgets an operation that certainly did not happen.
func (cl *clients) drop(a *asked) {
	if cl.open[a] {
		delete(cl.open, a)
		cl.next(a.client)
	}
}

// end records an operation.
func (cl *clients) end(a *asked, seen kvSeen) {
	if !cl.open[a] {
		return
	}
	delete(cl.open, a)
	at := int64(cl.c.now)
	switch {
	case seen.unknown && a.op.kind == opGet: // says nothing
		cl.next(a.client)
		return
	case seen.unknown:
		cl.unsure[a.op.key]++
		at = math.MaxInt64
		cl.c.note("outcome unknown")
	default:
		cl.ended++
	}
	if seen.revision > 0 || a.op.kind == opGet {
		cl.known[a.op.key] = seen.revision
	}
	if a.op.kind == opDelete {
		cl.known[a.op.key] = 0
	}
	cl.done = append(cl.done, porcupine.Operation{ClientId: a.client, Input: a.op, Output: seen, Call: int64(a.at), Return: at})
	cl.next(a.client)
}

// register is one key of the sequential specification. The revision of a write that nobody answered is not known
// until somebody reads the value; until then it is that of the write before.
type register struct {
	value    uint64
	revision uint64
	unsure   bool
}

func (r register) is(revision uint64) bool {
	if r.value == 0 {
		return revision == 0
	}
	return !r.unsure && r.revision == revision
}

// step says whether seen may be the answer to op, and what the key is then.
func (r register) step(op kvOp, seen kvSeen) (bool, register) {
	written := register{value: op.value, revision: seen.revision}
	if seen.unknown {
		written = register{value: op.value, revision: r.revision, unsure: true}
	}
	newer := seen.unknown || seen.revision > r.revision
	switch op.kind {
	case opGet:
		switch {
		case seen.value != r.value:
			return false, r
		case r.value == 0:
			return true, r
		case r.unsure:
			return seen.revision > r.revision, register{value: r.value, revision: seen.revision}
		}
		return seen.revision == r.revision, r
	case opPut:
		return newer, written
	case opDelete:
		switch {
		case seen.conflict:
			return r.value == 0, r
		case seen.unknown && r.value == 0:
			return true, r
		}
		return r.value != 0 || seen.unknown, register{revision: max(r.revision, seen.revision)}
	}
	switch {
	case seen.conflict:
		return !r.is(op.expect), r
	case r.is(op.expect):
		return newer, written
	}
	return seen.unknown, r
}

var registerModel = porcupine.Model{
	Init: func() any { return register{} },
	Step: func(s, in, out any) (bool, any) {
		return s.(register).step(in.(kvOp), out.(kvSeen)) //nolint:forcetypeassert // ours alone
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
}

// check says whether what the clients saw is possible, key by key.
func (cl *clients) check() error {
	byKey := map[string][]porcupine.Operation{}
	var keys []string
	for _, o := range cl.done {
		key := o.Input.(kvOp).key //nolint:forcetypeassert // ours alone
		if byKey[key] == nil {
			keys = append(keys, key)
		}
		byKey[key] = append(byKey[key], o)
	}
	for _, key := range keys {
		if result := porcupine.CheckOperationsTimeout(registerModel, byKey[key], 20*time.Second); result != porcupine.Ok {
			return fmt.Errorf("the history of %s (%d operations) is not linearizable: %v", key, len(byKey[key]), result)
		}
	}
	return nil
}
