package membership

import (
	"math"
	"net/netip"
	"testing"
	"time"
)

// A record that was verified just before the name went to another host does not push that host's out. The same record
// while its host has the name is the control.
func TestReplacedHostsLastRecord(t *testing.T) {
	old, heir := record{Name: "n2", Epoch: 3, Binding: HostID{1}}, record{Name: "n2", Epoch: 1, Binding: HostID{2}}
	for _, holder := range []HostID{old.Binding, heir.Binding} {
		k := newKnowledge()
		bound := func(r record) bool { return r.Binding == holder }
		if !k.accept(heir, nil, 1, true, bound) {
			t.Fatal("the first record was refused")
		}
		if got, want := k.accept(old, nil, 9, true, bound), holder == old.Binding; got != want {
			t.Errorf("%v has the name: the old host's record was accepted: %t", holder, got)
		}
		if n, _ := k.get("n2"); n.Binding != holder {
			t.Errorf("%v has the name, and %v is known", holder, n.Binding)
		}
	}
}

// rebind binds a name to a new host key, as the join of the host that takes its place does, and tells everyone.
func (c *cluster) rebind(name string) {
	c.mu.Lock()
	c.keys[name] = newKey()
	c.mu.Unlock()
	c.setHidden(name, false)
}

// seen reports whether every node holds a member alive at an address, by the record of one start.
func (c *cluster) seen(name string, addr netip.AddrPort, epoch uint64) bool {
	for _, n := range c.nodes {
		if m := n.memberOf(name); m.State != StateAlive || m.Addr != addr || m.Epoch != epoch {
			return false
		}
	}
	return c.converged()
}

// A host that takes the place of another counts its own starts. Before, the others went by the count of the host that
// it replaced, and held it dead until it had started more often, or for ever. The control is the same host with its
// count lost: what it says now may be an old word of its own that somebody kept.
func TestReplacedHost(t *testing.T) {
	for _, test := range []struct {
		name     string
		last     uint64 // epoch of the replaced host's last start
		moved    bool   // the new one is at another address
		found    bool   // the others held the old one dead when the new one started
		reached  uint32 // incarnation that the old one refuted its way to
		replaced bool
	}{
		{"after three starts", 3, false, true, 0, true},
		{"after three starts, elsewhere", 3, true, true, 0, true},
		{"before it was found dead", 3, false, false, 0, true},
		{"before it was found dead, elsewhere", 3, true, false, 0, true},
		{"as often as it", 1, false, true, 0, true},
		{"the old one claimed the last epoch that there is", math.MaxUint64, false, true, 0, true},
		{"the old one was accused often", 3, false, true, 100, true},
		{"the old one was accused often, before it was found dead", 3, false, false, 100, true},
		{"control: it lost its count", 3, false, true, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				epoch := uint64(1)
				c.tune = func(o *Options) {
					if o.Name == "n2" {
						o.Epoch = epoch
					}
				}
				c.startN(4)
				c.eventually(10*time.Second, "converged", c.converged)
				for _, epoch = range []uint64{min(2, test.last), test.last} {
					c.crash("n2")
					c.start("n2", addrOf(2), "n0")
					c.eventually(20*time.Second, "the start seen by all", func() bool { return c.seen("n2", addrOf(2), epoch) })
				}
				if test.reached > 0 {
					n2 := c.nodes["n2"]
					n2.under.inject(accusation(msgSuspect, "n2", "n0", test.reached), n2.selfAddr())
					time.Sleep(5 * time.Second)
				}
				c.crash("n2")
				if test.found {
					c.eventually(time.Minute, "n2 held dead", func() bool {
						return c.nodes["n0"].stateOf("n2") == StateDead && c.nodes["n1"].stateOf("n2") == StateDead
					})
				}
				before := c.nodes["n0"].memberOf("n2").Host
				if test.replaced {
					c.rebind("n2")
				}
				addr := addrOf(2)
				if test.moved {
					addr = addrOf(100)
				}
				epoch = 1
				c.start("n2", addr, "n0", "n1")
				if !test.replaced {
					c.never(2*time.Minute, "taken in with an older record", c.converged)
					return
				}
				limit := 20 * time.Second
				if test.reached > 0 { // memberlist forgets a dead node, and what it had reached, after half a minute
					limit = 45 * time.Second
				}
				took := c.eventually(limit, "the new host seen by all", func() bool {
					return c.seen("n2", addr, epoch) && c.nodes["n0"].memberOf("n2").Host != before
				})
				t.Logf("seen by all after %v", took)
				c.never(time.Minute, "held dead later", c.anyGone)
			})
		})
	}
}
