package membership

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"go.uber.org/zap"
)

// connect starts an attempt to reach the peer, unless one runs or has just made a link. It returns
// at once.
func (p *peer) connect() {
	p.mu.Lock()
	needed := !p.mu.connecting && p.linkLocked() == nil
	p.mu.connecting = p.mu.connecting || needed
	p.mu.Unlock()
	if !needed {
		return
	}
	if !p.under.spawn(p.attempt) {
		p.attempted(net0, errUnreachable)
	}
}

// net0 is an attempt that reached nobody.
const net0 = Path("")

// attempt dials by QUIC and, when that takes long or fails, by TCP as well. The first link wins;
// QUIC may still come second, and is then preferred because the peer is heard on it last.
func (p *peer) attempt() {
	ctx, cancel := context.WithCancel(p.under.ctx)
	defer cancel()
	select {
	case p.under.dials <- struct{}{}:
		defer func() { <-p.under.dials }()
	case <-ctx.Done():
		p.attempted(net0, ctx.Err())
		return
	}
	addr, udpAllowed := p.target()
	if !addr.IsValid() {
		p.attempted(net0, errNameless)
		return
	}
	udp := make(chan error, 1)
	if udpAllowed {
		p.under.wg.Go(func() { udp <- p.dialUDP(ctx, addr) })
		timer := time.NewTimer(p.under.opts.Timing.FallbackDelay)
		defer timer.Stop()
		select {
		case err := <-udp:
			if err == nil || errors.Is(err, errNotPeer) {
				p.attempted(PathUDP, err)
				return
			}
			udp <- err
		case <-timer.C:
		}
	} else {
		udp <- errUDPOff
	}
	tcpErr := p.dialTCP(ctx, addr)
	if tcpErr == nil {
		p.attempted(PathTCP, nil)
	}
	udpErr := <-udp
	switch {
	case udpErr == nil:
		p.attempted(PathUDP, nil)
	case tcpErr != nil:
		p.attempted(net0, errors.Join(udpErr, tcpErr))
	}
}

var (
	// errUDPOff: UDP to this peer failed lately and is not tried for a while.
	errUDPOff = errors.New("udp paused")
	// errNotPeer: another node than the one dialled answered.
	errNotPeer = errors.New("another node answered")
	// errNoFallback: Options.DialTCP is nil.
	errNoFallback = errors.New("no tcp fallback")
	// errFull: maxLinks links are all in use.
	errFull = errors.New("all links in use")
)

// target returns where to dial and whether UDP may be tried.
func (p *peer) target() (netip.AddrPort, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.addr, p.mu.udpOff == 0 || p.under.opts.DialTCP == nil || !p.under.opts.Now().Before(p.mu.udpAt)
}

// attempted ends the attempt as far as others wait for it.
func (p *peer) attempted(path Path, err error) {
	p.mu.Lock()
	p.mu.connecting = false
	if err != nil {
		p.mu.failures++
		p.mu.failedAt = p.under.opts.Now()
		if p.linkLocked() == nil {
			// Not UDP is blocked, the peer is gone: when it is back, UDP is as good as before.
			p.mu.udpOff = 0
			p.mu.queueDrops += uint64(len(p.mu.queue))
			p.mu.queue = nil
		}
	}
	close(p.mu.changed)
	p.mu.changed = make(chan struct{})
	p.mu.Unlock()
	p.signal()
	if err != nil {
		p.under.log.Debug("gossip link failed", zap.String("peer", p.name), zap.Error(err))
		return
	}
	p.under.log.Debug("gossip link dialled", zap.String("peer", p.name), zap.String("path", string(path)))
}

// udpFailed pauses UDP to the peer: UDPRetry, doubling up to 16 times that. While it is paused the
// upkeep tries again whenever the pause is over.
func (p *peer) udpFailed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pauseUDPLocked()
	p.mu.udpOff++
}

func (p *peer) pauseUDPLocked() {
	p.mu.udpAt = p.under.opts.Now().Add(p.under.opts.Timing.UDPRetry << min(p.mu.udpOff, 4))
}

// dialUDP opens a QUIC link.
func (p *peer) dialUDP(ctx context.Context, addr netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, p.under.opts.Timing.DialTimeout)
	defer cancel()
	l, err := p.under.dialQUIC(ctx, p, addr)
	if err != nil {
		if !errors.Is(err, errNotPeer) {
			p.udpFailed()
		}
		return fmt.Errorf("udp %s: %w", addr, err)
	}
	if !p.adopt(l) {
		l.close(closeBusy)
		return errFull
	}
	return nil
}

// dialTCP opens the packet link of the fallback.
func (p *peer) dialTCP(ctx context.Context, addr netip.AddrPort) error {
	if p.under.opts.DialTCP == nil {
		return errNoFallback
	}
	ctx, cancel := context.WithTimeout(ctx, p.under.opts.Timing.DialTimeout)
	defer cancel()
	conn, err := p.under.dialMesh(ctx, p.name, addr, prefacePackets)
	if err != nil {
		return fmt.Errorf("tcp %s: %w", addr, err)
	}
	l := newLink(p, PathTCP, p.under.opts.Name, p.under.newTCPCarrier(p.name, addr, conn))
	if !p.adopt(l) {
		l.close(closeBusy)
		return errFull
	}
	if !p.under.spawn(func() { readFrames(l) }) {
		l.close(closeStopping)
	}
	return nil
}

// retryUDP is the way back from TCP, started by the upkeep.
func (p *peer) retryUDP() {
	select {
	case p.under.dials <- struct{}{}:
		defer func() { <-p.under.dials }()
	default:
		return
	}
	addr, _ := p.target()
	if err := p.dialUDP(p.under.ctx, addr); err != nil {
		p.under.log.Debug("udp still blocked", zap.String("peer", p.name), zap.Error(err))
	}
}
