package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/state"
)

const (
	// dialStagger is the head start of a better address over the next one in a dial.
	dialStagger = 250 * time.Millisecond
	// nameTimeout bounds the look-up of all configured host names.
	nameTimeout = 2 * time.Second
)

// book finds the mesh address of a node: from gossip, which is freshest, else from the replicated
// node row, else from the members last seen before this start. Nobody else answers at a wrong address: the
// certificate there would have another name.
type book struct {
	self    string
	mesh    func(ctx context.Context, node, alpn, addr string) (net.Conn, error)
	view    func() *state.View
	members func() []membership.Member
	known   []knownMember // as read at start; never changed
	join    []string      // as configured

	founders func() []state.EpochStatement // of an epoch that the View has not reached; nil: none
}

// address returns the mesh address of node that is most likely right.
func (b *book) address(node string) (netip.AddrPort, error) {
	all := b.addresses(node)
	if len(all) == 0 {
		return netip.AddrPort{}, fmt.Errorf("no address is known for node %q", node)
	}
	return all[0], nil
}

// addresses lists where node may be, the likeliest first. Where gossip saw it die counts less than where its row
// says that it is: the row is newer if the node has moved since.
func (b *book) addresses(node string) []netip.AddrPort {
	var out []netip.AddrPort
	add := func(addr netip.AddrPort, err error) {
		if err == nil && addr.IsValid() && !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	var died netip.AddrPort
	for _, m := range b.members() {
		if m.Name != node {
			continue
		}
		if died = m.Addr; !m.State.Gone() {
			add(m.Addr, nil)
		}
	}
	if row, ok := b.view().Node(node); ok {
		add(netip.ParseAddrPort(row.Address))
	}
	for _, f := range b.founding() {
		if f.Node == node {
			add(netip.ParseAddrPort(f.Address))
		}
	}
	add(died, nil)
	for _, k := range b.known {
		if k.Node == node {
			add(netip.ParseAddrPort(k.Addr))
		}
	}
	return out
}

// founding are the hosts that began an epoch which the View has not reached.
func (b *book) founding() []state.EpochStatement {
	if b.founders == nil {
		return nil
	}
	return b.founders()
}

// dial opens a mutually authenticated connection to node for one protocol of the mesh port, at whichever of its
// addresses it answers first.
func (b *book) dial(ctx context.Context, node, alpn string) (net.Conn, error) {
	addrs := b.addresses(node)
	if len(addrs) == 0 {
		return nil, fmt.Errorf("no address is known for node %q", node)
	}
	return firstOf(ctx, addrs, func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
		return b.mesh(ctx, node, alpn, addr.String())
	})
}

// firstOf dials the addresses, each dialStagger after the one before it, or at once when all before it have
// failed, and returns the first connection. The others are closed.
func firstOf(ctx context.Context, addrs []netip.AddrPort, dial func(context.Context, netip.AddrPort) (net.Conn, error)) (net.Conn, error) {
	if len(addrs) == 1 {
		return dial(ctx, addrs[0])
	}
	type result struct {
		conn net.Conn
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result, len(addrs))
	start := func(addr netip.AddrPort) {
		go func() {
			conn, err := dial(ctx, addr)
			results <- result{conn, err}
		}()
	}
	started, ended := 0, 0
	defer func() {
		cancel()
		go func(left int) { // the buffer takes all of them, but those that came through must be closed
			for range left {
				if r := <-results; r.conn != nil {
					_ = r.conn.Close()
				}
			}
		}(started - ended)
	}()
	next := time.NewTimer(0)
	defer next.Stop()
	var failed []error
	for {
		select {
		case <-next.C:
			if started < len(addrs) {
				start(addrs[started])
				started++
				next.Reset(dialStagger)
			}
		case r := <-results:
			ended++
			if r.err == nil {
				return r.conn, nil
			}
			if failed = append(failed, r.err); ended == len(addrs) {
				return nil, errors.Join(failed...)
			}
			if ended == started {
				next.Reset(0)
			}
		}
	}
}

// seeds lists everyone whom gossip may try to reach: the configured addresses, whoever is there, the members last
// seen and the replicated nodes, which may be known at several addresses.
func (b *book) seeds() []membership.Seed {
	return b.addKnown(b.configured())
}

// addKnown appends the nodes whose address is known, up to maxKnown in all.
func (b *book) addKnown(out []membership.Seed) []membership.Seed {
	listed := make(map[membership.Seed]bool)
	add := func(node, addr string) {
		ap, err := netip.ParseAddrPort(addr)
		s := membership.Seed{Node: node, Addr: ap}
		if err != nil || node == b.self || len(out) >= maxKnown || listed[s] {
			return
		}
		listed[s] = true
		out = append(out, s)
	}
	for _, k := range b.known {
		add(k.Node, k.Addr)
	}
	for _, n := range b.view().Nodes() {
		if !n.Left {
			add(n.Name, n.Address)
		}
	}
	return out
}

// configured are the addresses of the configuration, at which any agent may be. Host names are looked up each time:
// they are what somebody changes when hosts move.
func (b *book) configured() []membership.Seed {
	ctx, cancel := context.WithTimeout(context.Background(), nameTimeout)
	defer cancel()
	found := make([][]netip.AddrPort, len(b.join))
	var lookups sync.WaitGroup
	for i, text := range b.join {
		if addr, err := netip.ParseAddrPort(text); err == nil {
			found[i] = []netip.AddrPort{addr}
			continue
		}
		lookups.Go(func() { found[i] = lookup(ctx, text) })
	}
	lookups.Wait()
	var out []membership.Seed
	for _, addr := range slices.Concat(found...) {
		if s := (membership.Seed{Addr: addr}); !slices.Contains(out, s) && len(out) < maxConfigured {
			out = append(out, s)
		}
	}
	return out
}

// maxConfigured bounds the addresses to which the configured names resolve.
const maxConfigured = 128

func lookup(ctx context.Context, text string) []netip.AddrPort {
	host, portText, err := net.SplitHostPort(text)
	if err != nil {
		return nil
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil // not now; gossip asks again while somebody is missing
	}
	var out []netip.AddrPort
	for _, ip := range ips {
		out = append(out, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	return out
}
