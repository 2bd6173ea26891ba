package membership

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-mesh/parley/transport"
)

// addresses are seeds without names, as a person configures them.
func addresses(addrs ...netip.AddrPort) []Seed {
	var out []Seed
	for _, a := range addrs {
		out = append(out, Seed{Addr: a})
	}
	return out
}

// Members that were all stopped and start again on new addresses find each other by addresses alone,
// although everybody's last known place is wrong. With the old places only they never do.
func TestAllMoved(t *testing.T) {
	for _, test := range []struct {
		name string
		told bool
	}{{"told the new addresses", true}, {"control: not told", false}} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				const n = 3
				c.startN(n)
				c.eventually(30*time.Second, "converged", c.converged)
				names := []string{"n0", "n1", "n2"}
				var old []Seed
				for _, name := range names {
					old = append(old, Seed{Node: name, Addr: c.nodes[name].addr})
				}
				for _, name := range names {
					c.crash(name)
				}
				seeds := old
				if test.told {
					// Its own is among them, as the same list goes to all.
					seeds = append(seeds, addresses(addrOf(10), addrOf(11), addrOf(12))...)
				}
				c.tune = func(o *Options) { o.Seeds = func() []Seed { return append([]Seed(nil), seeds...) } }
				for i, name := range names {
					c.start(name, addrOf(10+i))
				}
				if test.told {
					c.eventually(30*time.Second, "converged at the new addresses", c.converged)
					return
				}
				c.never(2*time.Minute, "found each other without knowing where", c.converged)
			})
		})
	}
}

// A member that is dead at one address is looked for at the others where it may be: the replicated state may
// have heard of its move before gossip did.
func TestDeadIsSoughtWhereSeedsSay(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		var told atomic.Bool
		c.tune = func(o *Options) {
			if o.Name == "n0" {
				o.Seeds = func() []Seed {
					if !told.Load() {
						return nil
					}
					return []Seed{{Node: "n1", Addr: addrOf(11)}}
				}
			}
		}
		c.startN(3)
		c.eventually(30*time.Second, "converged", c.converged)
		c.crash("n1")
		n0 := c.nodes["n0"]
		c.eventually(time.Minute, "n1 dead for n0", func() bool { return n0.stateOf("n1") == StateDead })
		c.tune = func(o *Options) { o.Seeds = nil } // n1 itself knows nobody any more
		c.start("n1", addrOf(11))
		c.never(30*time.Second, "n1 found by nobody's telling", c.converged)
		told.Store(true)
		c.eventually(time.Minute, "n1 found where a seed says", c.converged)
	})
}

// A seed without a name is not asked again while the member that listens there is alive, nor is our own.
func TestSeedNamesAreKept(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start("n0", addrOf(0))
		c.tune = func(o *Options) { o.Seeds = func() []Seed { return addresses(addrOf(0), addrOf(1)) } }
		c.start("n1", addrOf(1))
		c.eventually(30*time.Second, "converged", c.converged)
		time.Sleep(30 * time.Second)
		missing, alone := c.nodes["n1"].missing()
		if len(missing) != 0 || alone {
			t.Errorf("missing %v, alone %t, want nothing", missing, alone)
		}
	})
}

// A QUIC link whose peer's certificate counts no more is closed and made anew, and nobody is missed meanwhile. Without
// a judge it stays: that is the control.
func TestLinksAreJudged(t *testing.T) {
	for _, judged := range []bool{true, false} {
		inBubble(t, func(t *testing.T, c *cluster) {
			end := time.Now().Add(time.Minute)
			c.tune = func(o *Options) {
				if !judged {
					return
				}
				o.Standing = func(tls.ConnectionState) transport.Standing {
					renewed := time.Now().After(end)
					return transport.Standing{Check: func() error {
						if !renewed && time.Now().After(end) {
							return errors.New("the certificate ended")
						}
						return nil
					}}
				}
			}
			c.startN(3)
			c.eventually(30*time.Second, "converged", c.converged)
			time.Sleep(time.Until(end) - time.Second)
			c.never(20*time.Second, "somebody was held gone", c.anyGone)
			old := 0
			for _, n := range c.nodes {
				for _, l := range n.Links() {
					if l.Path == PathUDP && l.Since.Before(end) {
						old++
					}
				}
			}
			if (old == 0) != judged {
				t.Errorf("judged %t: %d links of before are open", judged, old)
			}
		})
	}
}

// However many addresses were asked, only so many answers are remembered.
func TestSeedNamesAreBounded(t *testing.T) {
	var s seedNames
	for i := range 2*maxSeedNames + 1 {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)
		s.set(addr, "n")
		if s.get(addr) != "n" {
			t.Fatalf("the answer of %s was not remembered", addr)
		}
		if n := len(s.mu.names); n > maxSeedNames {
			t.Fatalf("%d names are remembered", n)
		}
	}
}
