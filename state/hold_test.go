package state

import "testing"

// TestCoreHold: a node is in maintenance until a stamp that the command's own decides, in the public row; it ends by time,
// by a release, and by leaving. A row from before the field reads as not held.
func TestCoreHold(t *testing.T) {
	m := testGenesis()
	held := func(at int) bool {
		n, ok := m.View().Node("a1")
		if !ok {
			t.Fatal("no node")
		}
		return n.Held(stampAt(at))
	}
	do(t, m, CoreHold{Node: "nobody", Millis: 1}, CodeNotFound)
	apply(t, m, stampAt(10_000), CoreHold{Node: "a1", Millis: 5_000})
	if !held(14_999) || held(15_000) {
		t.Errorf("held at 14.999 s: %v, at 15 s: %v", held(14_999), held(15_000))
	}
	apply(t, m, stampAt(11_000), CoreHold{Node: "a1", Millis: MaxHoldMillis})
	if !held(15_000) {
		t.Error("a second hold does not prolong the first")
	}
	apply(t, m, stampAt(12_000), CoreHold{Node: "a1"})
	if held(12_000) {
		t.Error("released and held")
	}
	n, _ := m.View().Node("a1")
	n.HeldUntil = 0
	old := EncodeNode(n)
	n.HeldUntil = stampAt(1)
	for _, row := range [][]byte{old, EncodeNode(n)} {
		if _, err := DecodeNode(row); err != nil {
			t.Error(err)
		}
	}
	if _, err := DecodeNode(append(old, 0)); err == nil {
		t.Error("two encodings of a node that is not held")
	}
	if (CoreHold{Node: "a1", Millis: MaxHoldMillis + 1}).check() == nil {
		t.Error("a hold without an end")
	}
	apply(t, m, stampAt(13_000), CoreHold{Node: "a1", Millis: 5_000}, NodeSetLeft{Node: "a1", Left: true})
	if held(13_500) {
		t.Error("it has left and is held")
	}
	do(t, m, CoreHold{Node: "a1", Millis: 1}, CodeInvalid)
}
