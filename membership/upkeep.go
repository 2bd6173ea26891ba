package membership

import (
	"time"

	"go.uber.org/zap"
)

const (
	// evictIdle is how long a link must have been unused before it may make room.
	evictIdle = 5 * time.Second
	// tcpLinger is how long the fallback's link outlives the return to UDP.
	tcpLinger = 10 * time.Second
	// tcpStallFactor times StallAfter is the patience with a TCP link: the kernel retransmits.
	tcpStallFactor = 5
)

// admit counts a new link, evicting the one idle longest when there are too many. It reports
// false when all are in use, when the peer has too many, or when stopping.
func (u *underlay) admit(l *link) bool {
	victim, ok := u.makeRoom(l, u.opts.Now())
	if victim != nil {
		victim.close(closeIdle)
	}
	return ok
}

func (u *underlay) makeRoom(l *link, now time.Time) (victim *link, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	same := 0
	for c := range u.mu.links {
		if c.peer == l.peer {
			same++
		}
		if c.evictable(now) && (victim == nil || c.used.Load() < victim.used.Load()) {
			victim = c
		}
	}
	full := len(u.mu.links) >= maxLinks
	if u.mu.closed || same >= maxPeerLinks || full && victim == nil {
		return nil, false
	}
	if full {
		delete(u.mu.links, victim)
	} else {
		victim = nil
	}
	u.mu.links[l] = struct{}{}
	return victim, true
}

// cut closes the links of every peer that is out.
func (u *underlay) cut(out func(name string) bool) {
	for _, p := range u.peers() {
		if !out(p.name) {
			continue
		}
		p.mu.Lock()
		udp, tcp := p.mu.udp, p.mu.tcp
		p.mu.Unlock()
		for _, l := range []*link{udp, tcp} {
			if l != nil {
				l.close(closeRefused)
			}
		}
	}
}

func (u *underlay) unlink(l *link) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.mu.links, l)
}

// drain closes a link that lost to another after what is on the way has come.
func (u *underlay) drain(l *link) {
	if l.draining.Swap(true) {
		return
	}
	ok := u.spawn(func() {
		timer := time.NewTimer(drainTime)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-u.ctx.Done():
		}
		l.close(closeDuplicate)
	})
	if !ok {
		l.close(closeStopping)
	}
}

// upkeepLoop watches over the links: stalls, the way back to UDP, peers no longer in use.
func (u *underlay) upkeepLoop() {
	every := min(u.opts.Timing.StallAfter/3, u.opts.Timing.ProbeInterval/4)
	timer := time.NewTimer(u.opts.NextBeat(every))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			timer.Reset(u.opts.NextBeat(every))
		case <-u.ctx.Done():
			return
		}
		now := u.opts.Now()
		for _, p := range u.peers() {
			p.upkeep(now)
		}
	}
}

func (u *underlay) peers() []*peer {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := make([]*peer, 0, len(u.mu.peers))
	for _, p := range u.mu.peers {
		out = append(out, p)
	}
	return out
}

func (p *peer) upkeep(now time.Time) {
	p.mu.Lock()
	udp, tcp := p.mu.udp, p.mu.tcp
	udpAt, connecting := p.mu.udpAt, p.mu.connecting
	idle := udp == nil && tcp == nil && !p.mu.connecting && now.Sub(p.mu.used) > idlePeer
	p.mu.Unlock()
	if idle {
		p.under.forget(p, now)
		return
	}
	if udp != nil {
		if err := udp.stands(); err != nil {
			p.under.log.Info("gossip link closed, its peer would be refused now", zap.String("peer", p.name), zap.Error(err))
			udp.close(closeRefused)
			return
		}
		p.watchUDP(udp, tcp, now)
	}
	if tcp != nil {
		p.watchTCP(tcp, now)
	}
	if tcp != nil && udp == nil && !connecting && !now.Before(udpAt) {
		// Whatever led here: after a freeze the other side may have come by TCP, without a failure of ours. The
		// pause starts over now, so that this attempt is the only one; it grows when the attempt has failed.
		p.mu.Lock()
		p.pauseUDPLocked()
		p.mu.Unlock()
		p.under.spawn(p.retryUDP)
	}
}

// watchUDP gives up a QUIC link on which nothing is acknowledged any more, a send that blocks
// included, and goes over to TCP at once. It closes the fallback when UDP has proven itself.
func (p *peer) watchUDP(udp, tcp *link, now time.Time) {
	if udp.stalledFor(now) >= p.under.opts.Timing.StallAfter {
		p.under.log.Info("gossip by udp stalled", zap.String("peer", p.name))
		p.udpFailed()
		udp.close(closeStalled)
		if p.under.opts.DialTCP != nil {
			p.connect()
		}
		return
	}
	if tcp != nil && now.Sub(time.Unix(0, tcp.heard.Load())) > tcpLinger && tcp.evictable(now) {
		tcp.close(closeIdle)
	}
}

func (p *peer) watchTCP(tcp *link, now time.Time) {
	stalled := tcp.stalledFor(now)
	if stalled >= tcpStallFactor*p.under.opts.Timing.StallAfter {
		tcp.close(closeStalled)
		return
	}
	if c, ok := tcp.carrier.(*tcpCarrier); ok && stalled > 0 {
		p.under.spawn(func() { _ = c.ask() })
	}
}

// forget ends a peer that has no link and was not used for idlePeer.
func (u *underlay) forget(p *peer, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if u.mu.peers[p.name] != p || p.mu.udp != nil || p.mu.tcp != nil || p.mu.connecting || now.Sub(p.mu.used) <= idlePeer {
		return
	}
	delete(u.mu.peers, p.name)
	close(p.gone)
}

// LinkStat is how one peer is reached.
type LinkStat struct {
	Node     string
	Path     Path // empty while there is no link
	Since    time.Time
	Sent     uint64 // packets handed to a link
	Received uint64 // packets and streams from the peer
	Dropped  uint64 // packets that found no link in time
}

// stats returns a LinkStat for every peer in use, in no order.
func (u *underlay) stats() []LinkStat {
	peers := u.peers()
	out := make([]LinkStat, 0, len(peers))
	for _, p := range peers {
		p.mu.Lock()
		s := LinkStat{Node: p.name, Sent: p.mu.sent, Received: p.mu.received, Dropped: p.mu.queueDrops}
		if l := p.linkLocked(); l != nil {
			s.Path, s.Since = l.path, l.born
		}
		p.mu.Unlock()
		out = append(out, s)
	}
	return out
}
