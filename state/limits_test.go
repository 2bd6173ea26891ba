package state

import (
	"bytes"
	"fmt"
	"testing"
)

// fill puts n keys under prefix, many in an entry.
func fill(t testing.TB, m *Machine, prefix string, n int) {
	t.Helper()
	var commands []Command
	for i := range n {
		commands = append(commands, Put{Key: fmt.Sprintf("%s%07d", prefix, i)})
		if len(commands) == 2048 || i == n-1 {
			apply(t, m, stampAt(1), commands...)
			commands = commands[:0]
		}
	}
}

// Beyond the limit the older half of the tombstones goes, the floor stands for them, and no
// revision goes back. The machine that is restored and the follower forget the same.
func TestTombstonesAreBounded(t *testing.T) {
	m := testGenesis()
	fill(t, m, "old/", MaxTombstones/2)
	fill(t, m, "new/", MaxTombstones/2+1)
	do(t, m, Put{Key: "old/stays"}, CodeOK)
	f := NewFollower(ClassPublic, ClassKV)
	load(t, f, m.View())

	do(t, m, DeletePrefix{Prefix: "old/0"}, CodeOK)
	gone := m.View().Revision()
	if got := m.View().Rows(TableTombstone); got != MaxTombstones/2 {
		t.Fatalf("got %d tombstones, want %d", got, MaxTombstones/2)
	}
	before := m.View().PrefixRevision("old/")
	prev := m.View().Revision()
	load(t, f, m.View())
	res, touched := apply(t, m, stampAt(2), DeletePrefix{Prefix: "new/"})
	v := m.View()
	if res[0].Number() != MaxTombstones/2+1 || v.Rows(TableTombstone) > MaxTombstones/2 {
		t.Fatalf("deleted %d, %d tombstones", res[0].Number(), v.Rows(TableTombstone))
	}
	if got := v.PrefixRevision("old/"); got < before || before < gone {
		t.Errorf("the prefix went back from %d to %d", before, got)
	}
	if got := v.RowRevision(TableKV, "old/0000000"); got < gone {
		t.Errorf("a forgotten key says revision %d, it was deleted at %d", got, gone)
	}
	if got := v.RowRevision(TableKV, "old/stays"); got > prev {
		t.Errorf("a key that stayed says revision %d", got)
	}
	d := Delta{Index: v.Index(), Term: v.Term(), Stamp: v.Stamp(), Revision: v.Revision(), PrevRevision: prev, Changes: touched.Changes}
	if _, err := f.Apply(d); err != nil {
		t.Fatal(err)
	}
	if f.View().ClassDigest(ClassKV) != v.ClassDigest(ClassKV) {
		t.Error("the follower forgot other tombstones")
	}
}

// One delete-prefix deletes so many keys and no more; the answer says what to do.
func TestDeletePrefixLimit(t *testing.T) {
	m := testGenesis()
	fill(t, m, "k/", MaxDeletePrefix+1)
	before := m.View().Digest()
	do(t, m, DeletePrefix{}, CodeLimit)
	do(t, m, Txn{Then: []Op{{Kind: OpDeletePrefix}}}, CodeLimit)
	if m.View().Digest() != before {
		t.Fatal("a refused delete-prefix deleted")
	}
	if got := len(m.View().List("", 0)); got != MaxListRows {
		t.Errorf("list without limit: got %d rows, want %d", got, MaxListRows)
	}
	if got := len(m.View().Keys("", "", MaxListRows+1)); got != MaxListRows {
		t.Errorf("keys: got %d, want %d", got, MaxListRows)
	}
	do(t, m, Delete{Key: "k/0000000"}, CodeOK)
	if res := do(t, m, DeletePrefix{}, CodeOK); res.Number() != MaxDeletePrefix {
		t.Errorf("deleted %d keys, want %d", res.Number(), MaxDeletePrefix)
	}
}

// The largest key and value go in, and come out of a transaction that asks for one, not for three.
func TestLargestRow(t *testing.T) {
	m := testGenesis()
	key, value := string(bytes.Repeat([]byte{'k'}, MaxKeyBytes)), bytes.Repeat([]byte{'v'}, MaxValueBytes)
	do(t, m, Put{Key: key, Value: value}, CodeOK)
	restored := NewMachine()
	if err := restored.Restore(bytes.NewReader(snapshotOf(t, m.View(), AllClasses))); err != nil {
		t.Fatal(err)
	}
	kv, _ := restored.View().Get(key)
	if !bytes.Equal(kv.Value, value) {
		t.Fatal("the value changed")
	}
	get := Op{Kind: OpGet, Key: key}
	res := do(t, m, Txn{Then: []Op{get}}, CodeOK)
	a, err := DecodeTxnAnswer(res.Body)
	if err != nil || !bytes.Equal(a.Results[0].KV.Value, value) {
		t.Fatalf("the transaction's answer: %v", err)
	}
	do(t, m, Txn{Then: []Op{get, get, get}}, CodeLimit)
}

// Tokens, Raft ids and nodes are bounded; tokens that expired a day ago make room.
func TestRowLimits(t *testing.T) {
	m := testGenesis()
	for i := range MaxTokens {
		m.s.set(TableToken, testToken(i).ID, 1, encodeToken(testToken(i)))
	}
	m.view = nil
	late := testToken(MaxTokens)
	late.Expires = stampAt(600_000 + 2*TokenRetention)
	expired := stampAt(600_000)
	res, _ := apply(t, m, expired+TokenRetention<<16, TokenCreate{Token: late})
	if res[0].Code != CodeLimit {
		t.Fatalf("token %d: got %q, want limit", MaxTokens+1, res[0].Code)
	}
	res, _ = apply(t, m, expired+TokenRetention<<16+1, TokenCreate{Token: late})
	if res[0].Code != CodeOK || m.View().Rows(TableToken) != 1 {
		t.Fatalf("a day later: got %q, %d tokens", res[0].Code, m.View().Rows(TableToken))
	}

	m = testGenesis()
	m.s.set(TableNode, "a2", 1, EncodeNode(Node{Name: "a2", CoreGrant: true}))
	for i := range MaxRetired + 10 {
		id := do(t, m, CoreAssign{Node: "a2"}, CodeOK).Number()
		if want := uint64(i + 2); id != want {
			t.Fatalf("got Raft id %d, want %d", id, want)
		}
		do(t, m, CoreRetire{RaftID: id}, CodeOK)
	}
	if got := m.View().Rows(TableCore); got != MaxRetired+1 {
		t.Errorf("got %d Raft ids listed, want %d", got, MaxRetired+1)
	}
	// The first id that was retired is forgotten, and still known to be retired: its host may come back.
	last := uint64(MaxRetired + 11)
	for id, want := range map[uint64]bool{0: false, 1: false, 2: true, last: true, last + 1: false} {
		if _, listed := m.View().CoreByID(2); listed {
			t.Error("the oldest retired id is still listed: nothing is tested")
		}
		if got := m.View().RaftIDRetired(id); got != want {
			t.Errorf("Raft id %d retired: %t, want %t", id, got, want)
		}
	}
	for i := range MaxCoreMembers - 1 {
		c := CoreMember{RaftID: uint64(1000 + i), Node: fmt.Sprint("x", i)}
		m.s.set(TableCore, coreKey(c.RaftID), 1, encodeCore(c))
	}
	do(t, m, CoreAssign{Node: "a2"}, CodeLimit)

	m.s.tables[TableNode].rows = MaxNodes
	do(t, m, TokenCreate{Token: testToken(1)}, CodeOK)
	do(t, m, testJoin(1, "a3"), CodeLimit)
}

// A delta is bounded in changes and bytes.
func TestDeltaLimits(t *testing.T) {
	if _, err := EncodeDelta(Delta{Changes: make([]Change, MaxDeltaChanges+1)}); err == nil {
		t.Error("encoded too many changes")
	}
	row := encodeKV(KV{Value: make([]byte, MaxValueBytes)})
	c := Change{Class: ClassKV, Table: TableKV, Key: "k", Row: row, Revision: 2}
	if _, err := EncodeDelta(Delta{Changes: []Change{c, c}}); err == nil {
		t.Error("encoded too many bytes")
	}
	if _, err := EncodeDelta(Delta{Changes: []Change{c}}); err != nil {
		t.Errorf("the largest row does not fit: %v", err)
	}
	if _, err := DecodeDelta(make([]byte, MaxDeltaBytes+1)); err == nil {
		t.Error("decoded too many bytes")
	}
}
