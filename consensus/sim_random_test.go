package consensus

import (
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// chaos is how often bad things happen, in a thousand steps.
type chaos struct {
	steps   int
	lose    int // a packet, when one is delivered
	crash   int
	cut     int
	heal    int
	replace int // change the core
}

var rough = chaos{steps: 2500, lose: 60, crash: 3, cut: 4, heal: 12, replace: 4}

// randomRun drives a cluster by a seed and returns what it broke.
func randomRun(t *testing.T, seed uint64, c chaos, prepare func(*sim)) *sim {
	s := newSim(t, seed)
	s.tune = func(c *coreConfig) { c.snapshotEntries, c.trailingEntries = 15, 3 }
	if prepare != nil {
		prepare(s)
	}
	for id := uint64(1); id <= 3; id++ {
		s.add(id, 1, 2, 3)
	}
	for step := range c.steps {
		s.randomStep(c, step)
		if len(s.broken) > 0 {
			return s
		}
	}
	s.converge()
	return s
}

func (s *sim) randomStep(c chaos, step int) {
	n := s.nodes[s.ids[s.rnd.IntN(len(s.ids))]]
	switch p := s.rnd.IntN(1000); {
	case p < c.crash:
		if n.core != nil {
			n.crash(s.rnd.IntN(2) == 0)
		}
		return
	case p < c.crash+c.cut:
		other := s.ids[s.rnd.IntN(len(s.ids))]
		s.cut[[2]uint64{n.id, other}], s.cut[[2]uint64{other, n.id}] = true, s.rnd.IntN(3) > 0
		return
	case p < c.crash+c.cut+c.heal:
		clear(s.cut)
		return
	case p < c.crash+c.cut+c.heal+c.replace:
		s.randomChange()
		return
	}
	if n.core == nil {
		if s.rnd.IntN(20) == 0 {
			n.start()
		}
		return
	}
	switch s.rnd.IntN(12) {
	case 0:
		s.now = s.now.Add(defaultTick / 3)
		n.do(func() { n.core.tick() })
	case 1:
		if l := s.current(); l != 0 && s.rnd.IntN(3) > 0 {
			n = s.nodes[l]
		}
		for i := range 1 + s.rnd.IntN(3) {
			n.propose(fmt.Sprintf("k%d.%d", step, i), fmt.Sprint(step))
		}
	case 2:
		n.read()
	case 3, 4:
		n.writeLog()
	case 5:
		n.applyNext()
	case 6:
		n.background()
	default:
		if len(s.net) > 0 {
			i := s.rnd.IntN(min(len(s.net), 8)) // reordered, but not for ever
			if s.rnd.IntN(1000) < c.lose {
				s.net = append(s.net[:i:i], s.net[i+1:]...)
				return
			}
			if s.rnd.IntN(50) == 0 {
				s.net = append(s.net, s.net[i])
			}
			s.deliver(i)
		}
	}
}

// randomChange replaces members: ids are never used again.
func (s *sim) randomChange() {
	l := s.current()
	if l == 0 {
		return
	}
	n := s.nodes[l]
	st := n.core.status()
	var changes []*raftpb.ConfChangeSingle
	add := func(kind raftpb.ConfChangeType, id uint64) {
		changes = append(changes, &raftpb.ConfChangeSingle{Type: kind.Enum(), NodeId: new(id)})
	}
	switch {
	case len(st.Learners) > 0 && len(st.Voters) >= 3:
		add(raftpb.ConfChangeAddNode, st.Learners[0])
		add(raftpb.ConfChangeRemoveNode, st.Voters[s.rnd.IntN(len(st.Voters))])
	case len(s.ids) < 7:
		id := slices.Max(s.ids) + 1
		s.add(id)
		add(raftpb.ConfChangeAddLearnerNode, id)
	default:
		return
	}
	n.ask(&request{change: &raftpb.ConfChangeV2{Changes: changes}}, (*core).changeCore)
}

// converge ends all trouble and checks that everything acknowledged is everywhere.
func (s *sim) converge() {
	clear(s.cut)
	for _, id := range s.ids {
		if s.nodes[id].core == nil {
			s.nodes[id].start()
		}
	}
	leader := uint64(0)
	for range 400 {
		s.tick(1)
		if leader = s.current(); leader != 0 && s.level(leader) {
			break
		}
	}
	if leader == 0 || !s.level(leader) {
		s.fail("no convergence: %s", s.describe())
		return
	}
	s.tick(2 * lostLeaderTimeouts * defaultElectionTicks)
	for _, id := range s.ids {
		if left := len(s.nodes[id].open); left > 0 {
			s.fail("node %d left %d requests without an answer", id, left)
		}
	}
	want := s.nodes[leader].machine.view()
	for key, value := range s.sent {
		if want.Values[key] != value {
			s.fail("acknowledged %s=%s is lost, found %q", key, value, want.Values[key])
		}
	}
	for _, id := range s.nodes[leader].core.members() {
		if got := s.nodes[id].machine.view(); got.Digest != want.Digest {
			s.fail("nodes %d and %d applied different sequences", leader, id)
		}
	}
}

// level reports whether all members have applied what the leader has.
func (s *sim) level(leader uint64) bool {
	c := s.nodes[leader].core
	if !c.status().Confirmed {
		return false
	}
	for _, id := range c.members() {
		if s.nodes[id].core.applied != c.log.last() {
			return false
		}
	}
	return true
}

// TestRandomClusters: whatever is lost, reordered, cut, crashed and replaced, acknowledged
// proposals survive, a term has one leader, all apply the same sequence, and no read is stale.
func TestRandomClusters(t *testing.T) {
	seeds := uint64(100)
	if testing.Short() {
		seeds = 20
	}
	acked, snapshots, changes := 0, 0, 0
	for seed := range seeds {
		s := randomRun(t, seed, rough, nil)
		for _, b := range s.broken {
			t.Errorf("seed %d: %s", seed, b)
		}
		acked += len(s.sent)
		changes += len(s.ids) - 3
		for _, n := range s.nodes {
			snapshots += n.snaps.saves
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d seeds: %d acknowledged, %d snapshots, %d nodes added", seeds, acked, snapshots, changes)
	if acked < int(seeds)*5 || snapshots == 0 || changes == 0 {
		t.Error("the runs did too little to prove anything")
	}
}

// TestRandomClustersFindStaleReads is the control: without the read index the checker objects.
func TestRandomClustersFindStaleReads(t *testing.T) {
	wantBroken(t, "stale read", func(s *sim) { s.noRead = true })
}

// TestRandomClustersFindLyingDisks is the control: with acknowledgements before the sync,
// acknowledged writes get lost, or the log ends before what was committed.
func TestRandomClustersFindLyingDisks(t *testing.T) {
	wantBroken(t, "", func(s *sim) { s.noSync = true })
}

func wantBroken(t *testing.T, what string, prepare func(*sim)) {
	t.Helper()
	for seed := range uint64(600) {
		var found []string
		func() {
			defer func() {
				if p := recover(); p != nil {
					found = []string{fmt.Sprint(p)} // raft noticed by itself
				}
			}()
			found = randomRun(t, seed, rough, prepare).broken
		}()
		for _, b := range found {
			if what == "" || len(b) >= len(what) && b[:len(what)] == what {
				t.Logf("seed %d: %s", seed, b)
				return
			}
		}
	}
	t.Errorf("600 seeds with a planted bug found nothing")
}
