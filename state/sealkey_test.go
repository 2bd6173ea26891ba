package state

import (
	"bytes"
	"crypto/sha256"
	"testing"
)

func hardSealKey(n byte) []byte {
	return append([]byte{4}, bytes.Repeat([]byte{n}, HardSealKeyBytes-1)...)
}

// TestSealKeySet: the key of a node changes together with what is sealed to it, or not at all.
func TestSealKeySet(t *testing.T) {
	m := testGenesis()
	root, next := RootHash(sha256.Sum256([]byte("root"))), RootHash(sha256.Sum256([]byte("next")))
	set := SealKeySet{Node: "a1", Key: hardSealKey(1), Signing: root, Sealed: []byte("to the TPM")}
	with := func(edit func(*SealKeySet)) SealKeySet {
		c := set
		edit(&c)
		return c
	}
	refused := map[string]struct {
		c    SealKeySet
		want Code
	}{
		"nobody":              {with(func(c *SealKeySet) { c.Node = "a9" }), CodeNotFound},
		"a lost root":         {with(func(c *SealKeySet) { c.Sealed = nil }), CodeConflict},
		"a next root of none": {with(func(c *SealKeySet) { c.NextSealed = []byte("s") }), CodeConflict},
		"an old root":         {with(func(c *SealKeySet) { c.Signing = next }), CodeConflict},
		"another file key":    {with(func(c *SealKeySet) { c.Key = sealKey("a2") }), CodeInvalid},
	}
	for what, r := range refused {
		do(t, m, r.c, r.want)
		if got, _ := m.View().SealKey("a1"); !bytes.Equal(got, sealKey("a1")) || m.View().Rows(TableSealKey) != 0 {
			t.Errorf("%s changed the seal key", what)
		}
	}
	do(t, m, set, CodeOK)
	revision := m.View().Revision()
	do(t, m, set, CodeOK)
	v := m.View()
	key, _ := v.SealKey("a1")
	if s, _ := v.Seal("a1"); string(s.Sealed) != "to the TPM" || !bytes.Equal(key, hardSealKey(1)) || v.TableRevision(TableSealKey) > revision {
		t.Errorf("sealed %q to %x", s.Sealed, key)
	}
	// While another root is brought in both are sealed.
	do(t, m, RootPrepare{Root: []byte("next"), Seals: []Seal{{Node: "a1", Sealed: []byte("next to the TPM")}}}, CodeOK)
	set.Key = hardSealKey(2)
	do(t, m, set, CodeConflict)
	set.Next, set.NextSealed = next, []byte("next to another TPM")
	do(t, m, set, CodeOK)
	do(t, m, RootActivate{next}, CodeOK)
	if s, _ := m.View().Seal("a1"); string(s.Sealed) != "next to another TPM" {
		t.Errorf("after the rotation: %q", s.Sealed)
	}
	// Back to the file.
	do(t, m, SealKeySet{Node: "a1", Key: sealKey("a1"), Signing: next, Sealed: []byte("to the file")}, CodeOK)
	if got, _ := m.View().SealKey("a1"); !bytes.Equal(got, sealKey("a1")) || m.View().Rows(TableSealKey) != 0 {
		t.Errorf("back to the file: %x", got)
	}
}

// TestSealKeyOfOthers: a node outside the core says its key before the root is sealed for it; a host that leaves takes it along.
func TestSealKeyOfOthers(t *testing.T) {
	m := testGenesis()
	apply(t, m, stampAt(2000), TokenCreate{Token: testToken(1)}, testJoin(1, "a2"))
	do(t, m, SealKeySet{Node: "a2", Key: hardSealKey(1), Sealed: []byte("s")}, CodeConflict)
	do(t, m, SealKeySet{Node: "a2", Key: hardSealKey(1)}, CodeOK)
	if key, ok := m.View().SealKey("a2"); !ok || !bytes.Equal(key, hardSealKey(1)) {
		t.Errorf("the key is %x", key)
	}
	do(t, m, NodeSetLeft{Node: "a2", Left: true}, CodeOK)
	if m.View().Rows(TableSealKey) != 0 {
		t.Error("the key of a node that left stays")
	}
	do(t, m, SealKeySet{Node: "a2", Key: hardSealKey(1)}, CodeNotFound)
}

func TestSealKeyCheck(t *testing.T) {
	for what, c := range map[string]SealKeySet{
		"length":     {Node: "a1", Key: make([]byte, 33)},
		"compressed": {Node: "a1", Key: make([]byte, HardSealKeyBytes)},
		"seal":       {Node: "a1", Key: hardSealKey(1), Sealed: make([]byte, MaxSealedBytes+1)},
		"next seal":  {Node: "a1", Key: hardSealKey(1), NextSealed: make([]byte, MaxSealedBytes+1)},
		"name":       {Node: "A 1", Key: hardSealKey(1)},
	} {
		if c.check() == nil {
			t.Errorf("%s is taken", what)
		}
	}
	if err := (SealKeySet{Node: "a1", Key: hardSealKey(1), Sealed: make([]byte, MaxSealedBytes)}).check(); err != nil {
		t.Errorf("control: %v", err)
	}
}
