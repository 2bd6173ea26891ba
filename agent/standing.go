package agent

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

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

// hasLeft says whether the cluster has let the agent of an identity go; its certificate counts no more, although it
// may last a while.
func (a *Agent) hasLeft(id spiffeid.ID) bool {
	node, err := security.NodeOf(id)
	if err != nil {
		return false // the verifier refuses it by itself
	}
	row, ok := a.hub.View().Node(node)
	return ok && row.Left
}

// recheck closes the connections of those whom the cluster has replaced or let go, as soon as the applied state says
// so, and those of an epoch that has passed. Their calls go by the name in a handshake that may be long past.
func (a *Agent) recheck(ctx context.Context) error {
	sub, err := a.hub.Subscribe(watch.Selector{Table: state.TableNode, Prefix: true})
	if err != nil {
		return err
	}
	defer sub.Close()
	ticker := time.NewTicker(recheckEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		pause(ctx, recheckPause) // who asked for the change gets its answer first
		a.live.Recheck(func(conn net.Conn, why error) {
			a.log.Warn("connection closed, its peer would be refused now", zap.Stringer("addr", conn.RemoteAddr()), zap.Error(why))
		})
		select {
		case <-sub.C():
		case <-a.epochs.learned():
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// guardHTTPS keeps the connections of the https listener in the table of those that are rechecked, from their first
// request on, which is when the handshake is over.
func (a *Agent) guardHTTPS(server *http.Server) {
	var guarded sync.Map // of conn to what takes it out of the table
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
			remove, err := a.live.Add(conn, a.source.Standing(secured.ConnectionState()))
			if err != nil {
				_ = secured.NetConn().Close() // the request that was read cannot be answered any more
				return
			}
			guarded.Store(conn, remove)
		case http.StateClosed, http.StateHijacked:
			if remove, known := guarded.LoadAndDelete(conn); known {
				remove.(func())()
			}
		}
	}
}

// dialMesh is how this agent opens a TLS connection to another one, or with node "" to whoever listens there.
func (a *Agent) dialMesh(ctx context.Context, node, alpn, addr string) (net.Conn, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Control: limitUnacked}, Config: a.source.ClientTLS(node, alpn)}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	secured := conn.(*tls.Conn) // tls.Dialer makes nothing else
	guarded, err := a.live.Guard(secured, a.source.Standing(secured.ConnectionState()))
	if err != nil || alpn != transport.ALPNRPC && alpn != transport.ALPNRaft {
		return guarded, err
	}
	return a.greetDialled(ctx, guarded, node, alpn == transport.ALPNRaft)
}
