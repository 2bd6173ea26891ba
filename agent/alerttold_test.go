package agent

import (
	"slices"
	"testing"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/ops"
)

// An alert about the core is told once by the leader, by levels: what it has not told yet, and the end of what anybody
// has told. Each of four agents used to tell both ends of each, which made sixteen lines of one lost voter.
func TestCoreAlertsAreToldOnce(t *testing.T) {
	alert := func(id string, s ops.State) ops.AlertStatus { return ops.AlertStatus{ID: id, State: s} }
	for _, test := range []struct {
		what   string
		alert  ops.AlertStatus
		last   string
		change bool
	}{
		{"it begins", alert("quorum-margin", ops.StateFiring), "", true},
		{"it begins again", alert("quorum-margin", ops.StateFiring), api.EventResolved, true},
		{"it was told", alert("quorum-margin", ops.StateFiring), api.EventAlert, false},
		{"it is over", alert("no-leader", ops.StateOK), api.EventAlert, true},
		{"that was told", alert("no-leader", ops.StateOK), api.EventResolved, false},
		{"nothing was ever told", alert("voter-unhealthy", ops.StateOK), "", false},
		{"pending is not over", alert("voter-unhealthy", ops.StatePending), api.EventAlert, false},
		{"no data is not over", alert("voter-unhealthy", ops.StateNoData), api.EventAlert, false},
		{"of an agent's own", alert("link-unreachable", ops.StateFiring), "", false},
	} {
		got := alertChanges([]ops.AlertStatus{test.alert}, map[string]string{test.alert.ID: test.last})
		if len(got) == 1 != test.change {
			t.Errorf("%s: %+v", test.what, got)
		}
	}
	var ids []string
	for id := range coreAlerts {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if want := []string{"host-copied", "no-leader", "quorum-margin", "state-undecided", "voter-unhealthy"}; !slices.Equal(ids, want) {
		t.Errorf("about the core are %q, want %q", ids, want)
	}
}

// Without a leader the members of the core tell it, and nobody else: however many agents there are, there are at most
// so many lines.
func TestWithoutALeaderTheCoreTells(t *testing.T) {
	for _, test := range []struct{ inCore, leader, tells bool }{
		{true, false, true}, {true, true, false}, {false, false, false}, {false, true, false},
	} {
		if got := tellsCoreAlert(test.inCore, test.leader); got != test.tells {
			t.Errorf("in the core %t, leader known %t: tells %t", test.inCore, test.leader, got)
		}
	}
}

// What is over says so: the summary alone reads as if it were true now.
func TestAlertEventsSayHowItIs(t *testing.T) {
	a := &Agent{timeline: &timeline{node: "a1", wall: func() clock.Stamp { return 1 }, wake: make(chan struct{}, 1)}}
	a.reportAlert("udp-fallback", true, "gossip falls back")
	a.reportAlert("udp-fallback", false, "gossip falls back")
	waiting := a.timeline.pending()
	if len(waiting) != 2 || waiting[0].Message != "gossip falls back" || waiting[1].Message != "is over: gossip falls back" ||
		waiting[0].Kind != api.EventAlert || waiting[1].Kind != api.EventResolved {
		t.Errorf("got %+v", waiting)
	}
}
