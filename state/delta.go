package state

import (
	"encoding/binary"
	"fmt"

	"github.com/parley-mesh/parley/clock"
)

// MaxDeltaBytes bounds an encoded delta. The largest single change fits.
const MaxDeltaBytes = 1 << 20

// MaxDeltaChanges bounds the changes of one delta.
const MaxDeltaChanges = 1 << 16

// Delta takes a follower from PrevRevision to the position. Changes are those of the follower's
// classes only, so there may be none. Index 0 says that more deltas follow before the position is
// known: the follower keeps the index, term and stamp that it has, which is less than it could say.
type Delta struct {
	Index, Term  uint64
	Stamp        clock.Stamp
	Revision     uint64
	PrevRevision uint64
	Changes      []Change
}

// Position returns where the delta leads.
func (d Delta) Position() Position {
	return Position{Index: d.Index, Term: d.Term, Stamp: d.Stamp, Revision: d.Revision}
}

func appendPosition(b []byte, p Position) []byte {
	b = binary.AppendUvarint(b, p.Index)
	b = binary.AppendUvarint(b, p.Term)
	b = binary.AppendUvarint(b, uint64(p.Stamp))
	return binary.AppendUvarint(b, p.Revision)
}

func readPosition(r *reader) Position {
	return Position{
		Index: r.uvarint(), Term: r.uvarint(), Stamp: clock.Stamp(r.uvarint()), Revision: r.uvarint(),
	}
}

// EncodePosition returns the position's bytes.
func EncodePosition(p Position) []byte { return appendPosition(nil, p) }

// DecodePosition reads a position off the front of b and returns the rest.
func DecodePosition(b []byte) (Position, []byte, error) {
	r := &reader{b: b}
	p := readPosition(r)
	return p, r.b, r.err
}

// EncodeDelta returns the delta's bytes, or ErrTooLarge, wrapped.
func EncodeDelta(d Delta) ([]byte, error) {
	if len(d.Changes) > MaxDeltaChanges {
		return nil, fmt.Errorf("delta of %d changes: %w", len(d.Changes), ErrTooLarge)
	}
	b := appendPosition(make([]byte, 0, 64), d.Position())
	b = binary.AppendUvarint(b, d.PrevRevision)
	b = binary.AppendUvarint(b, uint64(len(d.Changes)))
	for _, c := range d.Changes {
		b = append(b, byte(c.Table))
		b = binary.AppendUvarint(b, c.Revision)
		b = appendString(b, c.Key)
		b = appendBool(b, c.Row != nil)
		if c.Row != nil {
			b = appendBytes(b, c.Row)
		}
	}
	if len(b) > MaxDeltaBytes {
		return nil, fmt.Errorf("delta of %d bytes: %w", len(b), ErrTooLarge)
	}
	return b, nil
}

// EncodedBytes is at least what the change takes in an encoded delta.
func (c Change) EncodedBytes() int { return len(c.Key) + len(c.Row) + 24 }

// DecodeDelta reads what EncodeDelta wrote. Rows are copied. The error wraps ErrMalformed or
// ErrTooLarge.
func DecodeDelta(b []byte) (Delta, error) {
	if len(b) > MaxDeltaBytes {
		return Delta{}, fmt.Errorf("delta of %d bytes: %w", len(b), ErrTooLarge)
	}
	r := &reader{b: b}
	p := readPosition(r)
	d := Delta{Index: p.Index, Term: p.Term, Stamp: p.Stamp, Revision: p.Revision}
	d.PrevRevision = r.uvarint()
	n := r.count(MaxDeltaChanges, "changes")
	for range n {
		d.Changes = append(d.Changes, readChange(r))
		if r.err != nil {
			break
		}
	}
	if err := r.done(); err != nil {
		return Delta{}, err
	}
	return d, nil
}

func readChange(r *reader) Change {
	c := Change{Table: Table(r.byte("table")), Revision: r.uvarint()}
	c.Class = c.Table.Class()
	if c.Class == 0 {
		r.fail("unknown table")
	}
	c.Key = r.string(maxTableKeyBytes, "key")
	if !r.bool("row follows") {
		return c
	}
	row := r.bytes(maxRowBytes, "row")
	if len(row) == 0 {
		r.fail("empty row")
	}
	c.Row = append([]byte{}, row...)
	return c
}
