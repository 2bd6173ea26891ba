package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"github.com/parley-mesh/parley/clock"
)

// Limits of the timeline, part of the meaning of version 1 of EventAppend.
const (
	MaxEvents            = 4096 // rows kept; one more, and the oldest goes
	MaxEventKindBytes    = 32
	MaxEventSubjectBytes = MaxCallerBytes // what the event is about: a node, an alert, who wrote a note
	MaxEventMessageBytes = 512
)

// EventNote is the kind of the events that people write.
const EventNote = "note"

// Event is one entry of the timeline. The timeline's order is the log's: by the stamp of the log
// entry, then by the place in it, so that it is the same on every agent, and causes come before
// effects, whatever the reporters' own clocks say. What those said is in Origin, for people.
type Event struct {
	At      clock.Stamp // of the log entry
	Place   uint32      // in the log entry
	ID      [16]byte
	Node    string // the agent that reported it
	Kind    string
	Subject string
	Message string
	Origin  clock.Stamp // the reporter's clock when it happened
}

// EventAppend adds an event to the timeline, and drops the oldest beyond MaxEvents. An ID that is
// in the timeline already changes nothing, so that a report whose outcome is unknown can be sent
// again. Either way the result's Number is the event's stamp.
type EventAppend struct {
	ID      [16]byte
	Node    string
	Kind    string
	Subject string
	Message string
	Origin  clock.Stamp
}

func (EventAppend) kind() kind { return kindEventAppend }

func (c EventAppend) append(b []byte) []byte {
	b = append(b, c.ID[:]...)
	b = appendString(b, c.Node)
	b = appendString(b, c.Kind)
	b = appendString(b, c.Subject)
	b = appendString(b, c.Message)
	return binary.AppendUvarint(b, uint64(c.Origin))
}

func readEventAppend(r *reader) Command {
	return EventAppend{
		ID:      r.fixed16("event id"),
		Node:    r.string(MaxNameBytes, "node name"),
		Kind:    r.string(MaxEventKindBytes, "event kind"),
		Subject: r.string(MaxEventSubjectBytes, "subject"),
		Message: r.string(MaxEventMessageBytes, "message"),
		Origin:  clock.Stamp(r.uvarint()),
	}
}

func (c EventAppend) check() error {
	if err := checkEventKind(c.Kind); err != nil {
		return err
	}
	if err := checkLine("subject", c.Subject, MaxEventSubjectBytes); err != nil {
		return err
	}
	if err := checkLine("message", c.Message, MaxEventMessageBytes); err != nil {
		return err
	}
	return CheckNodeName(c.Node)
}

func checkEventKind(kind string) error {
	if kind == "" || len(kind) > MaxEventKindBytes {
		return fmt.Errorf("event kind %.40q has %d bytes: use 1 to %d", kind, len(kind), MaxEventKindBytes)
	}
	for _, c := range []byte(kind) {
		if c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return fmt.Errorf("event kind %q contains %q: use a-z, 0-9 and '-'", kind, c)
		}
	}
	return nil
}

// checkLine wants one line of text: it ends up on terminals.
func checkLine(what, text string, limit int) error {
	if len(text) > limit {
		return fmt.Errorf("the %s has %d bytes: the limit is %d", what, len(text), limit)
	}
	if !utf8.ValidString(text) {
		return fmt.Errorf("the %s is not UTF-8: write it as text", what)
	}
	for _, c := range text {
		if c < ' ' || c >= 0x7f && c < 0xa0 {
			return fmt.Errorf("the %s contains the control character %q: write one line of text", what, c)
		}
	}
	return nil
}

func (c EventAppend) apply(a *applying) Result {
	if at, repeated := a.s.eventByID(c.ID); repeated {
		return number(uint64(at))
	}
	e := Event{
		At: a.at, Place: a.place, ID: c.ID, Node: c.Node, Kind: c.Kind, Subject: c.Subject,
		Message: c.Message, Origin: c.Origin,
	}
	// Stamps of log entries grow strictly, so the key is free. If ever one does not, neither event
	// may replace the other.
	for key := eventKey(e); ; key = eventKey(e) {
		if _, taken := a.s.get(TableEvent, key); !taken {
			a.set(TableEvent, key, encodeEvent(e))
			break
		}
		e.Place++
	}
	for a.s.tables[TableEvent].rows > MaxEvents {
		a.set(TableEvent, a.s.oldestEvent(), nil)
	}
	return number(uint64(a.at))
}

// eventByID looks through all rows: their number is bounded, and the id stands at the front of
// each, so that this takes less time than keeping a second table would over the life of a row.
func (s *store) eventByID(id [16]byte) (at clock.Stamp, found bool) {
	s.scan(TableEvent, "", "", func(r *record) bool {
		if found = bytes.Equal(r.row[1:1+len(id)], id[:]); found {
			at = must(decodeEvent(r.row)).At
		}
		return !found
	})
	return at, found
}

// oldestEvent is the key of the first row.
func (s *store) oldestEvent() (key string) {
	s.scan(TableEvent, "", "", func(r *record) bool {
		key = r.key
		return false
	})
	return key
}

// eventKey orders events by the log.
func eventKey(e Event) string {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 12), uint64(e.At))
	return string(binary.BigEndian.AppendUint32(b, e.Place))
}

// encodeEvent has the id first; see eventByID.
func encodeEvent(e Event) []byte {
	b := newRow(64 + len(e.Subject) + len(e.Message))
	b = append(b, e.ID[:]...)
	b = binary.AppendUvarint(b, uint64(e.At))
	b = binary.AppendUvarint(b, uint64(e.Place))
	b = appendString(b, e.Node)
	b = appendString(b, e.Kind)
	b = appendString(b, e.Subject)
	b = appendString(b, e.Message)
	return binary.AppendUvarint(b, uint64(e.Origin))
}

func decodeEvent(row []byte) (Event, error) {
	r := openRow(row)
	e := Event{ID: r.fixed16("event id"), At: clock.Stamp(r.uvarint()), Place: uint32(readInt(&r, "place"))}
	e.Node = r.string(MaxNameBytes, "node name")
	e.Kind = r.string(MaxEventKindBytes, "event kind")
	e.Subject = r.string(MaxEventSubjectBytes, "subject")
	e.Message = r.string(MaxEventMessageBytes, "message")
	e.Origin = clock.Stamp(r.uvarint())
	return e, r.done()
}

// Events calls f with the events after the stamp, oldest first, until it returns false.
func (v *View) Events(after clock.Stamp, f func(Event) bool) {
	from := ""
	if after == ^clock.Stamp(0) {
		return
	}
	if after > 0 {
		from = eventKey(Event{At: after + 1})
	}
	v.s.scan(TableEvent, "", from, func(r *record) bool { return f(must(decodeEvent(r.row))) })
}
