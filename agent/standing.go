package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
	"github.com/parley-mesh/parley/transport"
)

const (
	// recheckEvery finds what no node's row tells, such as a root that went; a change of a row is followed at once.
	recheckEvery = time.Second
	// recheckPause is the least time between two rounds: when hundreds join at once, one serves many.
	recheckPause = 50 * time.Millisecond
)

// hasLeft says whether the cluster has let the agent of an identity go, or has evicted it, by the applied state or by what others
// tell; its certificate counts no more, although it may last a while.
func (a *Agent) hasLeft(id spiffeid.ID) bool {
	node, err := security.NodeOf(id)
	if err != nil {
		return false // the verifier refuses it by itself
	}
	if cut := a.cutFrom.Load(); cut != nil && (*cut)(node) {
		return true
	}
	v := a.hub.View()
	row, ok := v.Node(node)
	return ok && (row.Left || a.denials.host(v, row.HostKey))
}

// recheck closes the connections of those whom the cluster has replaced, denied or let go, operators too, as soon as the applied state says
// so, and those of an epoch that has passed. Their calls go by the name in a handshake that may be long past.
func (a *Agent) recheck(ctx context.Context) error {
	sub, err := a.hub.Subscribe(watch.Selector{Table: state.TableNode, Prefix: true})
	if err != nil {
		return err
	}
	defer sub.Close()
	operators, err := a.hub.Subscribe(watch.Selector{Table: state.TableOperator, Prefix: true})
	if err != nil {
		return err
	}
	defer operators.Close()
	denied, err := a.hub.Subscribe(watch.Selector{Table: state.TableDeny, Prefix: true})
	if err != nil {
		return err
	}
	defer denied.Close()
	ticker := newBeat(recheckEvery)
	defer ticker.stop()
	for ctx.Err() == nil {
		pause(ctx, recheckPause) // who asked for the change gets its answer first
		a.denials.forget()
		a.live.Recheck(func(conn net.Conn, why error) {
			a.log.Warn("connection closed, its peer would be refused now", zap.Stringer("addr", conn.RemoteAddr()), zap.Error(why))
		})
		select {
		case <-sub.C():
		case <-operators.C():
		case <-denied.C():
		case <-a.denials.changed:
		case <-a.epochs.learned():
		case <-ticker.C:
			ticker.again()
		case <-ctx.Done():
		}
	}
	return nil
}

// httpsConn finds, in a request's context, the connection that it came by.
type httpsConn struct{}

var errManyConns = errors.New("the operator has too many connections open")

// guardHTTPS keeps the connections of the https listener in the table of those that are rechecked, from their first
// request on, which is when the handshake is over.
func (a *Agent) guardHTTPS(server *http.Server) {
	var guarded sync.Map // of conn to what takes it out of the table
	var full sync.Map    // of conn that found no place: its first request is told so, and is its last
	inner, next := server.ConnContext, server.Handler
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(inner(ctx, conn), httpsConn{}, conn)
	}
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, over := full.Load(r.Context().Value(httpsConn{})); over {
			w.Header().Set("Connection", "close")
			api.Refuse(w, api.Errorf(api.CodeTooMany, "%d https connections of this operator are open", maxOperatorConns).
				WithHint("close some, or send more requests over each"))
			return
		}
		next.ServeHTTP(w, r)
	})
	server.ConnState = func(conn net.Conn, s http.ConnState) {
		secured, ok := conn.(*tls.Conn)
		if !ok {
			return
		}
		switch s {
		case http.StateActive:
			if _, known := guarded.Load(conn); known {
				return
			}
			remove, err := a.admitHTTPS(secured)
			switch {
			case errors.Is(err, errManyConns):
				full.Store(conn, err)
			case err != nil:
				_ = secured.NetConn().Close() // the request that was read cannot be answered any more
			default:
				guarded.Store(conn, remove)
			}
		case http.StateClosed, http.StateHijacked:
			full.Delete(conn)
			if remove, known := guarded.LoadAndDelete(conn); known {
				remove.(func())()
			}
		}
	}
}

// admitHTTPS puts a connection into the table while its peer stands, and an operator has no more of them than on the mesh
// port. remove takes it out.
func (a *Agent) admitHTTPS(conn *tls.Conn) (remove func(), err error) {
	peer, err := a.source.Identify(conn.ConnectionState())
	if err != nil {
		return nil, err
	}
	if peer.Operator == "" {
		return a.live.Add(conn, a.source.Standing(conn.ConnectionState()))
	}
	if !a.operatorHTTPS.enter(peer.Operator) {
		return nil, errManyConns
	}
	gone, err := a.live.Add(conn, a.source.Standing(conn.ConnectionState()))
	if err != nil {
		a.operatorHTTPS.leave(peer.Operator)
		return nil, err
	}
	return func() {
		gone()
		a.operatorHTTPS.leave(peer.Operator)
	}, nil
}

// dialMesh is how this agent opens a TLS connection to another one, or with node "" to whoever listens there.
func (a *Agent) dialMesh(ctx context.Context, node, alpn, addr string) (net.Conn, error) {
	d := net.Dialer{Control: limitUnacked}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	secured := tls.Client(transport.Quick(conn), a.source.ClientTLS(node, alpn))
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // the handshake's error says more
		return nil, err
	}
	guarded, err := a.live.Guard(secured, a.source.Standing(secured.ConnectionState()))
	if err != nil || alpn != transport.ALPNRPC && alpn != transport.ALPNRaft {
		return guarded, err
	}
	return a.greetDialled(ctx, guarded, node, alpn == transport.ALPNRaft)
}
