package state

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/clock"
)

func testEvent(n uint64) EventAppend {
	e := EventAppend{Node: "a1", Kind: EventNote, Message: "m"}
	binary.BigEndian.PutUint64(e.ID[:], n)
	return e
}

func eventsOf(v *View) (all []Event) {
	v.Events(0, func(e Event) bool {
		all = append(all, e)
		return true
	})
	return all
}

// The newest MaxEvents stay, on the core and on a follower alike; an id that went may come again.
func TestEventsAreBounded(t *testing.T) {
	m := testGenesis()
	var batch []Command
	for i := range uint64(MaxEvents) {
		batch = append(batch, testEvent(i+1))
	}
	apply(t, m, stampAt(10), batch...)
	if got := m.View().Rows(TableEvent); got != MaxEvents {
		t.Fatalf("got %d events, want %d", got, MaxEvents)
	}
	f := NewFollower(ClassPublic)
	load(t, f, m.View())
	prev := m.View().Revision()
	_, touched := apply(t, m, stampAt(20), testEvent(MaxEvents+1), testEvent(1))
	v := m.View()
	all := eventsOf(v)
	if len(all) != MaxEvents || all[0].ID != testEvent(3).ID {
		t.Fatalf("got %d events, the oldest %x", len(all), all[0].ID)
	}
	// Event 1 had gone by the time it came again, so it is new.
	if last := all[MaxEvents-1]; last.At != stampAt(20) || last.Place != 1 || last.ID != testEvent(1).ID {
		t.Errorf("the newest is %+v", last)
	}
	d := Delta{Index: v.Index(), Term: v.Term(), Stamp: v.Stamp(), Revision: v.Revision(), PrevRevision: prev, Changes: touched.Changes}
	if _, err := f.Apply(d); err != nil {
		t.Fatal(err)
	}
	if f.View().ClassDigest(ClassPublic) != v.ClassDigest(ClassPublic) {
		t.Error("the follower keeps other events")
	}
}

// The longest event goes in; what is longer, or would break a terminal's line, never reaches the log.
func TestEventLimits(t *testing.T) {
	e := testEvent(1)
	e.Kind, e.Subject = strings.Repeat("k", MaxEventKindBytes), strings.Repeat("s", MaxEventSubjectBytes)
	e.Message = strings.Repeat("m", MaxEventMessageBytes)
	m := testGenesis()
	do(t, m, e, CodeOK)
	if got := eventsOf(m.View())[0]; got.Message != e.Message || got.Subject != e.Subject || got.Kind != e.Kind {
		t.Errorf("got %+v", got)
	}
	for what, edit := range map[string]func(*EventAppend){
		"long kind":    func(e *EventAppend) { e.Kind += "k" },
		"no kind":      func(e *EventAppend) { e.Kind = "" },
		"bad kind":     func(e *EventAppend) { e.Kind = "Note" },
		"long subject": func(e *EventAppend) { e.Subject += "s" },
		"long message": func(e *EventAppend) { e.Message += "m" },
		"two lines":    func(e *EventAppend) { e.Message = "a\nb" },
		"escape":       func(e *EventAppend) { e.Subject = "\x1b[2J" },
		"c1 control":   func(e *EventAppend) { e.Message = "\u009b2J" },
		"not text":     func(e *EventAppend) { e.Message = "\xff" },
		"no node":      func(e *EventAppend) { e.Node = "" },
	} {
		bad := e
		edit(&bad)
		if _, err := Encode(Envelope{Command: bad}, Version); err == nil {
			t.Errorf("%s: got no error", what)
		}
	}
}

// After the last stamp there is nothing, and asking does not wrap around.
func TestEventsAfterTheEnd(t *testing.T) {
	m := testGenesis()
	do(t, m, testEvent(1), CodeOK)
	m.View().Events(^clock.Stamp(0), func(e Event) bool {
		t.Errorf("got %+v", e)
		return false
	})
}

// An append looks through a full timeline for its id.
func BenchmarkEventAppend(b *testing.B) {
	m := testGenesis()
	var batch []Command
	for i := range uint64(MaxEvents) {
		batch = append(batch, testEvent(i+1))
	}
	apply(b, m, stampAt(10), batch...)
	n := uint64(MaxEvents)
	for b.Loop() {
		n++
		apply(b, m, stampAt(int(n)), testEvent(n))
	}
}
