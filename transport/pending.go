package transport

import (
	"net"
	"net/netip"
	"sync"
)

// pending counts handshakes under way, in all and for each source. Safe for concurrent use.
type pending struct {
	limit, perSource int

	mu      sync.Mutex
	all     int
	sources map[netip.Prefix]int // no zero counts: at most limit entries
}

func newPending(limit, perSource int) *pending {
	return &pending{limit: limit, perSource: perSource, sources: make(map[netip.Prefix]int)}
}

func (p *pending) enter(source netip.Prefix) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all >= p.limit || p.sources[source] >= p.perSource {
		return false
	}
	p.all++
	p.sources[source]++
	return true
}

func (p *pending) leave(source netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all--
	if p.sources[source]--; p.sources[source] == 0 {
		delete(p.sources, source)
	}
}

func (p *pending) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all
}

// sourceOf is what counts as one host: an IPv4 address, or an IPv6 /64, which a host can fill by
// itself. Addresses of other networks share the zero prefix.
func sourceOf(addr net.Addr) netip.Prefix {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(ip, bits).Masked()
}
