package state

import (
	"crypto/sha256"
	"slices"
	"testing"
)

// TestRootRotation walks one replacement: the next root is in the bundle before it signs, its keys take the place of the
// old ones in one step, the old root goes last. Each step that comes at the wrong time is refused and changes nothing, and each
// may be repeated.
func TestRootRotation(t *testing.T) {
	m := testGenesis()
	do(t, m, RecoverySet{Recovery{SealKey: sealKey("r"), Sealed: []byte("one for r")}}, CodeOK)
	first, next := RootHash(sha256.Sum256([]byte("root"))), RootHash(sha256.Sum256([]byte("next")))
	if got := m.View().Authority(); got != (Authority{Signing: first}) {
		t.Errorf("at first: %+v", got)
	}
	prepare := RootPrepare{Root: []byte("next"), Seals: []Seal{{Node: "a1", Sealed: []byte("two for a1")}}, RecoverySealed: []byte("two for r")}
	for _, step := range []struct {
		c    Command
		want Code
	}{
		{RootActivate{next}, CodeConflict},
		{RootRetire{first}, CodeInvalid},
		{RootSeal{Node: "a1", Sealed: []byte("s")}, CodeConflict},
		{RootPrepare{Root: []byte("next"), Seals: []Seal{{Node: "a2", Sealed: []byte("s")}}, RecoverySealed: []byte("r")}, CodeConflict},
		{RootPrepare{Root: []byte("next"), Seals: prepare.Seals}, CodeConflict}, // the recovery key would be left behind
		{CARotate{}, CodeOK},
		{prepare, CodeOK},
		{prepare, CodeOK},
		{RootPrepare{Root: []byte("other"), Seals: prepare.Seals, RecoverySealed: []byte("r")}, CodeExists},
		{RootRetire{next}, CodeInvalid},
		{RootRetire{first}, CodeInvalid},
	} {
		do(t, m, step.c, step.want)
	}
	v := m.View()
	if a := v.Authority(); a.Signing != first || a.Next != next || a.NextSince == 0 || a.Wanted || v.Bundle().Sequence != 2 || len(v.Bundle().Roots) != 2 {
		t.Errorf("prepared: %+v, bundle %d", a, v.Bundle().Sequence)
	}
	if s, _ := v.Seal("a1"); string(s.Sealed) != "sealed to a1" {
		t.Errorf("the signing root's seal is %q", s.Sealed)
	}
	// Who comes into the core meanwhile gets both keys, or the next root does not sign.
	apply(t, m, stampAt(2000), TokenCreate{Token: testToken(1)}, testJoin(1, "a2"), CoreGrant{Node: "a2", Allow: true}, CoreSeal{Node: "a2", Sealed: []byte("one for a2")})
	do(t, m, RootActivate{next}, CodeConflict)
	do(t, m, RootSeal{Node: "a2", Sealed: []byte("two for a2")}, CodeOK)
	do(t, m, RootActivate{next}, CodeOK)
	do(t, m, RootActivate{next}, CodeOK)
	v = m.View()
	if a := v.Authority(); a.Signing != next || a.Next != (RootHash{}) || a.Since == 0 || v.Rows(TableNextSeal) != 0 {
		t.Errorf("activated: %+v", a)
	}
	r, _ := v.Recovery()
	for node, want := range map[string]string{"a1": "two for a1", "a2": "two for a2"} {
		if s, _ := v.Seal(node); string(s.Sealed) != want {
			t.Errorf("%s has %q", node, s.Sealed)
		}
	}
	if string(r.Sealed) != "two for r" || !slices.Equal(v.Seals(), []string{"a1", "a2"}) {
		t.Errorf("the recovery key has %q, sealed to %v", r.Sealed, v.Seals())
	}
	do(t, m, RootRetire{next}, CodeInvalid)
	do(t, m, RootRetire{first}, CodeOK)
	do(t, m, RootRetire{first}, CodeOK)
	if b := m.View().Bundle(); b.Sequence != 3 || len(b.Roots) != 1 || string(b.Roots[0]) != "next" {
		t.Errorf("retired: %+v", b)
	}
}

// TestRecoveryAbandonsTheNextRoot: a root that was about to sign signs nothing after a recovery, because who recovers may not
// be able to open it.
func TestRecoveryAbandonsTheNextRoot(t *testing.T) {
	m := testGenesis()
	do(t, m, RootPrepare{Root: []byte("next"), Seals: []Seal{{Node: "a1", Sealed: []byte("s")}}}, CodeOK)
	v := mustRecover(t, m.View(), recoverOptions())
	if a := v.Authority(); a.Next != (RootHash{}) || a.Signing != RootHash(sha256.Sum256([]byte("root"))) || v.Rows(TableNextSeal) != 0 || len(v.Bundle().Roots) != 2 {
		t.Errorf("%+v, %d roots", a, len(v.Bundle().Roots))
	}
}
