package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/state"
)

func at(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }

// viewOf is the View of a cluster that one node has founded.
func viewOf(node, address string) *state.View {
	return state.Genesis(state.GenesisOptions{
		ClusterID: "00112233445566778899aabbccddeeff", TrustDomain: "agent.test",
		Node:   state.Node{Name: node, HostKey: []byte("h"), SealKey: make([]byte, 32), Address: address},
		Bundle: state.Bundle{Sequence: 1, Roots: [][]byte{{1}}}, Sealed: []byte("s"),
	}).View()
}

// A node is sought where it was heard of last, and then wherever else it is said to be: what gossip says about the
// living comes before its row, and its row before where it died.
func TestWhereANodeIsSought(t *testing.T) {
	row, gossip, kept := "10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3"
	for _, test := range []struct {
		state membership.State
		want  []netip.AddrPort
	}{
		{membership.StateAlive, []netip.AddrPort{at(gossip), at(row), at(kept)}},
		{membership.StateSuspect, []netip.AddrPort{at(gossip), at(row), at(kept)}},
		{membership.StateDead, []netip.AddrPort{at(row), at(gossip), at(kept)}},
		{"", []netip.AddrPort{at(row), at(kept)}},
	} {
		var members []membership.Member
		if test.state != "" {
			members = []membership.Member{{Name: "a1", Addr: at(gossip), State: test.state}}
		}
		v := viewOf("a1", row)
		b := &book{
			self: "a2", view: func() *state.View { return v }, members: func() []membership.Member { return members },
			known: []knownMember{{Node: "a1", Addr: kept}, {Node: "a2", Addr: "10.0.0.9:9"}}, join: []string{"10.0.0.4:4", row},
		}
		if got := b.addresses("a1"); !slices.Equal(got, test.want) {
			t.Errorf("a1 is %q: sought at %v, want %v", test.state, got, test.want)
		}
		want := []membership.Seed{{Addr: at("10.0.0.4:4")}, {Addr: at(row)}, {Node: "a1", Addr: at(kept)}, {Node: "a1", Addr: at(row)}}
		if got := b.seeds(); !slices.Equal(got, want) {
			t.Errorf("seeds %v, want %v", got, want)
		}
	}
}

// fakeConn counts those that are open.
type fakeConn struct {
	net.Conn
	open *atomic.Int32
}

func (c fakeConn) Close() error { c.open.Add(-1); return nil }

// Of several addresses the one that answers first counts, a silent one holds nobody up, and no connection is left.
func TestFirstOf(t *testing.T) {
	for _, test := range []struct {
		name   string
		after  []time.Duration // until each address answers; negative: it refuses after so long
		within time.Duration
		fails  bool
	}{
		{"the first answers", []time.Duration{time.Millisecond, time.Millisecond}, 2 * time.Millisecond, false},
		{"the first is silent", []time.Duration{time.Hour, time.Millisecond}, dialStagger + 2*time.Millisecond, false},
		{"the first refuses", []time.Duration{-time.Millisecond, time.Millisecond}, 3 * time.Millisecond, false},
		{"both answer at once", []time.Duration{dialStagger + time.Millisecond, time.Millisecond}, dialStagger + 2*time.Millisecond, false},
		{"all refuse", []time.Duration{-time.Millisecond, -time.Millisecond, -time.Millisecond}, 4 * time.Millisecond, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var open atomic.Int32
				addrs := []netip.AddrPort{at("10.0.0.1:1"), at("10.0.0.2:2"), at("10.0.0.3:3")}[:len(test.after)]
				began := time.Now()
				conn, err := firstOf(t.Context(), addrs, func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
					after := test.after[slices.Index(addrs, addr)]
					pause(ctx, after.Abs())
					if ctx.Err() != nil {
						return nil, ctx.Err()
					}
					if after < 0 {
						return nil, errors.New("refused")
					}
					open.Add(1)
					return fakeConn{open: &open}, nil
				})
				if took := time.Since(began); took > test.within || (err != nil) != test.fails {
					t.Errorf("%v after %s, want within %s, failure %t", err, took, test.within, test.fails)
				}
				if conn != nil {
					_ = conn.Close()
				}
				synctest.Wait()
				if n := open.Load(); n != 0 {
					t.Errorf("%d connections are left", n)
				}
			})
		})
	}
}

// Configured host names are looked up, what cannot be is left out, and however many addresses they give, only so many
// are sought.
func TestConfiguredAddresses(t *testing.T) {
	b := &book{join: []string{"10.0.0.1:1", "localhost:2", "no.such.name.invalid:3", "10.0.0.1:1"}}
	got := b.configured()
	if len(got) < 2 || got[0].Addr != at("10.0.0.1:1") || !got[1].Addr.Addr().IsLoopback() || got[1].Addr.Port() != 2 {
		t.Errorf("got %v", got)
	}
	for _, s := range got {
		if s.Node != "" || s.Addr.Port() == 3 {
			t.Errorf("got %v", got)
		}
	}
	for i := range 2 * maxConfigured {
		b.join = append(b.join, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 1).String())
	}
	if got := len(b.configured()); got != maxConfigured {
		t.Errorf("%d addresses, want %d", got, maxConfigured)
	}
}
