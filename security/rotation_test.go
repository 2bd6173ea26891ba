package security

import (
	"testing"
	"time"
)

// TestPlanExternal: an authority that another one has signed is never replaced by itself; the plan says that people have
// to, from a third of its life before its end on. What the agents have to hold is the root above the next one.
func TestPlanExternal(t *testing.T) {
	start := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	one, two, root, own := [32]byte{1}, [32]byte{2}, [32]byte{3}, [32]byte{4}
	life := RootLife{Hash: one, NotBefore: start, NotAfter: start.Add(90 * 24 * time.Hour)}
	in := RotationInput{
		Now: start.Add(59 * 24 * time.Hour), Roots: []RootLife{{Hash: root, NotBefore: start, NotAfter: start.Add(10 * 365 * 24 * time.Hour)}},
		Signing: one, SigningRoot: root, External: &life, Policy: DefaultRotationPolicy(),
		Agents: []TrustReport{{Node: "a1", Heard: true, Holds: [][32]byte{root}, Chains: [][32]byte{root, one}}},
	}
	with := func(edit func(*RotationInput)) RotationInput {
		changed := in
		edit(&changed)
		return changed
	}
	for what, c := range map[string]struct {
		in   RotationInput
		want RotationKind
	}{
		"in time":          {in, RotationNone},
		"due":              {with(func(i *RotationInput) { i.Now = start.Add(61 * 24 * time.Hour) }), RotationWait},
		"wanted":           {with(func(i *RotationInput) { i.Wanted = true }), RotationWait},
		"wanted in haste":  {with(func(i *RotationInput) { i.Wanted, i.Compromised = true, true }), RotationWait},
		"to be left":       {with(func(i *RotationInput) { i.Wanted, i.Leave = true, true }), RotationPrepare},
		"next, same root":  {with(func(i *RotationInput) { i.Next, i.NextRoot = two, root }), RotationActivate},
		"next, other root": {with(func(i *RotationInput) { i.Next, i.NextRoot = two, own }), RotationWait},
		"next, our own":    {with(func(i *RotationInput) { i.Next, i.NextRoot = own, own }), RotationWait},
		"control: our own root is replaced by itself": {with(func(i *RotationInput) {
			i.External, i.Signing, i.SigningRoot, i.Now = nil, root, root, start.Add(366*24*time.Hour)
		}), RotationPrepare},
	} {
		if got := PlanRotation(c.in); got.Kind != c.want {
			t.Errorf("%s: %+v, want %s", what, got, c.want)
		}
	}
}
