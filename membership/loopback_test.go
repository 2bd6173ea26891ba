package membership

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// loopback is the network of this machine.
type loopback struct{ t *testing.T }

func (l loopback) packets(addr netip.AddrPort) net.PacketConn {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		l.t.Fatal(err)
	}
	return conn
}

func (l loopback) serve(addr netip.AddrPort, serve func(net.Conn)) func() {
	listener, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(addr))
	if err != nil {
		l.t.Fatal(err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return func() { _ = listener.Close() }
}

func (l loopback) dialFrom(ctx context.Context, _, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp4", to.String())
}

// freeAddr is an address of the i-th loopback host whose port is free for UDP and TCP.
func (l loopback) freeAddr(i int) netip.AddrPort {
	host := netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 2)})
	for range 20 {
		listener, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(host, 0)))
		if err != nil {
			l.t.Skipf("no loopback address %s: %v", host, err)
		}
		addr := listener.Addr().(*net.TCPAddr).AddrPort()
		_ = listener.Close()
		conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(addr))
		if err == nil {
			_ = conn.Close()
			return addr
		}
	}
	l.t.Fatal("no free port")
	return netip.AddrPort{}
}

// Real sockets: four nodes find each other by UDP, garbage changes nothing, a killed one is found
// dead, and restarted it is back.
func TestLoopback(t *testing.T) {
	c := newCluster(t)
	l := loopback{t}
	c.net, c.mem = l, nil
	c.tune = func(o *Options) {
		o.Timing.ProbeInterval, o.Timing.ProbeTimeout = 150*time.Millisecond, 75*time.Millisecond
		o.Timing.GossipInterval, o.Timing.RejoinInterval = 30*time.Millisecond, time.Second
	}
	defer c.stop()
	for i := range 4 {
		var seeds []string
		if i > 0 {
			seeds = []string{"n0"}
		}
		c.start(fmt.Sprint("n", i), l.freeAddr(i), seeds...)
	}
	c.eventually(20*time.Second, "converged", c.converged)
	outside, err := net.Dial("udp4", c.nodes["n0"].addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = outside.Close() }()
	for i := range 200 {
		_, _ = outside.Write(make([]byte, i))
	}
	addr := c.nodes["n2"].addr
	c.crash("n2")
	c.eventually(20*time.Second, "n2 dead, the others alive", func() bool {
		return c.nodes["n0"].stateOf("n2") == StateDead && c.nodes["n3"].stateOf("n2") == StateDead && c.converged()
	})
	c.start("n2", addr, "n0")
	c.eventually(20*time.Second, "n2 back", c.converged)
	c.eventually(20*time.Second, "n2 has a link by UDP", func() bool {
		for _, link := range c.nodes["n2"].Links() {
			if link.Path == PathUDP {
				return true
			}
		}
		return false
	})
}
