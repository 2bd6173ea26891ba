package membership

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// memNet is a network in memory: packets and connections between addresses, with a rule for each
// directed pair. Everything blocks on channels, so it runs inside a synctest bubble.
type memNet struct {
	mu        sync.Mutex
	sockets   map[netip.AddrPort]*memSocket
	listeners map[netip.AddrPort]func(net.Conn)
	latency   time.Duration
	udp       func(from, to netip.AddrPort) bool // false: lost
	tcp       func(from, to netip.AddrPort) bool // false: refused
	conns     map[*cutConn]struct{}
	tap       func(packet []byte) // sees every packet, under mu; may be nil
}

func newMemNet() *memNet {
	all := func(_, _ netip.AddrPort) bool { return true }
	return &memNet{
		sockets: make(map[netip.AddrPort]*memSocket), listeners: make(map[netip.AddrPort]func(net.Conn)),
		latency: time.Millisecond, udp: all, tcp: all, conns: make(map[*cutConn]struct{}),
	}
}

// rules sets who reaches whom, and breaks the connections that may not be any more.
func (n *memNet) rules(udp, tcp func(from, to netip.AddrPort) bool) {
	n.mu.Lock()
	n.udp, n.tcp = udp, tcp
	var broken []*cutConn
	for c := range n.conns {
		if !tcp(c.from, c.to) || !tcp(c.to, c.from) {
			broken = append(broken, c)
		}
	}
	n.mu.Unlock()
	for _, c := range broken {
		_ = c.Close()
	}
}

func (n *memNet) lossy(share float64) {
	n.rules(func(_, _ netip.AddrPort) bool { return rand.Float64() >= share },
		func(_, _ netip.AddrPort) bool { return true })
}

func (n *memNet) socket(addr netip.AddrPort) *memSocket {
	s := &memSocket{
		net: n, addr: addr, inbox: make(chan memPacket, 1024),
		closed: make(chan struct{}), changed: make(chan struct{}),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sockets[addr] = s
	return s
}

// listen serves TCP connections to addr until the returned function is called.
func (n *memNet) listen(addr netip.AddrPort, serve func(net.Conn)) (stop func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[addr] = serve
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.listeners, addr)
	}
}

func (n *memNet) dial(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) {
	n.mu.Lock()
	serve, ok := n.listeners[to]
	ok = ok && n.tcp(from, to) && n.tcp(to, from)
	n.mu.Unlock()
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	near, far := net.Pipe()
	a := &cutConn{Conn: near, net: n, from: from, to: to}
	b := &cutConn{Conn: far, net: n, from: to, to: from}
	n.mu.Lock()
	n.conns[a], n.conns[b] = struct{}{}, struct{}{}
	n.mu.Unlock()
	go serve(b)
	return a, ctx.Err()
}

type cutConn struct {
	net.Conn
	net      *memNet
	from, to netip.AddrPort
}

func (c *cutConn) Close() error {
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
	return c.Conn.Close()
}

func (c *cutConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.to) }

type memPacket struct {
	from netip.AddrPort
	data []byte
}

// memSocket is a net.PacketConn of the network.
type memSocket struct {
	net    *memNet
	addr   netip.AddrPort
	inbox  chan memPacket
	once   sync.Once
	closed chan struct{}

	mu       sync.Mutex
	deadline time.Time
	changed  chan struct{} // closed when the deadline changes
}

func (s *memSocket) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		s.mu.Lock()
		deadline, changed := s.deadline, s.changed
		s.mu.Unlock()
		var expired <-chan time.Time
		if !deadline.IsZero() {
			wait := time.Until(deadline)
			if wait <= 0 {
				return 0, nil, os.ErrDeadlineExceeded
			}
			expired = time.After(wait)
		}
		select {
		case p := <-s.inbox:
			return copy(b, p.data), net.UDPAddrFromAddrPort(p.from), nil
		case <-s.closed:
			return 0, nil, net.ErrClosed
		case <-expired:
			return 0, nil, os.ErrDeadlineExceeded
		case <-changed:
		}
	}
}

func (s *memSocket) WriteTo(b []byte, to net.Addr) (int, error) {
	addr := to.(*net.UDPAddr).AddrPort()
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	default:
	}
	s.net.send(s.addr, addr, b)
	return len(b), nil
}

// send delivers a packet as if it came from an address.
func (n *memNet) send(from, to netip.AddrPort, b []byte) {
	n.mu.Lock()
	target, pass, latency := n.sockets[to], n.udp(from, to), n.latency
	if n.tap != nil {
		n.tap(b)
	}
	n.mu.Unlock()
	if target == nil || !pass {
		return
	}
	p := memPacket{from: from, data: append([]byte(nil), b...)}
	time.AfterFunc(latency, func() {
		select {
		case target.inbox <- p:
		default:
		}
	})
}

func (s *memSocket) Close() error {
	s.once.Do(func() {
		s.net.mu.Lock()
		if s.net.sockets[s.addr] == s {
			delete(s.net.sockets, s.addr)
		}
		s.net.mu.Unlock()
		close(s.closed)
	})
	return nil
}

func (s *memSocket) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(s.addr) }

func (s *memSocket) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

func (s *memSocket) SetDeadline(t time.Time) error    { return s.SetReadDeadline(t) }
func (s *memSocket) SetWriteDeadline(time.Time) error { return nil }
