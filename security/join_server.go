package security

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/parley-mesh/parley/transport"
)

// JoinServer answers joiners on connections of transport.ALPNJoin. Any agent can: the handler admits
// the host where this agent leads the core, and passes the request on to the leader otherwise. Safe
// for concurrent use; how many connections there are is limited where they are accepted.
type JoinServer struct {
	handle func(ctx context.Context, r JoinRequest) (JoinResponse, error)
}

// NewJoinServer takes the handler. Its request is well formed but not proved (see VerifyProof). An
// error that is a *JoinError reaches the joiner; of any other one it learns only that it should try
// again.
func NewJoinServer(handle func(ctx context.Context, r JoinRequest) (JoinResponse, error)) *JoinServer {
	return &JoinServer{handle: handle}
}

// Serve reads one request from conn, answers it and closes conn. peer must be zero: an agent that has
// a certificate has nothing to join. The error is for the log: why no host was admitted, whether the
// joiner was told or not.
func (s *JoinServer) Serve(ctx context.Context, conn net.Conn, peer transport.Peer) error {
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
	answer, refused := s.answer(ctx, data)
	if err := errors.Join(refused, writeFrame(conn, answer)); err != nil {
		return fmt.Errorf("serve join: %w", err)
	}
	return nil
}

// answer returns what the joiner is told, and why when that is a refusal.
func (s *JoinServer) answer(ctx context.Context, data []byte) (joinAnswer, error) {
	r, err := DecodeJoinRequest(data)
	if err != nil {
		return joinAnswer{Error: NewJoinError(JoinInvalid, err.Error())}, err
	}
	resp, err := s.handle(ctx, r)
	if err == nil {
		resp.Members = resp.Members[:min(len(resp.Members), MaxJoinMembers)]
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
