//go:build linux

package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// TestLinkMatrix: a blocked path shows for exactly the pair and the direction that it is about, asked of an agent that
// has no part in it; and an agent that cannot be asked is asked through another. Before, all links are well, which is
// the control.
func TestLinkMatrix(t *testing.T) {
	t.Parallel() // it mostly waits
	n := newNetwork(t, lab.DefaultAgents)
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute, Place: n.place})
	asked := clientsOf(t, l)["a1"]

	matrixBecomes(t, asked, "control: all links are well", 20, 0, 0, 0)

	n.noCalls("a4", "a5")
	m := matrixBecomes(t, asked, "a4 cannot call a5", 20, 1, 0, 1)
	wantLinks(t, m, "down", func(l client.Link) string { return l.TCP }, "a4>a5")
	if n.dropped("a5") == 0 {
		t.Error("nothing was dropped, so nothing was tested")
	}
	n.heal()
	matrixBecomes(t, asked, "healed", 20, 0, 0, 0)

	n.noCalls("a1", "a5")
	m = matrixBecomes(t, asked, "the asked agent cannot call a5 itself", 20, 1, 0, 1)
	wantLinks(t, m, "down", func(l client.Link) string { return l.TCP }, "a1>a5")
	n.heal()
	matrixBecomes(t, asked, "healed again", 20, 0, 0, 0)

	n.cutBoth([]string{"a4"}, []string{"a5"}, "udp")
	m = matrixBecomes(t, asked, "no UDP between a4 and a5", 20, 0, 2, 0)
	wantLinks(t, m, "fallback", func(l client.Link) string { return l.UDP }, "a4>a5", "a5>a4")
}

// noCalls drops what from sends to the mesh port of to by TCP: from can open no connection to it, and to can to from.
func (n *network) noCalls(from, to string) {
	n.t.Helper()
	n.nft(to, "add rule inet fault input ip saddr "+n.addr(from)+" tcp dport 8310 counter drop")
}

// matrixBecomes waits until the matrix has these counts and no unknown links. On a busy machine UDP may fail a few times
// in a row, and is tried again after up to 48 seconds then.
func matrixBecomes(t *testing.T, c *client.Client, what string, links, unreachable, fallback, asymmetric int) (m client.LinkMatrix) {
	t.Helper()
	began := time.Now()
	eventually(t, 2*time.Minute, what, func(ctx context.Context) (err error) {
		if m, err = c.NetMatrix(ctx); err != nil {
			return err
		}
		if len(m.Links) != links || m.Unreachable != unreachable || m.UDPFallback != fallback || m.Asymmetric != asymmetric || m.Unknown != 0 {
			return fmt.Errorf("%d links, %d unreachable, %d fallback, %d asymmetric, %d unknown: %+v",
				len(m.Links), m.Unreachable, m.UDPFallback, m.Asymmetric, m.Unknown, m.Links)
		}
		return nil
	})
	t.Logf("%s: after %s", what, time.Since(began).Round(time.Millisecond))
	return m
}

// wantLinks compares the links that are as they should not be with those that were broken.
func wantLinks(t *testing.T, m client.LinkMatrix, bad string, how func(client.Link) string, want ...string) {
	t.Helper()
	var got []string
	for _, l := range m.Links {
		if how(l) == bad {
			got = append(got, l.From+">"+l.To)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("links that are %s: got %q, want %q", bad, got, want)
	}
}
