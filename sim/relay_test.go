package sim

import (
	crand "crypto/rand"
	"math/rand/v2"
	"testing"
	"time"
)

// TestConstrainedElection: five members of whom the leader is cut off, and the rest hear each other only through one that
// is behind, have a leader by way of it that goes on committing. The control without relays has none.
func TestConstrainedElection(t *testing.T) {
	var longest time.Duration
	for seed := range uint64(10) {
		took, ok := constrainedElection(t, seed, false)
		if !ok {
			t.Errorf("seed %d: no leader in %v", seed, took)
		}
		longest = max(longest, took)
		if took, ok = constrainedElection(t, seed, true); ok {
			t.Errorf("control, seed %d: a leader without relays after %v", seed, took)
		}
	}
	t.Logf("a leader that commits after at most %v", longest)
}

// constrainedElection reports how long it took until somebody who can talk with the hub alone led and had committed.
func constrainedElection(t *testing.T, seed uint64, noRelay bool) (took time.Duration, ok bool) {
	t.Helper()
	const lasts = 10 * time.Second
	old := crand.Reader
	crand.Reader = rand.NewChaCha8([32]byte{byte(seed)}) // raft's timeouts
	defer func() { crand.Reader = old }()
	c, err := newCluster(Options{Seed: 2, Nodes: 5, Calm: true, Think: 30 * time.Millisecond, NoRelay: noRelay}, rand.New(rand.NewPCG(seed, 1)))
	if err != nil {
		t.Fatal(err)
	}
	c.clients.start()
	c.until(2*time.Second, func() bool { return false })
	l := c.leader()
	if l == nil {
		t.Fatal("no leader before anything is cut")
	}
	hub := c.hosts[0]
	if hub == l {
		hub = c.hosts[1]
	}
	c.constrain(l, hub, lasts)
	c.until(c.now+300*time.Millisecond, func() bool { return false })
	began, commit := c.now, uint64(0)
	c.until(began+lasts-time.Second, func() bool {
		h := c.leader()
		if ok = h != nil && h != l && h != hub && h.rep.Status().Confirmed; ok {
			took, commit = c.now-began, h.rep.Commit()
		}
		return ok
	})
	if !ok {
		return c.now - began, false
	}
	c.until(c.now+time.Second, func() bool { return false })
	if h := c.leader(); h == nil || h == l || h == hub || h.rep.Commit() < commit+10 || h.rep.Commit() > hub.rep.Commit()+1000 {
		t.Errorf("seed %d: a leader that commits nothing: %s", seed, c.describe())
	}
	if c.err != nil {
		t.Errorf("seed %d: %v", seed, c.err)
	}
	return took, true
}
