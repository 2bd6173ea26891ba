package api

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// SessionQuery is one read of sessions: the one with ID, else those bound to Node, else all.
type SessionQuery struct {
	ID          *state.SessionID
	Node        string
	Consistency Consistency
	// MinRevision and Wait make a blocking read, as in KVQuery.
	MinRevision uint64
	Wait        time.Duration
}

// SessionAnswer is what a read of sessions found, by id. Revision is that of the thing read: the session's own, the
// node's, or that of all sessions, also for a missing one.
type SessionAnswer struct {
	Sessions    []state.Session
	Revision    uint64
	Index, Term uint64
	Stamp       clock.Stamp
	Node        string
}

// CreateSession executes SessionCreate for spec with an id of its own, bound to this agent's node unless spec names
// another, and returns the session as it then is.
func (s *Service) CreateSession(ctx context.Context, caller Caller, spec state.Session) (state.Session, Applied, error) {
	spec.ID = newSessionID()
	if spec.Node == "" {
		spec.Node = s.local.Node
	}
	done, err := s.Execute(ctx, caller, state.SessionCreate{Session: spec})
	if err != nil {
		return state.Session{}, done, err
	}
	spec.CreatedAt, spec.CreateRevision, spec.ModRevision = done.Stamp, done.Result.Revision, done.Result.Revision
	return spec, done, nil
}

// newSessionID draws a UUID of version 4.
func newSessionID() (id state.SessionID) {
	_, _ = rand.Read(id[:]) // never fails: it ends the process instead
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}

// RenewSession tells the leader that the session's holder is alive, and returns the session. It is no write: the
// leader counts a session's time in memory, and whoever leads next counts from its beginning. not_found means that
// the session has ended, or is about to.
func (s *Service) RenewSession(ctx context.Context, caller Caller, id state.SessionID) (SessionAnswer, error) {
	if err := allow(caller, policy.SessionUse); err != nil {
		return SessionAnswer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.options.OpTimeout)
	defer cancel()
	var answer SessionAnswer
	body := s.sessionRequest(caller, SessionQuery{ID: &id})
	err := s.withLeader(ctx, func(leader string, self bool) (failed *Error) {
		if self {
			answer, failed = s.renewHere(ctx, id)
		} else {
			answer, failed = s.askSessions(ctx, leader, methodRenewSession, body)
		}
		return failed
	})
	if err != nil {
		return SessionAnswer{}, AsError(err)
	}
	return answer, nil
}

// renewHere confirms the lead before it counts anew.
//
//  1. a1 leads and is cut off; it does not know yet. A client renews through it.
//  2. a2 is elected and counts every session from then on.
//  3. Had a1 answered, the client would trust its session for longer than a2 does. The confirmation makes sure that
//     a2's election, if there is one, is later than the client's request.
func (s *Service) renewHere(ctx context.Context, id state.SessionID) (SessionAnswer, *Error) {
	if err := s.leadHere(ctx); err != nil {
		return SessionAnswer{}, err
	}
	view := s.local.Hub.View()
	if !view.Holds(state.ClassKV) { // it came to lead before its own log feeds the View: no session is missing
		return SessionAnswer{}, Errorf(CodeNotLeader, "agent %s holds no sessions yet", s.local.Node)
	}
	session, ok := view.Session(id)
	if !ok {
		return SessionAnswer{}, Errorf(CodeNotFound, "there is no session %s", id)
	}
	if err := s.local.RenewSession(session); err != nil {
		return SessionAnswer{}, AsError(err)
	}
	// The session may have ended between the two, and the keeper knows nothing of it any more: then it has counted a
	// time that nobody has. What it had not decided by now ends later, if at all.
	if _, still := s.local.Hub.View().Session(id); !still {
		return SessionAnswer{}, Errorf(CodeNotFound, "session %s has ended", id).WithHint("create a new session")
	}
	return s.sessionsFrom(view, SessionQuery{ID: &id})
}

// Sessions answers q for caller as Read does: from this agent's View when it holds key/value, from another agent's
// otherwise.
func (s *Service) Sessions(ctx context.Context, caller Caller, q SessionQuery) (SessionAnswer, error) {
	if err := allow(caller, policy.SessionRead); err != nil {
		return SessionAnswer{}, err
	}
	q.Wait = min(max(q.Wait, 0), maxWait)
	if q.MinRevision > 0 && q.Wait > 0 {
		who := caller.identity()
		if !s.watches.acquire(who) {
			return SessionAnswer{}, Errorf(CodeTooMany, "%d watches are open for this caller", s.watches.each)
		}
		defer s.watches.release(who)
	}
	ctx, cancel := context.WithTimeout(ctx, s.options.OpTimeout+q.Wait)
	defer cancel()
	answer, err := s.readSessions(ctx, caller, q)
	if err != nil {
		return SessionAnswer{}, AsError(err)
	}
	return answer, nil
}

func (s *Service) readSessions(ctx context.Context, caller Caller, q SessionQuery) (SessionAnswer, error) {
	if s.local.HoldsKV() {
		if q.Consistency != Stale {
			if err := s.catchUp(ctx); err != nil {
				return SessionAnswer{}, err
			}
		}
		if answer, err := s.sessionsHere(ctx, q); !errors.Is(err, errNoKV) {
			return answer, err
		}
	}
	part := q
	for left := q.Wait; ; left -= part.Wait {
		part.Wait = min(left, forwardWait)
		answer, err := s.sessionsElsewhere(ctx, caller, part)
		if err != nil || q.MinRevision == 0 || answer.Revision > q.MinRevision || left <= forwardWait {
			return answer, err
		}
	}
}

func (s *Service) sessionsElsewhere(ctx context.Context, caller Caller, q SessionQuery) (SessionAnswer, error) {
	var answer SessionAnswer
	body := s.sessionRequest(caller, q)
	err := s.askHolder(ctx, q.Consistency == Stale, func(node string, self bool) (failed *Error) {
		if self {
			answer, failed = s.leaderSessions(ctx, q)
		} else {
			answer, failed = s.askSessions(ctx, node, methodSessions, body)
		}
		return failed
	})
	return answer, err
}

// leaderSessions is a linearizable answer of this agent, or not_leader.
func (s *Service) leaderSessions(ctx context.Context, q SessionQuery) (SessionAnswer, *Error) {
	if err := s.leadHere(ctx); err != nil {
		return SessionAnswer{}, err
	}
	return s.staleSessions(ctx, q)
}

// staleSessions is what the View holds now, or not_leader when it holds no key/value.
func (s *Service) staleSessions(ctx context.Context, q SessionQuery) (SessionAnswer, *Error) {
	answer, err := s.sessionsHere(ctx, q)
	if errors.Is(err, errNoKV) {
		return SessionAnswer{}, Errorf(CodeNotLeader, "agent %s holds no sessions", s.local.Node)
	}
	return answer, AsError(err)
}

func (s *Service) sessionsHere(ctx context.Context, q SessionQuery) (SessionAnswer, error) {
	view, err := s.viewAfter(ctx, q.selector(), q.MinRevision, q.Wait)
	if err != nil {
		return SessionAnswer{}, err
	}
	answer, failed := s.sessionsFrom(view, q)
	if failed != nil {
		return SessionAnswer{}, failed
	}
	return answer, nil
}

// selector names the row that changes with what is read: the session, the node's count, the whole table.
func (q SessionQuery) selector() watch.Selector {
	switch {
	case q.ID != nil:
		return watch.Selector{Table: state.TableSession, Key: string(q.ID[:])}
	case q.Node != "":
		return watch.Selector{Table: state.TableNodeSessions, Key: q.Node}
	}
	return watch.Selector{Table: state.TableSession, Prefix: true}
}

func (s *Service) sessionsFrom(view *state.View, q SessionQuery) (SessionAnswer, *Error) {
	answer := SessionAnswer{
		Revision: q.selector().Changed(view),
		Index:    view.Index(), Term: view.Term(), Stamp: view.Stamp(), Node: s.local.Node,
	}
	switch {
	case q.ID != nil:
		if one, ok := view.Session(*q.ID); ok {
			answer.Sessions = []state.Session{one}
		}
		return answer, nil
	case q.Node != "":
		answer.Sessions = view.SessionsOf(q.Node)
	default:
		answer.Sessions = view.Sessions()
	}
	size := 0
	for _, one := range answer.Sessions {
		size += len(state.EncodeSession(one)) + rowOverhead
	}
	if size > maxAnswer || len(answer.Sessions) > maxRows {
		return SessionAnswer{}, Errorf(CodeTooLarge, "%d sessions are more than one answer holds (%d sessions, %d bytes)",
			len(answer.Sessions), maxRows, maxAnswer).WithHint("ask for those of one node, or for one by its id")
	}
	return answer, nil
}

func (s *Service) sessionRequest(caller Caller, q SessionQuery) []byte {
	return appendSessionRequest(nil, sessionRequest{role: caller.Role, kind: caller.Kind, name: s.callerName(caller), query: q})
}

func (s *Service) askSessions(ctx context.Context, node, method string, body []byte) (SessionAnswer, *Error) {
	raw, err := s.local.Call(ctx, node, method, body)
	if err != nil {
		return SessionAnswer{}, asReadError(err)
	}
	answer, err := parseSessionAnswer(raw)
	if err != nil {
		return SessionAnswer{}, Errorf(CodeInternal, "answer of %s: %v", node, err)
	}
	return answer, nil
}

// handleSessions answers another agent, which may ask for no more than its own role allows.
func (s *Service) handleSessions(ctx context.Context, peerNode, method string, body []byte) ([]byte, *Error) {
	req, err := parseSessionRequest(body)
	if err != nil {
		return nil, Errorf(CodeInvalid, "%v", err)
	}
	action := policy.SessionRead
	if method == methodRenewSession {
		action = policy.SessionUse
	}
	if err := allow(s.forwardedCaller(peerNode, req.role, req.kind, req.name), action); err != nil {
		return nil, err
	}
	req.query.Wait = min(req.query.Wait, forwardWait)
	var answer SessionAnswer
	var failed *Error
	switch {
	case method == methodRenewSession && req.query.ID == nil:
		failed = Errorf(CodeInvalid, "a renewal of no session")
	case method == methodRenewSession:
		answer, failed = s.renewHere(ctx, *req.query.ID)
	case req.query.Consistency == Stale:
		answer, failed = s.staleSessions(ctx, req.query)
	default:
		answer, failed = s.leaderSessions(ctx, req.query)
	}
	if failed != nil {
		return nil, failed
	}
	return appendSessionAnswer(nil, answer), nil
}
