package sim

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// checkTime bounds the search for the order of one history.
const checkTime = 20 * time.Second

// keyHistory is a key and what was done with it.
type keyHistory[I, O any] struct {
	key    string
	uses   int
	unsure int
	ops    []operation[I, O]
}

// operation is what a client asked for and was told, and when. One of unknown outcome ends at infinity.
type operation[I, O any] struct {
	client       int
	in           I
	out          O
	began, ended int64
}

// add records an operation.
func (k *keyHistory[I, O]) add(client int, in I, out O, began, ended time.Duration, unknown bool) {
	op := operation[I, O]{client, in, out, int64(began), int64(ended)}
	if unknown {
		k.unsure++
		op.ended = math.MaxInt64
	}
	k.ops = append(k.ops, op)
}

// model is a sequential specification: whether out may be the answer to in, and what the state is then. The first state is
// the zero value.
type model[S comparable, I, O any] func(s S, in I, out O) (bool, S)

// check says whether each history is one that the model allows.
func (m model[S, I, O]) check(all []*keyHistory[I, O]) error {
	for _, k := range all {
		if m.inOrder(k.ops) {
			continue
		}
		if result := m.search(k.ops); result != porcupine.Ok {
			return fmt.Errorf("the history of %s (%d operations) is not linearizable: %v", k.key, len(k.ops), result)
		}
	}
	return nil
}

// inOrder looks for an order of the operations that the model allows, and in which none comes before one that had ended when
// it began. It never takes a step back: of those that may be next it takes one that changes nothing, else the one that ended
// first, which is the right one nearly always, as answers come in the order in which things happened. An order that it finds
// is the proof that the history is linearizable. When it finds none the history may be so all the same: search tries all
// orders, and takes many times as long.
func (m model[S, I, O]) inOrder(ops []operation[I, O]) bool {
	left := make([]*operation[I, O], len(ops)) // by their ends: that is how they were noted, but for those without one
	for i := range ops {
		left[i] = &ops[i]
	}
	slices.SortStableFunc(left, func(a, b *operation[I, O]) int { return cmp.Compare(a.ended, b.ended) })
	var state S
	for len(left) > 0 {
		next, after := -1, state
		for i, op := range left {
			if op.began > left[0].ended {
				continue // that one had ended
			}
			ok, s := m(state, op.in, op.out)
			if ok && s == state && op.ended < math.MaxInt64 { // without an end it may have changed something later on
				next, after = i, s
				break
			}
			if ok && next < 0 {
				next, after = i, s
			}
		}
		if next < 0 {
			return false
		}
		left, state = slices.Delete(left, next, next+1), after
	}
	return true
}

// search is porcupine's.
func (m model[S, I, O]) search(ops []operation[I, O]) porcupine.CheckResult {
	history := make([]porcupine.Operation, len(ops))
	for i, op := range ops {
		history[i] = porcupine.Operation{ClientId: op.client, Input: op.in, Output: op.out, Call: op.began, Return: op.ended}
	}
	return porcupine.CheckOperationsTimeout(porcupine.Model{
		Init: func() any { var s S; return s },
		Step: func(s, in, out any) (bool, any) {
			return m(s.(S), in.(I), out.(O)) //nolint:forcetypeassert // ours alone
		},
		DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
	}, history, checkTime)
}
