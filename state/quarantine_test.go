package state

import (
	"bytes"
	"slices"
	"testing"
)

// TestQuarantinedCommandChangesNothing: a command that is left out is answered by its verdict, also to whoever asks again
// with the same request id, and the rest of its entry is done; a snapshot carries the list, and the digest covers it.
func TestQuarantinedCommandChangesNothing(t *testing.T) {
	m, plain := NewMachine(), NewMachine()
	request := NewRequestID(0, [8]byte{7})
	var commands [][]byte
	for i, e := range []Envelope{
		{Command: Put{Key: "a", Value: []byte("1")}},
		{Command: Put{Key: "bad", Value: []byte("2")}, Request: request, Caller: "somebody"},
		{Command: Put{Key: "b", Value: []byte("3")}},
	} {
		c, err := Encode(e, Version)
		if err != nil {
			t.Fatal(i, err)
		}
		commands = append(commands, c)
	}
	var steps []int
	results, _, err := m.ApplyGuarded(5, 1, 9<<16, commands, Guard{Quarantined: []int{1}, Step: func(k int) { steps = append(steps, k) }})
	if err != nil {
		t.Fatal(err)
	}
	if want := []int{0, 1, 2, 0, 1, 2}; !slices.Equal(steps, want) {
		t.Errorf("steps %v, want %v", steps, want)
	}
	for i, want := range []Code{CodeOK, CodeQuarantined, CodeOK} {
		if r, err := DecodeResult(results[i]); err != nil || r.Code != want {
			t.Errorf("command %d was answered %q, %v; want %q", i, r.Code, err, want)
		}
	}
	if _, found := m.View().Get("bad"); found || m.View().Revision() != 2 {
		t.Errorf("the quarantined command did something: revision %d", m.View().Revision())
	}
	again, _, err := m.Apply(6, 1, 10<<16, commands[1:2])
	if err != nil || !bytes.Equal(again[0], results[1]) {
		t.Errorf("asked again it was answered %q, %v; want the verdict", again[0], err)
	}
	if list := m.View().Quarantined(); len(list) != 1 || list[0].Index != 5 || list[0].Place != 1 || list[0].Kind != "put" || !m.Quarantined(5, 1) || m.Quarantined(5, 0) {
		t.Errorf("the list is %+v", list)
	}
	if _, refused := m.View().RefusedAs(commands[1], 11<<16); !refused {
		t.Error("the same command would be proposed again")
	}
	if _, refused := m.View().RefusedAs(commands[1], (9+QuarantineRefusal+1)<<16); refused {
		t.Error("the command is refused for ever")
	}
	if _, refused := m.View().RefusedAs(commands[0], 11<<16); refused {
		t.Error("another command is refused")
	}
	var snapshot bytes.Buffer
	if err := m.View().WriteSnapshot(&snapshot); err != nil {
		t.Fatal(err)
	}
	if err := plain.Restore(&snapshot); err != nil || !plain.Quarantined(5, 1) || plain.View().Digest() != m.View().Digest() {
		t.Errorf("the snapshot lost the list: %v", err)
	}
}

// TestQuarantineListIsBounded: the command that stands first in the log is forgotten first.
func TestQuarantineListIsBounded(t *testing.T) {
	m := NewMachine()
	c, err := Encode(Envelope{Command: Put{Key: "k"}}, Version)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(MaxQuarantined + 3) {
		if _, _, err := m.ApplyGuarded(i+1, 1, 1<<16, [][]byte{c}, Guard{Quarantined: []int{0}}); err != nil {
			t.Fatal(err)
		}
	}
	if list := m.View().Quarantined(); len(list) != MaxQuarantined || list[0].Index != 4 {
		t.Errorf("%d are remembered, from %d on", len(list), list[0].Index)
	}
}

// TestQuarantinableKinds: what says who may do what, what the core is, or how commands are read is never left out.
func TestQuarantinableKinds(t *testing.T) {
	yes := []string{"put", "delete", "delete prefix", "txn", "kv undo", "kv purge", "probe", "event append", "write canary", "session create", "session destroy",
		"lock", "unlock", "catalog register", "catalog deregister"}
	for k := kind(1); k < kindEnd; k++ {
		if got, want := Quarantinable([]byte{byte(k), 1}), slices.Contains(yes, kinds[k].name); got != want {
			t.Errorf("%s: quarantinable %v, want %v", kinds[k].name, got, want)
		}
	}
	for _, b := range [][]byte{nil, {0}, {byte(kindEnd)}, {200, 200, 3}} {
		if Quarantinable(b) {
			t.Errorf("%v is quarantinable", b)
		}
	}
}
