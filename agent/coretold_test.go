package agent

import (
	"slices"
	"testing"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/ops"
)

// TestCoreIsTold: each change of what a core member is in is told once, an undecided core by its leader alone, and a new Raft
// id in place of one that was given up once it votes.
func TestCoreIsTold(t *testing.T) {
	var events []string
	c := &coreRunner{self: "a1", log: zap.NewNop(), report: func(kind, _, _ string) { events = append(events, kind) }}
	leads := consensus.Status{ID: 5, Leader: 5, Voters: []uint64{5, 6}}
	undecided, follows, learns, broken := leads, leads, leads, leads
	broken.Violations = []consensus.Violation{{Invariant: consensus.InvariantOneVote, Count: 2, Detail: "for 1 and for 2"}}
	undecided.ReadOnly = true
	follows.ReadOnly, follows.Leader = true, 6
	learns.Voters, learns.Leader = []uint64{6}, 6
	told := coreTold{enlisted: true, violated: make(map[string]bool)}
	for _, step := range []struct {
		name string
		st   consensus.Status
		want []string
	}{
		{"it learns", learns, nil},
		{"it votes and leads", leads, []string{api.EventRejoined}},
		{"nothing new", leads, nil},
		{"in doubt", consensus.Status{ID: 5, Suspended: "a frame is torn"}, []string{api.EventDoubt}},
		{"in doubt no more", leads, []string{api.EventHealed}},
		{"no majority", undecided, []string{api.EventUndecided}},
		{"still none", undecided, nil},
		{"another leads", follows, nil},
		{"it leads again", undecided, []string{api.EventUndecided}},
		{"a majority", leads, []string{api.EventDecided}},
		{"still one", leads, nil},
		{"an invariant is broken", broken, []string{api.EventViolated}},
		{"and again", broken, nil},
	} {
		events = nil
		if c.tell(step.st, &told); !slices.Equal(events, step.want) {
			t.Errorf("%s: told %q, want %q", step.name, events, step.want)
		}
	}
}

// TestHealReadings: an agent outside the core has no word about a state of its own, a fenced one has between two nodes.
func TestHealReadings(t *testing.T) {
	c := &coreRunner{}
	c.repairs.Add(2)
	r := ops.Readings{}
	c.healReadings(r)
	if _, known := r[ops.CoreFenced]; known || r[ops.CoreLogRepairs] != 2 {
		t.Errorf("outside the core: %v", r)
	}
	c.isFenced.Store(&fencing{})
	c.healReadings(r)
	if _, known := r[ops.CoreUndecided]; known || r[ops.CoreFenced] != 1 {
		t.Errorf("fenced, between two nodes: %v", r)
	}
}

// TestInvariantReport: all that is watched is listed, what was violated with its count, and the counts add up.
func TestInvariantReport(t *testing.T) {
	if r := invariantReport(nil); r.Count != 0 || len(r.Invariants) != len(consensus.Invariants()) || !r.Invariants[0].Holds {
		t.Errorf("all holds: %+v", r)
	}
	r := invariantReport([]consensus.Violation{{Invariant: consensus.InvariantOneVote, Count: 2, Detail: "d"}, {Invariant: consensus.InvariantCommit, Count: 3}})
	i := slices.IndexFunc(r.Invariants, func(i api.Invariant) bool { return i.ID == consensus.InvariantOneVote })
	if r.Count != 5 || r.Invariants[i].Holds || r.Invariants[i].Violations != 2 || r.Invariants[i].Detail != "d" {
		t.Errorf("two do not: %+v", r)
	}
}
