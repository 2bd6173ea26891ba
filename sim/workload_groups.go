package sim

import (
	"fmt"

	"github.com/parley-mesh/parley/state"
)

const (
	liveGroups = 8
	groupKeys  = 3
	groupUses  = 50
)

// groupLoad changes several keys in one transaction and reads them together.
type groupLoad struct {
	cl     *clients
	live   []*group
	all    []*groupHistory
	values uint64
}

type groupHistory = keyHistory[groupOp, groupSeen]

type group struct {
	*groupHistory
	names [groupKeys]string
	seen  [groupKeys]uint64 // values that somebody was told last
}

func newGroup(k *groupHistory) *group {
	g := &group{groupHistory: k}
	for i := range g.names {
		g.names[i] = fmt.Sprintf("%s/%d", k.key, i)
	}
	return g
}

func newGroupLoad(cl *clients) *groupLoad {
	w := &groupLoad{cl: cl, live: make([]*group, liveGroups)}
	for i := range w.live {
		w.renew(i)
	}
	return w
}

func (w *groupLoad) renew(i int) {
	w.live[i] = newGroup(&groupHistory{key: fmt.Sprintf("g/%04d", len(w.all))})
	w.all = append(w.all, w.live[i].groupHistory)
}

func (w *groupLoad) next(int) *call {
	i := w.cl.c.rnd.IntN(len(w.live))
	if w.live[i].uses >= groupUses || w.live[i].unsure >= maxUnsure {
		w.renew(i)
	}
	g := w.live[i]
	g.uses++
	op, a := groupOp{}, &call{}
	if w.cl.c.chance(4) {
		op, a.command = w.transaction(g)
	}
	a.end = func(o outcome) { w.ended(g, a, op, o) }
	return a
}

// transaction compares one key with what was last seen in it, and writes some keys, else reads all.
func (w *groupLoad) transaction(g *group) (groupOp, state.Command) {
	op := groupOp{write: true, compare: w.cl.c.rnd.IntN(groupKeys)}
	op.expect = g.seen[op.compare]
	compare := state.Compare{Key: g.names[op.compare], Target: state.TargetValue, Relation: state.Equal, Value: encodeValue(op.expect)}
	if op.expect == 0 {
		compare = state.Compare{Key: g.names[op.compare], Target: state.TargetVersion, Relation: state.Equal}
	}
	txn := state.Txn{Compare: []state.Compare{compare}}
	for i := range groupKeys {
		if w.cl.c.chance(2) || i == op.compare {
			w.values++
			op.values[i] = w.values
			txn.Then = append(txn.Then, state.Op{Kind: state.OpPut, Key: g.names[i], Value: encodeValue(w.values)})
		}
		txn.Else = append(txn.Else, state.Op{Kind: state.OpGet, Key: g.names[i]})
	}
	return op, txn
}

func (w *groupLoad) ended(g *group, a *call, op groupOp, o outcome) {
	seen := groupSeen{unknown: o.unknown}
	switch {
	case o.unknown:
	case !op.write:
		seen.values = g.read(o.view)
		g.seen = seen.values
	case o.result.Code != state.CodeOK:
		w.cl.c.fail("%+v of %s was answered by %q: %s", op, g.key, o.result.Code, o.result.Message)
		return
	default:
		answer, err := state.DecodeTxnAnswer(o.result.Body)
		if seen.done = answer.Succeeded; err != nil || !seen.done && len(answer.Results) != groupKeys {
			w.cl.c.fail("answer of a transaction: %+v, %v", answer, err)
			return
		}
		for i := range groupKeys {
			switch {
			case seen.done && op.values[i] != 0:
				g.seen[i] = op.values[i]
			case !seen.done:
				seen.values[i] = decodeValue(answer.Results[i].KV.Value)
				g.seen[i] = seen.values[i]
			}
		}
	}
	g.add(a.client, op, seen, a.began, o.at, o.unknown)
}

// read is of one View: of one moment.
func (g *group) read(v *state.View) (values [groupKeys]uint64) {
	for i := range values {
		values[i] = readKey(v, g.names[i]).value
	}
	return values
}

func (w *groupLoad) last(v *state.View) {
	for _, k := range w.all {
		k.add(0, groupOp{}, groupSeen{values: newGroup(k).read(v)}, w.cl.c.now, w.cl.c.now, false)
	}
}

func (w *groupLoad) check() error { return groupModel.check(w.all) }
