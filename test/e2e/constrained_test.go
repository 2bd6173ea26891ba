//go:build linux

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// TestConstrainedElection: of five voters the leader is cut off, and the other four hear each other only through one of
// them, whose log is behind. That one cannot lead, and nobody else is heard by a majority. With relays there is a leader
// soon, it takes writes, the one that was behind gets them, and then leads itself; the control without relays has no
// leader.
func TestConstrainedElection(t *testing.T) {
	t.Parallel() // it mostly waits
	t.Run("relay", func(t *testing.T) {
		t.Parallel()
		c := startConstrained(t, true)
		began, leader := time.Now(), ""
		eventually(t, 10*time.Second, "a leader that takes writes", func(ctx context.Context) error {
			for _, name := range c.ends {
				if now, err := leaderOf(ctx, c.clients[name]); err != nil || now != name {
					continue
				}
				leader = name
				_, err := c.clients[name].Put(ctx, "constrained/"+name, []byte("written"), client.PutOptions{})
				return err
			}
			return errors.New("none of the three leads")
		})
		took := time.Since(began).Round(time.Millisecond)
		eventually(t, 10*time.Second, "all that are connected hold the write", func(ctx context.Context) error {
			for _, name := range slices.Concat(c.ends, []string{c.hub}) {
				pair, err := c.clients[name].Get(ctx, "constrained/"+leader, client.ReadOptions{Stale: true})
				if err != nil || string(pair.Value) != "written" {
					return fmt.Errorf("%s has %q: %w", name, pair.Value, err)
				}
			}
			return nil
		})
		eventually(t, 15*time.Second, "the hub's metrics say what it passed on", func(context.Context) error {
			if relayedBy(t, c.lab, c.hub) == 0 {
				return errors.New("nothing")
			}
			return nil
		})
		// Then the hub leads, which all reach: no client meets a leader that it cannot send its write on to.
		eventually(t, 20*time.Second, "writes through all that are connected", func(ctx context.Context) error {
			if now, err := leaderOf(ctx, c.clients[c.hub]); err != nil || now != c.hub {
				return fmt.Errorf("%q leads: %w", now, err)
			}
			for _, name := range slices.Concat(c.ends, []string{c.hub}) {
				if _, err := c.clients[name].Put(ctx, "constrained/all", []byte(name), client.PutOptions{}); err != nil {
					return fmt.Errorf("through %s: %w", name, err)
				}
			}
			return nil
		})
		t.Logf("old leader %s cut off, hub %s behind: a write through %s after %s, through all after %s",
			c.old, c.hub, leader, took, time.Since(began).Round(time.Millisecond))
		c.net.heal()
		t.Logf("healed after %s", healed(t, c.clients))
		for name, cl := range c.clients {
			if pair, err := cl.Get(t.Context(), "constrained/behind", client.ReadOptions{}); err != nil || string(pair.Value) != "written" {
				t.Errorf("read through %s what the old leader acknowledged: %q, %v", name, pair.Value, err)
			}
		}
		eventually(t, 10*time.Second, "equal digests", func(ctx context.Context) error { return sameDigest(ctx, c.clients) })
	})
	t.Run("control: no relay", func(t *testing.T) {
		t.Parallel()
		c := startConstrained(t, false)
		hold(2 * time.Second) // until nobody holds the old one for the leader
		for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(100 * time.Millisecond) {
			for _, name := range slices.Concat(c.ends, []string{c.hub}) {
				if leader, err := leaderOf(t.Context(), c.clients[name]); err == nil {
					t.Fatalf("%s sees %s lead without relays: the test tests nothing", name, leader)
				}
			}
		}
		c.net.heal()
		t.Logf("no leader for 30 s; healed after %s", healed(t, c.clients))
	})
}

// constrainedCore is five voters of which old, which led, reaches nobody, and each of ends the hub alone, which lacks
// the write "constrained/behind".
type constrainedCore struct {
	net      *network
	lab      *lab.Lab
	clients  map[string]*client.Client
	old, hub string
	ends     []string
}

func startConstrained(t *testing.T, relay bool) constrainedCore {
	t.Helper()
	n := newNetwork(t, lab.DefaultAgents)
	l := startLab(t, lab.Options{Core: true, ReplaceAfter: 10 * time.Minute, Place: n.place,
		Settings: map[string]string{"core.relay": fmt.Sprint(relay)}})
	clients := clientsOf(t, l)
	whole(t, clients)
	if err := clients["a1"].SetCoreSize(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	sized(t, clients, 5)
	c := constrainedCore{net: n, lab: l, clients: clients, old: agentInRole(t, clients, "leader"), hub: agentInRole(t, clients, "voter")}
	c.ends = n.without(c.old, c.hub)
	c.net.only(c.linksOf(c.old)...) // all but the hub
	if _, err := clients[c.old].Put(t.Context(), "constrained/behind", []byte("written"), client.PutOptions{}); err != nil {
		t.Fatalf("a write while only the hub %s is cut off: %v", c.hub, err)
	}
	eventually(t, 5*time.Second, "all but the hub hold the write", func(ctx context.Context) error {
		for _, name := range c.ends {
			if _, err := clients[name].Get(ctx, "constrained/behind", client.ReadOptions{Stale: true}); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
	c.net.only(c.linksOf(c.hub)...)
	if _, err := clients[c.hub].Get(t.Context(), "constrained/behind", client.ReadOptions{Stale: true}); err == nil {
		t.Fatalf("the hub %s has the write that it was to miss", c.hub)
	}
	return c
}

// linksOf is what goes between one and each of the ends.
func (c constrainedCore) linksOf(one string) (links [][2]string) {
	for _, end := range c.ends {
		links = append(links, [2]string{one, end})
	}
	return links
}

// only leaves these links, both ways, and cuts all others. Host after host: those that lose all their links first, those
// that get the most last, so that nothing gets through that neither the old cuts nor the new let through.
func (n *network) only(links ...[2]string) {
	n.t.Helper()
	allowed := make(map[string][]string)
	for _, l := range links {
		allowed[l[0]] = append(allowed[l[0]], n.addr(l[1]))
		allowed[l[1]] = append(allowed[l[1]], n.addr(l[0]))
	}
	for count := range n.hosts {
		for _, host := range n.all() {
			if len(allowed[host]) != count {
				continue
			}
			rules := "flush chain inet fault input\n"
			for _, from := range allowed[host] {
				rules += "add rule inet fault input ip saddr " + from + " accept\n"
			}
			n.nft(host, rules+"add rule inet fault input ip saddr 10.77.0.0/24 ip saddr != "+n.addr(host)+" counter drop")
		}
	}
}

// relayedBy is how many frames an agent has passed on for others, by its metrics.
func relayedBy(t *testing.T, l *lab.Lab, name string) (frames int) {
	t.Helper()
	i := slices.IndexFunc(l.Agents, func(a *lab.Agent) bool { return a.Name == name })
	socket := strings.TrimPrefix(l.Agents[i].Addr(), "unix://")
	h := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer h.CloseIdleConnections()
	resp, err := h.Get("http://agent/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "parley_core_relay_passed_frames %d", &frames); err == nil {
			return frames
		}
	}
	t.Fatalf("%s has no parley_core_relay_passed_frames", name)
	return 0
}
