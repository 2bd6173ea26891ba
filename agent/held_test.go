package agent

import (
	"testing"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// What is remembered of a caller is of the state that is asked: a change counts with the entry that makes it, an agent is
// no operator of the same name, and a caller that shares its place with another is read again.
func TestHeldRoles(t *testing.T) {
	m := state.NewMachine()
	var h held
	reads := 0
	role := policy.Local
	ask := func(operator bool, name string) policy.Role {
		got, _ := h.roleOf(m.View(), operator, name, func() (policy.Role, bool) {
			reads++
			return role, true
		})
		return got
	}
	ask(false, "a1")
	if got := ask(false, "a1"); got != policy.Local || reads != 1 {
		t.Errorf("%s after %d reads, want %s after 1", got, reads, policy.Local)
	}
	if ask(true, "a1"); reads != 2 {
		t.Errorf("an operator was taken for the agent of the same name")
	}
	for range 3 * heldRoles { // all places are taken several times over
		ask(false, string(rune('a'+reads)))
	}
	role = policy.None
	if _, _, err := m.Apply(1, 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	if got := ask(false, "a1"); got != policy.None {
		t.Errorf("a role that has changed is still %s", got)
	}
}
