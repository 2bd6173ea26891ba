package state

import "testing"

// TestCanariesAreBounded: the newest MaxCanaries stay, each different from all others though two come in one entry, and
// a follower outside the core has the same.
func TestCanariesAreBounded(t *testing.T) {
	m := testGenesis()
	for i := range MaxCanaries / 2 {
		apply(t, m, stampAt(10+i), WriteCanary{Node: "a1"}, WriteCanary{Node: "a1"})
	}
	before := m.View().Canaries()
	if len(before) != MaxCanaries {
		t.Fatalf("%d canaries, want %d", len(before), MaxCanaries)
	}
	do(t, m, WriteCanary{Node: "a2"}, CodeOK)
	v := m.View()
	after := v.Canaries()
	newest := Canary{Index: v.Index(), At: v.Stamp(), Epoch: 1, Node: "a2"}
	if len(after) != MaxCanaries || after[0] != before[1] || after[MaxCanaries-1] != newest {
		t.Errorf("%d canaries, the oldest %+v, the newest %+v, want %+v", len(after), after[0], after[MaxCanaries-1], newest)
	}
	seen := make(map[Canary]bool)
	for _, c := range after {
		seen[c] = true
	}
	if len(seen) != MaxCanaries {
		t.Errorf("%d of %d canaries are equal to others", MaxCanaries-len(seen), MaxCanaries)
	}
	f := NewFollower(ClassPublic)
	load(t, f, v)
	if got := f.View().Canaries(); len(got) != MaxCanaries || got[0] != after[0] {
		t.Errorf("a follower has %d canaries", len(got))
	}
}
