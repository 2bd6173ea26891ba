package consensus

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// conditions are what can be the matter with a voter: how each changes the member, and whether it is heard.
var conditions = []struct {
	name  string
	heard bool
	edit  func(*PlanMember)
}{
	{"well", true, func(*PlanMember) {}},
	{"dead", false, func(m *PlanMember) { m.Alive, m.DeadFor = false, 24*time.Hour }},
	{"leaves", true, func(m *PlanMember) { m.Leaving = true }},
	{"unwanted", true, func(m *PlanMember) { m.Granted = false }},
}

// TestNoStepBreaksTheQuorum: every core of one, three or five voters in every combination of conditions, of every wanted size,
// beside no, one or two spares in any stage. No step of Plan leaves voters that have no quorum where there was one, or drops
// the only ones that have caught up; MayLeave lets nobody go whose going would; MayGo gives no id up that the others need. All
// kinds of steps turn up.
func TestNoStepBreaksTheQuorum(t *testing.T) {
	seen := make(map[string]int)
	for _, voters := range []int{1, 3, 5} {
		combinations := 1
		for range voters {
			combinations *= len(conditions)
		}
		for combination := range combinations {
			for spares := range 12 { // none, or two of: without an id, learner behind, learner that has caught up, with an id
				for _, size := range []int{1, 3, 5} {
					in := coreOf(voters, combination, spares)
					in.Size = size
					checkStep(t, in, seen)
				}
			}
		}
	}
	for _, kind := range []string{"shrink", "grow", "replace", "let go", "transfer", "add-learners", "assign-id", "drop learner", "none", "leave refused", "leave allowed", "id kept", "id given up"} {
		if seen[kind] == 0 {
			t.Errorf("never seen: %s; of %v", kind, seen)
		}
	}
	t.Logf("steps: %v", seen)
}

// coreOf builds a core: a digit of combination for each voter, the first of which leads, and so is heard whatever it is.
func coreOf(voters, combination, spares int) PlanInput {
	in := PlanInput{Self: 1, Commit: 10_000, Progress: map[uint64]Progress{}}
	for i := range voters {
		c := conditions[combination%len(conditions)]
		combination /= len(conditions)
		m := PlanMember{Node: fmt.Sprint("v", i), Granted: true, Ready: true, Alive: true, AliveFor: time.Hour, RaftID: uint64(i + 1)}
		c.edit(&m)
		in.Voters = append(in.Voters, m.RaftID)
		in.Members = append(in.Members, m)
		in.Progress[m.RaftID] = Progress{Match: in.Commit, Active: c.heard}
	}
	for i, stage := range map[int][]int{0: nil, 1: {0}, 2: {1}, 3: {2}, 4: {0, 0}, 5: {0, 1}, 6: {0, 2}, 7: {1, 1}, 8: {1, 2}, 9: {2, 2}, 10: {3}, 11: {2, 3}}[spares] {
		m := PlanMember{Node: fmt.Sprint("s", i), Granted: true, Ready: true, Alive: true, AliveFor: time.Hour}
		if stage > 0 {
			m.RaftID = uint64(voters + i + 1)
			if stage < 3 {
				in.Learners = append(in.Learners, m.RaftID)
				in.Progress[m.RaftID] = Progress{Match: []uint64{0, 100, in.Commit}[stage], Active: true}
			}
		}
		in.Members = append(in.Members, m)
	}
	return in
}

func checkStep(t *testing.T, in PlanInput, seen map[string]int) {
	t.Helper()
	a := Plan(in)
	seen[stepName(in, a)]++
	before, after := planMargin(in, in.Voters), planMargin(in, nextVoters(in.Voters, a))
	if a.Kind == ActionChange && (after < 0 && before >= 0 || len(nextVoters(in.Voters, a)) == 0) {
		t.Fatalf("margin %d to %d by %+v, of %+v", before, after, a, in)
	}
	if a.Kind == ActionTransfer && (!in.Progress[a.To].Active || !slices.Contains(in.Voters, a.To)) {
		t.Fatalf("the lead goes to %d: %+v", a.To, in)
	}
	for _, id := range in.Voters {
		rest := slices.DeleteFunc(slices.Clone(in.Voters), func(v uint64) bool { return v == id })
		// Who is left, healthy, counted against the quorum of the present voters.
		margin := planMargin(in, rest) + len(rest)/2 - len(in.Voters)/2
		l := MayLeave(in, in.Members[id-1].Node)
		switch {
		case l.Reason != "":
			seen["leave refused"]++
		case l.Heir == "" && margin < 0:
			t.Fatalf("%d may leave, and the others have no quorum: %+v, of %+v", id, l, in)
		default:
			seen["leave allowed"]++
		}
		st := Status{ID: in.Self, Leader: in.Self, Voters: in.Voters, Progress: in.Progress, Confirmed: true}
		switch err := MayGo(st, id, func(uint64) bool { return false }); {
		case err != nil:
			seen["id kept"]++
		case margin < 0:
			t.Fatalf("%d gives its id up, and the others have no quorum: %+v", id, in)
		default:
			seen["id given up"]++
		}
	}
}

func stepName(in PlanInput, a Action) string {
	switch {
	case a.Kind != ActionChange:
		return string(a.Kind)
	case len(a.Demote) > 0:
		return "let go"
	case len(a.DropLearners) > 0:
		return "drop learner"
	case len(a.AddVoters) > 0 && len(a.DropVoters) > 0:
		return "replace"
	case len(a.AddVoters) > 0:
		return "grow"
	case len(in.Voters) > coreSize(in.Size):
		return "shrink"
	}
	return "unknown"
}
