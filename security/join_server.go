package security

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/parley-mesh/parley/transport"
)

// JoinServer answers joiners on connections of transport.ALPNJoin, and agents that renew by their host key on those of
// transport.ALPNRekey. Neither is answered on the other's. Any agent can: the handler admits
// the host where this agent leads the core, and passes the request on to the leader otherwise. Safe
// for concurrent use; how many connections there are is limited where they are accepted.
type JoinServer struct {
	handle func(ctx context.Context, r JoinRequest) (JoinResponse, error)

	// Rekey is the handler of renewals, with the same duties: its request is well formed but not
	// proved (see Source.CheckRekey), and only a *RekeyError reaches the host. nil: all are refused.
	Rekey func(ctx context.Context, r RekeyRequest) (RekeyResponse, error)

	// Attest is the handler of hosts that show a certificate of somebody else's authority, with the duties of the first: its
	// request is not proved (see CheckAttest). nil: all are refused.
	Attest func(ctx context.Context, r AttestRequest) (AttestResponse, error)
}

// NewJoinServer takes the handler. Its request is well formed but not proved (see VerifyProof). An
// error that is a *JoinError reaches the joiner; of any other one it learns only that it should try
// again.
func NewJoinServer(handle func(ctx context.Context, r JoinRequest) (JoinResponse, error)) *JoinServer {
	return &JoinServer{handle: handle}
}

// Serve reads one request of those that belong to alpn from conn, answers it and closes conn. peer must be zero: an agent that has
// a certificate has nothing to join. The error is for the log: why no host was admitted or renewed,
// whether it was told or not.
func (s *JoinServer) Serve(ctx context.Context, conn net.Conn, alpn string, peer transport.Peer) error {
	defer conn.Close() //nolint:errcheck // the answer was flushed, or there is nothing to save
	ctx, cancel := context.WithTimeout(ctx, joinDeadline)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if peer != (transport.Peer{}) {
		return fmt.Errorf("serve join: %s is an agent already", peer.ID)
	}
	data, err := readFrame(conn)
	if err != nil {
		return fmt.Errorf("serve join: %w", err)
	}
	answer, refused := s.dispatch(ctx, alpn, data)
	if err := errors.Join(refused, writeFrame(conn, answer)); err != nil {
		return fmt.Errorf("serve join: %w", err)
	}
	return nil
}

// dispatch returns the answer that belongs to the kind of request, if that is one of alpn.
func (s *JoinServer) dispatch(ctx context.Context, alpn string, data []byte) (any, error) {
	if alpn == transport.ALPNRekey {
		return s.answerRekey(ctx, data)
	}
	switch requestTag(data) {
	case rekeyTag: // an agent that is older than the protocol; another one, as old as itself, may answer it
		err := NewRekeyError(RekeyUnavailable, "renewals by host key are asked for on "+transport.ALPNRekey+": update this agent")
		return rekeyAnswer{Error: err}, err
	case attestTag:
		return s.answerAttest(ctx, data)
	}
	return s.answer(ctx, data)
}

// answer returns what the joiner is told, and why when that is a refusal.
func (s *JoinServer) answer(ctx context.Context, data []byte) (joinAnswer, error) {
	r, err := DecodeJoinRequest(data)
	if err != nil {
		return joinAnswer{Error: NewJoinError(JoinInvalid, err.Error())}, err
	}
	resp, err := s.handle(ctx, r)
	if err == nil {
		return joinAnswer{Response: &resp}, nil
	}
	var refused *JoinError
	var times *LeafTimeError
	switch {
	case errors.As(err, &refused):
	case errors.As(err, &times):
		refused = NewJoinError(JoinClock, times.Error())
	default:
		refused = NewJoinError(JoinUnavailable, "the cluster could not admit this host at the moment")
	}
	return joinAnswer{Error: refused}, err
}

// answerRekey returns what a host is told that renews by its key, and why when that is a refusal.
func (s *JoinServer) answerRekey(ctx context.Context, data []byte) (rekeyAnswer, error) {
	r, err := DecodeRekeyRequest(data)
	if err != nil {
		return rekeyAnswer{Error: NewRekeyError(RekeyInvalid, err.Error())}, err
	}
	if s.Rekey == nil {
		err := NewRekeyError(RekeyUnavailable, "this agent renews nobody")
		return rekeyAnswer{Error: err}, err
	}
	resp, err := s.Rekey(ctx, r)
	if err == nil {
		return rekeyAnswer{Response: &resp}, nil
	}
	var refused *RekeyError
	if !errors.As(err, &refused) {
		refused = NewRekeyError(RekeyUnavailable, "the cluster could not renew this host at the moment")
	}
	return rekeyAnswer{Error: refused}, err
}
