package api

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// Execute applies a command as caller and waits until the leader has applied it. The command is proposed here when
// this agent leads and forwarded one hop otherwise.
//
// It is sent again, at most maxAttempts times within LeaderWait (less when the agent knows better, see waitedEnough), when it was not proposed (no leader is known, the
// asked agent did not lead, or could not be reached), and when the leader was lost on the way: its request id lets the
// state do it once. Errors are *Error: denied, no_leader, outcome_unknown when ctx or OpTimeout ended first or no
// leader came to say what became of it, and what the state answered (conflict, exists, ...).
func (s *Service) Execute(ctx context.Context, caller Caller, cmd state.Command) (Applied, error) {
	return s.ExecuteOnce(ctx, caller, RequestID{}, cmd)
}

// ExecuteOnce is Execute for a caller with a request id of its own, who may have sent the request before; the zero id
// is that of a caller without one. A command that was done is not done again, and is answered as it was then. Errors
// are also request_reused, and request_forgotten when it cannot be known whether the command was done.
func (s *Service) ExecuteOnce(ctx context.Context, caller Caller, request RequestID, cmd state.Command) (done Applied, err error) {
	answered := s.observeWrite(caller, cmd)
	err = errPanickedWriting // stays if execute panics
	defer func() { answered(ctx, err) }()
	return s.execute(ctx, caller, request, cmd)
}

var errPanickedWriting = Errorf(CodeOutcomeUnknown, "the agent failed while it wrote")

func (s *Service) execute(ctx context.Context, caller Caller, request RequestID, cmd state.Command) (Applied, error) {
	if err := s.mayExecute(caller, cmd); err != nil {
		return Applied{}, err
	}
	o := &order{service: s, caller: caller, envelope: state.Envelope{Caller: s.callerName(caller), Request: request, Command: cmd}}
	if began, entered := s.enterHere(caller, cmd); entered {
		return withResultError(s.executeHere(ctx, o, began))
	}
	ctx, cancel := within(ctx, s.options.OpTimeout)
	defer cancel()
	if caller.Kind != KindInternal { // what agents write keeps the cluster going, and is bounded elsewhere
		began, busy := s.gate.enter(ctx, caller.identity())
		if busy != nil {
			return Applied{}, busy
		}
		defer func() { s.gate.leave(began, ctx.Err() == nil) }()
	}
	return withResultError(o.carryOut(ctx))
}

// withResultError is an answer of the state with the error that it is, if it is one.
func withResultError(done Applied, err error) (Applied, error) {
	if err != nil {
		return Applied{}, err
	}
	return done, resultError(done.Result)
}

// within returns a context that ends after d at the latest: ctx itself if it does, which is cheaper than another timer.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if endsWithin(ctx, d) {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}

func endsWithin(ctx context.Context, d time.Duration) bool {
	at, ends := ctx.Deadline()
	return ends && at.Sub(clock.System()) <= d
}

func (s *Service) mayExecute(caller Caller, cmd state.Command) *Error {
	if internalOnly(cmd) && caller.Kind != KindInternal {
		return Errorf(CodeDenied, "this command is for the agents themselves")
	}
	switch c := cmd.(type) {
	case state.EventAppend:
		return s.mayReport(caller, c)
	case state.NodePlace:
		return s.mayPlace(caller, c)
	case state.JWTKeyPublish:
		return s.mayPublish(caller, c)
	case state.SealKeySet:
		return s.mayAsCore(caller, c, "have the root sealed for another")
	case state.NodeGenerations:
		return s.mayAsCore(caller, c, "tell of the generations of hosts")
	case state.NodeSetLeft:
		return s.maySetLeft(caller, c)
	case state.OperatorBind:
		if err := mayGrant(caller, c.Role); err != nil && policy.Allowed(caller.Role, policy.OperatorWrite) {
			return err // who may not do it at all is told that below
		}
	}
	if txn, ok := cmd.(state.Txn); ok && slices.ContainsFunc(slices.Concat(txn.Then, txn.Else), state.Op.ChangesCatalog) {
		if err := allow(caller, policy.CatalogWrite); err != nil {
			return err
		}
	}
	return allow(caller, commandAction(cmd))
}

// callerName is how the log entry names the caller: a uid means something only with its host.
func (s *Service) callerName(c Caller) string {
	if strings.HasPrefix(c.Name, "uid:") {
		return c.Name + "@" + s.local.Node
	}
	return c.Name
}

// propose encodes and appends here. An error may mean not_leader, which is safe to repeat.
func (s *Service) propose(ctx context.Context, envelope state.Envelope) (Applied, *Error) {
	command, failed := s.encode(envelope)
	if failed != nil {
		return Applied{}, failed
	}
	proposed, err := s.local.Propose(ctx, command)
	if err != nil {
		return Applied{}, asWriteError(err)
	}
	return s.resultOf(proposed)
}

func (s *Service) resultOf(proposed Proposed) (Applied, *Error) {
	result, err := state.DecodeResult(proposed.Data)
	if err != nil {
		return Applied{}, Errorf(CodeInternal, "result of index %d: %v", proposed.Index, err)
	}
	return Applied{Result: result, Proposed: proposed, Node: s.local.Node}, nil
}

// encode refuses what the state could never do, before it reaches the log.
func (s *Service) encode(envelope state.Envelope) ([]byte, *Error) {
	command, err := state.Encode(envelope, s.local.ClusterVersion())
	if err != nil {
		return nil, encodeError(err)
	}
	return command, nil
}

func encodeError(err error) *Error {
	var tooNew *state.TooNewError
	switch {
	case errors.Is(err, state.ErrTooLarge):
		return Errorf(CodeTooLarge, "%v", err)
	case errors.As(err, &tooNew):
		return Errorf(CodeUnsupported, "%v", err).WithHint("upgrade every agent of the core, then finalize the upgrade")
	}
	return Errorf(CodeInvalid, "%v", err)
}

func (s *Service) forwardExecute(ctx context.Context, leader string, caller Caller, envelope state.Envelope) (Applied, *Error) {
	command, failed := s.encode(envelope)
	if failed != nil {
		return Applied{}, failed
	}
	body := appendExecute(nil, executeRequest{role: caller.Role, kind: caller.Kind, command: command})
	answer, err := s.local.Call(ctx, leader, methodExecute, body)
	if err != nil {
		return Applied{}, asWriteError(err)
	}
	done, err := parseApplied(answer)
	if err != nil {
		return Applied{}, Errorf(CodeOutcomeUnknown, "answer of %s: %v", leader, err)
	}
	return done, nil
}

// withLeader runs ask against the leader until it succeeds, fails for good, or enough was waited between attempts
// (waitedEnough). Every wait ends with ctx. ask is repeated only after a failure that surely did nothing.
//
//  1. a1 has a write while the core elects: known is false, it waits.
//  2. a1 hears that a2 leads and asks it, but a2 has just lost its term: not_leader, nothing happened.
//  3. a1 waits a little, for its own knowledge is as old as a2's answer, and asks whoever leads by then.
func (s *Service) withLeader(ctx context.Context, ask func(leader string, self bool) *Error) error {
	var last, leaderless *Error
	var silent []string // who could not be reached
	var named string    // the leader by the last answer's word, which may be newer than our own knowledge
	pause, waited := retryPauseFirst, time.Duration(0)
	for range maxAttempts {
		leader, self, known := s.local.Leader()
		if named != "" && named != s.local.Node && !self {
			leader, known, named = named, true, ""
		}
		if known {
			if last = ask(leader, self); last == nil {
				return nil
			}
			if !surelyNotProposed(last) {
				return last
			}
			switch named = last.Leader; last.Code {
			case CodeUnavailable:
				silent = append(silent, leader)
				named = s.anotherCore(silent)
			case CodeNoLeader:
				leaderless = last
			case CodeNotLeader: // who answers and names nobody has no leader; who names one has
				if leaderless = nil; named == "" {
					leaderless = Errorf(CodeNoLeader, "the core has no leader that answers")
				}
			}
		}
		if s.waitedEnough(waited) || !sleep(ctx, pause) {
			break
		}
		waited += pause
		pause = min(2*pause, retryPauseMax)
	}
	switch {
	case last != nil && last.Code == CodeUnavailable && leaderless != nil:
		return leaderless // who answered knows more than that another one did not
	case last != nil && last.Code != CodeNotLeader:
		return last
	}
	return Errorf(CodeNoLeader, "the core has no leader that answers")
}

// waitedEnough decides whether a request that has waited for so long is refused. A core that loses its leader has another within a
// second or two, so the request waits for LeaderWait. It does not wait anew for what the agent has seen to be away for as long,
// nor for what cannot come: then leastWait is enough.
func (s *Service) waitedEnough(waited time.Duration) bool {
	if waited >= s.options.LeaderWait {
		return true
	}
	if s.local.Leaderless == nil || waited < leastWait {
		return false
	}
	since, hopeless := s.local.Leaderless()
	return since >= s.options.LeaderWait || hopeless && since >= hopelessAfter
}

// anotherCore picks a live core member besides those that could not be reached; if it does not lead, it says who does.
func (s *Service) anotherCore(silent []string) string {
	for _, node := range s.local.CoreNodes() {
		if !slices.Contains(silent, node) {
			return node
		}
	}
	return ""
}

// sleep waits for d and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// resultCodes maps what the state answers to our codes.
var resultCodes = map[state.Code]string{
	state.CodeNotFound: CodeNotFound, state.CodeConflict: CodeConflict, state.CodeInvalid: CodeInvalid,
	state.CodeExists: CodeExists, state.CodeExpired: CodeExpired, state.CodeUsed: CodeUsed,
	state.CodeRevoked: CodeRevoked, state.CodeDenied: CodeDenied, state.CodeLimit: CodeLimit,
	state.CodeQuarantined: CodeQuarantined, state.CodeReused: CodeRequestReused, state.CodeForgotten: CodeRequestForgotten,
}

// resultError is nil for a command that the state accepted.
func resultError(r state.Result) error {
	if r.Code == "" {
		return nil
	}
	code, ok := resultCodes[r.Code]
	if !ok {
		code = CodeInternal
	}
	return Errorf(code, "%s", r.Message)
}
