package membership

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-mesh/parley/transport"
)

// A TCP link is one TLS connection that carries packets both ways, each behind its length in two
// bytes, and a further connection for each stream. Two lengths are not packets: TCP shows no
// acknowledgements, so a link with nothing heard is asked, and answers.
const (
	frameAsk    = 0
	frameAnswer = 0xffff
)

// tcpWriteTimeout is how long a frame may take into the socket.
const tcpWriteTimeout = 2 * time.Second

// ServeTCP serves a connection that a peer, already authenticated, opened on the mesh TCP port
// with ALPN parley-gossip/1. It returns when the connection is done with; it closes it.
func (m *Membership) ServeTCP(ctx context.Context, conn net.Conn, from transport.Peer) {
	m.under.serveTCP(ctx, conn, from.Node)
}

func (u *underlay) serveTCP(ctx context.Context, conn net.Conn, from string) {
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if !validName(from) || from == u.opts.Name {
		return
	}
	p, err := u.peer(from)
	if err != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(u.opts.Timing.StreamTimeout))
	var preface [1]byte
	if _, err := io.ReadFull(conn, preface[:]); err != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	switch preface[0] {
	case prefacePackets:
		u.serveFrames(p, conn)
	case prefaceStream:
		u.serveStream(p, conn)
	}
}

func (u *underlay) serveFrames(p *peer, conn net.Conn) {
	addr, _ := p.target()
	l := newLink(p, PathTCP, p.name, u.newTCPCarrier(p.name, addr, conn))
	if !p.adopt(l) {
		l.close(closeBusy)
		return
	}
	readFrames(l)
}

// serveStream lends the connection to memberlist until that closes it.
func (u *underlay) serveStream(p *peer, conn net.Conn) {
	done := make(chan struct{})
	p.noteReceived()
	u.deliverStream(p.name, &trackedConn{Conn: conn, done: func() { close(done) }})
	select {
	case <-done:
	case <-u.ctx.Done():
	}
}

// dialMesh opens an authenticated TLS connection to a node and says what it will carry.
func (u *underlay) dialMesh(ctx context.Context, node string, addr netip.AddrPort, preface byte) (net.Conn, error) {
	conn, err := u.opts.DialTCP(ctx, node, addr)
	if err != nil {
		return nil, err
	}
	if t, ok := conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
		if name, err := u.identify(t.ConnectionState()); err != nil || name != node {
			_ = conn.Close()
			return nil, errors.Join(errNotPeer, err)
		}
	}
	_ = conn.SetWriteDeadline(time.Now().Add(tcpWriteTimeout))
	if _, err := conn.Write([]byte{preface}); err != nil {
		_ = conn.Close()
		return nil, err
	}
	_ = conn.SetWriteDeadline(time.Time{})
	return conn, nil
}

// tcpCarrier is a carrier by TLS over TCP.
type tcpCarrier struct {
	under  *underlay
	node   string
	addr   netip.AddrPort
	conn   net.Conn
	frames atomic.Uint64 // received
	mu     sync.Mutex    // one frame at a time; held for tcpWriteTimeout at most
}

func (u *underlay) newTCPCarrier(node string, addr netip.AddrPort, conn net.Conn) *tcpCarrier {
	return &tcpCarrier{under: u, node: node, addr: addr, conn: conn}
}

func (c *tcpCarrier) send(packet []byte) error {
	if len(packet) == 0 || len(packet) > maxPacketBytes {
		return nil
	}
	return c.write(uint16(len(packet)), packet)
}

// ask makes the peer show that it is there.
func (c *tcpCarrier) ask() error { return c.write(frameAsk, nil) }

func (c *tcpCarrier) write(length uint16, packet []byte) error {
	frame := append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(packet)), length), packet...)
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(tcpWriteTimeout))
	_, err := c.conn.Write(frame)
	return err
}

func (c *tcpCarrier) open(ctx context.Context) (net.Conn, error) {
	if c.under.opts.DialTCP == nil {
		return nil, errNoFallback
	}
	addr, ok := c.under.addr(c.node)
	if !ok {
		addr = c.addr
	}
	return c.under.dialMesh(ctx, c.node, addr, prefaceStream)
}

func (c *tcpCarrier) progress() uint64 { return c.frames.Load() }

func (c *tcpCarrier) remote() net.Addr { return c.conn.RemoteAddr() }

func (c *tcpCarrier) close(closeReason) { _ = c.conn.Close() }

// readFrames receives on a TCP link until it ends.
func readFrames(l *link) {
	c := l.carrier.(*tcpCarrier)
	defer l.close(closeBroken)
	var head [2]byte
	for {
		if _, err := io.ReadFull(c.conn, head[:]); err != nil {
			return
		}
		c.frames.Add(1)
		switch n := binary.BigEndian.Uint16(head[:]); {
		case n == frameAsk:
			if c.write(frameAnswer, nil) != nil {
				return
			}
		case n == frameAnswer: // counted above
		case int(n) > maxPacketBytes:
			return
		default:
			packet := make([]byte, n)
			if _, err := io.ReadFull(c.conn, packet); err != nil {
				return
			}
			l.receive(packet)
		}
	}
}
