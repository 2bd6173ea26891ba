package api

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// The forwarded requests and their answers, by hand because every write and read of an agent outside the core passes
// here. All start with a version byte; integers are uvarints, texts and bytes are preceded by their length. A decoder
// copies what it keeps, allocates no more than the input justifies, and refuses what is left over.

const (
	opVersion    = 1
	maxNameBytes = 2048       // a SPIFFE ID
	maxAnswer    = 3584 << 10 // rows of one answer: below the frame limit between agents
	maxRowsWire  = 65536
	minRowBytes  = 8 // smallest encoded row: eight empty fields
)

var (
	errShort = errors.New("cut short")
	errLong  = errors.New("field over its limit")
)

// reader takes fields off the front of b; after the first error every read returns zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail(errShort)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail(errShort)
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) bool() bool {
	switch r.byte() {
	case 0:
		return false
	case 1:
		return true
	}
	r.fail(errors.New("flag is neither 0 nor 1"))
	return false
}

// bytes returns a part of the input, not a copy.
func (r *reader) bytes(limit uint64) []byte {
	n := r.uint()
	if n > limit {
		r.fail(errLong)
	}
	if n > uint64(len(r.b)) {
		r.fail(errShort)
	}
	if r.err != nil {
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) string(limit uint64) string { return string(r.bytes(limit)) }

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *reader) version() {
	if v := r.byte(); r.err == nil && v != opVersion {
		r.fail(fmt.Errorf("version %d, this agent reads %d", v, opVersion))
	}
}

// end is the decoder's verdict.
func (r *reader) end(what string) error {
	if r.err == nil && len(r.b) != 0 {
		r.err = fmt.Errorf("%d bytes left over", len(r.b))
	}
	if r.err != nil {
		return fmt.Errorf("decode %s: %w", what, r.err)
	}
	return nil
}

func appendText[T ~string | ~[]byte](b []byte, v T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// executeRequest is "op.execute": the role that the origin gave its caller, how it knew it, and the encoded envelope,
// whose Caller field names it.
type executeRequest struct {
	role    policy.Role
	kind    string
	command []byte
}

func appendExecute(b []byte, r executeRequest) []byte {
	b = append(b, opVersion)
	b = appendText(b, r.role)
	b = appendText(b, r.kind)
	return appendText(b, r.command)
}

func parseExecute(body []byte) (executeRequest, error) {
	r := reader{b: body}
	r.version()
	req := executeRequest{
		role: policy.Role(r.string(maxNameBytes)), kind: r.string(maxNameBytes), command: r.bytes(state.MaxCommandBytes),
	}
	return req, r.end("forwarded command")
}

func appendApplied(b []byte, a Applied) []byte {
	b = append(b, opVersion)
	b = binary.AppendUvarint(b, a.Index)
	b = binary.AppendUvarint(b, a.Term)
	b = binary.AppendUvarint(b, uint64(a.Stamp))
	b = appendText(b, a.Node)
	return appendText(b, a.Data)
}

func parseApplied(body []byte) (Applied, error) {
	r := reader{b: body}
	r.version()
	a := Applied{Proposed: Proposed{Index: r.uint(), Term: r.uint(), Stamp: clock.Stamp(r.uint())}}
	a.Node = r.string(maxNameBytes)
	a.Data = r.bytes(maxAnswer)
	if err := r.end("answer to a command"); err != nil {
		return Applied{}, err
	}
	var err error
	a.Result, err = state.DecodeResult(a.Data)
	return a, err
}

// readRequest is "op.read" and, with an empty query, "op.tokens".
type readRequest struct {
	role  policy.Role
	kind  string
	name  string
	query KVQuery
}

func appendRead(b []byte, r readRequest) []byte {
	b = append(b, opVersion)
	b = appendText(b, r.role)
	b = appendText(b, r.kind)
	b = appendText(b, r.name)
	b = appendText(b, r.query.Key)
	b = appendBool(b, r.query.Prefix)
	b = appendBool(b, r.query.KeysOnly)
	b = appendBool(b, r.query.Consistency == Stale)
	b = binary.AppendUvarint(b, r.query.MinRevision)
	b = binary.AppendUvarint(b, uint64(max(r.query.Wait, 0)/time.Millisecond)) //nolint:gosec // not negative
	return binary.AppendUvarint(b, uint64(max(r.query.Limit, 0)))              //nolint:gosec // not negative
}

func parseRead(body []byte) (readRequest, error) {
	r := reader{b: body}
	r.version()
	req := readRequest{
		role: policy.Role(r.string(maxNameBytes)), kind: r.string(maxNameBytes), name: r.string(maxNameBytes),
	}
	q := &req.query
	q.Key, q.Prefix, q.KeysOnly = r.string(state.MaxKeyBytes), r.bool(), r.bool()
	if r.bool() {
		q.Consistency = Stale
	}
	q.MinRevision = r.uint()
	q.Wait = time.Duration(min(r.uint(), uint64(maxWait/time.Millisecond))) * time.Millisecond //nolint:gosec // bounded
	q.Limit = int(min(r.uint(), maxRowsWire))                                                  //nolint:gosec // bounded
	return req, r.end("forwarded read")
}

func appendAnswer(b []byte, a KVAnswer) []byte {
	b = append(b, opVersion)
	b = binary.AppendUvarint(b, a.Index)
	b = binary.AppendUvarint(b, a.Term)
	b = binary.AppendUvarint(b, uint64(a.Stamp))
	b = binary.AppendUvarint(b, a.Revision)
	b = appendText(b, a.Node)
	b = binary.AppendUvarint(b, uint64(len(a.Rows)))
	for _, row := range a.Rows {
		b = appendRow(b, row)
	}
	return b
}

func appendRow(b []byte, row state.KV) []byte {
	b = appendText(b, row.Key)
	b = appendText(b, row.Value)
	b = binary.AppendUvarint(b, row.Flags)
	b = binary.AppendUvarint(b, row.CreateRevision)
	b = binary.AppendUvarint(b, row.ModRevision)
	b = binary.AppendUvarint(b, row.Version)
	b = binary.AppendUvarint(b, uint64(row.ModifiedAt))
	b = appendText(b, row.Session)
	return binary.AppendUvarint(b, row.LockIndex)
}

func parseAnswer(body []byte) (KVAnswer, error) {
	r := reader{b: body}
	r.version()
	a := KVAnswer{Index: r.uint(), Term: r.uint(), Stamp: clock.Stamp(r.uint()), Revision: r.uint(), Node: r.string(maxNameBytes)}
	rows := r.uint()
	if rows > uint64(len(r.b)/minRowBytes) {
		r.fail(errShort)
	}
	for i := uint64(0); i < rows && r.err == nil; i++ {
		a.Rows = append(a.Rows, parseRow(&r))
	}
	if err := r.end("answer to a read"); err != nil {
		return KVAnswer{}, err
	}
	return a, nil
}

func parseRow(r *reader) state.KV {
	return state.KV{
		Key: r.string(state.MaxKeyBytes), Value: r.bytes(maxAnswer), Flags: r.uint(),
		CreateRevision: r.uint(), ModRevision: r.uint(), Version: r.uint(),
		ModifiedAt: clock.Stamp(r.uint()), Session: r.string(maxNameBytes), LockIndex: r.uint(),
	}
}
