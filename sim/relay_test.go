package sim

import (
	crand "crypto/rand"
	"math/rand/v2"
	"testing"
	"time"
)

// TestConstrainedElection: five members of whom the leader is cut off, and the rest hear each other only through one that
// is behind, have a leader by way of it, and the lead is given to that one once it has caught up. The control without relays
// has no leader.
func TestConstrainedElection(t *testing.T) {
	var longest time.Duration
	for seed := range uint64(4) {
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
	const lasts = 6 * time.Second
	old := crand.Reader
	crand.Reader = rand.NewChaCha8([32]byte{byte(seed)}) // raft's timeouts
	defer func() { crand.Reader = old }()
	c, err := newCluster(Options{Seed: 2, Nodes: 5, Calm: true, Think: 100 * time.Millisecond, NoRelay: noRelay}, rand.New(rand.NewPCG(seed, 1)))
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
	c.until(began+lasts-time.Second/2, func() bool { return c.leader() == hub })
	if c.leader() != hub || hub.rep.Commit() < commit+10 {
		t.Errorf("seed %d: the hub, which all reach, does not lead once it has caught up: %s", seed, c.describe())
	}
	if c.err != nil {
		t.Errorf("seed %d: %v", seed, c.err)
	}
	return took, true
}

// TestLyingHub: a hub that loses, changes and repeats what it relays, and forges acknowledgements, does no harm: see
// attackLiar. TestMutantLyingHub is its control.
func TestLyingHub(t *testing.T) {
	forged := 0
	for seed := range uint64(4) {
		fired, err := lyingHub(t, seed)
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		forged += fired["lie: acknowledgement forged"]
	}
	if forged == 0 {
		t.Error("nothing was forged, so nothing was tested")
	}
}

// lyingHub runs the attack on a core that nothing else happens to, of three members and of five by turns.
func lyingHub(t *testing.T, seed uint64) (fired map[string]int, violation error) {
	t.Helper()
	old := crand.Reader
	crand.Reader = rand.NewChaCha8([32]byte{byte(seed)}) // raft's timeouts
	defer func() { crand.Reader = old }()
	o := Options{Seed: 2, Nodes: nodesOf(seed), Calm: true, Think: 100 * time.Millisecond}
	c, err := newCluster(o, rand.New(rand.NewPCG(seed, 1)))
	if err != nil {
		t.Fatal(err)
	}
	c.clients.start()
	c.watchers.start()
	c.until(1500*time.Millisecond, func() bool { return false })
	for c.fired["attack: lying hub"] == 0 {
		if hub := c.anyHost(); hub != c.leader() {
			c.note("attack: lying hub")
			c.lyingHub(hub)
		}
	}
	c.until(c.now+7*time.Second, func() bool { return false })
	c.calm()
	c.until(c.now+healTime, c.whole)
	c.clients.stopped = true
	c.until(c.now+patience+time.Second, func() bool { return c.clients.waits() == 0 })
	c.finish()
	return c.fired, c.err
}
