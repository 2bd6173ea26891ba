package api

import (
	"context"
	"testing"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// An agent tells where it is itself, with any role, and where nobody else is.
func TestAgentsPlaceThemselvesOnly(t *testing.T) {
	c := newFake(t, 3, 1)
	leader := c.agents["a1"]
	place := func(node string) state.NodePlace {
		return state.NodePlace{Node: node, Zone: "east", Address: "10.0.0.7:8310"}
	}
	leader.cluster.agents["a2"].role = policy.None
	for _, test := range []struct {
		what, from, caller, node, want string
	}{
		{"itself", "a2", KindInternal, "a2", ""},
		{"another", "a2", KindInternal, "a3", CodeDenied},
		{"the leader", "a2", KindInternal, "a1", CodeDenied},
		{"a person for the agent", "a2", KindSocket, "a2", CodeDenied},
	} {
		err := forward(t, leader, test.from, policy.Operator, test.caller, place(test.node))
		if got := codeOf(err); got != test.want {
			t.Errorf("%s: got %q (%v), want %q", test.what, got, err, test.want)
		}
	}
	if _, err := leader.service.Execute(context.Background(), Internal("a1"), place("a1")); err != nil {
		t.Errorf("the leader for itself: %v", err)
	}
	if row, _ := leader.service.Local().Hub.View().Node("a1"); row.Zone != "east" || row.Address != "10.0.0.7:8310" {
		t.Errorf("a1 is at %q in zone %q", row.Address, row.Zone)
	}
	if _, err := leader.service.Execute(context.Background(), Internal("a1"), place("a2")); codeOf(err) != CodeDenied {
		t.Errorf("the leader for a2: %v, want %s", err, CodeDenied)
	}
	busy := 0
	for range int(placeBurst) + 1 {
		if codeOf(forward(t, leader, "a2", policy.Operator, KindInternal, place("a2"))) == CodeBusy {
			busy++
		}
	}
	if busy == 0 {
		t.Errorf("%d times at once, never refused", int(placeBurst)+2)
	}
}
