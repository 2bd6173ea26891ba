package api

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/parley-mesh/parley/api/wire"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// clientMethod is what a client may call by RPC. It stands for an endpoint of HTTP: the right that it needs is that of the
// endpoint, and so is the name by which it is counted.
type clientMethod struct {
	action policy.Action
	route  string
	serve  func(ctx context.Context, s *Service, caller Caller, body []byte) ([]byte, error)
}

var clientMethods = map[string]clientMethod{
	wire.MethodGet:    {policy.KVRead, "GET /parley/v1/kv/*", clientGet},
	wire.MethodPut:    {policy.KVWrite, "PUT /parley/v1/kv/*", clientPut},
	wire.MethodDelete: {policy.KVWrite, "DELETE /parley/v1/kv/*", clientDelete},

	wire.MethodWatchAdd:    {policy.KVRead, "GET /parley/v1/kv/*", clientWatchAdd},
	wire.MethodWatchRemove: {policy.KVRead, "GET /parley/v1/kv/*", clientWatchRemove},
}

// Retry times that a caller is told when there is no room.
const (
	retryBusy    = 100 * time.Millisecond // the leader takes thousands of writes in this time
	retryTooMany = time.Second            // something of the caller's own has to end
)

// ClientMethods lists what HandleClient serves, besides wire.MethodCall.
func ClientMethods() []string {
	names := []string{wire.MethodCall}
	for name := range clientMethods {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// ClientLimit is the longest that a method of clients may take, 0 for one whose caller says how long it waits.
func (s *Service) ClientLimit(method string) time.Duration {
	if method == wire.MethodPut || method == wire.MethodDelete {
		return s.options.OpTimeout
	}
	return 0
}

// ClientHandler returns what answers the unary calls of clients. Every request passes the gates of HTTP in their order:
// room for the caller, its right, its parameters. A request that fails is answered too, by a wire.Failure.
func (s *Service) ClientHandler() func(ctx context.Context, caller Caller, method string, body []byte) []byte {
	tunnel := s.Handler(RPC)
	return func(ctx context.Context, caller Caller, method string, body []byte) []byte {
		if method == wire.MethodCall {
			return s.tunnelled(ctx, tunnel, caller, body)
		}
		answer, err := s.handleClient(ctx, caller, method, body)
		if err != nil {
			return s.clientFailure(AsError(err))
		}
		return answer
	}
}

func (s *Service) handleClient(ctx context.Context, caller Caller, method string, body []byte) (answer []byte, err error) {
	m, ok := clientMethods[method]
	if !ok {
		return nil, Errorf(CodeUnsupported, "no method %q", method)
	}
	if observe := s.options.Observe.Request; observe != nil {
		answered := observe(m.route)
		defer func() { answered(statusOf(err), false) }()
	}
	err = errPanicked // stays if serve panics
	who := caller.identity()
	if !s.concurrent.acquire(who) {
		return nil, Errorf(CodeTooMany, "%d requests are open for this caller", s.concurrent.each)
	}
	defer s.concurrent.release(who)
	if failed := allow(caller, m.action); failed != nil {
		return nil, failed
	}
	return m.serve(ctx, s, caller, body)
}

var errPanicked = Errorf(CodeInternal, "the agent failed while it answered")

func statusOf(err error) int {
	if err == nil {
		return http.StatusOK
	}
	return AsError(err).Status()
}

// clientFailure names the leader where that helps, as HTTP does.
func (s *Service) clientFailure(e *Error) []byte {
	if e.Leader == "" && e.Retryable() {
		if leader, _, known := s.local.Leader(); known {
			e = e.WithLeader(leader)
		}
	}
	f := wire.Failure{
		Code: e.Code, Message: e.Message, Hint: e.Hint, Leader: e.Leader, RequestID: e.RequestID,
		Status: uint64(e.Status()), ExitCode: uint64(e.ExitCode()), Retryable: e.Retryable(), //nolint:gosec // both positive
	}
	switch e.Code {
	case CodeBusy:
		f.RetryAfter = retryBusy
	case CodeTooMany:
		f.RetryAfter = retryTooMany
	}
	// A client makes request ids of an index that it has seen, and of a refusal too.
	v := s.local.Hub.View()
	f.Place = wire.Place{Node: s.local.Node, Term: v.Term(), Index: v.Index(), Stamp: uint64(v.Stamp())}
	return f.Append(nil)
}

func clientGet(ctx context.Context, s *Service, caller Caller, body []byte) ([]byte, error) {
	req, err := wire.ParseGet(body)
	if err != nil {
		return nil, Errorf(CodeInvalid, "%v", err)
	}
	q := KVQuery{
		Key: req.Key, Prefix: req.Prefix, KeysOnly: req.KeysOnly, MinRevision: req.MinRevision, Wait: req.Wait,
		Limit: int(min(req.Limit, maxRows)), //nolint:gosec // bounded
	}
	if req.Stale {
		q.Consistency = Stale
	}
	answer, err := s.Read(ctx, caller, q)
	if err != nil {
		return nil, err
	}
	out := wire.Rows{
		Place:    wire.Place{Node: answer.Node, Term: answer.Term, Index: answer.Index, Stamp: uint64(answer.Stamp)},
		Revision: answer.Revision,
	}
	size := 128
	if n := len(answer.Rows); n > 0 {
		out.Rows = make([]wire.Row, n)
		for i, row := range answer.Rows {
			out.Rows[i] = wireRow(row)
			size += len(row.Key) + len(row.Value) + rowOverhead
		}
	}
	return out.Append(make([]byte, 0, size)), nil
}

func wireRow(kv state.KV) wire.Row {
	return wire.Row{
		Key: kv.Key, Value: kv.Value, Flags: kv.Flags, CreateRevision: kv.CreateRevision, Revision: kv.ModRevision,
		Version: kv.Version, ModifiedAt: uint64(kv.ModifiedAt), Session: kv.Session, LockIndex: kv.LockIndex,
	}
}

// parsePut reads a put that may be done, as far as can be seen without the state.
func parsePut(body []byte) (wire.Put, error) {
	req, err := wire.ParsePut(body)
	if err != nil {
		return req, Errorf(CodeInvalid, "%v", err)
	}
	if err := checkKey(req.Key); err != nil {
		return req, err
	}
	if len(req.Value) > state.MaxValueBytes {
		return req, Errorf(CodeTooLarge, "the value has %d bytes, the limit is %d", len(req.Value), state.MaxValueBytes)
	}
	return req, nil
}

func clientPut(ctx context.Context, s *Service, caller Caller, body []byte) ([]byte, error) {
	req, err := parsePut(body)
	if err != nil {
		return nil, err
	}
	put := state.Put{Key: req.Key, Value: req.Value, Flags: req.Flags, Compare: req.Compare}
	held := req.Session != "" || req.Release
	var cmd state.Command = put
	if held {
		if cmd, err = hold(put, req.Session, req.Release); err != nil {
			return nil, err
		}
	}
	written, result, err := s.clientWrite(ctx, caller, req.Request, cmd)
	if err != nil {
		return nil, err
	}
	if held {
		written.LockIndex = result.Number()
	}
	return writtenAnswer(written), nil
}

func clientDelete(ctx context.Context, s *Service, caller Caller, body []byte) ([]byte, error) {
	req, err := wire.ParseDelete(body)
	if err != nil {
		return nil, Errorf(CodeInvalid, "%v", err)
	}
	var cmd state.Command = state.Delete{Key: req.Key, Compare: req.Compare}
	if req.Prefix {
		cmd, err = prefixDelete(req.Key, req.Compare)
	} else if bad := checkKey(req.Key); bad != nil {
		err = bad
	}
	if err != nil {
		return nil, err
	}
	written, result, err := s.clientWrite(ctx, caller, req.Request, cmd)
	if err != nil {
		return nil, err
	}
	if written.Deleted = 1; req.Prefix {
		written.Deleted = result.Number()
	}
	return writtenAnswer(written), nil
}

// clientWrite executes and tells what came of it; what is the command's own is still to be filled in from the result.
func (s *Service) clientWrite(ctx context.Context, caller Caller, id RequestID, cmd state.Command) (wire.Written, state.Result, error) {
	done, err := s.ExecuteOnce(ctx, caller, id, cmd)
	if err != nil {
		return wire.Written{}, state.Result{}, err
	}
	return writtenBy(done), done.Result, nil
}

func writtenBy(done Applied) wire.Written {
	return wire.Written{
		Place:    wire.Place{Node: done.Node, Term: done.Term, Index: done.Index, Stamp: uint64(done.Stamp)},
		Revision: done.Result.Revision,
	}
}

func writtenAnswer(w wire.Written) []byte { return w.Append(make([]byte, 0, 96)) }
