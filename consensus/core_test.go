package consensus

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3/raftpb"
)

// TestCore runs the scripts in testdata: each is a claim about the core, with what must be seen.
func TestCore(t *testing.T) {
	datadriven.Walk(t, "testdata/core", func(t *testing.T, path string) {
		s := newSim(t, 1)
		s.tune = func(c *coreConfig) { c.trailingEntries, c.snapshotEntries = 2, 1000 }
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t = t
			out := s.script(d)
			for _, b := range s.broken {
				t.Errorf("%s: %s", d.Pos, b)
			}
			return out
		})
	})
}

func (s *sim) script(d *datadriven.TestData) string {
	switch d.Cmd {
	case "add-nodes":
		return s.cmdAdd(d)
	case "add-blank":
		s.add(arg(s, d, 0))
		return s.describe()
	case "propose":
		return s.cmdPropose(d)
	case "read":
		n := s.nodes[arg(s, d, 0)]
		s.held = n.read()
		s.settle()
		return describeOutcome(*s.held)
	case "get":
		n := s.nodes[arg(s, d, 0)]
		return fmt.Sprintf("%s=%s applied=%d\n", d.CmdArgs[1].Key, n.machine.get(d.CmdArgs[1].Key), n.core.applied)
	case "outcome":
		return describeOutcome(*s.held)
	case "change":
		return s.cmdChange(d)
	case "transfer":
		n := s.nodes[arg(s, d, 0)]
		r := n.ask(&request{target: arg(s, d, 1)}, (*core).transferTo)
		s.settle()
		s.tick(2)
		return describeOutcome(*r) + s.describe()
	case "hand-over":
		n := s.nodes[arg(s, d, 0)]
		n.do(func() { n.core.handOver() })
		s.settle()
		s.tick(2)
		return s.describe()
	case "halt":
		n := s.nodes[arg(s, d, 0)]
		n.do(func() { n.core.halt(errors.New("unknown command")) })
		s.settle()
		return s.describe()
	default:
		return s.cmdWorld(d)
	}
}

func (s *sim) cmdWorld(d *datadriven.TestData) string {
	switch d.Cmd {
	case "crash":
		s.nodes[arg(s, d, 0)].crash(true)
	case "restart":
		s.nodes[arg(s, d, 0)].start()
		s.settle()
	case "partition":
		s.partition(arg(s, d, 0))
	case "heal":
		clear(s.cut)
		s.tick(4)
	case "tick":
		s.tick(int(arg(s, d, 0)))
	case "elect":
		s.elect()
	case "snapshot":
		n := s.nodes[arg(s, d, 0)]
		n.core.cfg.snapshotEntries = 1
		n.propose("snapshot", "taken")
		s.settle()
		n.core.cfg.snapshotEntries = 1000
		return fmt.Sprintf("first=%d last=%d snapshot=%d\n", n.core.log.first(), n.core.log.last(), n.core.log.snap.Index)
	case "pair-sync":
		for _, n := range s.nodes {
			n.core.cfg.pairSync = d.CmdArgs[0].Key == "on"
		}
	case "status":
	default:
		s.t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
	}
	return s.describe()
}

func (s *sim) cmdAdd(d *datadriven.TestData) string {
	count := arg(s, d, 0)
	voters := make([]uint64, count)
	for i := range voters {
		voters[i] = uint64(i + 1)
	}
	for _, id := range voters {
		s.add(id, voters...)
	}
	s.settle()
	return s.describe()
}

// cmdPropose proposes and settles; "held" leaves it in flight.
func (s *sim) cmdPropose(d *datadriven.TestData) string {
	n := s.nodes[arg(s, d, 0)]
	key, value := d.CmdArgs[1].Key, strings.Join(d.CmdArgs[1].Vals, ",")
	r := n.propose(key, value)
	if d.HasArg("held") {
		s.held = r
		return describeOutcome(*r)
	}
	s.settle()
	s.tick(2)
	if d.HasArg("until") {
		s.tick(40)
	}
	return describeOutcome(*r)
}

func (s *sim) cmdChange(d *datadriven.TestData) string {
	var spec []string
	for _, a := range d.CmdArgs[1:] {
		spec = append(spec, a.Key)
	}
	changes, err := raftpb.ConfChangesFromString(strings.Join(spec, " "))
	if err != nil {
		s.t.Fatal(err)
	}
	n := s.nodes[arg(s, d, 0)]
	r := n.ask(&request{change: &raftpb.ConfChangeV2{Changes: changes}}, (*core).changeCore)
	s.settle()
	s.tick(4)
	return describeOutcome(*r) + s.describe()
}

// partition separates one node from all others.
func (s *sim) partition(id uint64) {
	for _, other := range s.ids {
		if other != id {
			s.cut[[2]uint64{id, other}], s.cut[[2]uint64{other, id}] = true, true
		}
	}
}

func arg(s *sim, d *datadriven.TestData, i int) uint64 {
	v, err := strconv.ParseUint(d.CmdArgs[i].Key, 10, 64)
	if err != nil {
		s.t.Fatalf("%s: %v", d.Pos, err)
	}
	return v
}

func describeOutcome(o *outcome) string {
	switch {
	case o == nil:
		return "waiting\n"
	case o.err != nil:
		return fmt.Sprintf("error: %v\n", o.err)
	case o.done.Index > 0:
		return fmt.Sprintf("acknowledged index=%d\n", o.done.Index)
	case o.index > 0:
		return fmt.Sprintf("read index=%d\n", o.index)
	}
	return "done\n"
}

func (s *sim) describe() string {
	var b strings.Builder
	for _, id := range s.ids {
		c := s.nodes[id].core
		if c == nil {
			fmt.Fprintf(&b, "%d: down\n", id)
			continue
		}
		st := c.status()
		fmt.Fprintf(&b, "%d: %s term=%d leader=%d applied=%d voters=%v", id, st.Role, st.Term, st.Leader, st.Applied, st.Voters)
		if len(st.Outgoing) > 0 {
			fmt.Fprintf(&b, " outgoing=%v", st.Outgoing)
		}
		if len(st.Learners) > 0 {
			fmt.Fprintf(&b, " learners=%v", st.Learners)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// TestPairPatience: a learner that is heard, and whose disk does not take anything, holds writes up for
// pairPatienceTimeouts only; then it has to catch up before it counts again.
func TestPairPatience(t *testing.T) {
	s := newSim(t, 1)
	s.add(1, 1)
	s.settle()
	s.add(2)
	s.nodes[1].ask(&request{change: &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{
		Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: new(uint64(2)),
	}}}}, (*core).changeCore)
	s.settle()
	s.tick(4)
	leader := s.nodes[1].core
	s.cut[[2]uint64{1, 2}] = true
	wait := func(key string) (ticks uint64) {
		before, got := leader.ticks, s.nodes[1].propose(key, "1")
		for *got == nil && leader.ticks-before < 100 {
			leader.heard[2] = leader.ticks + 1 // as if it answered heartbeats
			s.tick(1)
		}
		return leader.ticks - before
	}
	patience := uint64(pairPatienceTimeouts * leader.cfg.electionTicks)
	if got := wait("a"); got < patience || got > patience+1 {
		t.Errorf("the first write waited %d ticks, want %d", got, patience)
	}
	if got := wait("b"); got > 1 {
		t.Errorf("a later write waited %d ticks for a learner that no longer counts", got)
	}
	clear(s.cut)
	s.tick(4)
	s.cut[[2]uint64{1, 2}] = true
	if got := wait("c"); got < patience {
		t.Errorf("after it caught up a write waited %d ticks, want %d", got, patience)
	}
}

// TestPairWhileGrowing: beside two learners, as while a core of one grows to three, a write waits for one of their disks, the
// furthest. One that is away, or behind, holds nothing up while the other one has it; with both away it waits for an election
// timeout. Before, the rule was off with two learners: a write was on one disk alone, the control with pairSync off.
func TestPairWhileGrowing(t *testing.T) {
	s := newSim(t, 1)
	s.add(1, 1)
	s.settle()
	s.add(2)
	s.add(3)
	learner := func(id uint64) *raftpb.ConfChangeSingle {
		return &raftpb.ConfChangeSingle{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: &id}
	}
	change := &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{learner(2), learner(3)}}
	s.nodes[1].ask(&request{change: change}, (*core).changeCore)
	s.settle()
	s.tick(4)
	leader := s.nodes[1].core
	// wait writes with those learners cut off, and returns after how many ticks it is acknowledged and who has it then.
	wait := func(key string, cut ...uint64) (ticks uint64, disks []uint64) {
		clear(s.cut)
		for _, id := range cut {
			s.cut[[2]uint64{1, id}], s.cut[[2]uint64{id, 1}] = true, true
		}
		before, got := leader.ticks, s.nodes[1].propose(key, "1")
		s.settle()
		for *got == nil && leader.ticks-before < 100 {
			s.tick(1)
		}
		for id := range uint64(3) {
			if n := s.nodes[id+1].core; n.durable >= leader.applied {
				disks = append(disks, id+1)
			}
		}
		return leader.ticks - before, disks
	}
	election := uint64(leader.cfg.electionTicks)
	for i, step := range []struct {
		cut   []uint64
		most  uint64
		disks []uint64
	}{
		{nil, 1, []uint64{1, 2, 3}},
		{[]uint64{2}, 1, []uint64{1, 3}},
		{nil, 4, []uint64{1, 2, 3}},
		{[]uint64{3}, 1, []uint64{1, 2}},
		{[]uint64{2, 3}, election + 2, []uint64{1}},
	} {
		ticks, disks := wait(fmt.Sprint("k", i), step.cut...)
		if ticks > step.most || !slices.Equal(disks, step.disks) {
			t.Errorf("step %d, without %v: after %d ticks, at most %d, on the disks of %v, want %v", i, step.cut, ticks, step.most, disks, step.disks)
		}
		if len(step.cut) == 2 && ticks < election-2 {
			t.Errorf("step %d: acknowledged after %d ticks by one disk, while a learner may be alive", i, ticks)
		}
		clear(s.cut)
		s.tick(6)
	}
	leader.cfg.pairSync = false
	if ticks, disks := wait("control", 2, 3); ticks > 1 || !slices.Equal(disks, []uint64{1}) {
		t.Errorf("control: after %d ticks on the disks of %v", ticks, disks)
	}
}

// TestStalledMember: a voter that answers heartbeats and whose log does not move, as with a full disk, is no
// healthy one. A member is not stalled while there is nothing to write, and is well again once it caught up.
func TestStalledMember(t *testing.T) {
	s := newSim(t, 1)
	for id := range uint64(3) {
		s.add(id+1, 1, 2, 3)
	}
	leader := s.nodes[s.elect()]
	other := leader.id%3 + 1
	tick := func(times int) Progress {
		for range times {
			leader.core.heard[other] = leader.core.ticks + 1 // as if it answered heartbeats
			s.tick(1)
		}
		return leader.core.status().Progress[other]
	}
	patience := stalledTimeouts*leader.core.cfg.electionTicks + 1
	if p := tick(2 * patience); !p.Healthy() {
		t.Fatalf("with nothing to write: %+v", p)
	}
	s.cut[[2]uint64{leader.id, other}] = true
	if r := leader.propose("a", "1"); *r != nil {
		t.Fatalf("got %s", describeOutcome(*r))
	}
	if p := tick(patience - 2); !p.Healthy() {
		t.Errorf("a moment behind: %+v", p)
	}
	if p := tick(3); p.Healthy() || !p.Active {
		t.Errorf("behind for %d ticks: %+v", patience+1, p)
	}
	clear(s.cut)
	if p := tick(4); !p.Healthy() {
		t.Errorf("after it caught up: %+v", p)
	}
}

// TestElectionTimeoutsAreSeeded: the simulator owns raft's randomness, so that a seed replays.
func TestElectionTimeoutsAreSeeded(t *testing.T) {
	run := func() []uint64 {
		s := newSim(t, 7)
		s.add(1, 1, 2, 3)
		s.add(2, 1, 2, 3)
		s.add(3, 1, 2, 3)
		first := s.elect()
		s.nodes[first].crash(true)
		return []uint64{first, s.elect(), s.nodes[s.current()].core.ticks}
	}
	if a, b := run(), run(); !slices.Equal(a, b) {
		t.Errorf("two runs of one seed: %v and %v", a, b)
	}
}
