package state

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

// An entry with a command of an unknown kind or version, or one that raises the cluster beyond this
// binary, does nothing at all: the machine stays before the entry.
func TestUnknownCommandStopsApply(t *testing.T) {
	raise := binary.AppendUvarint(nil, uint64(kindSetClusterVersion))
	raise = append(raise, 1, 0, 0)
	raise = append(raise, make([]byte, 16)...)
	raise = binary.AppendUvarint(raise, uint64(Version)+1)
	for name, unknown := range map[string][]byte{
		"kind":            append(binary.AppendUvarint(nil, uint64(kindEnd)), 1, 0xff),
		"kind zero":       {0, 1},
		"version":         append(binary.AppendUvarint(nil, uint64(kindPut)), 2),
		"cluster version": raise,
	} {
		m := testGenesis()
		before := m.View()
		put := encode(t, Put{Key: "k"})
		_, touched, err := m.Apply(2, 1, stampAt(1), [][]byte{put, unknown})
		var want *UnknownCommandError
		if !errors.As(err, &want) {
			t.Errorf("%s: got %v, want *UnknownCommandError", name, err)
		}
		if m.View() != before || len(touched.Changes) > 0 || before.Index() != 1 {
			t.Errorf("%s: the machine moved", name)
		}
		if _, _, err := m.Apply(2, 1, stampAt(1), [][]byte{put}); err != nil {
			t.Errorf("%s: control: the entry without it: %v", name, err)
		}
	}
}

// Damaged and impossible commands of a known kind are answered, the same on every replica.
func TestDamagedCommandIsInvalid(t *testing.T) {
	m := testGenesis()
	good := encode(t, Put{Key: "k", Value: []byte("v")})
	empty := encode(t, DeletePrefix{})
	empty[0] = byte(kindPut) // now a put cut off
	before := m.View().Digest()
	results, _, err := m.Apply(2, 1, stampAt(1), [][]byte{good[:len(good)-1], append(slices.Clone(good), 0), empty})
	if err != nil {
		t.Fatal(err)
	}
	for i := range results {
		if res, err := DecodeResult(results[i]); err != nil || res.Code != CodeInvalid {
			t.Errorf("command %d: got %+v, %v, want invalid", i, res, err)
		}
	}
	if m.View().Digest() != before || m.View().Index() != 2 {
		t.Error("damaged commands changed the state, or the index did not move")
	}
}

// The index follows entries without commands, may jump, and never goes back.
func TestApplyIndex(t *testing.T) {
	m := testGenesis()
	if _, _, err := m.Apply(9, 3, 0, nil); err != nil {
		t.Fatal(err)
	}
	v := m.View()
	if v.Index() != 9 || v.Term() != 3 || v.Stamp() != stampAt(0) || v.Revision() != 1 {
		t.Fatalf("got %+v, want index 9, term 3, the stamp and revision of before", v.Position())
	}
	if _, _, err := m.Apply(9, 3, 0, nil); err == nil {
		t.Fatal("an entry was applied twice")
	}
}

// Encode refuses what the cluster's version does not have, what could never be done, and what is
// too large.
func TestEncodeRefuses(t *testing.T) {
	var tooNew *TooNewError
	if _, err := Encode(Envelope{Command: Put{Key: "k"}}, 0); !errors.As(err, &tooNew) || tooNew.Need != 1 {
		t.Errorf("version 0: got %v, want *TooNewError for version 1", err)
	}
	ops := make([]Op, 3)
	for i := range ops {
		ops[i] = Op{Kind: OpPut, Key: "k", Value: make([]byte, MaxValueBytes)}
	}
	if _, err := Encode(Envelope{Command: Txn{Then: ops}}, Version); !errors.Is(err, ErrTooLarge) {
		t.Errorf("large command: got %v, want ErrTooLarge", err)
	}
	if _, err := Encode(Envelope{Caller: string(make([]byte, MaxCallerBytes+1)), Command: Put{Key: "k"}}, Version); !errors.Is(err, ErrTooLarge) {
		t.Errorf("large caller: got %v, want ErrTooLarge", err)
	}
	if _, err := Decode(make([]byte, MaxCommandBytes+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("decode: got %v, want ErrTooLarge", err)
	}
	for name, c := range impossible() {
		if _, err := Encode(Envelope{Command: c}, Version); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func impossible() map[string]Command {
	token := func(edit func(*Token)) Command {
		k := testToken(1)
		edit(&k)
		return TokenCreate{Token: k}
	}
	join := func(edit func(*NodeJoin)) Command {
		j := testJoin(1, "a2")
		edit(&j)
		return j
	}
	long := string(make([]byte, MaxKeyBytes+1))
	return map[string]Command{
		"empty key":      Put{},
		"long key":       Put{Key: long},
		"long value":     Put{Key: "k", Value: make([]byte, MaxValueBytes+1)},
		"delete empty":   Delete{},
		"key no text":    Put{Key: "k\xff"},
		"delete no text": Delete{Key: "\xc3"},
		"tree no text":   DeletePrefix{Prefix: "k\xff"},
		"op no text":     Txn{Then: []Op{{Kind: OpGet, Key: "k\xff"}}},
		"get no text":    Txn{Then: []Op{{Kind: OpGetTree, Key: "k\xff"}}},
		"if no text":     Txn{Compare: []Compare{{Key: "k\xff", Target: TargetRevision, Relation: Equal}}},
		"lock no text":   Lock{Key: "k\xff", Session: "adf4238a-882b-9ddc-4a9d-5b6758e4159e"},
		"long prefix":    DeletePrefix{Prefix: long},
		"many ops":       Txn{Then: make([]Op, MaxTxnOps), Compare: make([]Compare, 1)},
		"op kind":        Txn{Then: []Op{{Kind: "list", Key: "k"}}},
		"op key":         Txn{Else: []Op{{Kind: OpPut}}},
		"compare target": Txn{Compare: []Compare{{Key: "k", Target: "colour", Relation: Equal}}},
		"compare how":    Txn{Compare: []Compare{{Key: "k", Target: TargetValue, Relation: "~"}}},
		"compare key":    Txn{Compare: []Compare{{Target: TargetValue, Relation: Equal}}},
		"token id":       token(func(k *Token) { k.ID = "XYZ" }),
		"token key":      token(func(k *Token) { k.Verify = nil }),
		"no uses":        token(func(k *Token) { k.Uses = 0 }),
		"many uses":      token(func(k *Token) { k.Uses = MaxTokenUses + 1 }),
		"token role":     token(func(k *Token) { k.Role = "root" }),
		"token past":     token(func(k *Token) { k.Revoked = true }),
		"token node":     token(func(k *Token) { k.BoundNode = "-" }),
		"token nodes":    token(func(k *Token) { k.BoundNode, k.Replace = "a", "b" }),
		"revoke id":      TokenRevoke{ID: "1"},
		"join token":     join(func(j *NodeJoin) { j.Token = "" }),
		"join name":      join(func(j *NodeJoin) { j.Node = "A" }),
		"join host key":  join(func(j *NodeJoin) { j.HostKey = nil }),
		"join seal key":  join(func(j *NodeJoin) { j.SealKey = nil }),
		"join zone":      join(func(j *NodeJoin) { j.Zone = string(make([]byte, MaxZoneBytes+1)) }),
		"join address":   join(func(j *NodeJoin) { j.Address = string(make([]byte, MaxAddressBytes+1)) }),
		"role":           NodeSetRole{Node: "a1", Role: "root"},
		"left":           NodeSetLeft{},
		"place name":     NodePlace{},
		"place zone":     NodePlace{Node: "a1", Zone: string(make([]byte, MaxZoneBytes+1))},
		"place address":  NodePlace{Node: "a1", Address: string(make([]byte, MaxAddressBytes+1))},
		"grant":          CoreGrant{},
		"assign":         CoreAssign{},
		"retire":         CoreRetire{},
		"seal":           CoreSeal{Node: "a1"},
		"large seal":     CoreSeal{Node: "a1", Sealed: make([]byte, MaxSealedBytes+1)},
		"operator name":  OperatorBind{Name: "-", Role: "local", KeyHash: [32]byte{1}},
		"operator path":  OperatorBind{Name: "a/b", Role: "local", KeyHash: [32]byte{1}},
		"operator none":  OperatorBind{Name: "eve", Role: "none", KeyHash: [32]byte{1}},
		"operator role":  OperatorBind{Name: "eve", Role: "root", KeyHash: [32]byte{1}},
		"operator key":   OperatorBind{Name: "eve", Role: "local"},
		"nobody removed": OperatorRemove{},
		"even core":      SetCoreSize{Size: 2},
		"version zero":   SetClusterVersion{},
		"version ahead":  SetClusterVersion{Version: Version + 1},
		"empty bundle":   SetBundle{},
		"many roots":     SetBundle{Bundle{Roots: make([][]byte, MaxRoots+1)}},
		"large root":     SetBundle{Bundle{Roots: [][]byte{make([]byte, MaxRootBytes+1)}}},
	}
}

// Node names become host names and parts of SPIFFE IDs.
func TestCheckNodeName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "a1": true, "web-1.eu_2": true, "0": true, string(make([]byte, 64)): false,
		"": false, ".": false, "..": false, "-a": false, "_a": false, "A": false, "a/b": false, "ä": false,
	} {
		if got := CheckNodeName(name) == nil; got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}

// Genesis is the first agent's state, and refuses options that cannot begin a cluster.
func TestGenesis(t *testing.T) {
	v := testGenesis().View()
	n, _ := v.Node("a1")
	if n.EffectiveRole() != "operator" || !n.CoreGrant || n.BindingEpoch != 1 {
		t.Errorf("first agent: %+v", n)
	}
	m, ok := v.CoreByID(1)
	if !ok || m.Node != "a1" || v.Cluster().NextRaftID != 2 || v.Cluster().AutoGrants != DefaultAutoGrants {
		t.Errorf("core: %+v, cluster %+v", m, v.Cluster())
	}
	if v.Position() != (Position{Index: 1, Term: 1, Stamp: stampAt(0), Revision: 1}) {
		t.Errorf("position %+v", v.Position())
	}
	defer func() {
		if recover() == nil {
			t.Error("a cluster without id was begun")
		}
	}()
	Genesis(GenesisOptions{})
}

// A panic in the middle of an entry leaves the machine before that entry, Views included.
func TestPanicLeavesTheMachine(t *testing.T) {
	m := testGenesis()
	m.s.set(TableKV, "bad", 1, []byte{rowFormat + 1})
	before := m.View()
	digest := before.Digest()
	entry := [][]byte{encode(t, Put{Key: "k"}), encode(t, DeletePrefix{Prefix: "k"}), encode(t, Delete{Key: "bad"})}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("reading a damaged row did not panic")
			}
		}()
		_, _, _ = m.Apply(2, 1, stampAt(1), entry)
	}()
	if m.View() != before || m.View().Digest() != digest || m.View().Index() != 1 {
		t.Fatal("half an entry was applied")
	}
	if _, _, err := m.Apply(2, 1, stampAt(1), entry[:2]); err != nil || before.Digest() != digest {
		t.Fatalf("control: the harmless part: %v", err)
	}
}
