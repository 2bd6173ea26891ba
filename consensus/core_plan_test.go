package consensus

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"
)

// TestPlan runs the scenarios in testdata/plan. A line is one node: its name, then id=, zone=,
// voter, learner, dead=DURATION (not heard by Raft), silent (gossip too), behind, blank,
// unready, ungranted, withdrawn, leaving, held, up=DURATION (default 1h). The commit index is 10,000, or commit=. may-leave says
// what MayLeave says of a node.
func TestPlan(t *testing.T) {
	datadriven.Walk(t, "testdata/plan", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			in := PlanInput{Size: 3, Self: 1, Commit: 10_000, Progress: map[uint64]Progress{}}
			node := ""
			for _, a := range d.CmdArgs {
				switch a.Key {
				case "size":
					in.Size = number(t, a.Vals[0])
				case "self":
					in.Self = uint64(number(t, a.Vals[0]))
				case "commit":
					in.Commit = uint64(number(t, a.Vals[0]))
				case "held":
					in.Held = true
				case "node":
					node = a.Vals[0]
				case "joint":
					in.Outgoing = []uint64{1}
				default:
					t.Fatalf("%s: %s", d.Pos, a.Key)
				}
			}
			for line := range strings.Lines(d.Input) {
				planLine(t, &in, strings.Fields(line))
			}
			if d.Cmd == "may-leave" {
				return fmt.Sprintf("%+v\n", MayLeave(in, node))
			}
			return describeAction(Plan(in))
		})
	})
}

func number(t *testing.T, s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func planLine(t *testing.T, in *PlanInput, words []string) {
	m := PlanMember{Node: words[0], Granted: true, Ready: true, Alive: true, AliveFor: time.Hour}
	pr := Progress{Match: in.Commit, Active: true}
	voter, learner := false, false
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "id":
			m.RaftID = uint64(number(t, value))
		case "zone":
			m.Zone = value
		case "voter":
			voter = true
		case "learner":
			learner = true
		case "dead":
			pr.Active = false
			m.DeadFor, _ = time.ParseDuration(value)
		case "silent":
			m.Alive, m.AliveFor = false, 0
		case "behind":
			pr.Match = 100
		case "blank":
			pr.Match = 0
		case "unready":
			m.Ready = false
		case "ungranted":
			m.Granted = false
		case "withdrawn":
			m.Withdrawn = true
		case "leaving":
			m.Leaving = true
		case "held":
			m.Held = true
		case "up":
			m.AliveFor, _ = time.ParseDuration(value)
		default:
			t.Fatalf("unknown word %q", w)
		}
	}
	if m.RaftID != 0 {
		in.Progress[m.RaftID] = pr
	}
	if voter {
		in.Voters = append(in.Voters, m.RaftID)
	}
	if learner {
		in.Learners = append(in.Learners, m.RaftID)
	}
	if m.Node != "-" { // "-" is an id in the configuration that no member has
		in.Members = append(in.Members, m)
	}
}

func describeAction(a Action) string {
	var b strings.Builder
	b.WriteString(string(a.Kind))
	if a.Node != "" {
		fmt.Fprintf(&b, " node=%s", a.Node)
	}
	for _, f := range []struct {
		name string
		ids  []uint64
	}{{"ids", a.IDs}, {"add", a.AddVoters}, {"drop", a.DropVoters}, {"drop-learners", a.DropLearners}, {"demote", a.Demote}} {
		if len(f.ids) > 0 {
			fmt.Fprintf(&b, " %s=%v", f.name, f.ids)
		}
	}
	if a.RaftID != 0 {
		fmt.Fprintf(&b, " id=%d", a.RaftID)
	}
	if a.To != 0 {
		fmt.Fprintf(&b, " to=%d", a.To)
	}
	if a.Reason != "" {
		fmt.Fprintf(&b, "\n%s", a.Reason)
	}
	return b.String() + "\n"
}

// TestPlanSafety: whatever is fed to Plan, no step lets fewer failures be survived, leaves an even
// number of voters where it was odd, or drops two at once, except that a lowered size drops two, and a node that leaves
// the cluster may take one failure along, if the others have the quorum of before without it;
// only caught-up, allowed learners become voters; this node is never dropped while others lead on.
func TestPlanSafety(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawPlanInput(t)
		a := Plan(in)
		if in.Held || len(in.Outgoing) > 0 {
			if a.Kind != ActionNone {
				t.Fatalf("held or joint, but %+v", a)
			}
			return
		}
		if a.Kind != ActionChange {
			return
		}
		before, after := in.Voters, nextVoters(in.Voters, a)
		shrinking := len(before) > coreSize(in.Size)
		if len(after)%2 == 0 {
			t.Fatalf("even voters %v after %+v", after, a)
		}
		letsGo := len(a.Demote) > 0
		if letsGo {
			checkLetGo(t, in, a)
		}
		if !shrinking && len(a.DropVoters) > 1 || len(a.DropVoters)+len(a.Demote) > 2 {
			t.Fatalf("drops %v", a.DropVoters)
		}
		if !shrinking && !letsGo && planMargin(in, after) < planMargin(in, before) {
			t.Fatalf("margin falls from %d to %d by %+v", planMargin(in, before), planMargin(in, after), a)
		}
		if planMargin(in, after) < 0 && len(a.DropVoters) > 0 && planMargin(in, before) >= 0 {
			t.Fatalf("quorum lost by %+v", a)
		}
		if len(before) > 1 && slices.Contains(a.DropVoters, in.Self) {
			t.Fatalf("drops the leader: %+v", a)
		}
		for _, id := range a.AddVoters {
			i := slices.IndexFunc(in.Members, func(m PlanMember) bool { return m.RaftID == id })
			pr := in.Progress[id]
			if m := in.Members[i]; !m.Granted || m.Withdrawn || m.Leaving || m.Held || !m.Ready || !slices.Contains(in.Learners, id) || !pr.Active || pr.Match == 0 || pr.Match+caughtUpWithin < in.Commit {
				t.Fatalf("adds %d, which may not vote: %+v", id, m)
			}
		}
		if c := a.ConfChange(); len(a.AddVoters)+len(a.DropVoters) > 0 && c.GetTransition() != raftpb.ConfChangeTransitionJointImplicit {
			t.Fatalf("voters change without a joint phase: %v", c)
		}
	})
}

// checkLetGo wants the one that is dropped to be leaving, and a majority of the present voters to be heard and to stay.
func checkLetGo(t *rapid.T, in PlanInput, a Action) {
	staying := 0
	for _, m := range in.Members {
		if slices.Contains(a.DropVoters, m.RaftID) && !m.Leaving {
			t.Fatalf("drops %s, which does not leave", m.Node)
		}
		if !slices.Contains(in.Voters, m.RaftID) || slices.Contains(a.DropVoters, m.RaftID) || m.Leaving {
			continue
		}
		if m.RaftID == in.Self || in.Progress[m.RaftID].Active {
			staying++
		}
	}
	if len(a.DropVoters) != 1 || len(a.Demote) != 1 || a.Demote[0] == in.Self || staying < len(in.Voters)/2+1 {
		t.Fatalf("%d of %d voters stay after %+v", staying, len(in.Voters), a)
	}
}

func drawPlanInput(t *rapid.T) PlanInput {
	n := rapid.IntRange(1, 9).Draw(t, "nodes")
	in := PlanInput{
		Size: rapid.IntRange(0, 9).Draw(t, "size"), Self: 1, Commit: 10_000, Progress: map[uint64]Progress{},
		Held: rapid.IntRange(0, 20).Draw(t, "held") == 0,
	}
	voters := 2*rapid.IntRange(0, 3).Draw(t, "voters") + 1
	for i := range n {
		id := uint64(i + 1)
		m := PlanMember{
			Node: fmt.Sprint("n", i), Zone: rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "zone"),
			Granted: rapid.IntRange(0, 4).Draw(t, "granted") > 0, Withdrawn: rapid.IntRange(0, 5).Draw(t, "withdrawn") == 0,
			Ready: rapid.IntRange(0, 5).Draw(t, "ready") > 0, Alive: rapid.IntRange(0, 3).Draw(t, "alive") > 0,
			AliveFor: time.Duration(rapid.IntRange(0, 60).Draw(t, "up")) * time.Minute,
			DeadFor:  time.Duration(rapid.IntRange(0, 40).Draw(t, "dead")) * time.Minute, RaftID: id,
			Leaving: rapid.IntRange(0, 6).Draw(t, "leaving") == 0, Held: rapid.IntRange(0, 9).Draw(t, "held here") == 0,
		}
		active := rapid.IntRange(0, 3).Draw(t, "active") > 0
		in.Progress[id] = Progress{Match: rapid.SampledFrom([]uint64{100, 10_000}).Draw(t, "match"), Active: active}
		switch {
		case i < voters:
			in.Voters = append(in.Voters, id)
		case rapid.Bool().Draw(t, "learner"):
			in.Learners = append(in.Learners, id)
		case rapid.Bool().Draw(t, "unassigned"):
			m.RaftID = 0
		}
		if i == 0 || rapid.IntRange(0, 15).Draw(t, "forgotten") > 0 {
			in.Members = append(in.Members, m)
		}
	}
	if len(in.Voters)%2 == 0 {
		last := len(in.Voters) - 1
		in.Learners = append(in.Learners, in.Voters[last])
		in.Voters = in.Voters[:last]
	}
	if rapid.IntRange(0, 20).Draw(t, "joint") == 0 {
		in.Outgoing = in.Voters
	}
	return in
}

func nextVoters(voters []uint64, a Action) []uint64 {
	next := slices.Concat(voters, a.AddVoters)
	return slices.DeleteFunc(next, func(id uint64) bool {
		return slices.Contains(a.DropVoters, id) || slices.Contains(a.Demote, id)
	})
}

func planMargin(in PlanInput, voters []uint64) int {
	live := 0
	for _, id := range voters {
		if id == in.Self || in.Progress[id].Active {
			live++
		}
	}
	return live - (len(voters)/2 + 1)
}

// TestPlanArrives: with all nodes well, planning ends, at the odd number of voters nearest below
// what is allowed and wanted, with the zones as even as can be.
func TestPlanArrives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawPlanInput(t)
		in.Held, in.Outgoing = false, nil
		next := uint64(100)
		for i := range in.Members {
			in.Members[i].Alive, in.Members[i].Ready, in.Members[i].AliveFor = true, true, time.Hour
		}
		for id := range in.Progress {
			in.Progress[id] = Progress{Match: in.Commit, Active: true}
		}
		allowed := 0
		for _, m := range in.Members {
			if m.Granted && !m.Withdrawn && !m.Leaving && !m.Held {
				allowed++
			}
		}
		for step := range 60 {
			a := Plan(in)
			if a.Kind == ActionNone {
				if want := coreSize(min(in.Size, max(1, allowed))); len(in.Voters) < want || len(in.Voters) > coreSize(in.Size) {
					t.Fatalf("rests at voters %v, %d allowed, size %d", in.Voters, allowed, in.Size)
				}
				return
			}
			next = perform(&in, a, next)
			if step == 59 {
				t.Fatalf("still at it: %+v", a)
			}
		}
	})
}

// perform does what the caller of Plan would do.
func perform(in *PlanInput, a Action, next uint64) uint64 {
	switch a.Kind {
	case ActionAssignID:
		i := slices.IndexFunc(in.Members, func(m PlanMember) bool { return m.Node == a.Node })
		next++
		in.Members[i].RaftID = next
		in.Progress[next] = Progress{Match: in.Commit, Active: true}
	case ActionAddLearners:
		in.Learners = append(in.Learners, a.IDs...)
	case ActionRetire:
		i := slices.IndexFunc(in.Members, func(m PlanMember) bool { return m.RaftID == a.RaftID })
		in.Members[i].RaftID = 0
	case ActionTransfer:
		in.Self = a.To
	case ActionChange:
		in.Voters = nextVoters(in.Voters, a)
		in.Learners = append(in.Learners, a.Demote...)
		in.Learners = slices.DeleteFunc(in.Learners, func(id uint64) bool {
			return slices.Contains(a.AddVoters, id) || slices.Contains(a.DropLearners, id)
		})
		if !slices.Contains(in.Voters, in.Self) {
			in.Self = in.Voters[0]
		}
	}
	return next
}
