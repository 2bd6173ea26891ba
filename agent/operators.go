package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/transport"
)

// endingBefore is how long before the end of its certificate an operator's https connection is ended in good order,
// between two requests. A client that renews at half of its life has had the next certificate for long.
const endingBefore = security.OperatorTTL / 6

// operatorKey is the key hash that the replicated state binds to an operator's name.
func (a *Agent) operatorKey(name string) ([32]byte, bool) {
	row, ok := a.hub.View().Operator(name)
	return row.KeyHash, ok
}

// callerOf says who calls over an authenticated connection, and what the caller may do by the applied state of now. It is
// the one place that maps the kinds of peers to roles: an agent has the role that the cluster gave it, an operator the
// one that is beside its key.
func (a *Agent) callerOf(peer transport.Peer) (role policy.Role, name string, err error) {
	switch {
	case peer.Operator != "":
		v := a.hub.View()
		role, ok := a.held.roleOf(v, true, peer.Operator, func() (policy.Role, bool) {
			row, ok := v.Operator(peer.Operator)
			return row.Role, ok
		})
		if !ok {
			return policy.None, "", fmt.Errorf("there is no operator %q", peer.Operator)
		}
		return role, peer.ID.String(), nil
	case peer.Node != "":
		return a.roleOf(peer.Node), peer.ID.String(), nil
	}
	return policy.None, "", errors.New("the certificate names nobody who may call")
}

// identifyTLS is callerOf for a request over https.
func (a *Agent) identifyTLS(cs tls.ConnectionState) (api.Caller, error) {
	peer, err := a.source.Identify(cs)
	if err != nil {
		return api.Caller{}, err
	}
	role, name, err := a.callerOf(peer)
	if err != nil {
		return api.Caller{}, err
	}
	caller := api.Caller{Role: role, Name: name, Kind: api.KindMTLS}
	caller.Ending = peer.Operator != "" && a.now().After(cs.PeerCertificates[0].NotAfter.Add(-endingBefore))
	return caller, nil
}

// certifiesHere is certifies for those who ask this agent itself.
func (a *Agent) certifiesHere() error {
	if err := a.certifies(); err != nil {
		return fromWire(err)
	}
	return nil
}

// signOperator signs with this core member's own issuer. Who asks has made sure that the key is bound.
func (a *Agent) signOperator(req security.OperatorRequest) (chain [][]byte, notAfter time.Time, err error) {
	if err := a.certifies(); err != nil {
		return nil, notAfter, fromWire(err)
	}
	authority := a.issuer.authority.Load()
	if authority == nil {
		return nil, notAfter, api.Errorf(api.CodeUnavailable, "%s issues no identities yet: it has just become a member of the core", a.ids.Node)
	}
	if chain, err = authority.SignOperator(req, a.now()); err != nil {
		return nil, notAfter, api.Errorf(api.CodeUnavailable, "%v", err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, notAfter, err
	}
	return chain, leaf.NotAfter.UTC(), nil
}

// agentsOnly registers methods that agents call on each other. Operators come over the same protocol, and every such
// method takes it for granted that its peer is an agent.
type agentsOnly struct {
	*transport.Server
	known func(transport.Peer) error // refuses those who are no members
}

// Handle is that of the server, for agents.
func (s agentsOnly) Handle(name string, handle transport.Handler) {
	s.Server.Handle(name, func(ctx context.Context, peer transport.Peer, body []byte) ([]byte, error) {
		if err := s.admit(peer); err != nil {
			return nil, err
		}
		return handle(ctx, peer, body)
	})
}

// HandleStream is that of the server, for agents.
func (s agentsOnly) HandleStream(name string, handle transport.StreamHandler) {
	s.Server.HandleStream(name, func(ctx context.Context, peer transport.Peer, body []byte, send func([]byte) error) error {
		if err := s.admit(peer); err != nil {
			return err
		}
		return handle(ctx, peer, body, send)
	})
}

func (s agentsOnly) admit(peer transport.Peer) error {
	if err := notAgent(peer); err != nil {
		return err
	}
	return s.known(peer)
}

func notAgent(peer transport.Peer) error {
	if peer.Node == "" {
		return &transport.Error{Code: api.CodeDenied, Message: "this method is for agents", Hint: "use api/client, or the command line"}
	}
	return nil
}

// serveOperator serves an operator's connection on the mesh port while there is room for it. Its client sees a closed
// connection otherwise.
func (a *Agent) serveOperator(ctx context.Context, conn *tls.Conn, peer transport.Peer, handle transport.ConnHandler) {
	defer conn.Close() //nolint:errcheck // there is nothing left to say
	if !a.operatorConns.enter(peer.Operator) {
		a.log.Debug("an operator has too many connections open", zap.Stringer("spiffe_id", peer.ID), zap.Stringer("addr", conn.RemoteAddr()))
		return
	}
	defer a.operatorConns.leave(peer.Operator)
	if err := a.epochs.greetOperator(ctx, conn); err == nil {
		handle(ctx, conn, peer)
	}
}

// greetOperator is the greeting with an operator's client, which lives in no epoch: it says counter 0, and what it says
// is not judged. Its word about epochs must not reach those who follow proofs and tell people of splits.
func (e *epochs) greetOperator(ctx context.Context, conn *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // long ago: what is under way ends
	theirs, err := exchange(conn, e.current())
	if err == nil && theirs.Counter != 0 {
		err = fmt.Errorf("an operator claims to live in epoch %d", theirs.Counter)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	return err
}
