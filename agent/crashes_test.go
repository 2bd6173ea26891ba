package agent

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/ops"
	"github.com/parley-mesh/parley/state"
)

// A restart on purpose is no crash: the first start of a directory and two clean restarts used to page. Three kills do.
func TestLedgerCountsCrashes(t *testing.T) {
	d, c := testDir(t), &testClock{boot: "b1", up: time.Hour, wall: time.Unix(1_700_000_000, 0)}
	for i := range 3 {
		l := mustOpen(t, d, c)
		if l.starts() != i+1 || l.crashes() != 0 || l.cleanRun() != i {
			t.Errorf("start %d: %d starts, %d crashes, %d clean ones in a row, want no crash", i+1, l.starts(), l.crashes(), l.cleanRun())
		}
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
		c.pass(time.Second)
	}
	mustOpen(t, d, c) // behind a clean stop, and it is killed
	for i := range 3 {
		c.pass(time.Second)
		if l := mustOpen(t, d, c); l.crashes() != i+1 || l.cleanRun() != 0 {
			t.Errorf("kill %d: %d crashes", i+1, l.crashes())
		}
	}
	c.pass(startsWindow)
	if l := mustOpen(t, d, c); l.crashes() != 1 {
		t.Errorf("ten minutes later: %d crashes, want the last start alone", l.crashes())
	}
}

// Starts that gossip showed are excused by what the agent itself said of them, in an event before the stop or after the
// start; whatever is not understood, and what another agent says, excuses nothing.
func TestCrashesOfOthers(t *testing.T) {
	said := func(node, kind, message string) state.Event {
		return state.Event{Node: node, Kind: kind, Message: message}
	}
	started := func(node string, n int, how string) state.Event {
		return said(node, api.EventStarted, fmt.Sprintf(startMessage, n)+how)
	}
	stopping := func(node string, n int) state.Event {
		return said(node, api.EventStopping, fmt.Sprintf(stopMessage, n))
	}
	for _, test := range []struct {
		what   string
		starts []uint64
		events []state.Event
		want   int
	}{
		{"killed three times, too fast to say anything", []uint64{2, 3, 4}, nil, 3},
		{"killed three times", []uint64{2, 3, 4}, []state.Event{
			started("a2", 1, startFirst), started("a2", 4, "the run before ended without a clean stop"),
		}, 3},
		{"restarted by SIGTERM", []uint64{2, 3}, []state.Event{started("a2", 1, startFirst), stopping("a2", 1), stopping("a2", 2)}, 0},
		{"restarted while nobody led, told afterwards", []uint64{2, 3}, []state.Event{started("a2", 2, startClean), started("a2", 3, startClean)}, 0},
		{"one of three was a kill", []uint64{2, 3, 4}, []state.Event{stopping("a2", 1), stopping("a2", 3)}, 1},
		{"restarted too fast to tell, told by the last", []uint64{2, 3, 4}, []state.Event{started("a2", 1, startFirst), started("a2", 4, cleanStart(3))}, 0},
		{"killed, then restarted twice too fast to tell", []uint64{2, 3, 4}, []state.Event{started("a2", 4, cleanStart(2))}, 1},
		{"more than there can be", []uint64{2}, []state.Event{started("a2", 2, startClean+", as the 18446744073709551615 before it")}, 0},
		{"another host has the name", []uint64{3, 4, 5}, []state.Event{started("a2", 5, startFirst)}, 0},
		{"another agent says so", []uint64{2}, []state.Event{started("a3", 2, startClean), stopping("a3", 1)}, 1},
		{"of older words", []uint64{2}, []state.Event{said("a2", api.EventStopping, ""), said("a2", api.EventStarted, "start x")}, 1},
	} {
		got := crashesOf(map[string][]uint64{"a2": test.starts}, func(visit func(state.Event) bool) {
			for _, e := range test.events {
				visit(e)
			}
		})
		if want := map[string]int{"a2": test.want}; !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", test.what, got, want)
		}
	}
	if got := crashesOf(nil, func(func(state.Event) bool) { t.Error("the timeline is read for nothing") }); got != nil {
		t.Errorf("nobody started: %v", got)
	}
}

// The cause names who it is, the first by name of those with the most.
func TestWorstCrasher(t *testing.T) {
	for _, test := range []struct {
		crashes map[string]int
		node    string
		most    int
	}{{map[string]int{"a1": 0}, "", 0}, {map[string]int{"a3": 3, "a2": 3, "a1": 1}, "a2", 3}, {nil, "", 0}} {
		if node, most := worstCrasher(test.crashes); node != test.node || most != test.most {
			t.Errorf("%v: got %q, %d", test.crashes, node, most)
		}
	}
}

// The names behind the readings reach the causes: who crashes, and who is not reached.
func TestFactsHaveNames(t *testing.T) {
	r, f := ops.Readings{}, ops.Facts{}
	(&opsSources{}).facts(r, &f)
	if _, measured := r[ops.AgentCrashes]; measured || f.Crashing != "" || f.Unreachable != nil {
		t.Errorf("without sources: %v, %+v", r, f)
	}
	s := opsSources{
		crashes:     func() map[string]int { return map[string]int{"a1": 1, "a4": 3} },
		unreachable: func() []string { return []string{"a5"} },
	}
	s.facts(r, &f)
	if r[ops.AgentCrashes] != 3 || f.Crashing != "a4" || !slices.Equal(f.Unreachable, []string{"a5"}) {
		t.Errorf("got %v, %+v", r, f)
	}
}

// Only the dead outside the core are named by the check of members.
func TestDeadOutside(t *testing.T) {
	members := []membership.Member{
		{Name: "a6", State: membership.StateDead}, {Name: "a5", State: membership.StateDead}, {Name: "a2", State: membership.StateDead},
		{Name: "a4", State: membership.StateLeft}, {Name: "a3", State: membership.StateSuspect}, {Name: "a1", State: membership.StateAlive},
	}
	if got := deadOutside(members, map[string]string{"a1": "leader", "a2": "voter"}); !slices.Equal(got, []string{"a5", "a6"}) {
		t.Errorf("got %q, want a5 and a6", got)
	}
}
