package agent

import (
	"context"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/api/wire"
	"github.com/parley-mesh/parley/transport"
)

// clientOf is callerOf as the API knows callers, or what to answer instead.
func (a *Agent) clientOf(peer transport.Peer) (api.Caller, error) {
	role, name, err := a.callerOf(peer)
	if err != nil {
		return api.Caller{}, &transport.Error{Code: api.CodeDenied, Message: err.Error(),
			Hint: "present the certificate of an agent or of an operator of this cluster"}
	}
	return api.Caller{Role: role, Name: name, Kind: api.KindMTLS}, nil
}

// beginPut leaves what it does not take to the method's handler.
func (a *Agent) beginPut(ctx context.Context, peer transport.Peer, body []byte, call *transport.Begun) (giveUp func(cause error)) {
	caller, err := a.clientOf(peer)
	if err != nil {
		return nil
	}
	return a.service.BeginPut(ctx, caller, body, unanswered{call})
}

// unanswered is a call of the mesh port as the API knows calls.
type unanswered struct{ *transport.Begun }

func (u unanswered) GoOn(rest func(ctx context.Context) []byte) {
	u.Begun.GoOn(func(ctx context.Context, _ transport.Peer, _ []byte) ([]byte, error) { return rest(ctx), nil })
}

// registerClientRPC puts on the server what api/client asks for.
func (a *Agent) registerClientRPC(s *transport.Server) {
	answer := a.service.ClientHandler()
	for _, method := range api.ClientMethods() {
		handle := func(ctx context.Context, peer transport.Peer, body []byte) ([]byte, error) {
			caller, err := a.clientOf(peer)
			if err != nil {
				return nil, err
			}
			return answer(ctx, caller, method, body), nil
		}
		if method == wire.MethodPut {
			s.HandleBegun(a.service.ClientLimit(method), method, a.beginPut, handle)
			continue
		}
		s.HandleWithin(a.service.ClientLimit(method), method, handle)
	}
	s.HandleStream(wire.MethodWatch, func(ctx context.Context, peer transport.Peer, _ []byte, send func([]byte) error) error {
		return toWire(a.service.ServeWatches(ctx, func() (api.Caller, error) { return a.clientOf(peer) }, send))
	})
}
