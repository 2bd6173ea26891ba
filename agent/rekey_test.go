package agent

import (
	"fmt"
	"slices"
	"testing"

	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
)

// An agent that asks for help finds everyone that it ever knew, each once, in an order that changes, and
// the configured addresses before a crowd of others.
func TestHelpers(t *testing.T) {
	b := &book{
		self:    "me",
		view:    func() *state.View { return state.NewFollower().View() },
		members: func() []membership.Member { return nil },
		known:   []knownMember{{Node: "me", Addr: "10.0.0.9:1"}, {Node: "a", Addr: "10.0.0.1:1", Core: true}, {Node: "b", Addr: "10.0.0.2:1"}},
	}
	got := b.helpers([]string{"seed:1", "10.0.0.1:1"})
	slices.Sort(got)
	if want := []string{"10.0.0.1:1", "10.0.0.2:1", "seed:1"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for i := range 300 {
		b.known = append(b.known, knownMember{Node: fmt.Sprint("n", i), Addr: fmt.Sprintf("10.1.%d.%d:1", i/250, i%250+1)})
	}
	first, second := b.helpers([]string{"seed:1"}), b.helpers([]string{"seed:1"})
	if len(first) != security.MaxRekeyAddrs || slices.Equal(first, second) || !slices.Contains(first, "seed:1") || !slices.Contains(second, "seed:1") {
		t.Errorf("of 300: %v, then %v", first, second)
	}
	if none := (&book{view: b.view, members: b.members}).helpers(nil); len(none) != 0 {
		t.Errorf("of nobody: %v", none)
	}
}
