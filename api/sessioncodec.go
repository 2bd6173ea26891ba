package api

import (
	"encoding/binary"
	"time"

	"github.com/parley-mesh/parley/api/wire"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

const (
	maxSessionRow   = 32 << 10 // an encoded session with all its checks
	minSessionBytes = 18       // the smallest: an id, a revision, an empty row
)

// sessionRequest is "op.sessions" and, with the id alone, "op.session.renew".
type sessionRequest struct {
	role  policy.Role
	kind  string
	name  string
	query SessionQuery
}

func appendSessionRequest(b []byte, r sessionRequest) []byte {
	b = append(b, wire.Version)
	b = wire.AppendText(b, r.role)
	b = wire.AppendText(b, r.kind)
	b = wire.AppendText(b, r.name)
	b = wire.AppendBool(b, r.query.ID != nil)
	if r.query.ID != nil {
		b = append(b, r.query.ID[:]...)
	}
	b = wire.AppendText(b, r.query.Node)
	b = wire.AppendBool(b, r.query.Consistency == Stale)
	b = binary.AppendUvarint(b, r.query.MinRevision)
	return binary.AppendUvarint(b, uint64(max(r.query.Wait, 0)/time.Millisecond)) //nolint:gosec // not negative
}

func parseSessionRequest(body []byte) (sessionRequest, error) {
	r := wire.NewReader(body)
	r.Version()
	req := sessionRequest{
		role: policy.Role(r.Text(maxNameBytes)), kind: r.Text(maxNameBytes), name: r.Text(maxNameBytes),
	}
	q := &req.query
	if r.Bool() {
		id := readSessionID(&r)
		q.ID = &id
	}
	q.Node = r.Text(maxNameBytes)
	if r.Bool() {
		q.Consistency = Stale
	}
	q.MinRevision = r.Uint()
	q.Wait = time.Duration(min(r.Uint(), uint64(maxWait/time.Millisecond))) * time.Millisecond //nolint:gosec // bounded
	return req, r.End("forwarded question for sessions")
}

func readSessionID(r *wire.Reader) (id state.SessionID) {
	copy(id[:], r.Fixed(len(id)))
	return id
}

func appendSessionAnswer(b []byte, a SessionAnswer) []byte {
	b = append(b, wire.Version)
	b = binary.AppendUvarint(b, a.Index)
	b = binary.AppendUvarint(b, a.Term)
	b = binary.AppendUvarint(b, uint64(a.Stamp))
	b = binary.AppendUvarint(b, a.Revision)
	b = wire.AppendText(b, a.Node)
	b = binary.AppendUvarint(b, uint64(len(a.Sessions)))
	for _, one := range a.Sessions {
		b = append(b, one.ID[:]...)
		b = binary.AppendUvarint(b, one.ModRevision)
		b = wire.AppendText(b, state.EncodeSession(one))
	}
	return b
}

func parseSessionAnswer(body []byte) (SessionAnswer, error) {
	r := wire.NewReader(body)
	r.Version()
	a := SessionAnswer{Index: r.Uint(), Term: r.Uint(), Stamp: clock.Stamp(r.Uint()), Revision: r.Uint(), Node: r.Text(maxNameBytes)}
	for range r.Count(minSessionBytes) {
		if r.Failed() {
			break
		}
		id, revision := readSessionID(&r), r.Uint()
		one, err := state.DecodeSession(id, revision, r.Bytes(maxSessionRow))
		if err != nil {
			r.Fail(err)
		}
		a.Sessions = append(a.Sessions, one)
	}
	if err := r.End("answer with sessions"); err != nil {
		return SessionAnswer{}, err
	}
	return a, nil
}
