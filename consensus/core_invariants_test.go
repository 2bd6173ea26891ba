package consensus

import (
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// TestInvariantsAreWatched: each broken promise is found once it is seen, named, and counted; without any a core that elects,
// writes, compares and loses members finds nothing: the control.
func TestInvariantsAreWatched(t *testing.T) {
	broken := map[string]func(*core){
		InvariantOneLeader: func(c *core) {
			m := &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(77)), Term: new(c.term)}
			c.watchMessage(m)
		},
		InvariantOneVote: func(c *core) {
			c.watchVote(&raftpb.HardState{Term: new(uint64(5)), Vote: new(uint64(1))}, &raftpb.HardState{Term: new(uint64(5)), Vote: new(uint64(2))})
		},
		InvariantTermForward:  func(c *core) { c.monitor.term += 1000; c.watchState() },
		InvariantCommit:       func(c *core) { c.commit = c.log.last() + 1; c.watchState() },
		InvariantApplyInOrder: func(c *core) { c.watchApply(c.monitor.handed+2, c.monitor.handed+3) },
		InvariantLogMatching: func(c *core) {
			c.watchChains(1000, map[uint64]mark{c.cfg.id: {}, 99: {chain: [32]byte{1}}})
			c.watchChains(1000, map[uint64]mark{c.cfg.id: {}, 99: {chain: [32]byte{1}}}) // judged again: still one
		},
	}
	if len(broken) != len(Invariants()) {
		t.Errorf("%d of %d invariants are broken here", len(broken), len(Invariants()))
	}
	for name, how := range broken {
		s := digestSim(t, 1, 2, 3)
		s.elect()
		s.rest(2, true)
		s.crashAll(s.ids...)
		n := s.nodes[s.elect()]
		s.rest(2, true)
		if got := n.core.status().Violations; len(got) != 0 {
			t.Fatalf("control: %+v", got)
		}
		how(n.core)
		got := n.core.status().Violations
		if len(got) != 1 || got[0].Invariant != name || got[0].Count != 1 || got[0].Detail == "" {
			t.Errorf("%s: found %+v", name, got)
		}
		if out := n.core.take(); len(out.violations) != 1 || !out.changed {
			t.Errorf("%s is not told", name)
		}
	}
	for _, i := range Invariants() {
		if !strings.HasSuffix(i[1], ".") {
			t.Errorf("%q says %q", i[0], i[1])
		}
	}
}

// TestWatchedTermsAreBounded: the leaders of the newest terms are remembered, and those alone.
func TestWatchedTermsAreBounded(t *testing.T) {
	c := &core{}
	for term := range uint64(3 * watchedTerms) {
		c.watchLeader(term, 1)
	}
	if _, newest := c.monitor.leaders[3*watchedTerms-1]; len(c.monitor.leaders) != watchedTerms || !newest {
		t.Errorf("%d terms are remembered, the newest %v", len(c.monitor.leaders), newest)
	}
	if slices.ContainsFunc(c.violations(), func(Violation) bool { return true }) {
		t.Error("one leader was taken for two")
	}
}
