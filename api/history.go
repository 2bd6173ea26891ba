package api

import (
	"context"
	"errors"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// HistoryQuery asks what a key was. At is a revision of the state, to ask for the one version that the key had then; 0 asks
// for all.
type HistoryQuery struct {
	Key         string
	At          uint64
	Consistency Consistency
}

// History answers q for caller, from this agent's View when it holds key/value and from the leader's (for stale reads: any
// core member's) otherwise. Rows are the versions, the newest first; one whose Version is 0 is a deletion. Revision is
// 0 when nothing is missing; else what was before that revision is not known. A key without a trace is no error but an
// answer without rows, and so is one that did not exist at q.At.
func (s *Service) History(ctx context.Context, caller Caller, q HistoryQuery) (KVAnswer, error) {
	if err := allow(caller, policy.KVRead); err != nil {
		return KVAnswer{}, err
	}
	read := q.read()
	if err := checkQuery(&read); err != nil {
		return KVAnswer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.options.OpTimeout)
	defer cancel()
	answer, err := s.history(ctx, caller, q)
	if err != nil {
		return KVAnswer{}, AsError(err)
	}
	return answer, nil
}

func (s *Service) history(ctx context.Context, caller Caller, q HistoryQuery) (KVAnswer, error) {
	if s.local.HoldsKV() {
		if q.Consistency != Stale {
			if err := s.catchUp(ctx); err != nil {
				return KVAnswer{}, err
			}
		}
		answer, err := s.historyHere(q)
		if !errors.Is(err, errNoKV) {
			return answer, err
		}
	}
	body := appendRead(nil, readRequest{role: caller.Role, kind: caller.Kind, name: s.callerName(caller), query: q.read()})
	var answer KVAnswer
	err := s.askHolder(ctx, q.Consistency == Stale, func(node string, self bool) (failed *Error) {
		if self { // this agent came to lead while it asked
			answer, failed = s.historyAnswer(ctx, q)
		} else {
			answer, failed = s.askAnswer(ctx, node, methodHistory, body)
		}
		return failed
	})
	return answer, err
}

// read is the query as it travels.
func (q HistoryQuery) read() KVQuery {
	return KVQuery{Key: q.Key, MinRevision: q.At, Consistency: q.Consistency}
}

// historyHere is what this agent's View knows.
func (s *Service) historyHere(q HistoryQuery) (KVAnswer, error) {
	view := s.local.Hub.View()
	if !view.Holds(state.ClassKV) || !view.Holds(state.ClassReplica) {
		return KVAnswer{}, errNoKV
	}
	answer := KVAnswer{Index: view.Index(), Term: view.Term(), Stamp: view.Stamp(), Node: s.local.Node}
	if q.At > view.Revision() {
		return KVAnswer{}, Errorf(CodeInvalid, "revision %d is yet to come: the state is at revision %d", q.At, view.Revision()).
			WithHint("leave the revision out to read the current value")
	}
	if q.At > 0 {
		kv, found, since := view.GetAt(q.Key, q.At)
		if answer.Revision = since; found {
			answer.Rows = []state.KV{kv}
		}
		return answer, nil
	}
	answer.Rows, answer.Revision = view.History(q.Key)
	size := 0
	for _, row := range answer.Rows {
		size += len(row.Key) + len(row.Value) + rowOverhead
	}
	if size > maxAnswer {
		return KVAnswer{}, Errorf(CodeTooLarge, "the %d versions of %q are more than one answer holds (%d bytes)", len(answer.Rows), q.Key, maxAnswer).
			WithHint("read one at a time: parley kv get KEY --revision R; the newest is of revision %d", answer.Rows[0].ModRevision)
	}
	return answer, nil
}

// historyAnswer is what another agent is told: of the leader, or stale.
func (s *Service) historyAnswer(ctx context.Context, q HistoryQuery) (KVAnswer, *Error) {
	if q.Consistency != Stale {
		if err := s.leadHere(ctx); err != nil {
			return KVAnswer{}, err
		}
	}
	answer, err := s.historyHere(q)
	if errors.Is(err, errNoKV) {
		return KVAnswer{}, Errorf(CodeNotLeader, "agent %s holds no key/value", s.local.Node)
	}
	return answer, AsError(err)
}

func (s *Service) handleHistory(ctx context.Context, peerNode string, body []byte) ([]byte, *Error) {
	req, err := parseRead(body)
	if err != nil {
		return nil, Errorf(CodeInvalid, "%v", err)
	}
	if err := allow(s.forwardedCaller(peerNode, req.role, req.kind, req.name), policy.KVRead); err != nil {
		return nil, err
	}
	if err := checkQuery(&req.query); err != nil {
		return nil, err
	}
	answer, failed := s.historyAnswer(ctx, HistoryQuery{Key: req.query.Key, At: req.query.MinRevision, Consistency: req.query.Consistency})
	if failed != nil {
		return nil, failed
	}
	return appendAnswer(nil, answer), nil
}
