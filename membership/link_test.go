package membership

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"
)

// pretend is a carrier that goes nowhere.
type pretend struct{ closed atomic.Uint64 }

func (c *pretend) send([]byte) error                      { return nil }
func (c *pretend) open(context.Context) (net.Conn, error) { return nil, errNoFallback }
func (c *pretend) progress() uint64                       { return 0 }
func (c *pretend) remote() net.Addr                       { return &net.UDPAddr{} }
func (c *pretend) close(why closeReason)                  { c.closed.Store(uint64(why)) }

// idleUnderlay has no network; its peers are made by hand.
func idleUnderlay(now func() time.Time) *underlay {
	o := Options{Name: "self", Now: now, Timing: Fast(), Log: zap.NewNop()}
	u := newUnderlay(o, &firewall{known: newKnowledge(), probes: newProbes()})
	u.ctx, u.cancel = context.WithCancel(context.Background())
	return u
}

// A peer that is reached by TCP alone is tried by UDP again, also when no attempt of ours failed: after a freeze it was
// the peer that came by TCP, and both stayed there for good.
func TestWayBackToUDP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, connecting := range []bool{false, true} {
			u := idleUnderlay(time.Now)
			for range cap(u.dials) {
				u.dials <- struct{}{} // no dial gets through: that one was started is all we look at
			}
			p := newPeer(u, "n1")
			p.mu.tcp, p.mu.connecting = newLink(p, PathTCP, "n1", &pretend{}), connecting
			p.upkeep(time.Now())
			next := p.mu.udpAt
			if tried := !next.IsZero(); tried == connecting {
				t.Errorf("connecting %t: udp was tried: %t", connecting, tried)
			}
			time.Sleep(time.Millisecond)
			p.upkeep(time.Now())
			if p.mu.udpAt != next {
				t.Error("tried again before the pause was over")
			}
			synctest.Wait()
			u.cancel()
		}
	})
}

// The pause before UDP is tried again doubles with each attempt that failed, and not with what began it as well.
func TestPauseOfUDPDoubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := idleUnderlay(time.Now)
		for range cap(u.dials) {
			u.dials <- struct{}{} // attempts are ended by hand
		}
		p := newPeer(u, "n1")
		p.mu.tcp = newLink(p, PathTCP, "n1", &pretend{})
		p.udpFailed()
		for times := range 7 {
			want := u.opts.Timing.UDPRetry << min(times, 4)
			if pause := time.Until(p.mu.udpAt); pause != want {
				t.Errorf("after %d failures the pause is %v, want %v", times+1, pause, want)
			}
			time.Sleep(time.Until(p.mu.udpAt))
			p.upkeep(time.Now())
			p.udpFailed()
		}
		synctest.Wait()
		u.cancel()
	})
}

// With all links in use a new one is refused; one idle for five seconds, without open streams,
// makes room, the longest idle first, and its peer is told.
func TestLinkCap(t *testing.T) {
	now := time.Unix(1e9, 0)
	u := idleUnderlay(func() time.Time { return now })
	links := make([]*link, maxLinks)
	for i := range links {
		links[i] = newLink(newPeer(u, fmt.Sprint("n", i)), PathUDP, "self", &pretend{})
		if !u.admit(links[i]) {
			t.Fatalf("link %d of %d refused", i, maxLinks)
		}
	}
	extra := newLink(newPeer(u, "extra"), PathUDP, "self", &pretend{})
	if u.admit(extra) {
		t.Fatal("admitted beyond the cap while all are in use")
	}
	now = now.Add(evictIdle)
	for _, l := range links[2:] {
		l.noteHeard()
	}
	now = now.Add(time.Nanosecond)
	links[0].streams.Add(1) // the longest idle, but busy
	if !u.admit(extra) {
		t.Fatal("refused although one is idle")
	}
	if got := closeReason(links[1].carrier.(*pretend).closed.Load()); got != closeIdle {
		t.Errorf("the idle link was closed with %d, want %d", got, closeIdle)
	}
	now = now.Add(2 * evictIdle)
	extra.noteHeard()
	for i := range maxPeerLinks {
		if got, want := u.admit(newLink(extra.peer, PathUDP, "extra", &pretend{})), i < maxPeerLinks-1; got != want {
			t.Errorf("link %d of one peer admitted: %v, want %v", i+2, got, want)
		}
	}
	if len(u.mu.links) != maxLinks || links[0].carrier.(*pretend).closed.Load() != 0 {
		t.Errorf("%d links, or one with an open stream was evicted", len(u.mu.links))
	}
}

// Of two links that were opened at about the same time both sides keep the one that the smaller
// name opened; a much later one replaces it.
func TestSimultaneousDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := idleUnderlay(time.Now)
		p := newPeer(u, "peer") // "peer" < "self"
		ours := newLink(p, PathUDP, "self", &pretend{})
		theirs := newLink(p, PathUDP, "peer", &pretend{})
		p.adopt(ours)
		p.adopt(theirs)
		if p.linkLocked() != theirs {
			t.Error("kept the link of the larger name")
		}
		again := newLink(p, PathUDP, "self", &pretend{})
		p.adopt(again)
		if p.linkLocked() != theirs {
			t.Error("the larger name's second link won while both are young")
		}
		time.Sleep(drainTime - time.Millisecond)
		if ours.carrier.(*pretend).closed.Load() != 0 {
			t.Error("the loser was closed before it was drained")
		}
		time.Sleep(youngLink)
		if got := closeReason(ours.carrier.(*pretend).closed.Load()); got != closeDuplicate {
			t.Errorf("the loser was closed with %d, want %d", got, closeDuplicate)
		}
		late := newLink(p, PathUDP, "self", &pretend{})
		p.adopt(late)
		if p.linkLocked() != late {
			t.Error("a later link did not replace the old one")
		}
		time.Sleep(time.Minute)
		u.cancel()
		u.wg.Wait()
	})
}

// A new pair that dials each other at once ends with one link.
func TestOneLinkPerPair(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.tune = func(o *Options) {
			o.Seeds = func() []Seed {
				return []Seed{{Node: "n0", Addr: addrOf(0)}, {Node: "n1", Addr: addrOf(1)}}
			}
		}
		c.start("n0", addrOf(0))
		c.start("n1", addrOf(1))
		c.eventually(5*time.Second, "converged", c.converged)
		// Long enough for the losers to drain, and for a fallback that came first to close.
		time.Sleep(2 * tcpLinger)
		var openers []string
		for _, n := range c.nodes {
			n.under.mu.Lock()
			for l := range n.under.mu.links {
				openers = append(openers, l.opener)
			}
			n.under.mu.Unlock()
		}
		if len(openers) != 2 || openers[0] != openers[1] {
			t.Errorf("links opened by %v, want one, the same at both ends", openers)
		}
	})
}

// WriteToAddress never waits, and fails only with a *net.OpError that memberlist takes for a
// failure of the remote side.
func TestWriteToAddress(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.startN(2)
		c.eventually(5*time.Second, "converged", c.converged)
		u := c.nodes["n0"].under
		isWriteError := func(err error) bool {
			op, ok := err.(*net.OpError) //nolint:errorlint // memberlist looks by a type switch
			return ok && op.Op == "write" && op.Net == "udp"
		}
		if _, err := u.WriteTo(nil, "10.0.0.2:8310"); !isWriteError(err) {
			t.Errorf("without a name: %v", err)
		}
		start := time.Now()
		gone := memberlist.Address{Name: "gone", Addr: "10.9.9.9:8310"}
		for i := range 3 * maxQueued {
			if _, err := u.WriteToAddress([]byte{8, byte(i)}, gone); err != nil {
				t.Errorf("packet %d while connecting: %v", i, err)
			}
		}
		p, _ := u.peer("gone")
		p.mu.Lock()
		queued, oldest := len(p.mu.queue), p.mu.queue[0][1]
		p.mu.Unlock()
		if queued != maxQueued || oldest != 2*maxQueued {
			t.Errorf("%d packets queued, the oldest %d; want %d and %d", queued, oldest, maxQueued, 2*maxQueued)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("waited %v", took)
		}
		time.Sleep(Fast().DialTimeout + 10*time.Millisecond)
		if _, err := u.WriteToAddress([]byte{8}, gone); !isWriteError(err) {
			t.Errorf("to a peer found unreachable: %v", err)
		}
		time.Sleep(2 * time.Second)
		if _, err := u.WriteToAddress([]byte{8}, gone); err != nil {
			t.Errorf("after the pause: %v", err)
		}
		time.Sleep(2 * idlePeer)
		if got := len(u.peers()); got != 1 {
			t.Errorf("%d peers remembered, want 1", got)
		}
	})
}

// However many peers are unreachable, few handshakes run at once.
func TestDialCap(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		var running, most atomic.Int32
		c.tune = func(o *Options) {
			o.DialTCP = func(ctx context.Context, _ string, _ netip.AddrPort) (net.Conn, error) {
				n := running.Add(1)
				defer running.Add(-1)
				most.Store(max(most.Load(), n))
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}
		c.start("n0", addrOf(0))
		u := c.nodes["n0"].under
		synctest.Wait()
		for i := range 5 * maxDials {
			a := memberlist.Address{Name: fmt.Sprint("x", i), Addr: "10.9.9.9:8310"}
			if _, err := u.WriteToAddress([]byte{8}, a); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(30 * time.Second)
		if got := most.Load(); got != maxDials {
			t.Errorf("%d dials at once, want %d", got, maxDials)
		}
	})
}

// A packet too large for a datagram arrives on a stream.
func TestLargePacket(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.startN(2)
		c.eventually(5*time.Second, "converged", c.converged)
		parts := make([][]byte, 200)
		for i := range parts {
			parts[i] = append([]byte{8}, make([]byte, 10)...)
		}
		before := c.nodes["n1"].Dropped()
		c.nodes["n0"].sprayAt(c.nodes["n1"], joinPacket(parts))
		time.Sleep(time.Second)
		if got := c.nodes["n1"].Dropped() - before; got < 200 {
			t.Errorf("%d of 200 messages arrived", got)
		}
	})
}

// Random, truncated, changed and repeated packets at the port, from anywhere, change nothing.
func TestGarbage(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		var seen [][]byte
		c.mem.tap = func(b []byte) { // before anything sends
			if len(seen) < 300 {
				seen = append(seen, append([]byte(nil), b...))
			}
		}
		c.startN(3)
		c.eventually(5*time.Second, "converged", c.converged)
		time.Sleep(3 * time.Second)
		c.mem.mu.Lock()
		c.mem.tap = nil
		c.mem.mu.Unlock()
		before := c.nodes["n0"].Members()
		outside := c.mem.socket(addrOf(200))
		defer func() { _ = outside.Close() }()
		for i := range 2000 {
			b := make([]byte, rand.IntN(1400))
			if i%2 == 0 {
				b = append([]byte(nil), seen[rand.IntN(len(seen))]...)
				if i%4 == 0 {
					b = b[:rand.IntN(len(b)+1)]
				} else if len(b) > 0 {
					b[rand.IntN(len(b))] ^= 1 << rand.IntN(8)
				}
			} else {
				for j := range b {
					b[j] = byte(rand.Uint32())
				}
			}
			from := []netip.AddrPort{addrOf(200), addrOf(1), addrOf(2)}[i%3]
			c.mem.send(from, addrOf(0), b)
			time.Sleep(5 * time.Millisecond)
		}
		if c.anyGone() || !c.converged() {
			t.Error("garbage changed a view\n" + c.dump())
		}
		after := c.nodes["n0"].Members()
		for i := range before {
			if before[i] != after[i] {
				t.Errorf("member was %+v, is %+v", before[i], after[i])
			}
		}
	})
}

// Under a flood of handshakes the senders have to prove their addresses.
func TestFlood(t *testing.T) {
	now := time.Unix(1e9, 0)
	u := idleUnderlay(func() time.Time { return now })
	for i := range int(initialRate.burst) {
		if u.flooded(nil) {
			t.Fatalf("handshake %d counted as a flood", i)
		}
	}
	if !u.flooded(nil) {
		t.Error("no limit")
	}
	now = now.Add(time.Second)
	if u.flooded(nil) {
		t.Error("still flooded a second later")
	}
}

// Neither a client without our ALPN nor one whose certificate names somebody else, or us, gets a
// link; what a caller's TLS settings forget is enforced.
func TestHandshakeChecks(t *testing.T) {
	ca := newTestCA()
	u := idleUnderlay(time.Now)
	u.opts.Identify = identify
	leaf := func(name string) tls.ConnectionState {
		cert := ca.leaf(name)
		cs := tls.ConnectionState{HandshakeComplete: true, NegotiatedProtocol: alpn}
		parsed, err := x509.ParseCertificate(cert.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		cs.PeerCertificates = []*x509.Certificate{parsed}
		return cs
	}
	if name, err := u.identify(leaf("p")); err != nil || name != "p" {
		t.Errorf("got %q, %v, want p", name, err)
	}
	bad := leaf("p")
	bad.NegotiatedProtocol = ""
	if _, err := u.identify(bad); err == nil {
		t.Error("accepted without ALPN")
	}
	resumed := leaf("p")
	resumed.DidResume = true
	if _, err := u.identify(resumed); err == nil {
		t.Error("accepted a resumed session")
	}
	for _, name := range []string{"self", "Not-A-Name", ""} {
		if _, err := u.identify(leaf(name)); err == nil {
			t.Errorf("accepted %q", name)
		}
	}
	got := gossipTLS(&tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(1)})
	if !got.SessionTicketsDisabled || got.MinVersion != tls.VersionTLS13 || got.ClientSessionCache != nil || len(got.NextProtos) != 1 {
		t.Errorf("TLS settings not enforced: %+v", got)
	}
}
