package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"
)

// peerStanding says of each node whether it stands.
type peerStanding struct {
	mu   sync.Mutex
	fell []string
}

func (p *peerStanding) fall(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fell = append(p.fell, node)
}

func (p *peerStanding) of(cs tls.ConnectionState) Standing {
	peer, err := identifyTest(cs)
	return Standing{Check: func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if err == nil && slices.Contains(p.fell, peer.Node) {
			return errors.New("replaced")
		}
		return err
	}}
}

// poolOf calls the mesh as a node, over one connection for as long as that holds.
func poolOf(t *testing.T, r *meshRig, node string, dials *atomic.Int32, wrap func(*tls.Conn) (net.Conn, error)) *Pool {
	p := NewPool(PoolOptions{Dial: func(ctx context.Context, _ string) (net.Conn, error) {
		dials.Add(1)
		d := tls.Dialer{Config: r.clientTLS(node, ALPNRPC)}
		conn, err := d.DialContext(ctx, "tcp", r.addr)
		if err != nil {
			return nil, err
		}
		return wrap(conn.(*tls.Conn))
	}})
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func plain(c *tls.Conn) (net.Conn, error) { return c, nil }

// A peer that falls loses its open connection by the next recheck, and no other peer does. Without a judge it keeps
// calling for ever: that is the control.
func TestRecheckCutsOffWhoDoesNotStand(t *testing.T) {
	for _, judged := range []bool{true, false} {
		standing, live := &peerStanding{}, NewLive()
		o := MeshOptions{}
		if judged {
			o.Standing, o.Live = standing.of, live
		}
		r := newMeshRig(t, o, zap.NewNop())
		var dials atomic.Int32
		good, bad := poolOf(t, r, "n1", &dials, plain), poolOf(t, r, "n2", &dials, plain)
		call := func(p *Pool) error { _, err := p.Call(t.Context(), "server", "whoami", nil); return err }
		if err := errors.Join(call(good), call(bad)); err != nil {
			t.Fatal(err)
		}
		cut := 0
		standing.fall("n2")
		live.Recheck(func(net.Conn, error) { cut++ })
		if err := call(bad); (err != nil) != judged {
			t.Errorf("judged %t: a call of the fallen peer gave %v", judged, err)
		}
		if err := call(good); err != nil {
			t.Errorf("judged %t: a call of the other peer gave %v", judged, err)
		}
		if want := map[bool]int{true: 1, false: 0}[judged]; cut != want {
			t.Errorf("judged %t: %d connections cut, want %d", judged, cut, want)
		}
	}
}

// The connections that we made ourselves are cut as well, and those that their owner closed are forgotten.
func TestRecheckCutsOffOutgoing(t *testing.T) {
	r := newMeshRig(t, MeshOptions{}, zap.NewNop())
	standing, live := &peerStanding{}, NewLive()
	var dials atomic.Int32
	p := poolOf(t, r, "n1", &dials, func(c *tls.Conn) (net.Conn, error) {
		return live.Guard(c, standing.of(c.ConnectionState()))
	})
	call := func() error { _, err := p.Call(t.Context(), "server", "whoami", nil); return err }
	if err := call(); err != nil {
		t.Fatal(err)
	}
	standing.fall("server")
	live.Recheck(func(net.Conn, error) {})
	if err := call(); err == nil {
		t.Error("a call to a peer that fell went through")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	live.mu.Lock()
	defer live.mu.Unlock()
	if n := len(live.mu.conns); n != 0 {
		t.Errorf("%d connections are still in the table", n)
	}
}
