package state

import (
	"bytes"
	"strings"
	"testing"
)

// recovered is what the tests begin with: keys, one locked, a token, a second node in the core.
func beforeLoss(t *testing.T) *Machine {
	t.Helper()
	m := testGenesis()
	apply(t, m, stampAt(1000), TokenCreate{Token: testToken(1)}, TokenCreate{Token: testToken(2)}, AdmissionSet{Admission: testAdmission("own")}, testJoin(1, "a2"),
		Put{Key: "k", Value: []byte("value")}, Put{Key: "gone"}, Delete{Key: "gone"},
		SessionCreate{testSession(1)}, Lock{Key: "lock", Session: testSession(1).ID.String(), Value: []byte("held")},
		CoreGrant{Node: "a2", Allow: true}, CoreAssign{Node: "a2"}, fullRegister())
	return m
}

func recoverOptions() RecoverOptions {
	return RecoverOptions{Node: "a1", EpochID: [16]byte{9}, At: stampAt(5000), Backup: true, EventID: [16]byte{3}, Message: "from a test"}
}

func mustRecover(t *testing.T, v *View, o RecoverOptions) *View {
	t.Helper()
	m, err := Recover(v, o)
	if err != nil {
		t.Fatal(err)
	}
	again := NewMachine()
	if err := again.Restore(bytes.NewReader(snapshotOf(t, m.View(), AllClasses))); err != nil || again.View().Digest() != m.View().Digest() {
		t.Fatalf("the recovered state does not survive a snapshot: %v", err)
	}
	return m.View()
}

// TestRecover: the content is there; epoch, index, term, revision, Raft ids and lock indexes are above
// all that there were; tokens and sessions of a backup do not count; and the source is unchanged.
func TestRecover(t *testing.T) {
	m := beforeLoss(t)
	old := m.View()
	digest := old.Digest()
	v := mustRecover(t, old, recoverOptions())
	if m.View().Digest() != digest {
		t.Error("the source was changed")
	}
	if kv, ok := v.Get("k"); !ok || string(kv.Value) != "value" || kv.ModRevision != v.Revision() {
		t.Errorf("key: %+v", kv)
	}
	if c, was := v.Cluster(), old.Cluster(); c.Epoch != (Epoch{2, [16]byte{9}}) || c.ID != was.ID || c.NextRaftID <= was.NextRaftID+RecoverRaftIDs {
		t.Errorf("cluster: %+v", c)
	}
	if core := v.Core(); len(core) != 1 || core[0].Node != "a1" || core[0].RaftID < RecoverRaftIDs || !v.RaftIDRetired(1) || !v.RaftIDRetired(2) || !v.RaftIDRetired(1000) {
		t.Errorf("core: %+v", core)
	}
	at, was := v.Position(), old.Position()
	if at.Index < was.Index+RecoverRevisions || at.Revision < was.Revision+RecoverRevisions || at.Term < was.Term+RecoverTerms || at.Stamp <= was.Stamp {
		t.Errorf("position %+v after %+v", at, was)
	}
	if n := len(v.Admissions()); n != 0 {
		t.Errorf("%d admissions still count", n)
	}
	if len(v.Tokens()) != 0 || len(v.Sessions()) != 0 {
		t.Errorf("%d tokens and %d sessions still count", len(v.Tokens()), len(v.Sessions()))
	}
	locked, _ := old.Get("lock")
	if kv, ok := v.Get("lock"); !ok || kv.Session != "" || kv.LockIndex <= locked.LockIndex || string(kv.Value) != "held" {
		t.Errorf("locked key: %+v", kv)
	}
	for _, key := range []string{"gone", "made and deleted since"} {
		if got := v.RowRevision(TableKV, key); got != v.Revision() {
			t.Errorf("a reader of %q waits for revision %d, want %d", key, got, v.Revision())
		}
	}
	events := 0
	v.Events(0, func(e Event) bool {
		if e.Kind == EventRecovered && e.Message == "from a test" {
			events++
		}
		return true
	})
	if events != 1 {
		t.Errorf("%d events tell of it", events)
	}
	// The new history goes on.
	next := NewMachine()
	if err := next.Restore(bytes.NewReader(snapshotOf(t, v, AllClasses))); err != nil {
		t.Fatal(err)
	}
	if res, _ := apply(t, next, stampAt(6000), Put{Key: "after"}, CoreAssign{Node: "a2"}); res[0].Code != CodeOK || res[1].Number() <= v.Core()[0].RaftID {
		t.Errorf("after it: %+v", res)
	}
}

// TestRecoverKeepsTokens: a recovery that is no backup's keeps tokens and sessions: the control.
func TestRecoverKeepsTokens(t *testing.T) {
	o := recoverOptions()
	o.Backup = false
	v := mustRecover(t, beforeLoss(t).View(), o)
	if len(v.Tokens()) != 2 || len(v.Sessions()) != 1 || len(v.Admissions()) != 1 {
		t.Errorf("%d tokens, %d sessions", len(v.Tokens()), len(v.Sessions()))
	}
	if kv, _ := v.Get("lock"); kv.Session == "" {
		t.Error("the lock is gone")
	}
}

// TestRecoverIsNoRewind: who left, was lowered, or joined after the backup stays so, by the copy of the
// public state; so do roots and epoch. Without the copy, the control, they come back as they were.
func TestRecoverIsNoRewind(t *testing.T) {
	m := beforeLoss(t)
	old := m.View()
	apply(t, m, stampAt(2000), NodeSetLeft{Node: "a2", Left: true}, TokenCreate{Token: testToken(3)}, testJoin(3, "a3"),
		NodeSetRole{Node: "a1", Role: "local"}, SetBundle{Bundle{Sequence: 5, Roots: [][]byte{[]byte("newer root")}}},
		CoreAssign{Node: "a1"})
	known := publicCopy(t, m.View())

	control := mustRecover(t, old, recoverOptions())
	if n, _ := control.Node("a2"); n.Left {
		t.Error("control: the departure is in the backup")
	}
	o := recoverOptions()
	o.Known, o.Above = known, 1<<30
	v := mustRecover(t, old, o)
	if n, ok := v.Node("a2"); !ok || !n.Left {
		t.Errorf("a2 is back: %+v", n)
	}
	if n, ok := v.Node("a3"); !ok || !bytes.Equal(n.HostKey, hostKey("a3")) {
		t.Errorf("a3 is gone: %+v", n)
	}
	if n, _ := v.Node("a1"); n.Role != "local" {
		t.Errorf("a1 has the role %s again", n.Role)
	}
	if b := v.Bundle(); b.Sequence != 6 || len(b.Roots) != 2 || string(b.Roots[0]) != "newer root" {
		t.Errorf("bundle %+v", b)
	}
	if id := v.Core()[0].RaftID; id <= 1<<30 {
		t.Errorf("raft id %d was given out before", id)
	}
	if v.Revision() <= m.View().Revision() || v.Index() <= m.View().Index() {
		t.Error("the position is one that the cluster had")
	}
	o.Node = "a2"
	if _, err := Recover(old, o); err == nil {
		t.Error("a node that left is the new core")
	}
	later := recoverOptions()
	later.Known = publicCopy(t, v) // of the epoch after: a second recovery from the same backup
	again := mustRecover(t, old, later)
	if c := again.Cluster(); c.Epoch.Counter != 3 || again.Term() <= v.Term() || again.Index() < v.Index()+RecoverRevisions {
		t.Errorf("epoch %d at %+v after 2 at %+v", c.Epoch.Counter, again.Position(), v.Position())
	}
}

func publicCopy(t *testing.T, v *View) *View {
	t.Helper()
	f := NewFollower(ClassPublic)
	f.LoadBegin()
	if err := f.LoadChunk(snapshotOf(t, v, NewClassSet(ClassPublic))); err != nil {
		t.Fatal(err)
	}
	if _, err := f.LoadEnd(v.Position(), v.DigestOf(NewClassSet(ClassPublic))); err != nil {
		t.Fatal(err)
	}
	return f.View()
}

// TestRecoverRefuses says what cannot be the beginning.
func TestRecoverRefuses(t *testing.T) {
	v := beforeLoss(t).View()
	other := Genesis(GenesisOptions{
		ClusterID: strings.Repeat("f", 32), TrustDomain: "other.test", Node: Node{Name: "a1", HostKey: hostKey("a1"), SealKey: sealKey("a1")},
		Bundle: Bundle{Roots: [][]byte{{1}}}, Sealed: []byte("s"), At: stampAt(0),
	})
	for name, edit := range map[string]func(*RecoverOptions){
		"no such node":      func(o *RecoverOptions) { o.Node = "a9" },
		"no seal":           func(o *RecoverOptions) { o.Node = "a2" },
		"a foreign copy":    func(o *RecoverOptions) { o.Known = publicCopy(t, other.View()) },
		"two lines of text": func(o *RecoverOptions) { o.Message = "a\nb" },
	} {
		o := recoverOptions()
		edit(&o)
		if _, err := Recover(v, o); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
	if _, err := Recover(publicCopy(t, v), recoverOptions()); err == nil {
		t.Error("a state without keys was recovered")
	}
}

// TestWithoutTokens: a backup's state differs in the tokens alone, and survives a snapshot.
func TestWithoutTokens(t *testing.T) {
	v := beforeLoss(t).View()
	b := v.WithoutTokens()
	if len(b.Tokens()) != 0 || len(v.Tokens()) != 2 || b.Position() != v.Position() || b.Digest() == v.Digest() {
		t.Errorf("%d tokens, %d left behind", len(b.Tokens()), len(v.Tokens()))
	}
	if b.ClassDigest(ClassPublic) != v.ClassDigest(ClassPublic) || b.ClassDigest(ClassKV) != v.ClassDigest(ClassKV) {
		t.Error("more than the tokens is gone")
	}
	if again := b.WithoutTokens(); again != b {
		t.Error("it is copied for nothing")
	}
	if bytes.Contains(snapshotOf(t, b, AllClasses), testToken(2).Verify) || !bytes.Contains(snapshotOf(t, v, AllClasses), testToken(2).Verify) {
		t.Error("a verification key is in it, or the control has none")
	}
	if err := NewMachine().Restore(bytes.NewReader(snapshotOf(t, b, AllClasses))); err != nil {
		t.Error(err)
	}
}
