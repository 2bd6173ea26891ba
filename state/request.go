package state

import (
	"bytes"
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
	return a.remember(e.Request, content, a.run(e.Command, damaged))
}

// remembered is the answer to a request that was made before, or that must not be done; else nil.
func (a *applying) remembered(id, content [16]byte) []byte {
	done := a.book.find(&id)
	if done == nil {
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
	r, _ := a.s.get(TableRequest, done.key())
	q := must(decodeRequest(r.row))
	switch {
	case q.content != content:
		return a.refuseRequest(CodeReused, "the request id %x was used for another command: make one for each", id)
	case len(q.answer) == 0:
		return a.refuseRequest(CodeForgotten, "the request was done at index %d, and its answer was too large to be kept",
			done.index)
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

// remember adds the row, and returns the answer. It is no change that anybody else is told of.
func (a *applying) remember(id, content [16]byte, res Result) (answer []byte) {
	row, answer := encodeRequest(&a.room, request{id: id, content: content, at: a.at}, &res)
	key := a.room.key(a.index, a.place)
	r := a.room.record()
	r.table, r.key, r.head, r.revision, r.row = TableRequest, key, headOf(key), a.s.at.Revision, row
	r.hash = hashRow(r.table, r.key, r.revision, row)
	a.s.tables[TableRequest].revision = max(a.s.tables[TableRequest].revision, r.revision)
	a.s.put(r)
	a.book.add(id, askedRequest{at: a.at, index: a.index, place: a.place}, len(row))
	return answer
}

// forgetRequests forgets the oldest when there are too many, or when they are old.
func (a *applying) forgetRequests() {
	book := a.book
	count := a.s.tables[TableRequest].rows
	full := count > MaxRequests || book.bytes > MaxRequestBytes
	if !full && book.oldest()+(RequestRetention+requestGrace)<<16 >= a.at {
		return // nearly always
	}
	var first string // its row
	gone, floor := 0, uint64(0)
	for ; gone < requestSweep && book.used > 0; gone++ {
		q := book.at(0)
		keep := q.at + RequestRetention<<16
		if gone == 0 {
			keep += requestGrace << 16
			first = q.key()
		}
		crowded := full && (count-gone > MaxRequests-requestBatch || book.bytes > MaxRequestBytes-requestBatch*requestRow)
		if !crowded && keep >= a.at {
			break
		}
		floor = q.index
		book.dropFirst()
	}
	if gone == 0 {
		return
	}
	a.s.tables[TableRequest].revision = max(a.s.tables[TableRequest].revision, a.s.at.Revision)
	a.s.dropRun(TableRequest, first, gone)
	book.floor = floor
	a.s.apply(Change{Table: TableRequest, Key: floorKey, Row: encodeFloor(floor), Revision: a.s.at.Revision})
}

// request is one row: who asked is not part of it, so that a caller may ask again through another agent.
type request struct {
	id      [16]byte
	content [contentBytes]byte
	at      clock.Stamp
	answer  []byte // EncodeResult; empty if it was too large
}

// encodeRequest returns the row of a request that is answered so, and the answer, which is a part of the row if it is small
// enough to be kept.
func encodeRequest(room *requestRoom, q request, res *Result) (row, answer []byte) {
	row = append(room.row(1+len(q.id)+len(q.content)+sizeUvarint(uint64(q.at))+res.size()), rowFormat)
	row = append(row, q.id[:]...)
	row = append(row, q.content[:]...)
	row = binary.AppendUvarint(row, uint64(q.at))
	head := len(row)
	row = res.append(row)
	if answer = row[head:len(row):len(row)]; len(answer) > MaxRequestResult {
		row = bytes.Clone(row[:head])
	}
	return row, answer
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
	var stack [1024]byte
	b := stack[:0]
	if n := len(head) + len(r.b); n > len(stack) {
		b = make([]byte, 0, n)
	}
	sum := sha256.Sum256(append(append(b, head...), r.b...))
	return [contentBytes]byte(sum[:contentBytes])
}
