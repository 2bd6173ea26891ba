package consensus

import "testing"

// TestLeadGoesToTheHub: a leader that reaches a member only through another gives the lead to that one, which reaches
// all, so that nothing has to be relayed any more. The control: where everybody lacks one link nobody stands better, and
// the lead stays.
func TestLeadGoesToTheHub(t *testing.T) {
	for seed := range uint64(5) {
		newSim(t, seed)
		c := replicasOf(t, 3, sealing)
		leader := c.leader().n.opts.ID
		other, hub := leader%3+1, (leader+1)%3+1
		c.only([2]uint64{leader, hub}, [2]uint64{other, hub})
		c.tick(120)
		if !c.all[hub-1].Leads() || !c.put(c.all[hub-1], "k") || c.all[leader-1].Status().Relayed.Leads != 1 {
			t.Errorf("seed %d: %d does not lead in the place of %d", seed, hub, leader)
		}
		if s := c.all[hub-1].Status(); len(s.Relays) != 0 {
			t.Errorf("seed %d: the new leader relays: %v", seed, s.Relays)
		}

		newSim(t, seed)
		c = replicasOf(t, 4, sealing)
		leader = c.leader().n.opts.ID
		c.only([2]uint64{1, 2}, [2]uint64{2, 3}, [2]uint64{3, 4}, [2]uint64{4, 1})
		c.tick(300)
		if s := c.all[leader-1].Status(); !c.all[leader-1].Leads() || len(s.Relays) != 1 || s.Relayed.Leads != 0 {
			t.Errorf("control, seed %d: the lead was moved in a ring: %+v", seed, s)
		}
	}
}

// TestLeadStaysForARemedy: the lead is not given to a hub that is held for maintenance, nor while a quarantine is being
// decided; it is as soon as neither holds.
func TestLeadStaysForARemedy(t *testing.T) {
	for _, why := range []string{"held", "undecided"} {
		held := uint64(0)
		c := replicasOf(t, 3, sealing, func(o *Options) { o.Held = func(id uint64) bool { return id == held } })
		was := c.leader()
		leader := was.n.opts.ID
		other, hub := leader%3+1, (leader+1)%3+1
		g := &was.n.core.guard
		if why == "held" {
			held = hub
		} else {
			g.ledTerm, g.inquiries = was.n.core.term, map[uint64]*inquiry{5: {promise: true}}
		}
		c.only([2]uint64{leader, hub}, [2]uint64{other, hub})
		c.tick(200)
		if !was.Leads() || was.Status().Relayed.Leads != 0 {
			t.Errorf("%s: the lead was moved", why)
		}
		held = 0
		clear(g.inquiries)
		c.tick(120)
		if !c.all[hub-1].Leads() {
			t.Errorf("%s, afterwards: the hub does not lead", why)
		}
	}
}

// TestLeadIsMovedSeldom: where another member is the hub again and again, the lead does not go round with it.
func TestLeadIsMovedSeldom(t *testing.T) {
	c := newReplicas(t, 3, sealing)
	const rounds = 60
	for range rounds {
		leader := c.leader().n.opts.ID
		other, hub := leader%3+1, (leader+1)%3+1
		c.only([2]uint64{leader, hub}, [2]uint64{other, hub})
		c.tick(120)
		c.cut = nil
		c.tick(80)
	}
	moved := uint64(0)
	for _, r := range c.all {
		moved += r.Status().Relayed.Leads
	}
	// 12,000 ticks: a member may at 0, 200, 600, 1,400, 3,000, 6,200 and then no more.
	if moved < 6 || moved > 3*6 {
		t.Errorf("the lead was moved %d times in %d rounds, want at most 6 times by each of three", moved, rounds)
	}
	t.Logf("the lead was moved %d times in %d rounds", moved, rounds)
}

// TestLeadWaitsForTheLog: a hub that is behind is led by one that it relays to until it has caught up, and leads then.
func TestLeadWaitsForTheLog(t *testing.T) {
	c := newReplicas(t, 5, sealing)
	left := constrained(c)
	hub := c.all[left[0]-1]
	before, ends := hub.n.core.log.last(), left[1:]
	for ticks := 0; !hub.Leads(); ticks++ {
		if c.tick(1); ticks == 400 {
			t.Fatal("the hub does not lead in 400 ticks")
		}
	}
	led := false
	for _, id := range ends {
		led = led || c.all[id-1].Status().Relayed.Leads == 1
	}
	if !led || c.cells[left[0]-1].state.Values["behind"] != "v" {
		t.Errorf("the hub leads, from a log up to %d, and was given the lead: %v", before, led)
	}
	if !c.put(hub, "again") {
		t.Error("the hub leads and takes no write")
	}
}
