package sim

import (
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// The model of a key knows what an undo does. Each of the wrong histories has one thing that cannot have been.
func TestUndoModel(t *testing.T) {
	put := func(value uint64) kvOp { return kvOp{kind: opPut, value: value} }
	undo := func(revision uint64) kvOp { return kvOp{kind: opUndo, expect: revision} }
	del, get := kvOp{kind: opDelete}, kvOp{kind: opGet}
	at := func(revision uint64) kvSeen { return kvSeen{revision: revision} }
	is := func(value, revision uint64) kvSeen { return kvSeen{value: value, revision: revision} }
	no, lost := kvSeen{conflict: true}, kvSeen{unknown: true}
	type did struct {
		op   kvOp
		seen kvSeen
	}
	for name, test := range map[string]struct {
		all []did
		ok  bool
	}{
		"restored":              {[]did{{put(1), at(2)}, {put(2), at(3)}, {undo(3), at(4)}, {get, is(1, 4)}}, true},
		"redone":                {[]did{{put(1), at(2)}, {put(2), at(3)}, {undo(3), at(4)}, {undo(4), at(5)}, {get, is(2, 5)}}, true},
		"first write":           {[]did{{put(1), at(2)}, {undo(2), at(3)}, {get, kvSeen{}}, {undo(3), at(4)}, {get, is(1, 4)}}, true},
		"deletion":              {[]did{{put(1), at(2)}, {del, at(3)}, {undo(3), at(4)}, {get, is(1, 4)}}, true},
		"changed since":         {[]did{{put(1), at(2)}, {put(2), at(3)}, {undo(2), no}, {get, is(2, 3)}}, true},
		"nothing":               {[]did{{undo(0), no}}, true},
		"unknown, done":         {[]did{{put(1), at(2)}, {put(2), at(3)}, {undo(3), lost}, {get, is(1, 9)}}, true},
		"unknown, not done":     {[]did{{put(1), at(2)}, {put(2), at(3)}, {undo(3), lost}, {get, is(2, 3)}}, true},
		"after unknown":         {[]did{{put(1), at(2)}, {put(2), lost}, {get, is(2, 5)}, {undo(5), at(6)}, {get, is(1, 6)}}, true},
		"not done":              {[]did{{put(1), at(2)}, {put(2), at(3)}, {undo(3), at(4)}, {get, is(2, 3)}}, false},
		"older than the last":   {[]did{{put(1), at(2)}, {put(2), at(3)}, {put(3), at(4)}, {undo(4), at(5)}, {get, is(1, 5)}}, false},
		"without comparing":     {[]did{{put(1), at(2)}, {put(2), at(3)}, {undo(2), at(4)}}, false},
		"refused for no reason": {[]did{{put(1), at(2)}, {put(2), at(3)}, {undo(3), no}}, false},
		"revision kept":         {[]did{{put(1), at(2)}, {put(2), at(3)}, {undo(3), at(3)}}, false},
		"deletion stays":        {[]did{{put(1), at(2)}, {del, at(3)}, {undo(3), at(4)}, {get, kvSeen{}}}, false},
	} {
		k := &kvHistory{}
		for i, d := range test.all {
			began := time.Duration(2 * i)
			k.add(i, d.op, d.seen, began, began+1, d.seen.unknown)
		}
		if got := registerModel.search(k.ops) == porcupine.Ok; got != test.ok {
			t.Errorf("%s: linearizable %v, want %v", name, got, test.ok)
		}
		if !test.ok && registerModel.inOrder(k.ops) {
			t.Errorf("%s: an order was found", name)
		}
	}
}
