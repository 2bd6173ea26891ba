package membership

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"
)

// youngLink: two links opened at nearly the same time are told apart by name, not by age.
const youngLink = 3 * time.Second

// drainTime is how long a link that lost to another still receives.
const drainTime = 2 * time.Second

// errUnreachable: the last attempts to reach the peer failed a moment ago.
var errUnreachable = errors.New("peer unreachable, by UDP and TCP")

// peer is another node as the underlay sees it: at most one link by each path, a short queue, and
// one goroutine that sends. The goroutine alone blocks in send; upkeep closes the link if it does
// so for too long.
type peer struct {
	under *underlay
	name  string
	wake  chan struct{} // cap 1: there may be something to send or a link to send it on

	mu struct {
		sync.Mutex
		addr       netip.AddrPort
		udp, tcp   *link
		queue      [][]byte // oldest first; at most maxQueued
		connecting bool
		changed    chan struct{} // closed when a link appears or an attempt ends, then replaced
		failures   int           // attempts in a row that ended without a link
		failedAt   time.Time
		udpOff     int // attempts by UDP in a row that failed
		udpAt      time.Time
		used       time.Time

		sent, received, queueDrops uint64
	}
	gone chan struct{} // closed by the upkeep when the peer is forgotten
}

func newPeer(u *underlay, name string) *peer {
	p := &peer{under: u, name: name, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	p.mu.changed = make(chan struct{})
	p.mu.used = u.opts.Now()
	return p
}

func (p *peer) setAddr(a netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.addr = a
}

// touch keeps the peer from being forgotten.
func (p *peer) touch() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.used = p.under.opts.Now()
}

func (p *peer) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// enqueue adds a packet, dropping the oldest when full. It reports false when the peer has no link
// and was found unreachable a moment ago.
func (p *peer) enqueue(packet []byte) bool {
	now := p.under.opts.Now()
	p.mu.Lock()
	p.mu.used = now
	if p.linkLocked() == nil && now.Before(p.retryAtLocked()) {
		p.mu.Unlock()
		return false
	}
	if len(p.mu.queue) >= maxQueued {
		p.mu.queue = p.mu.queue[1:]
		p.mu.queueDrops++
	}
	p.mu.queue = append(p.mu.queue, packet)
	p.mu.Unlock()
	p.signal()
	return true
}

// retryAtLocked is when a failed peer is dialled again for packets: 0.2 s doubling to 6.4 s.
// Streams dial at once.
func (p *peer) retryAtLocked() time.Time {
	if p.mu.failures == 0 {
		return time.Time{}
	}
	return p.mu.failedAt.Add(100 * time.Millisecond << min(p.mu.failures, 6))
}

// linkLocked chooses the link to send on: the path that the peer used last, because the peer may
// know of a broken path that we have not tried.
func (p *peer) linkLocked() *link {
	switch {
	case p.mu.udp == nil:
		return p.mu.tcp
	case p.mu.tcp == nil, p.mu.udp.heard.Load() >= p.mu.tcp.heard.Load():
		return p.mu.udp
	}
	return p.mu.tcp
}

// next takes the oldest packet and the link to send it on; without a link the packet stays.
func (p *peer) next() (packet []byte, l *link, waiting bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mu.queue) == 0 {
		return nil, nil, false
	}
	l = p.linkLocked()
	if l == nil {
		return nil, nil, true
	}
	packet = p.mu.queue[0]
	p.mu.queue = p.mu.queue[1:]
	p.mu.sent++
	return packet, l, true
}

// sendLoop is the peer's one sender.
func (p *peer) sendLoop() {
	for {
		select {
		case <-p.wake:
		case <-p.gone:
			return
		case <-p.under.ctx.Done():
			return
		}
		for p.sendOne() {
		}
	}
}

func (p *peer) sendOne() bool {
	packet, l, waiting := p.next()
	if l == nil {
		if waiting {
			p.connect()
		}
		return false
	}
	if err := l.send(packet); err != nil {
		l.close(closeBroken)
	}
	return true
}

// openStream opens a stream on the current link, connecting first if there is none. When the link
// turns out to be dead it tries once more on another.
func (p *peer) openStream(ctx context.Context) (net.Conn, error) {
	for {
		l, err := p.await(ctx)
		if err != nil {
			return nil, err
		}
		conn, err := l.openStream(ctx)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		l.close(closeBroken)
	}
}

// await returns a link once there is one, or the end of the attempt that failed to make one.
func (p *peer) await(ctx context.Context) (*link, error) {
	tried := false
	for {
		p.mu.Lock()
		p.mu.used = p.under.opts.Now()
		l, changed, connecting := p.linkLocked(), p.mu.changed, p.mu.connecting
		p.mu.Unlock()
		switch {
		case l != nil:
			return l, nil
		case tried && !connecting:
			return nil, errUnreachable
		}
		tried = true
		p.connect()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// adopt makes a fresh link the peer's, and reports whether it is kept. Of two links by one path
// both sides must keep the same: when both are young, the one that the smaller name opened,
// otherwise the newer. The other still receives for drainTime.
func (p *peer) adopt(l *link) bool {
	if !p.under.admit(l) {
		return false
	}
	now := p.under.opts.Now()
	p.mu.Lock()
	slot := &p.mu.udp
	if l.path == PathTCP {
		slot = &p.mu.tcp
	} else {
		p.mu.udpOff = 0
	}
	loser := *slot
	if loser != nil && now.Sub(loser.born) < youngLink && loser.opener < l.opener {
		loser = l
	} else {
		*slot = l
	}
	p.mu.failures = 0
	close(p.mu.changed)
	p.mu.changed = make(chan struct{})
	p.mu.Unlock()
	if loser != nil {
		p.under.drain(loser)
	}
	p.signal()
	p.under.log.Debug("gossip link up", zap.String("peer", p.name), zap.String("path", string(l.path)))
	return true
}

// drop forgets a closed link, and lets the sender look for another.
func (p *peer) drop(l *link) {
	p.mu.Lock()
	if p.mu.udp == l {
		p.mu.udp = nil
	}
	if p.mu.tcp == l {
		p.mu.tcp = nil
	}
	p.mu.Unlock()
	p.signal()
}

// noteReceived counts for Links.
func (p *peer) noteReceived() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.received++
	p.mu.used = p.under.opts.Now()
}
