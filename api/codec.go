package api

import (
	"encoding/binary"
	"time"

	"github.com/parley-mesh/parley/api/wire"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// The forwarded requests and their answers, by hand because every write and read of an agent outside the core passes
// here. Package wire has the conventions, and what clients send.

const (
	maxNameBytes = 2048       // a SPIFFE ID
	maxAnswer    = 3584 << 10 // rows of one answer: below the frame limit between agents
	maxRowsWire  = 65536
	minRowBytes  = 8 // smallest encoded row: eight empty fields
)

// executeRequest is "op.execute": the role that the origin gave its caller, how it knew it, and the encoded envelope,
// whose Caller field names it.
type executeRequest struct {
	role    policy.Role
	kind    string
	command []byte
}

func appendExecute(b []byte, r executeRequest) []byte {
	b = append(b, wire.Version)
	b = wire.AppendText(b, r.role)
	b = wire.AppendText(b, r.kind)
	return wire.AppendText(b, r.command)
}

func parseExecute(body []byte) (executeRequest, error) {
	r := wire.NewReader(body)
	r.Version()
	req := executeRequest{
		role: policy.Role(r.Text(maxNameBytes)), kind: r.Text(maxNameBytes), command: r.Bytes(state.MaxCommandBytes),
	}
	return req, r.End("forwarded command")
}

func appendApplied(b []byte, a Applied) []byte {
	b = append(b, wire.Version)
	b = binary.AppendUvarint(b, a.Index)
	b = binary.AppendUvarint(b, a.Term)
	b = binary.AppendUvarint(b, uint64(a.Stamp))
	b = wire.AppendText(b, a.Node)
	return wire.AppendText(b, a.Data)
}

func parseApplied(body []byte) (Applied, error) {
	r := wire.NewReader(body)
	r.Version()
	a := Applied{Proposed: Proposed{Index: r.Uint(), Term: r.Uint(), Stamp: clock.Stamp(r.Uint())}}
	a.Node = r.Text(maxNameBytes)
	a.Data = r.Bytes(maxAnswer)
	if err := r.End("answer to a command"); err != nil {
		return Applied{}, err
	}
	var err error
	a.Result, err = state.DecodeResult(a.Data)
	return a, err
}

// readRequest is "op.read", "op.history" and, with an empty query, "op.tokens".
type readRequest struct {
	role  policy.Role
	kind  string
	name  string
	query KVQuery
}

func appendRead(b []byte, r readRequest) []byte {
	b = append(b, wire.Version)
	b = wire.AppendText(b, r.role)
	b = wire.AppendText(b, r.kind)
	b = wire.AppendText(b, r.name)
	b = wire.AppendText(b, r.query.Key)
	b = wire.AppendBool(b, r.query.Prefix)
	b = wire.AppendBool(b, r.query.KeysOnly)
	b = wire.AppendBool(b, r.query.Consistency == Stale)
	b = binary.AppendUvarint(b, r.query.MinRevision)
	b = binary.AppendUvarint(b, uint64(max(r.query.Wait, 0)/time.Millisecond)) //nolint:gosec // not negative
	return binary.AppendUvarint(b, uint64(max(r.query.Limit, 0)))              //nolint:gosec // not negative
}

func parseRead(body []byte) (readRequest, error) {
	r := wire.NewReader(body)
	r.Version()
	req := readRequest{
		role: policy.Role(r.Text(maxNameBytes)), kind: r.Text(maxNameBytes), name: r.Text(maxNameBytes),
	}
	q := &req.query
	q.Key, q.Prefix, q.KeysOnly = r.Text(state.MaxKeyBytes), r.Bool(), r.Bool()
	if r.Bool() {
		q.Consistency = Stale
	}
	q.MinRevision = r.Uint()
	q.Wait = time.Duration(min(r.Uint(), uint64(maxWait/time.Millisecond))) * time.Millisecond //nolint:gosec // bounded
	q.Limit = int(min(r.Uint(), maxRowsWire))                                                  //nolint:gosec // bounded
	return req, r.End("forwarded read")
}

func appendAnswer(b []byte, a KVAnswer) []byte {
	b = append(b, wire.Version)
	b = binary.AppendUvarint(b, a.Index)
	b = binary.AppendUvarint(b, a.Term)
	b = binary.AppendUvarint(b, uint64(a.Stamp))
	b = binary.AppendUvarint(b, a.Revision)
	b = wire.AppendText(b, a.Node)
	b = binary.AppendUvarint(b, uint64(len(a.Rows)))
	for _, row := range a.Rows {
		b = appendRow(b, row)
	}
	return b
}

func appendRow(b []byte, row state.KV) []byte {
	b = wire.AppendText(b, row.Key)
	b = wire.AppendText(b, row.Value)
	b = binary.AppendUvarint(b, row.Flags)
	b = binary.AppendUvarint(b, row.CreateRevision)
	b = binary.AppendUvarint(b, row.ModRevision)
	b = binary.AppendUvarint(b, row.Version)
	b = binary.AppendUvarint(b, uint64(row.ModifiedAt))
	b = wire.AppendText(b, row.Session)
	return binary.AppendUvarint(b, row.LockIndex)
}

func parseAnswer(body []byte) (KVAnswer, error) {
	r := wire.NewReader(body)
	r.Version()
	a := KVAnswer{Index: r.Uint(), Term: r.Uint(), Stamp: clock.Stamp(r.Uint()), Revision: r.Uint(), Node: r.Text(maxNameBytes)}
	rows := r.Count(minRowBytes)
	for range rows {
		if r.Failed() {
			break
		}
		a.Rows = append(a.Rows, parseRow(&r))
	}
	if err := r.End("answer to a read"); err != nil {
		return KVAnswer{}, err
	}
	return a, nil
}

func parseRow(r *wire.Reader) state.KV {
	return state.KV{
		Key: r.Text(state.MaxKeyBytes), Value: r.Bytes(maxAnswer), Flags: r.Uint(),
		CreateRevision: r.Uint(), ModRevision: r.Uint(), Version: r.Uint(),
		ModifiedAt: clock.Stamp(r.Uint()), Session: r.Text(maxNameBytes), LockIndex: r.Uint(),
	}
}
