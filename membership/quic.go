package membership

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/transport"
)

const alpn = transport.ALPNGossip

const (
	// maxPeerStreams is how many streams a peer may have open to us.
	maxPeerStreams = 16
	// quicIdle closes a link whose peer is gone; half of it is the keepalive's period.
	quicIdle = 30 * time.Second
	// The receive windows bound what a peer can make us buffer.
	streamWindow     = 256 << 10
	connectionWindow = 1 << 20
)

// A QUIC stream begins with what it carries.
const (
	prefaceStream  = 's' // one of memberlist's streams
	prefacePackets = 'p' // TCP: frames; QUIC: one packet too large for a datagram
)

// initialRate is how many handshakes a second may begin before their senders have to prove their
// address, which costs them a round trip and us nothing.
var initialRate = rate{burst: 64, perSecond: 32}

func (u *underlay) flooded(net.Addr) bool { return !u.flood.allow(initialRate, "", "") }

func (u *underlay) quicConfig() *quic.Config {
	return &quic.Config{
		EnableDatagrams:                true,
		HandshakeIdleTimeout:           u.opts.Timing.DialTimeout,
		MaxIdleTimeout:                 quicIdle,
		KeepAlivePeriod:                quicIdle / 2,
		MaxIncomingStreams:             maxPeerStreams,
		MaxIncomingUniStreams:          -1,
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         2 * streamWindow,
		InitialConnectionReceiveWindow: connectionWindow,
		MaxConnectionReceiveWindow:     2 * connectionWindow,
	}
}

// identify returns whose verified certificate a connection carries.
func (u *underlay) identify(cs tls.ConnectionState) (string, error) {
	// A resumed session skipped the check of the certificate; it means that GetConfigForClient
	// handed out settings past gossipTLS.
	if cs.NegotiatedProtocol != alpn || !cs.HandshakeComplete || cs.DidResume {
		return "", errors.New("not a gossip connection")
	}
	peer, err := u.opts.Identify(cs)
	if err != nil {
		return "", err
	}
	if !validName(peer.Node) || peer.Node == u.opts.Name {
		return "", errNotPeer
	}
	return peer.Node, nil
}

// dialQUIC opens a link to a peer and makes sure that it is that peer.
func (u *underlay) dialQUIC(ctx context.Context, p *peer, addr netip.AddrPort) (*link, error) {
	conn, err := u.quic.Dial(ctx, net.UDPAddrFromAddrPort(addr), gossipTLS(u.opts.ClientTLS(p.name)), u.quicConfig())
	if err != nil {
		return nil, err
	}
	name, err := u.identify(conn.ConnectionState().TLS)
	if err == nil && name != p.name {
		err = errNotPeer
	}
	if err != nil {
		closeQUIC(conn, closeRefused)
		return nil, err
	}
	l := u.newQUICLink(p, u.opts.Name, conn)
	if !u.serveQUIC(l, conn) {
		closeQUIC(conn, closeStopping)
		return nil, net.ErrClosed
	}
	return l, nil
}

// acceptLoop takes in the links that peers open.
func (u *underlay) acceptLoop() {
	for {
		conn, err := u.listen.Accept(u.ctx)
		if err != nil {
			return
		}
		name, err := u.identify(conn.ConnectionState().TLS)
		if err != nil {
			u.log.Debug("gossip connection refused", zap.Stringer("address", conn.RemoteAddr()), zap.Error(err))
			closeQUIC(conn, closeRefused)
			continue
		}
		p, err := u.peer(name)
		if err != nil {
			closeQUIC(conn, closeStopping)
			continue
		}
		l := u.newQUICLink(p, name, conn)
		if !p.adopt(l) || !u.serveQUIC(l, conn) {
			l.close(closeBusy)
		}
	}
}

func (u *underlay) newQUICLink(p *peer, opener string, conn *quic.Conn) *link {
	l := newLink(p, PathUDP, opener, &quicCarrier{under: u, conn: conn})
	if u.opts.Standing != nil {
		l.standing = u.opts.Standing(conn.ConnectionState().TLS)
	}
	return l
}

// serveQUIC starts the link's readers; they end with the connection.
func (u *underlay) serveQUIC(l *link, conn *quic.Conn) bool {
	return u.spawn(func() { readDatagrams(l, conn) }) && u.spawn(func() { u.acceptStreams(l, conn) })
}

func readDatagrams(l *link, conn *quic.Conn) {
	for {
		b, err := conn.ReceiveDatagram(conn.Context())
		if err != nil {
			l.close(closeBroken)
			return
		}
		l.receive(b)
	}
}

func (u *underlay) acceptStreams(l *link, conn *quic.Conn) {
	for {
		s, err := conn.AcceptStream(conn.Context())
		if err != nil {
			return
		}
		if !u.spawn(func() { u.acceptStream(l, s, conn) }) {
			return
		}
	}
}

func (u *underlay) acceptStream(l *link, s *quic.Stream, conn *quic.Conn) {
	sc := &quicStream{Stream: s, conn: conn}
	// Deadlines of connections are in real time.
	_ = s.SetReadDeadline(time.Now().Add(u.opts.Timing.StreamTimeout))
	var preface [1]byte
	if _, err := io.ReadFull(s, preface[:]); err != nil {
		_ = sc.Close()
		return
	}
	switch preface[0] {
	case prefaceStream:
		l.acceptStream(sc)
	case prefacePackets:
		if b, err := io.ReadAll(io.LimitReader(s, maxPacketBytes)); err == nil {
			l.receive(b)
		}
		_ = sc.Close()
	default:
		_ = sc.Close()
	}
}

func closeQUIC(conn *quic.Conn, why closeReason) {
	_ = conn.CloseWithError(quic.ApplicationErrorCode(why), "")
}

// quicCarrier is a carrier by UDP.
type quicCarrier struct {
	under *underlay
	conn  *quic.Conn
}

// send blocks while 32 datagrams are queued, which only the connection's end cuts short.
func (c *quicCarrier) send(packet []byte) error {
	err := c.conn.SendDatagram(packet)
	if large := (*quic.DatagramTooLargeError)(nil); !errors.As(err, &large) {
		return err
	}
	s, err := c.conn.OpenStream()
	if err != nil {
		return nil // at the peer's stream limit a packet may be lost like any other
	}
	_ = s.SetWriteDeadline(time.Now().Add(c.under.opts.Timing.StreamTimeout))
	_, err = s.Write(append([]byte{prefacePackets}, packet...))
	return errors.Join(err, (&quicStream{Stream: s, conn: c.conn}).Close())
}

func (c *quicCarrier) open(ctx context.Context) (net.Conn, error) {
	s, err := c.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	_ = s.SetWriteDeadline(time.Now().Add(c.under.opts.Timing.StreamTimeout))
	if _, err := s.Write([]byte{prefaceStream}); err != nil {
		return nil, err
	}
	return &quicStream{Stream: s, conn: c.conn}, nil
}

func (c *quicCarrier) progress() uint64 { return c.conn.ConnectionStats().PacketsReceived }

func (c *quicCarrier) remote() net.Addr { return c.conn.RemoteAddr() }

func (c *quicCarrier) close(why closeReason) { closeQUIC(c.conn, why) }

// quicStream is a QUIC stream as a net.Conn.
type quicStream struct {
	*quic.Stream
	conn *quic.Conn
}

func (s *quicStream) LocalAddr() net.Addr  { return s.conn.LocalAddr() }
func (s *quicStream) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// Close ends both directions: the stream's own Close ends only ours, and a peer that goes on
// sending would keep the stream alive.
func (s *quicStream) Close() error {
	s.CancelRead(0)
	return s.Stream.Close()
}
