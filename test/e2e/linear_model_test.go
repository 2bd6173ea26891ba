package e2e

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// kvOp is what a client asked for.
type kvOp struct {
	kind   string // get, put, cas or delete
	key    string
	value  string // of a put or cas: never empty, and no other operation's
	expect uint64 // of a cas: the revision that the key must have, 0 when it must not exist
}

// kvSeen is what the client was told. A conflict says that the key's revision was not the expected one, or that there was
// no key to delete.
type kvSeen struct {
	unknown  bool // no answer: it happened when it did, if at all
	conflict bool
	value    string // of a get: empty when there is no key
	revision uint64 // of the row that a get found or a write made
}

// never is when an operation of unknown outcome returns.
const never = math.MaxInt64

// register is one key of the sequential specification: its last write, by value and revision. A delete is a write of no
// value; its revision counts, and no get tells it.
//
// The revision of a write that nobody answered is not known until somebody reads the value, which no
// other operation wrote. Until then revision is the one before it. A client can only expect a revision
// that it was told, so such a write cannot be what a compare-and-set expects before a get told it.
type register struct {
	value    string // empty: no key
	revision uint64
	unsure   bool // revision is that of the write before
}

// is says whether a compare-and-set that expects revision finds it.
func (r register) is(revision uint64) bool {
	if r.value == "" {
		return revision == 0
	}
	return !r.unsure && r.revision == revision
}

// step says whether seen may be the answer to op, and what the key is then. Every write makes a revision
// above all earlier ones, so the checker has little choice among writes that were answered.
func (r register) step(op kvOp, seen kvSeen) (bool, register) {
	written := register{value: op.value, revision: seen.revision}
	if seen.unknown {
		written = register{value: op.value, revision: r.revision, unsure: true}
	}
	newer := seen.unknown || seen.revision > r.revision
	switch {
	case op.kind == "get" && r.value == "":
		return seen.value == "", r
	case op.kind == "delete" && r.value == "":
		return seen.unknown || seen.conflict, r
	case op.kind == "delete":
		return newer && !seen.conflict, written
	case op.kind == "get" && r.unsure:
		return seen.value == r.value && newer, register{value: r.value, revision: seen.revision}
	case op.kind == "get":
		return seen.value == r.value && seen.revision == r.revision, r
	case op.kind == "put":
		return newer, written
	case seen.conflict:
		return !r.is(op.expect), r
	case r.is(op.expect):
		return newer, written
	}
	return seen.unknown, r // a compare-and-set that would have lost, had it been answered
}

// registerModel is register for porcupine.
var registerModel = porcupine.Model{
	Init: func() any { return register{} },
	Step: func(state, input, output any) (bool, any) {
		return state.(register).step(input.(kvOp), output.(kvSeen))
	},
	DescribeOperation: func(input, output any) string { return describe(input.(kvOp), output.(kvSeen)) },
	DescribeState: func(state any) string {
		r := state.(register)
		return fmt.Sprintf("%q at %d%s", r.value, r.revision, map[bool]string{true: "+"}[r.unsure])
	},
}

func describe(op kvOp, seen kvSeen) string {
	text := strings.TrimSpace(op.kind + " " + op.value)
	if op.kind == "cas" {
		text += fmt.Sprintf(" if at %d", op.expect)
	}
	switch {
	case seen.unknown:
		return text + ": unknown"
	case seen.conflict:
		return text + ": conflict"
	case op.kind == "get":
		return fmt.Sprintf("get: %q at %d", seen.value, seen.revision)
	}
	return fmt.Sprintf("%s: made %d", text, seen.revision)
}

// TestRegisterModel: the model takes histories that a linearizable register can have, and none else:
// above all, no stale read, no lost update and no lost write.
func TestRegisterModel(t *testing.T) {
	// at is an operation from call to back.
	at := func(call, back int64, op kvOp, seen kvSeen) porcupine.Operation {
		return porcupine.Operation{Call: call, Return: back, Input: op, Output: seen}
	}
	get, remove := kvOp{kind: "get"}, kvOp{kind: "delete"}
	put := func(v string) kvOp { return kvOp{kind: "put", value: v} }
	cas := func(v string, expect uint64) kvOp { return kvOp{kind: "cas", value: v, expect: expect} }
	row := func(v string, revision uint64) kvSeen { return kvSeen{value: v, revision: revision} }
	made := func(revision uint64) kvSeen { return kvSeen{revision: revision} }
	unknown, conflict := kvSeen{unknown: true}, kvSeen{conflict: true}
	putA, putB := at(1, 2, put("a"), made(5)), at(3, 4, put("b"), made(7))
	lostA := at(1, never, put("a"), unknown)
	for _, tt := range []struct {
		name string
		ops  []porcupine.Operation
		want bool
	}{
		{"a get before anything", []porcupine.Operation{at(1, 2, get, row("", 0)), at(3, 4, put("a"), made(5))}, true},
		{"a get during a put finds the old or the new", []porcupine.Operation{
			putA, at(3, 9, put("b"), made(7)), at(4, 5, get, row("a", 5)), at(6, 7, get, row("b", 7)),
		}, true},
		{"it goes back from the new to the old", []porcupine.Operation{
			putA, at(3, 9, put("b"), made(7)), at(4, 5, get, row("b", 7)), at(6, 7, get, row("a", 5)),
		}, false},
		{"a stale get", []porcupine.Operation{putA, putB, at(5, 6, get, row("a", 5))}, false},
		{"a stale get of nothing", []porcupine.Operation{putA, at(3, 4, get, row("", 0))}, false},
		{"a get of what nobody wrote", []porcupine.Operation{putA, at(3, 4, get, row("c", 6))}, false},
		{"the right value at a wrong revision", []porcupine.Operation{putA, at(3, 4, get, row("a", 6))}, false},
		{"revisions go back", []porcupine.Operation{putA, at(3, 4, put("b"), made(4))}, false},

		{"one of two updates of one revision conflicts", []porcupine.Operation{
			putA, at(3, 9, cas("b", 5), made(7)), at(4, 8, cas("c", 5), conflict), at(10, 11, get, row("b", 7)),
		}, true},
		{"a lost update", []porcupine.Operation{putA, at(3, 9, cas("b", 5), made(7)), at(4, 8, cas("c", 5), made(8))}, false},
		{"a conflict with nothing", []porcupine.Operation{putA, at(3, 4, cas("b", 5), conflict)}, false},
		{"a success in spite of a conflict", []porcupine.Operation{putA, putB, at(5, 6, cas("c", 5), made(9))}, false},
		{"a key made twice", []porcupine.Operation{at(1, 2, cas("a", 0), made(5)), at(3, 4, cas("b", 0), made(6))}, false},

		{"a deleted key is made again", []porcupine.Operation{
			putA, at(3, 4, remove, made(7)), at(5, 6, get, row("", 0)), at(7, 8, cas("b", 0), made(9)), at(9, 10, get, row("b", 9)),
		}, true},
		{"a delete of nothing", []porcupine.Operation{at(1, 2, remove, conflict), putA, at(5, 6, remove, made(7)), at(7, 8, remove, conflict)}, true},
		{"a delete that finds what was not there", []porcupine.Operation{putA, at(3, 4, remove, made(7)), at(5, 6, remove, made(8))}, false},
		{"a delete that misses what was there", []porcupine.Operation{putA, at(3, 4, remove, conflict)}, false},
		{"a deleted key is read", []porcupine.Operation{putA, at(3, 4, remove, made(7)), at(5, 6, get, row("a", 5))}, false},
		{"a deleted key is at its old revision", []porcupine.Operation{putA, at(3, 4, remove, made(7)), at(5, 6, cas("b", 5), made(8))}, false},
		{"a key goes without a delete", []porcupine.Operation{putA, at(3, 4, cas("b", 0), made(7))}, false},
		{"revisions go back over a delete", []porcupine.Operation{putA, at(3, 4, remove, made(7)), at(5, 6, put("b"), made(6))}, false},
		{"an unknown delete happens, or does not", []porcupine.Operation{
			putA, at(3, never, remove, unknown), at(4, 5, get, row("a", 5)), at(6, 7, get, row("", 0)), at(8, 9, cas("b", 0), made(8)),
		}, true},
		{"an unknown delete is undone", []porcupine.Operation{
			putA, at(3, never, remove, unknown), at(4, 5, get, row("", 0)), at(6, 7, get, row("a", 5)),
		}, false},

		{"an unknown put is seen, and stays", []porcupine.Operation{
			lostA, at(2, 3, get, row("", 0)), at(4, 5, get, row("a", 6)), at(6, 7, cas("b", 6), made(8)),
		}, true},
		{"an unknown put is never seen", []porcupine.Operation{lostA, putB, at(5, 6, get, row("b", 7))}, true},
		{"an unknown put happens late, over another", []porcupine.Operation{lostA, putB, at(5, 6, get, row("a", 9))}, true},
		{"an unknown put is seen at a revision that was over", []porcupine.Operation{
			lostA, putB, at(5, 6, get, row("b", 7)), at(7, 8, get, row("a", 6)),
		}, false},
		{"an unknown put is seen and undone", []porcupine.Operation{lostA, at(4, 5, get, row("a", 6)), at(6, 7, get, row("", 0))}, false},
		{"an unknown put happens twice", []porcupine.Operation{
			lostA, at(2, 3, get, row("a", 5)), putB, at(5, 6, get, row("a", 8)),
		}, false},
		{"an unknown update won or lost", []porcupine.Operation{
			putA, at(3, never, cas("b", 5), unknown), at(3, never, cas("c", 5), unknown), at(4, 5, get, row("c", 7)),
		}, true},
		{"an unknown update won although it had to lose", []porcupine.Operation{
			putA, putB, at(5, never, cas("c", 5), unknown), at(6, 7, get, row("c", 8)),
		}, false},
	} {
		want := map[bool]porcupine.CheckResult{true: porcupine.Ok, false: porcupine.Illegal}[tt.want]
		if got := porcupine.CheckOperationsTimeout(registerModel, tt.ops, 10*time.Second); got != want {
			t.Errorf("%s: got %s, want %s", tt.name, got, want)
		}
	}
}
