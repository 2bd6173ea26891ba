package state

import (
	"crypto/sha256"
	"testing"
)

// TestNodeEvict: an evicted node has left, may not be in the core, and does not come back with its host key under any name;
// its name may be given to another host. A former core member takes the root with it, and a next one that it could open.
func TestNodeEvict(t *testing.T) {
	m := beforeLoss(t) // a2 has a Raft id
	apply(t, m, stampAt(1500), TokenCreate{Token: testToken(3)}, testJoin(3, "a3"))
	do(t, m, NodeEvict{Node: "a9"}, CodeNotFound)
	do(t, m, NodeEvict{Node: "a3", Reason: "stolen"}, CodeOK)
	v := m.View()
	n, _ := v.Node("a3")
	if d := v.Denials(); len(d) != 1 || d[0].Node != "a3" || d[0].Issuer || d[0].Reason != "stolen" || d[0].HostKeyHash != sha256.Sum256(hostKey("a3")) || !n.Left {
		t.Errorf("%+v, %+v", d, n)
	}
	if a := v.Authority(); a.Compromised || a.Wanted {
		t.Errorf("who was outside the core takes the root with it: %+v", a)
	}
	revision := v.Revision()
	if do(t, m, NodeEvict{Node: "a3"}, CodeOK); m.View().Revision() != revision {
		t.Error("a retry changes something")
	}
	do(t, m, NodeSetLeft{Node: "a3"}, CodeDenied)
	apply(t, m, stampAt(1600), TokenCreate{Token: testToken(4)}, TokenCreate{Token: func() Token { x := testToken(5); x.Replace = "a3"; return x }()})
	back := testJoin(4, "a3")
	do(t, m, back, CodeDenied)
	back.Node = "a4"
	do(t, m, back, CodeDenied)
	other := testJoin(5, "a3")
	other.HostKey, other.SealKey = hostKey("b3"), sealKey("b3")
	do(t, m, other, CodeOK)
	if n, _ := m.View().Node("a3"); n.Left {
		t.Error("another host under the name is shut out")
	}

	do(t, m, RootPrepare{Root: []byte("next"), Seals: []Seal{{Node: "a1", Sealed: []byte("s")}}}, CodeOK)
	do(t, m, NodeEvict{Node: "a2"}, CodeOK)
	v = m.View()
	n, _ = v.Node("a2")
	if a := v.Authority(); !a.Compromised || !a.Wanted || a.Next != (RootHash{}) || n.CoreGrant || !n.Left || !v.WasIssuer("a2") {
		t.Errorf("%+v, %+v", a, n)
	}
	// What is evicted stays so over a restore of a backup from before, by the copy of the public state.
	o := recoverOptions()
	o.Known = publicCopy(t, v)
	restored := mustRecover(t, beforeLoss(t).View(), o)
	if d := restored.Denials(); len(d) != 2 {
		t.Errorf("after a restore: %+v", d)
	}
	o.Known = nil
	if d := mustRecover(t, beforeLoss(t).View(), o).Denials(); len(d) != 0 {
		t.Errorf("control, without the copy: %+v", d)
	}
}

// TestDenialsAreBounded: the oldest are forgotten.
func TestDenialsAreBounded(t *testing.T) {
	a := &applying{s: newStore(AllClasses)}
	for i := range MaxDenials + 2 {
		d := Denial{HostKeyHash: sha256.Sum256([]byte{byte(i), byte(i >> 8)}), Node: "n", At: stampAt(i)}
		a.set(TableDenial, string(d.HostKeyHash[:]), encodeDenial(d))
	}
	a.limitDenials()
	v := &View{a.s}
	if v.Rows(TableDenial) != MaxDenials {
		t.Errorf("%d are kept", v.Rows(TableDenial))
	}
	for _, d := range v.Denials() {
		if d.At <= stampAt(1) {
			t.Error("an old one is kept, so a newer one is not")
		}
	}
}
