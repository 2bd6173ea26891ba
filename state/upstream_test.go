package state

import (
	"crypto/sha256"
	"testing"
)

// TestUpstream walks from the cluster's own root to an authority that another one has signed, to the next one below the
// same root, and back. The root above is in the bundle for as long as anything chains to it; it cannot be taken out
// while an authority below it signs or is about to.
func TestUpstream(t *testing.T) {
	m := testGenesis()
	hash := func(s string) RootHash { return sha256.Sum256([]byte(s)) }
	seals := []Seal{{Node: "a1", Sealed: []byte("s")}}
	prepare := func(name string) UpstreamPrepare {
		return UpstreamPrepare{Chain: [][]byte{[]byte(name), []byte("between"), []byte("above")}, Seals: seals}
	}
	for _, step := range []struct {
		c    Command
		want Code
	}{
		{UpstreamLeave{}, CodeConflict},
		{UpstreamPrepare{Chain: prepare("one").Chain, Seals: []Seal{{Node: "a2", Sealed: []byte("s")}}}, CodeConflict},
		{prepare("one"), CodeOK},
		{prepare("one"), CodeOK},
		{prepare("two"), CodeExists},
		{RootRetire{hash("above")}, CodeInvalid},
		{RootActivate{hash("one")}, CodeOK},
		{prepare("one"), CodeExists},
		{RootRetire{hash("above")}, CodeInvalid},
		{RootRetire{hash("root")}, CodeOK},
	} {
		do(t, m, step.c, step.want)
	}
	v := m.View()
	der, _ := v.Root(hash("one"))
	if v.Authority().Signing != hash("one") || string(der) != "one" || v.RootOf(hash("one")) != hash("above") || len(v.Bundle().Roots) != 1 || string(v.Bundle().Roots[0]) != "above" {
		t.Errorf("below the root above: %+v, bundle %q", v.Authority(), v.Bundle().Roots)
	}
	sequence := v.Bundle().Sequence
	do(t, m, CARotate{Compromised: true}, CodeOK)
	do(t, m, prepare("two"), CodeOK)
	do(t, m, UpstreamLeave{}, CodeConflict)
	do(t, m, RootActivate{hash("two")}, CodeOK)
	v = m.View()
	if a := v.Authority(); a.Signing != hash("two") || a.Compromised || a.Wanted || v.Bundle().Sequence != sequence || v.Rows(TableUpstream) != 1 {
		t.Errorf("the next one below the same root: %+v, bundle %d, was %d", a, v.Bundle().Sequence, sequence)
	}
	do(t, m, UpstreamLeave{}, CodeOK)
	if u, ok := m.View().Upstream(hash("two")); !ok || !u.Leave || !m.View().Authority().Wanted {
		t.Errorf("asked to leave: %+v", u)
	}
	do(t, m, RootPrepare{Root: []byte("own"), Seals: seals}, CodeOK)
	do(t, m, RootActivate{hash("own")}, CodeOK)
	do(t, m, RootRetire{hash("above")}, CodeOK)
	v = m.View()
	if v.Authority().Signing != hash("own") || v.Rows(TableUpstream) != 0 || len(v.Bundle().Roots) != 1 {
		t.Errorf("back: %+v", v.Authority())
	}
}

func TestUpstreamCheck(t *testing.T) {
	seals := []Seal{{Node: "a1", Sealed: []byte("s")}}
	long := make([][]byte, MaxUpstream+1)
	for i := range long {
		long[i] = []byte{byte(i)}
	}
	for what, c := range map[string]UpstreamPrepare{
		"no root":  {Chain: long[:1], Seals: seals},
		"too long": {Chain: long, Seals: seals},
		"empty":    {Chain: [][]byte{nil, []byte("r")}, Seals: seals},
		"large":    {Chain: [][]byte{make([]byte, MaxRootBytes+1), []byte("r")}, Seals: seals},
		"no seals": {Chain: long[:2]},
	} {
		if c.check() == nil {
			t.Errorf("%s is taken", what)
		}
	}
	if err := (UpstreamPrepare{Chain: long[:MaxUpstream], Seals: seals}).check(); err != nil {
		t.Errorf("control: %v", err)
	}
}
