package api

import (
	"encoding/binary"
	"time"

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
	b = append(b, opVersion)
	b = appendText(b, r.role)
	b = appendText(b, r.kind)
	b = appendText(b, r.name)
	b = appendBool(b, r.query.ID != nil)
	if r.query.ID != nil {
		b = append(b, r.query.ID[:]...)
	}
	b = appendText(b, r.query.Node)
	b = appendBool(b, r.query.Consistency == Stale)
	b = binary.AppendUvarint(b, r.query.MinRevision)
	return binary.AppendUvarint(b, uint64(max(r.query.Wait, 0)/time.Millisecond)) //nolint:gosec // not negative
}

func parseSessionRequest(body []byte) (sessionRequest, error) {
	r := reader{b: body}
	r.version()
	req := sessionRequest{
		role: policy.Role(r.string(maxNameBytes)), kind: r.string(maxNameBytes), name: r.string(maxNameBytes),
	}
	q := &req.query
	if r.bool() {
		id := r.sessionID()
		q.ID = &id
	}
	q.Node = r.string(maxNameBytes)
	if r.bool() {
		q.Consistency = Stale
	}
	q.MinRevision = r.uint()
	q.Wait = time.Duration(min(r.uint(), uint64(maxWait/time.Millisecond))) * time.Millisecond //nolint:gosec // bounded
	return req, r.end("forwarded question for sessions")
}

func (r *reader) sessionID() (id state.SessionID) {
	if len(r.b) < len(id) {
		r.fail(errShort)
		return id
	}
	r.b = r.b[copy(id[:], r.b):]
	return id
}

func appendSessionAnswer(b []byte, a SessionAnswer) []byte {
	b = append(b, opVersion)
	b = binary.AppendUvarint(b, a.Index)
	b = binary.AppendUvarint(b, a.Term)
	b = binary.AppendUvarint(b, uint64(a.Stamp))
	b = binary.AppendUvarint(b, a.Revision)
	b = appendText(b, a.Node)
	b = binary.AppendUvarint(b, uint64(len(a.Sessions)))
	for _, one := range a.Sessions {
		b = append(b, one.ID[:]...)
		b = binary.AppendUvarint(b, one.ModRevision)
		b = appendText(b, state.EncodeSession(one))
	}
	return b
}

func parseSessionAnswer(body []byte) (SessionAnswer, error) {
	r := reader{b: body}
	r.version()
	a := SessionAnswer{Index: r.uint(), Term: r.uint(), Stamp: clock.Stamp(r.uint()), Revision: r.uint(), Node: r.string(maxNameBytes)}
	count := r.uint()
	if count > uint64(len(r.b)/minSessionBytes) {
		r.fail(errShort)
	}
	for i := uint64(0); i < count && r.err == nil; i++ {
		id, revision := r.sessionID(), r.uint()
		one, err := state.DecodeSession(id, revision, r.bytes(maxSessionRow))
		if err != nil {
			r.fail(err)
		}
		a.Sessions = append(a.Sessions, one)
	}
	if err := r.end("answer with sessions"); err != nil {
		return SessionAnswer{}, err
	}
	return a, nil
}
