package membership

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// Nodes that know one seed find all others, with zone, version and address.
func TestConverge(t *testing.T) {
	for _, k := range []int{5, 20} {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.startN(k)
				took := c.eventually(10*time.Second, "converged", c.converged)
				t.Logf("%d nodes converged in %v", k, took)
				got := c.nodes["n1"].memberOf("n2")
				if got.Zone != "zone-n2" || got.Version != "v1" || got.Addr != addrOf(2) {
					t.Errorf("n1 sees n2 as %+v", got)
				}
				c.never(20*time.Second, "a healthy node was held dead", c.anyGone)
			})
		})
	}
}

// A crashed node is seen dead by all within the time that Timing promises, and not before.
func TestCrashDetection(t *testing.T) {
	for _, test := range []struct {
		name   string
		timing Timing
		nodes  int
		within time.Duration
	}{
		{"fast 5", Fast(), 5, 8 * time.Second},
		{"fast 3", Fast(), 3, 6 * time.Second},
		{"lan 5", LAN(), 5, 16 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.tune = func(o *Options) { o.Timing = test.timing }
				c.startN(test.nodes)
				c.eventually(10*time.Second, "converged", c.converged)
				c.crash("n2")
				suspected := false
				took := c.eventually(test.within, "n2 dead everywhere", func() bool {
					all := true
					for _, n := range c.nodes {
						state := n.stateOf("n2")
						suspected = suspected || state == StateSuspect
						all = all && state == StateDead
					}
					return all
				})
				t.Logf("seen by all after %v", took)
				if !suspected {
					t.Error("the suspect state was never visible")
				}
				c.never(30*time.Second, "a healthy node was held dead", c.anyGone)
			})
		})
	}
}

// A split of a minute heals within 30 seconds, although memberlist has long forgotten the other
// side by then. Control: without the rejoin loop it never does.
func TestPartitionHeals(t *testing.T) {
	split := func(t *testing.T, c *cluster) {
		c.startN(6)
		c.eventually(10*time.Second, "converged", c.converged)
		side := func(a netip.AddrPort) bool { return a.Addr().As4()[3] <= 3 }
		same := func(a, b netip.AddrPort) bool { return side(a) == side(b) }
		c.mem.rules(same, same)
		c.eventually(time.Minute, "each side holds the other dead", func() bool {
			return c.nodes["n0"].stateOf("n5") == StateDead && c.nodes["n5"].stateOf("n0") == StateDead
		})
		time.Sleep(time.Minute)
		all := func(_, _ netip.AddrPort) bool { return true }
		c.mem.rules(all, all)
	}
	t.Run("rejoin", func(t *testing.T) {
		inBubble(t, func(t *testing.T, c *cluster) {
			split(t, c)
			took := c.eventually(30*time.Second, "healed", c.converged)
			t.Logf("healed after %v", took)
		})
	})
	t.Run("control", func(t *testing.T) {
		inBubble(t, func(t *testing.T, c *cluster) {
			c.tune = func(o *Options) {
				o.Timing.RejoinInterval = 24 * time.Hour
			}
			split(t, c)
			c.never(time.Minute, "healed without the rejoin loop", c.converged)
		})
	})
}

// Where UDP is blocked between two nodes, from the start or later, their gossip goes by TCP, nobody
// is held dead, and it returns to UDP once that works again. Control: without the fallback one
// suspects the other, or in a pair holds it dead.
func TestUDPBlocked(t *testing.T) {
	all := func(_, _ netip.AddrPort) bool { return true }
	between := func(i, j int) func(a, b netip.AddrPort) bool {
		return func(a, b netip.AddrPort) bool {
			return !(a == addrOf(i) && b == addrOf(j) || a == addrOf(j) && b == addrOf(i))
		}
	}
	path := func(c *cluster, from, to string) Path {
		for _, l := range c.nodes[from].Links() {
			if l.Node == to {
				return l.Path
			}
		}
		return ""
	}
	for _, k := range []int{2, 5} {
		t.Run(fmt.Sprintf("later/%d", k), func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.startN(k)
				c.eventually(10*time.Second, "converged", c.converged)
				c.mem.rules(between(0, 1), all)
				c.never(30*time.Second, "a node was held dead", c.anyGone)
				if got := path(c, "n0", "n1"); got != PathTCP {
					t.Errorf("path n0 to n1 is %q, want tcp", got)
				}
				if got := c.nodes["n0"].memberOf("n1").Path; got != PathTCP {
					t.Errorf("member n1 shows path %q, want tcp", got)
				}
				c.mem.rules(all, all)
				c.eventually(2*time.Minute, "back on udp", func() bool {
					return path(c, "n0", "n1") == PathUDP && path(c, "n1", "n0") == PathUDP
				})
				c.never(20*time.Second, "a node was held dead after the return", c.anyGone)
			})
		})
	}
	t.Run("from the start", func(t *testing.T) {
		inBubble(t, func(t *testing.T, c *cluster) {
			c.mem.rules(func(_, _ netip.AddrPort) bool { return false }, all)
			c.startN(3)
			c.eventually(20*time.Second, "converged by tcp alone", c.converged)
			c.never(30*time.Second, "a node was held dead", c.anyGone)
		})
	})
	t.Run("control", func(t *testing.T) {
		inBubble(t, func(t *testing.T, c *cluster) {
			c.tune = func(o *Options) { o.DialTCP = nil }
			c.startN(2)
			c.eventually(10*time.Second, "converged", c.converged)
			c.mem.rules(between(0, 1), all)
			c.eventually(30*time.Second, "held dead without the fallback", c.anyGone)
		})
	})
}

// One packet in ten lost kills nobody.
func TestPacketLoss(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.mem.lossy(0.1)
		c.startN(6)
		c.eventually(20*time.Second, "converged", c.converged)
		c.never(90*time.Second, "a healthy node was held dead", c.anyGone)
	})
}

// A node that restarts under a new epoch is alive again at once, at the same address and at
// another, whether or not its death was noticed.
func TestRestart(t *testing.T) {
	for _, test := range []struct {
		name  string
		moved bool
		pause time.Duration
	}{
		{"same address at once", false, 0},
		{"same address after death", false, 20 * time.Second},
		{"same address after forgetting", false, 2 * time.Minute},
		{"new address at once", true, 0},
		{"new address after death", true, 20 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.startN(5)
				c.eventually(10*time.Second, "converged", c.converged)
				time.Sleep(5 * time.Second)
				c.crash("n2")
				time.Sleep(test.pause)
				addr := addrOf(2)
				if test.moved {
					addr = addrOf(100)
				}
				c.start("n2", addr, "n0", "n1")
				epoch := c.epoch
				took := c.eventually(15*time.Second, "the new life seen by all", func() bool {
					for _, n := range c.nodes {
						m := n.memberOf("n2")
						if m.State != StateAlive || m.Addr != addr || m.Epoch != epoch {
							return false
						}
					}
					return c.converged()
				})
				t.Logf("seen by all after %v", took)
				c.never(10*time.Second, "held dead after the restart", c.anyGone)
			})
		})
	}
}

// A node that leaves is seen to have left by all within two seconds, is not suspected first, and
// may come back.
func TestLeave(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.startN(8)
		c.eventually(10*time.Second, "converged", c.converged)
		n := c.nodes["n3"]
		if err := n.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		delete(c.nodes, "n3")
		took := c.eventually(2*time.Second, "n3 left everywhere", func() bool {
			for _, other := range c.nodes {
				if other.stateOf("n3") != StateLeft {
					return false
				}
			}
			return true
		})
		t.Logf("seen by all %v after Leave returned", took)
		c.stopNode(n)
		time.Sleep(time.Minute)
		if got := c.nodes["n0"].stateOf("n3"); got != StateLeft {
			t.Errorf("a minute later n3 is %q, want left", got)
		}
		c.start("n3", addrOf(3), "n0")
		c.eventually(15*time.Second, "n3 is back", c.converged)
	})
}

// A node whose binding has not reached us yet is refused, and taken in as soon as it has; one whose
// binding is withdrawn is dead at once.
func TestBindings(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.startN(4)
		c.eventually(10*time.Second, "converged", c.converged)
		c.setHidden("late", true)
		c.start("late", addrOf(50), "n0")
		c.never(10*time.Second, "a node without a binding was taken in", func() bool {
			return c.nodes["n0"].stateOf("late") != "" || c.nodes["n1"].stateOf("late") != ""
		})
		c.setHidden("late", false)
		took := c.eventually(5*time.Second, "late is in", c.converged)
		t.Logf("in %v after its binding", took)

		c.setHidden("n3", true)
		took = c.eventually(time.Second, "n3 is dead to the others", func() bool {
			return c.nodes["n0"].stateOf("n3") == StateDead && c.nodes["late"].stateOf("n3") == StateDead
		})
		t.Logf("dead %v after its binding went", took)
		for _, l := range c.nodes["n0"].Links() {
			if l.Node == "n3" && l.Path != "" && l.Since.Before(time.Now().Add(-time.Second)) {
				t.Errorf("the link that n3 had is still open: %+v", l)
			}
		}
		c.never(time.Minute, "n3 came back", func() bool {
			return !c.nodes["n0"].stateOf("n3").Gone()
		})
	})
}

// The dead are shown for 72 hours.
func TestReap(t *testing.T) {
	now := time.Unix(0, 0)
	v := newView(func() time.Time { return now })
	v.update([]Member{{Name: "a", State: StateAlive}, {Name: "b", State: StateAlive}})
	<-v.changed
	v.update([]Member{{Name: "a", State: StateAlive}})
	<-v.changed
	now = now.Add(reapAfter)
	v.update([]Member{{Name: "a", State: StateAlive}})
	if got := v.members(); len(got) != 2 || got[1].State != StateDead {
		t.Fatalf("after 72 h: %+v, want b still shown dead", got)
	}
	select {
	case <-v.changed:
		t.Error("signalled a change without one")
	default:
	}
	now = now.Add(time.Second)
	if got := v.update([]Member{{Name: "a", State: StateAlive}}); len(got) != 1 || got[0] != "b" {
		t.Fatalf("reaped %v, want b", got)
	}
	if got := v.members(); len(got) != 1 {
		t.Fatalf("after reaping: %+v", got)
	}
}
