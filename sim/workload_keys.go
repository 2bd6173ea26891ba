package sim

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/parley-mesh/parley/state"
)

const (
	liveKeys  = 48
	keyUses   = 70 // operations after which a key is retired: the checker's work grows faster than a history
	maxUnsure = 5  // operations of unknown outcome after which it is
)

// keyLoad reads, writes, compares and deletes single keys.
type keyLoad struct {
	cl     *clients
	live   []*keyHistory
	all    []*keyHistory
	values uint64
}

// keyHistory is a key and what was done with it.
type keyHistory struct {
	key    string
	uses   int
	unsure int
	known  uint64 // last revision that somebody was told
	ops    []porcupine.Operation
}

func (k *keyHistory) spent() bool { return k.uses >= keyUses || k.unsure >= maxUnsure }

// add records an operation; one of unknown outcome returns at infinity.
func (k *keyHistory) add(client int, in, out any, began, ended time.Duration, unknown bool) {
	at := int64(ended)
	if unknown {
		k.unsure++
		at = math.MaxInt64
	}
	k.ops = append(k.ops, porcupine.Operation{ClientId: client, Input: in, Output: out, Call: int64(began), Return: at})
}

func newKeyLoad(cl *clients) *keyLoad {
	w := &keyLoad{cl: cl, live: make([]*keyHistory, liveKeys)}
	for i := range w.live {
		w.renew(i)
	}
	return w
}

func (w *keyLoad) renew(i int) {
	w.live[i] = &keyHistory{key: fmt.Sprintf("k/%05d", len(w.all))}
	w.all = append(w.all, w.live[i])
}

func (w *keyLoad) next(client int) *call {
	i := w.cl.c.rnd.IntN(len(w.live))
	if w.live[i].spent() {
		w.renew(i)
	}
	k := w.live[i]
	k.uses++
	op := kvOp{kind: opGet}
	a := &call{}
	switch n := w.cl.c.rnd.IntN(16); {
	case n < 12:
	case n < 14:
		w.values++
		op.kind, op.value = opPut, w.values
		a.command = state.Put{Key: k.key, Value: encodeValue(op.value)}
	case n < 15:
		w.values++
		op.kind, op.value, op.expect = opCAS, w.values, k.known
		a.command = state.Put{Key: k.key, Value: encodeValue(op.value), Compare: new(op.expect)}
	default:
		op.kind = opDelete
		a.command = state.Delete{Key: k.key}
	}
	a.plain = !w.cl.c.chance(4)
	a.end = func(o outcome) { w.ended(k, a, op, o) }
	return a
}

func (w *keyLoad) ended(k *keyHistory, a *call, op kvOp, o outcome) {
	seen := kvSeen{unknown: o.unknown}
	switch {
	case o.unknown:
	case op.kind == opGet:
		seen = readKey(o.view, k.key)
		k.known = seen.revision
	case o.result.Code == state.CodeOK:
		seen.revision = o.result.Revision
		if k.known = seen.revision; op.kind == opDelete {
			k.known = 0
		}
	case o.result.Code == state.CodeConflict || o.result.Code == state.CodeNotFound:
		seen.conflict = true
	default:
		w.cl.c.fail("%+v of %s was answered by %q: %s", op, k.key, o.result.Code, o.result.Message)
	}
	k.add(a.client, op, seen, a.began, o.at, o.unknown)
}

func encodeValue(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func readKey(v *state.View, key string) kvSeen {
	kv, ok := v.Get(key)
	if !ok {
		return kvSeen{}
	}
	return kvSeen{value: binary.BigEndian.Uint64(kv.Value), revision: kv.ModRevision}
}

// last adds what every key is in the end, so that nothing acknowledged can be missing.
func (w *keyLoad) last(v *state.View) {
	for _, k := range w.all {
		k.add(0, kvOp{kind: opGet}, readKey(v, k.key), w.cl.c.now, w.cl.c.now, false)
	}
}

func (w *keyLoad) check() error { return checkHistories(registerModel, w.all) }
