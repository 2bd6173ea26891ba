package sim

import (
	"encoding/binary"
	"fmt"

	"github.com/parley-mesh/parley/state"
)

const (
	liveKeys  = 48
	keyUses   = 70 // operations after which a key is retired: the checker's work grows faster than a history
	maxUnsure = 5  // operations of unknown outcome after which it is
)

// keyLoad reads, writes, compares, deletes and undoes single keys.
type keyLoad struct {
	cl     *clients
	live   []*liveKey
	all    []*kvHistory
	values uint64
}

type kvHistory = keyHistory[kvOp, kvSeen]

// liveKey is a key that is in use.
type liveKey struct {
	*kvHistory
	known uint64 // last revision that somebody was told
	wrote uint64 // the same, deletions included
}

func (k *liveKey) spent() bool { return k.uses >= keyUses || k.unsure >= maxUnsure }

func newKeyLoad(cl *clients) *keyLoad {
	w := &keyLoad{cl: cl, live: make([]*liveKey, liveKeys)}
	for i := range w.live {
		w.renew(i)
	}
	return w
}

func (w *keyLoad) renew(i int) {
	k := &kvHistory{key: fmt.Sprintf("k/%05d", len(w.all)), ops: make([]operation[kvOp, kvSeen], 0, keyUses+1)}
	w.live[i], w.all = &liveKey{kvHistory: k}, append(w.all, k)
}

// read draws a read.
func (w *keyLoad) read() *call {
	k := w.live[w.cl.c.rnd.IntN(len(w.live))]
	if k.spent() {
		return nil
	}
	k.uses++
	a := &call{plain: true}
	a.end = func(o outcome) { w.ended(k, a, kvOp{kind: opGet}, o) }
	return a
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
	case k.uses%2 == 0:
		op.kind = opDelete
		a.command = state.Delete{Key: k.key}
	default:
		op.kind, op.expect = opUndo, k.wrote
		a.command = state.KVUndo{Key: k.key, Revision: op.expect}
	}
	a.plain = !w.cl.c.chance(4)
	asked := op // that never changes any more, and is kept in the function
	a.end = func(o outcome) { w.ended(k, a, asked, o) }
	return a
}

func (w *keyLoad) ended(k *liveKey, a *call, op kvOp, o outcome) {
	seen := kvSeen{unknown: o.unknown}
	switch {
	case o.unknown:
	case op.kind == opGet:
		seen = readKey(o.view, k.key)
		if k.known = seen.revision; k.known > 0 {
			k.wrote = k.known
		}
	case o.result.Code == state.CodeOK:
		seen.revision = o.result.Revision
		k.known, k.wrote = seen.revision, seen.revision
		if op.kind == opDelete || op.kind == opUndo && o.result.Number() == 0 {
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

func (w *keyLoad) check() error { return registerModel.check(w.all) }
