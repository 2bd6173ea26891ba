package lab

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
)

// The normal ports, on an address of its own for each agent.
const (
	meshPort = 8310
	httpPort = 8500
	dnsPort  = 8600
)

// claimHost is the last part of the address that a lab listens on, on the mesh port, to say that the
// block is taken. A claim ends with the process, whatever happens to it, and needs no file.
const claimHost = 254

// blockTries is how many blocks are tried before giving up. The first is always 127.0.0.x.
const blockTries = 50

// block is 127.A.B.x, of which agent i has x = i+1.
type block struct {
	a, b  byte
	claim net.Listener
}

// takeBlock finds a block whose addresses are free on all ports, and claims it.
func takeBlock(agents int) (*block, error) {
	var last error
	for try := range blockTries {
		b := &block{}
		if try > 0 {
			b.a, b.b = byte(1+rand.IntN(254)), byte(rand.IntN(256))
		}
		if last = b.take(agents); last == nil {
			return b, nil
		}
	}
	return nil, fmt.Errorf("no free block of loopback addresses: %w; a lab needs 127.0.0.0/8 on the loopback interface", last)
}

func (b *block) take(agents int) error {
	claim, err := net.Listen("tcp", b.addr(claimHost, meshPort))
	if err != nil {
		return err
	}
	for i := range agents {
		if err := probe(b.place(i)); err != nil {
			_ = claim.Close()
			return err
		}
	}
	b.claim = claim
	return nil
}

func (b *block) release() { _ = b.claim.Close() }

func (b *block) addr(host byte, port uint16) string {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, b.a, b.b, host}), port).String()
}

func (b *block) place(i int) Place {
	host := byte(i + 1)
	return Place{Mesh: b.addr(host, meshPort), HTTP: b.addr(host, httpPort), DNS: b.addr(host, dnsPort)}
}

// probe binds every port that an agent will use, and lets go of it.
func probe(p Place) error {
	for _, addr := range []string{p.Mesh, p.HTTP, p.DNS} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		_ = l.Close()
	}
	for _, addr := range []string{p.Mesh, p.DNS} {
		c, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		_ = c.Close()
	}
	return nil
}

// zone spreads agents over three zones, so that the core has something to spread over.
func zone(i int) string { return "z" + strconv.Itoa(i%3+1) }
