package state

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/mutant"
)

// Limits of what is remembered of requests, part of the meaning of version 1 of the commands.
const (
	MaxRequests      = 1 << 16 // requests whose answers are kept
	MaxRequestBytes  = 16 << 20
	MaxRequestResult = 16 << 10 // an answer that is kept; of a larger one only that there was one

	// RequestRetention is how long, in milliseconds, an answer is kept if there is room.
	RequestRetention = 15 * 60 * 1000

	requestBatch = 1 << 10 // requests that are forgotten together, so that the floor moves seldom
	requestGrace = 10_000  // milliseconds, for the same reason
	requestSweep = 1 << 12 // requests that one entry forgets at most
	requestRow   = 128     // bytes counted for a row besides its answer
	contentBytes = 16      // of the hash of what was asked for
	floorKey     = ""      // of the row that says up to which index requests are forgotten
)

// A command with a request id is done once. Its answer is a row of TableRequest under the place in the
// log where it was done, so that the oldest stand first; requestBook finds it by the id. Whoever asks
// again with the same id is told that answer, as it was, and nothing else happens.
//
// The id begins with a log index that its maker had seen applied when it made the id. So the command
// cannot have been done at or before that index, and the state can tell what it has forgotten from what
// it never had:
//
//  1. Requests up to the index F (the floor) have been forgotten.
//  2. A request made at index B was done, if at all, at an index above B. If B >= F, it would be
//     remembered: not to find it means that it was not done, and it may be done now.
//  3. If B < F it may have been done and forgotten: it is refused with CodeForgotten, and its outcome
//     stays unknown.
//
// A refused command is remembered like one that was done: a copy that arrives late must not succeed where
// the caller was told that it had failed.

// NewRequestID makes the id of a request: applied is an index that its maker knows to be applied, the
// later the better, random must not repeat.
func NewRequestID(applied uint64, random [8]byte) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], applied)
	copy(id[8:], random[:])
	return id
}

// RequestBorn is the index that the id was made at.
func RequestBorn(id [16]byte) uint64 { return binary.BigEndian.Uint64(id[:]) }

// requestBook finds the rows by their ids. It follows from the rows, and is no part of the state.
type requestBook struct {
	keys  map[[16]byte]string
	bytes int
	floor uint64
}

func newRequestBook(s *store) *requestBook {
	b := &requestBook{keys: map[[16]byte]string{}}
	if mutant.On(mutant.SnapshotWithoutDedup) {
		return b
	}
	s.scan(TableRequest, "", "", func(r *record) bool {
		if r.key == floorKey {
			b.floor = must(decodeFloor(r.row))
			return true
		}
		b.keys[must(decodeRequest(r.row)).id] = r.key
		b.bytes += requestRow + len(r.row)
		return true
	})
	return b
}

// take makes the book follow an entry that was applied.
func (b *requestBook) take(a *applying) {
	for id, key := range a.asked {
		b.keys[id] = key
	}
	for _, id := range a.forgotten { // the entry's own too, if it is larger than what is kept
		delete(b.keys, id)
	}
	if a.requestFloor > 0 {
		b.floor = a.requestFloor
	}
	b.bytes += a.requestBytes
}

// once does a command, or answers as when it was done.
func (a *applying) once(e Envelope, command []byte, damaged error) []byte {
	if e.Request == ([16]byte{}) {
		return EncodeResult(a.run(e.Command, damaged))
	}
	content := hashContent(command)
	if !mutant.On(mutant.DedupLost) {
		if answer := a.remembered(e.Request, content); answer != nil {
			return answer
		}
	}
	answer := EncodeResult(a.run(e.Command, damaged))
	a.remember(request{id: e.Request, content: content, at: a.at, answer: answer})
	return answer
}

// remembered is the answer to a request that was made before, or that must not be done; else nil.
func (a *applying) remembered(id, content [16]byte) []byte {
	key, known := a.asked[id]
	if !known {
		key, known = a.book.keys[id]
	}
	if !known {
		switch born := RequestBorn(id); {
		case born >= a.index:
			return a.refuseRequest(CodeInvalid, "the request id begins with the index %d, which is not applied: it must be one "+
				"that its maker has seen", born)
		case born < a.book.floor:
			return a.refuseRequest(CodeForgotten, "the request was made at index %d, requests up to index %d are forgotten: "+
				"whether it was done is not known", born, a.book.floor)
		}
		return nil
	}
	r, _ := a.s.get(TableRequest, key)
	q := must(decodeRequest(r.row))
	switch {
	case q.content != content:
		return a.refuseRequest(CodeReused, "the request id %x was used for another command: make one for each", id)
	case len(q.answer) == 0:
		return a.refuseRequest(CodeForgotten, "the request was done at index %d, and its answer was too large to be kept",
			binary.BigEndian.Uint64([]byte(key)))
	case mutant.On(mutant.DedupWrongResult):
		return a.refuseRequest(CodeOK, "")
	}
	return q.answer
}

func (a *applying) refuseRequest(code Code, format string, args ...any) []byte {
	res := refuse(code, format, args...)
	res.Revision = a.s.at.Revision
	return EncodeResult(res)
}

// remember adds the row. It is no change that anybody else is told of.
func (a *applying) remember(q request) {
	if len(q.answer) > MaxRequestResult {
		q.answer = nil
	}
	key, row := requestKey(a.index, a.place), encodeRequest(q)
	a.s.apply(Change{Table: TableRequest, Key: key, Row: row, Revision: a.s.at.Revision})
	if a.asked == nil {
		a.asked = make(map[[16]byte]string)
	}
	a.asked[q.id] = key
	a.requestBytes += requestRow + len(row)
}

// forgetRequests forgets the oldest when there are too many, or when they are old.
func (a *applying) forgetRequests() {
	var gone []string
	var freed int
	count, size := a.s.tables[TableRequest].rows, a.book.bytes+a.requestBytes
	full := count > MaxRequests || size > MaxRequestBytes
	a.s.scan(TableRequest, "", "\x00", func(r *record) bool {
		q := must(decodeRequest(r.row))
		keep := q.at + RequestRetention<<16
		if len(gone) == 0 {
			keep += requestGrace << 16
		}
		crowded := full && (count > MaxRequests-requestBatch || size-freed > MaxRequestBytes-requestBatch*requestRow)
		if len(gone) == requestSweep || !crowded && keep >= a.at {
			return false
		}
		gone, freed, count = append(gone, r.key), freed+requestRow+len(r.row), count-1
		a.forgotten = append(a.forgotten, q.id)
		return true
	})
	if len(gone) == 0 {
		return
	}
	for _, key := range gone {
		a.s.apply(Change{Table: TableRequest, Key: key, Revision: a.s.at.Revision})
	}
	a.requestBytes -= freed
	a.requestFloor = binary.BigEndian.Uint64([]byte(gone[len(gone)-1]))
	a.s.apply(Change{Table: TableRequest, Key: floorKey, Row: encodeFloor(a.requestFloor), Revision: a.s.at.Revision})
}

// request is one row: who asked is not part of it, so that a caller may ask again through another agent.
type request struct {
	id      [16]byte
	content [contentBytes]byte
	at      clock.Stamp
	answer  []byte // EncodeResult; empty if it was too large
}

func encodeRequest(q request) []byte {
	b := newRow(64 + len(q.answer))
	b = append(b, q.id[:]...)
	b = append(b, q.content[:]...)
	b = binary.AppendUvarint(b, uint64(q.at))
	return append(b, q.answer...)
}

func decodeRequest(row []byte) (request, error) {
	r := openRow(row)
	q := request{id: r.fixed16("request id"), content: r.fixed16("content"), at: clock.Stamp(r.uvarint())}
	q.answer = r.b
	return q, r.err
}

func requestKey(index uint64, place uint32) string {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 12), index)
	return string(binary.BigEndian.AppendUint32(b, place))
}

func checkRequestRow(key string, row []byte) error {
	if key == floorKey {
		_, err := decodeFloor(row)
		return err
	}
	if len(key) != 12 {
		return fmt.Errorf("%w: place of a request of %d bytes", ErrMalformed, len(key))
	}
	q, err := decodeRequest(row)
	if err == nil && len(q.answer) > 0 {
		_, err = DecodeResult(q.answer)
	}
	return err
}

// RequestOf is the request id of an encoded command, zero if it has none or is damaged.
func RequestOf(command []byte) [16]byte {
	r := &reader{b: command}
	r.uvarint()
	r.uvarint()
	r.string(MaxCallerBytes, "caller")
	r.string(MaxNameBytes, "via")
	return r.fixed16("request id")
}

// hashContent is over kind, version and body of an encoded command: not over who asked, through whom,
// and the id.
func hashContent(command []byte) [contentBytes]byte {
	r := &reader{b: command}
	r.uvarint()
	r.uvarint()
	head := command[:len(command)-len(r.b)]
	r.string(MaxCallerBytes, "caller")
	r.string(MaxNameBytes, "via")
	r.fixed16("request id")
	h := sha256.New()
	_, _ = h.Write(head) // never fails
	_, _ = h.Write(r.b)
	return [contentBytes]byte(h.Sum(nil)[:contentBytes])
}
