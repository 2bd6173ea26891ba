package membership

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"time"

	"go.uber.org/zap"
)

const (
	// rejoinAtOnce is how many nodes are tried in one round.
	rejoinAtOnce = 3
	// aloneInterval is the pause between rounds while nobody else is alive.
	aloneInterval = time.Second
)

// rejoinLoop tries seeds and dead members again for as long as they are missing. memberlist talks
// to the dead for half a minute only: after a longer split the halves would never meet again.
func (m *Membership) rejoinLoop(ctx context.Context) {
	for ctx.Err() == nil {
		missing, alone := m.missing()
		if alone {
			m.join(ctx, sample(missing, maxDials))
			pause(ctx, jitter(min(aloneInterval, m.opts.Timing.RejoinInterval)))
			continue
		}
		m.join(ctx, sample(missing, rejoinAtOnce))
		pause(ctx, jitter(m.opts.Timing.RejoinInterval))
	}
}

// bindingsLoop looks again when the bindings changed: members may have lost theirs, which ends
// their links, and peers refused before may be known now.
func (m *Membership) bindingsLoop(ctx context.Context) {
	for {
		select {
		case _, ok := <-m.opts.BindingsChanged:
			if !ok {
				return
			}
		case <-ctx.Done():
			return
		}
		m.look()
		m.under.cut(m.fw.expelled)
		refused := m.strays.take()
		if len(refused) == 0 {
			continue
		}
		m.join(ctx, m.resyncWith(refused))
	}
}

// resyncWith returns whom to exchange states with after bindings arrived: some members, which know
// the others, and the refused peers themselves, by the links that they opened.
func (m *Membership) resyncWith(refused map[string]struct{}) []Seed {
	var out []Seed
	for _, member := range m.Members() {
		if member.State == StateAlive && member.Name != m.opts.Name {
			out = append(out, Seed{Node: member.Name, Addr: member.Addr})
		}
	}
	out = sample(out, rejoinAtOnce)
	for _, p := range m.under.peers() {
		if _, ok := refused[p.name]; !ok {
			continue
		}
		if addr, ok := p.remoteAddr(); ok {
			out = append(out, Seed{Node: p.name, Addr: addr})
		}
	}
	return out
}

// remoteAddr is the address at the other end of the peer's link.
func (p *peer) remoteAddr() (netip.AddrPort, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.linkLocked()
	if l == nil {
		return netip.AddrPort{}, false
	}
	addr, err := netip.ParseAddrPort(l.remote().String())
	return addr, err == nil
}

// join exchanges states with the given nodes, a few at a time.
func (m *Membership) join(ctx context.Context, seeds []Seed) {
	someAtOnce(ctx, m.named(ctx, seeds), func(s Seed) {
		defer m.under.aims.take(s)()
		if _, err := m.list.Join([]string{s.Node + "/" + s.Addr.String()}); err != nil {
			m.opts.Log.Debug("join", zap.String("peer", s.Node), zap.Error(err))
			return
		}
		m.look()
	})
}

// sample returns at most n of the seeds, at random.
func sample(seeds []Seed, n int) []Seed {
	rand.Shuffle(len(seeds), func(i, j int) { seeds[i], seeds[j] = seeds[j], seeds[i] })
	return seeds[:min(n, len(seeds))]
}

// jitter is d, give or take half.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d+1)
}
