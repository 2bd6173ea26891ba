package api

import (
	"context"
	"encoding/binary"
	"encoding/json"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// The methods that agents call on each other.
const (
	methodExecute   = "op.execute"
	methodRead      = "op.read"
	methodReadIndex = "op.readindex"
	methodTokens    = "op.tokens"
	methodHistory   = "op.history"

	methodSessions     = "op.sessions"
	methodRenewSession = "op.session.renew"
)

// Methods lists what HandleRPC serves.
func (*Service) Methods() []string {
	return []string{methodExecute, methodRead, methodReadIndex, methodTokens, methodHistory, methodSessions, methodRenewSession, methodIssue}
}

// HandleRPC answers peerNode, the agent that the connection's certificate names. Nothing here calls another agent: a
// request that this agent cannot serve is refused with not_leader and the leader's name, and the origin decides.
// Errors are *Error.
func (s *Service) HandleRPC(ctx context.Context, peerNode, method string, body []byte) ([]byte, error) {
	if !s.forwarded.acquire(peerNode) {
		return nil, Errorf(CodeBusy, "agent %s has %d requests open here", peerNode, maxForwarded)
	}
	defer s.forwarded.release(peerNode)
	var answer []byte
	var failed *Error
	switch method {
	case methodExecute:
		answer, failed = s.handleExecute(ctx, peerNode, body)
	case methodRead:
		answer, failed = s.handleRead(ctx, peerNode, body)
	case methodReadIndex:
		answer, failed = s.handleReadIndex(ctx)
	case methodHistory:
		answer, failed = s.handleHistory(ctx, peerNode, body)
	case methodTokens:
		answer, failed = s.handleTokens(ctx, peerNode, body)
	case methodIssue:
		answer, failed = s.handleIssue(ctx, body) // the request proves itself, whoever brings it
	case methodSessions, methodRenewSession:
		answer, failed = s.handleSessions(ctx, peerNode, method, body)
	default:
		failed = Errorf(CodeUnsupported, "no method %q", method)
	}
	if failed != nil {
		return nil, failed
	}
	return answer, nil
}

// forwardedCaller caps what the origin claims for its caller at what the cluster gave the origin itself. The claimed
// name is kept for the record only; no right depends on it.
func (s *Service) forwardedCaller(peerNode string, claimed policy.Role, kind, name string) Caller {
	role := policy.Min(claimed, s.local.RoleOf(peerNode))
	if kind != KindInternal {
		kind = KindForwarded
	}
	return Caller{Role: role, Name: name, Kind: kind, Via: peerNode}
}

// mustLead refuses in the name of the leader, if one is known.
func (s *Service) mustLead() *Error {
	leader, self, known := s.local.Leader()
	if self {
		return nil
	}
	refused := Errorf(CodeNotLeader, "agent %s does not lead", s.local.Node)
	if known {
		return refused.WithLeader(leader)
	}
	return refused
}

func (s *Service) handleExecute(ctx context.Context, peerNode string, body []byte) ([]byte, *Error) {
	if err := s.mustLead(); err != nil {
		return nil, err
	}
	req, err := parseExecute(body)
	if err != nil {
		return nil, Errorf(CodeInvalid, "%v", err)
	}
	envelope, err := state.Decode(req.command)
	if err != nil {
		return nil, Errorf(CodeInvalid, "command of agent %s: %v", peerNode, err)
	}
	caller := s.forwardedCaller(peerNode, req.role, req.kind, envelope.Caller)
	if err := s.mayExecute(caller, envelope.Command); err != nil {
		return nil, err
	}
	if _, probe := envelope.Command.(state.Probe); probe && !s.probes.allow(peerNode) {
		return nil, Errorf(CodeBusy, "agent %s probes more often than %g times a second", peerNode, probeRate)
	}
	envelope.Via = peerNode
	done, failed := s.propose(ctx, envelope)
	if failed != nil {
		return nil, failed
	}
	return appendApplied(nil, done), nil
}

func (s *Service) handleRead(ctx context.Context, peerNode string, body []byte) ([]byte, *Error) {
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
	req.query.Wait = min(req.query.Wait, forwardWait)
	serve := s.leaderAnswer
	if req.query.Consistency == Stale {
		serve = s.staleAnswer
	}
	answer, failed := serve(ctx, req.query)
	if failed != nil {
		return nil, failed
	}
	return appendAnswer(nil, answer), nil
}

// leadHere makes this agent's View linearizable, or refuses when it does not lead.
func (s *Service) leadHere(ctx context.Context) *Error {
	if err := s.mustLead(); err != nil {
		return err
	}
	index, err := s.local.ReadIndex(ctx)
	if err != nil {
		return AsError(err)
	}
	return AsError(hubError(s.local.Hub.WaitFor(ctx, index)))
}

// handleReadIndex tells another agent from which index on its own View is linearizable. An index is no secret, so
// every agent of the cluster may ask.
func (s *Service) handleReadIndex(ctx context.Context) ([]byte, *Error) {
	if err := s.mustLead(); err != nil {
		return nil, err
	}
	index, err := s.local.ReadIndex(ctx)
	if err != nil {
		return nil, AsError(err)
	}
	return binary.BigEndian.AppendUint64(nil, index), nil
}

func (s *Service) handleTokens(ctx context.Context, peerNode string, body []byte) ([]byte, *Error) {
	req, err := parseRead(body)
	if err != nil {
		return nil, Errorf(CodeInvalid, "%v", err)
	}
	if err := allow(s.forwardedCaller(peerNode, req.role, req.kind, req.name), policy.TokenList); err != nil {
		return nil, err
	}
	if err := s.leadHere(ctx); err != nil {
		return nil, err
	}
	answer, err := json.Marshal(s.tokensHere())
	if err != nil {
		return nil, Errorf(CodeInternal, "encode tokens: %v", err)
	}
	return answer, nil
}
