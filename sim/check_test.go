package sim

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// An order that is found at once is one that porcupine finds as well, in histories of overlapping operations that happened,
// in such with an answer that is wrong, and in such of which the outcome of some is unknown.
func TestInOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // not secret
	count := map[[2]bool]int{}
	for range 20000 {
		k := randomHistory(rnd)
		straight, right := registerModel.inOrder(k.ops), registerModel.search(k.ops) == porcupine.Ok
		if count[[2]bool{straight, right}]++; straight && !right {
			t.Fatalf("an order was found for what is not linearizable: %+v", k.ops)
		}
	}
	at, refused := count[[2]bool{true, true}], count[[2]bool{false, false}]
	if other := count[[2]bool{false, true}]; at < 5000 || refused < 2000 || other > at/2 {
		t.Errorf("an order was found at once for %d, with a search for %d, and not for %d", at, other, refused)
	}
}

// randomHistory lets a register do what eight clients ask at the same time, and spoils what some are told.
func randomHistory(rnd *rand.Rand) *kvHistory {
	k, revision := &kvHistory{}, uint64(0)
	var r register
	for i := range uint64(2 + rnd.IntN(12)) {
		op := kvOp{kind: opKind(rnd.IntN(4)), value: i + 1, expect: r.revision} //nolint:gosec // small
		if r.value == 0 {
			op.expect = 0
		}
		seen := kvSeen{value: r.value, revision: r.revision}
		if op.kind != opGet {
			revision++
			seen = kvSeen{revision: revision, conflict: op.kind == opDelete && r.value == 0}
		} else if r.value == 0 {
			seen = kvSeen{}
		}
		_, r = r.step(op, seen)
		if rnd.IntN(30) == 0 {
			seen = kvSeen{value: seen.value + uint64(rnd.IntN(2)), revision: seen.revision + uint64(rnd.IntN(3)), conflict: !seen.conflict} //nolint:gosec // small
		}
		lost := op.kind != opGet && rnd.IntN(12) == 0
		if lost {
			seen = kvSeen{unknown: true}
		}
		at := time.Duration(10 * i)                                                                     //nolint:gosec // small
		k.add(int(i%8), op, seen, at-time.Duration(rnd.IntN(30)), at+time.Duration(rnd.IntN(30)), lost) //nolint:gosec // small
	}
	return k
}
