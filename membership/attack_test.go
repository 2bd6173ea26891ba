package membership

import (
	"context"
	"io"
	"math"
	"net/netip"
	"testing"
	"time"
)

const attacker = "mallory"

// attack is what one valid member does to the others, and how to tell that it worked.
type attack struct {
	name string
	// run attacks victim n1, once or for as long as ctx lasts.
	run func(ctx context.Context, c *cluster, mallory *node)
	// worked looks at the honest members' views.
	worked func(c *cluster) bool
	// settle, if set, is when worked is asked, once; otherwise it may work at any time.
	settle time.Duration
}

// spray sends a raw gossip packet to every member but the victim, over authenticated links.
func (n *node) spray(c *cluster, packet []byte) {
	for name, other := range c.nodes {
		if name == attacker || name == "n1" {
			continue
		}
		n.sprayAt(other, packet)
	}
}

func (n *node) sprayAt(other *node, packet []byte) {
	p, err := n.under.peer(other.name)
	if err != nil {
		return
	}
	p.setAddr(other.addr)
	p.enqueue(packet)
}

// exchange starts a state exchange of the attacker's making with every member but the victim.
func (n *node) exchange(ctx context.Context, c *cluster, states []wireState) {
	for name, other := range c.nodes {
		if name == attacker || name == "n1" {
			continue
		}
		p, err := n.under.peer(other.name)
		if err != nil {
			continue
		}
		p.setAddr(other.addr)
		conn, err := p.openStream(ctx)
		if err != nil {
			continue
		}
		_, _ = conn.Write(encodePushPull(states, false))
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
}

// honest reports whether what holds for the view of some member but victim and attacker.
func honest(c *cluster, holds func(n *node) bool) bool {
	for name, n := range c.nodes {
		if name != attacker && name != "n1" && holds(n) {
			return true
		}
	}
	return false
}

func victimGone(c *cluster) bool {
	return honest(c, func(n *node) bool { return n.stateOf("n1").Gone() })
}

// victim is what the attacker knows of the victim: all of it, as any member does.
func victim(n *node) (meta []byte, incarnation uint32) {
	states, err := n.snapshot(context.Background())
	if err != nil {
		return nil, 0
	}
	for _, s := range states {
		if s.Name == "n1" {
			return s.Meta, s.Incarnation
		}
	}
	return nil, 0
}

func accuse(kind byte, from string, incarnation uint32) []byte {
	return encodeMsg(kind, &wireAccusation{Incarnation: incarnation, Node: "n1", From: from})
}

var attacks = []attack{
	{
		name: "forged suspect",
		run: func(_ context.Context, c *cluster, m *node) {
			m.spray(c, accuse(msgSuspect, attacker, math.MaxUint32))
			m.spray(c, accuse(msgSuspect, "n2", math.MaxUint32))
		},
		worked: victimGone,
	},
	{
		name: "forged dead",
		run: func(_ context.Context, c *cluster, m *node) {
			_, incarnation := victim(m)
			m.spray(c, accuse(msgDead, "n2", incarnation))
			m.spray(c, accuse(msgDead, "n2", math.MaxUint32))
		},
		worked: victimGone,
	},
	{
		name: "ghost alive",
		run: func(_ context.Context, c *cluster, m *node) {
			// The record is right in everything but that its key is not the ghost's.
			meta, err := signRecord(record{
				Name: "ghost", Addr: addrOf(66), Epoch: 1, Seq: 1, Binding: bindingHash("ghost", m.own.spki),
			}, testCluster, m.opts.HostKey)
			if err != nil {
				c.t.Error(err)
			}
			m.spray(c, encodeMsg(msgAlive, &wireAliveMsg{
				Incarnation: 1, Node: "ghost", Addr: addrOf(66).Addr().AsSlice(), Port: 8310, Meta: meta, Vsn: memberVersions,
			}))
		},
		worked: func(c *cluster) bool {
			return honest(c, func(n *node) bool { return n.stateOf("ghost") != "" })
		},
	},
	{
		name: "forged leave and alive at the attacker's address",
		run: func(_ context.Context, c *cluster, m *node) {
			// A few times: without the firewall the victim refutes, and the alive has to be faster.
			for range 5 {
				meta, incarnation := victim(m)
				m.spray(c, accuse(msgDead, "n1", incarnation))
				time.Sleep(20 * time.Millisecond)
				m.spray(c, encodeMsg(msgAlive, &wireAliveMsg{
					Incarnation: incarnation + 5, Node: "n1", Addr: m.addr.Addr().AsSlice(), Port: m.addr.Port(), Meta: meta, Vsn: memberVersions,
				}))
				time.Sleep(300 * time.Millisecond)
			}
		},
		worked: func(c *cluster) bool {
			return honest(c, func(n *node) bool { return n.memberOf("n1").Addr == c.nodes[attacker].addr })
		},
	},
	{
		name: "forged acks for a dead node",
		run: func(ctx context.Context, c *cluster, m *node) {
			c.crash("n1")
			others := make([]*node, 0, len(c.nodes))
			for name, n := range c.nodes {
				if name != attacker {
					others = append(others, n)
				}
			}
			go forgeAcks(ctx, m, others)
		},
		worked: func(c *cluster) bool {
			return honest(c, func(n *node) bool { return !n.stateOf("n1").Gone() })
		},
		settle: 15 * time.Second,
	},
	{
		name: "left state in an exchange",
		run: func(ctx context.Context, c *cluster, m *node) {
			meta, incarnation := victim(m)
			m.exchange(ctx, c, []wireState{{
				Name: "n1", Addr: addrOf(1).Addr().AsSlice(), Port: 8310, Meta: meta,
				Incarnation: incarnation, State: wireLeft, Vsn: memberVersions,
			}})
		},
		worked: victimGone,
	},
	{
		name: "joining under another's name",
		run: func(_ context.Context, c *cluster, m *node) {
			c.hostKey("absent") // a node of the cluster that is down
			c.as["absent"] = attacker
			tune := c.tune
			c.tune = func(o *Options) { tune(o); o.HostKey = c.hostKey(attacker) }
			c.start("absent", netip.AddrPortFrom(addrOf(66).Addr(), 8310), "n0", "n2")
			delete(c.as, "absent")
		},
		worked: func(c *cluster) bool {
			return honest(c, func(n *node) bool { return n.name != "absent" && n.stateOf("absent") == StateAlive })
		},
	},
}

// forgeAcks answers every ping that anybody may have sent lately, also those that the attacker was
// asked to repeat.
func forgeAcks(ctx context.Context, m *node, others []*node) {
	for ctx.Err() == nil {
		for first := uint32(1); first < 240; first += 40 {
			var acks [][]byte
			for seq := first; seq < first+40; seq++ {
				acks = append(acks, encodeMsg(msgAck, &wireAck{SeqNo: seq}))
			}
			for _, n := range others {
				m.sprayAt(n, joinPacket(acks))
			}
		}
		pause(ctx, 100*time.Millisecond)
	}
}

// One valid member cannot remove another, invent one, move one, keep a dead one alive, or be one.
// Each control runs the same attack against memberlist without the firewall, where it works.
func TestGossipAttacks(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			t.Run("firewall", func(t *testing.T) {
				inBubble(t, func(t *testing.T, c *cluster) {
					if worked, after := a.against(c, false); worked {
						t.Fatalf("the attack worked after %v\n%s", after, c.dump())
					}
				})
			})
			t.Run("control", func(t *testing.T) {
				inBubble(t, func(t *testing.T, c *cluster) {
					worked, after := a.against(c, true)
					if !worked {
						t.Fatalf("the attack failed without the firewall: it proves nothing\n%s", c.dump())
					}
					t.Logf("worked after %v", after)
				})
			})
		})
	}
}

// against runs the attack in a cluster of six, and reports whether and when it worked.
func (a attack) against(c *cluster, bare bool) (bool, time.Duration) {
	c.tune = func(o *Options) { o.bare = bare }
	c.startN(5)
	mallory := c.start(attacker, addrOf(60), "n0")
	c.eventually(20*time.Second, "converged", c.converged)
	time.Sleep(2 * time.Second)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a.run(ctx, c, mallory)
	time.Sleep(a.settle)
	for start := time.Now(); time.Since(start) < 20*time.Second; time.Sleep(50 * time.Millisecond) {
		if a.worked(c) {
			return true, a.settle + time.Since(start)
		}
		if a.settle > 0 {
			return false, 0
		}
	}
	return false, 0
}
