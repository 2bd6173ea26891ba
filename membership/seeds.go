package membership

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"go.uber.org/zap"
)

// maxSeedNames bounds the answers that are remembered; when full they are asked for again.
const maxSeedNames = 1024

// seedNames remembers who answered at the addresses of seeds without a name. Safe for concurrent use.
type seedNames struct {
	mu struct {
		sync.Mutex
		names map[netip.AddrPort]string
	}
}

func (s *seedNames) get(addr netip.AddrPort) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.names[addr]
}

func (s *seedNames) set(addr netip.AddrPort, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.names == nil || len(s.mu.names) >= maxSeedNames {
		s.mu.names = make(map[netip.AddrPort]string)
	}
	s.mu.names[addr] = name
}

// missing returns the seeds and last-known members that are not alive, and whether nobody is. A member that is
// dead where gossip saw it last may have moved, and is sought at every place that a seed names.
func (m *Membership) missing() (out []Seed, alone bool) {
	alone = true
	here := map[string]bool{m.opts.Name: true} // alive, or not to be sought
	at := map[netip.AddrPort]bool{m.opts.Advertise: true}
	listed := make(map[Seed]bool)
	add := func(s Seed) {
		if !listed[s] {
			listed[s] = true
			out = append(out, s)
		}
	}
	for _, member := range m.Members() {
		switch {
		case member.Name == m.opts.Name:
		case member.State == StateAlive || member.State == StateSuspect:
			alone = false
			here[member.Name], at[member.Addr] = true, true
		case member.State == StateDead && m.fw.expelled(member.Name):
			here[member.Name] = true
		case member.State == StateDead:
			add(Seed{Node: member.Name, Addr: member.Addr})
		}
	}
	for _, s := range m.opts.Seeds() {
		s.Addr = netip.AddrPortFrom(s.Addr.Addr().Unmap(), s.Addr.Port())
		switch {
		case !s.Addr.IsValid() || here[s.Node]:
		case s.Node != "" && validName(s.Node):
			add(s)
		case s.Node == "" && !at[s.Addr] && !here[m.seeds.get(s.Addr)]:
			add(s)
		}
	}
	return out, alone
}

// named asks the seeds without a name who they are, and leaves one seed of each node: two dials of one node
// at different addresses would get in each other's way. Who answered comes first, and wins over hearsay.
func (m *Membership) named(ctx context.Context, seeds []Seed) []Seed {
	var mu sync.Mutex
	var out []Seed
	seen := map[string]bool{m.opts.Name: true}
	add := func(s Seed) {
		mu.Lock()
		defer mu.Unlock()
		if !seen[s.Node] {
			seen[s.Node] = true
			out = append(out, s)
		}
	}
	someAtOnce(ctx, seeds, func(s Seed) {
		if s.Node != "" {
			return
		}
		name, err := m.nameAt(ctx, s.Addr)
		if err != nil {
			m.opts.Log.Debug("seed does not answer", zap.Stringer("addr", s.Addr), zap.Error(err))
			return
		}
		m.seeds.set(s.Addr, name)
		add(Seed{Node: name, Addr: s.Addr})
	})
	for _, s := range seeds {
		if s.Node != "" {
			add(s)
		}
	}
	return out
}

// nameAt finds out by a handshake whose agent listens at addr. Its certificate says so, which our settings hold
// against the trust domain.
func (m *Membership) nameAt(ctx context.Context, addr netip.AddrPort) (string, error) {
	if m.opts.DialTCP == nil {
		return "", errNoFallback
	}
	ctx, cancel := context.WithTimeout(ctx, m.opts.Timing.DialTimeout)
	defer cancel()
	conn, err := m.opts.DialTCP(ctx, "", addr)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	t, ok := conn.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return "", errors.New("not a TLS connection")
	}
	peer, err := m.opts.Identify(t.ConnectionState())
	if err == nil && !validName(peer.Node) {
		err = fmt.Errorf("bad node name %q", peer.Node)
	}
	return peer.Node, err
}

// aims are the addresses at which nodes are being joined. What we verified about a node's address counts
// otherwise, but one that moved is not there any more. Safe for concurrent use.
type aims struct {
	mu struct {
		sync.Mutex
		addrs map[string]netip.AddrPort
	}
}

// take aims at the seed's address until release is called.
func (a *aims) take(s Seed) (release func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.addrs == nil {
		a.mu.addrs = make(map[string]netip.AddrPort)
	}
	a.mu.addrs[s.Node] = s.Addr
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.mu.addrs, s.Node)
	}
}

func (a *aims) at(node string) (netip.AddrPort, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	addr, ok := a.mu.addrs[node]
	return addr, ok
}

// someAtOnce does each seed, rejoinAtOnce of them at a time, until ctx ends.
func someAtOnce(ctx context.Context, seeds []Seed, do func(Seed)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, rejoinAtOnce)
	for _, s := range seeds {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		wg.Go(func() {
			defer func() { <-slots }()
			do(s)
		})
	}
}
