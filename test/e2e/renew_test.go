package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// TestRenewal: certificates of ten seconds are renewed at half their life on every agent while writes
// go through all of them, and no write fails: connections outlive the certificates they began with.
func TestRenewal(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Settings: map[string]string{"identity.leaf_ttl": "10s"}})
	clients := clientsOf(t, l)
	whole(t, clients)
	before := expiries(t, clients)
	load := startWriters(t, l, 20*time.Millisecond)
	eventually(t, 30*time.Second, "two renewals on every agent", func(ctx context.Context) error {
		for name, at := range expiries(t, clients) {
			if time.Until(before[name]) > time.Minute {
				continue // the founder's first certificate has the default life
			}
			// Two renewals move the end of life by about two halves of it.
			if moved := at.Sub(before[name]); moved < 9*time.Second {
				return fmt.Errorf("%s moved its expiry by %s", name, moved)
			}
		}
		return nil
	})
	load.end()
	acked, tries := load.count()
	t.Logf("%d of %d writes were acknowledged", acked, tries)
	if len(load.failed) > 0 {
		t.Errorf("writes failed while certificates were renewed: %q", load.failed)
	}
	whole(t, clients)
}

func expiries(t *testing.T, clients map[string]*client.Client) map[string]time.Time {
	t.Helper()
	out := make(map[string]time.Time)
	for name, c := range clients {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		s, err := c.Status(ctx)
		cancel()
		if err != nil {
			t.Fatalf("status of %s: %v", name, err)
		}
		out[name] = s.SVID.NotAfter
	}
	return out
}
