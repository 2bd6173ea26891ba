package state

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

// seal stands for a signature: it holds what was signed, and by whom.
func seal(hostKey []byte) func([]byte) ([]byte, error) {
	return func(signed []byte) ([]byte, error) {
		sum := hashRow(TableEpoch, string(hostKey), 1, signed)
		return sum[:], nil
	}
}

func sealed(hostKey, signed, signature []byte) bool {
	sum, _ := seal(hostKey)(signed)
	return bytes.Equal(sum, signature)
}

// nextEpoch recovers on a1.
func nextEpoch(t *testing.T, v *View, id byte) *View {
	t.Helper()
	o := recoverOptions()
	o.Backup, o.EpochID, o.EventID, o.Sign = false, [16]byte{id}, [16]byte{id}, seal(hostKey("a1"))
	return mustRecover(t, v, o)
}

// TestEpochProof: a chain of recoveries is proven to whoever has the state of any epoch before, by that state alone, and
// what is repeated, or older, proves nothing.
func TestEpochProof(t *testing.T) {
	first := beforeLoss(t).View()
	second := nextEpoch(t, first, 2)
	third := nextEpoch(t, second, 3)
	proof, err := DecodeEpochProof(EncodeEpochProof(third.EpochStatements()))
	if err != nil || len(proof) != 2 {
		t.Fatalf("%d statements, %v", len(proof), err)
	}
	if s := proof[1]; s.Epoch != third.Cluster().Epoch || s.Before != second.Cluster().Epoch || s.Index != third.Index() || s.Term != third.Term() || s.Node != "a1" {
		t.Errorf("it says %+v", s)
	}
	for name, v := range map[string]*View{"the first epoch": first, "the second": second, "the public copy of the first": publicCopy(t, first)} {
		if got, err := v.ProveEpoch(v.Cluster().Epoch, proof, sealed); err != nil || got != third.Cluster().Epoch {
			t.Errorf("from %s: %s, %v", name, got, err)
		}
	}
	if got := publicCopy(t, third).EpochStatements(); len(got) != 2 {
		t.Errorf("the public copy has %d statements", len(got))
	}
	if got, err := third.ProveEpoch(third.Cluster().Epoch, proof, sealed); !errors.Is(err, ErrEpochUnproven) || got != third.Cluster().Epoch {
		t.Errorf("replayed to who has it: %s, %v", got, err)
	}
	if got, err := second.ProveEpoch(second.Cluster().Epoch, proof[:1], sealed); !errors.Is(err, ErrEpochUnproven) || got != second.Cluster().Epoch {
		t.Errorf("an older one: %s, %v", got, err)
	}
	// A statement that cannot be checked ends the chain, and what was proven before it counts.
	proof[1].Node = "a9"
	if got, err := first.ProveEpoch(first.Cluster().Epoch, proof, sealed); err != nil || got != second.Cluster().Epoch {
		t.Errorf("as far as it goes: %s, %v", got, err)
	}
}

// TestEpochProofIsRefused: nobody ends an epoch but a node that this state knows, lets lead, and whose host key signed.
func TestEpochProofIsRefused(t *testing.T) {
	m := beforeLoss(t)
	v := m.View()
	apply(t, m, stampAt(2000), TokenCreate{Token: testToken(3)}, testJoin(3, "a3"), CoreGrant{Node: "a3", Allow: false}, NodeSetLeft{Node: "a2", Left: true})
	later := m.View()
	good := nextEpoch(t, v, 2).EpochStatements()[0]
	signedBy := func(node string, edit func(*EpochStatement)) EpochStatement {
		s := good
		s.Node = node
		edit(&s)
		s.Signature, _ = seal(hostKey(node))(s.Signed())
		return s
	}
	for _, test := range []struct {
		what string
		s    EpochStatement
		want error
		text string
	}{
		{"signed by another host", func() EpochStatement { s := good; s.Signature, _ = seal(hostKey("a2"))(s.Signed()); return s }(), ErrEpochUnproven, "not signed by the host key of a1"},
		{"changed after it was signed", func() EpochStatement { s := good; s.Index++; return s }(), ErrEpochUnproven, "not signed"},
		{"of a stranger", signedBy("a9", func(*EpochStatement) {}), ErrEpochUnproven, "no node \"a9\""},
		{"of one who left", signedBy("a2", func(*EpochStatement) {}), ErrEpochUnproven, "no node \"a2\""},
		{"of one without the grant", signedBy("a3", func(*EpochStatement) {}), ErrEpochUnproven, "not allowed in the core"},
		{"of another cluster", signedBy("a1", func(s *EpochStatement) { s.ClusterID = strings.Repeat("f", 32) }), ErrEpochUnproven, "of cluster ffff"},
		{"of an epoch that skips one", signedBy("a1", func(s *EpochStatement) { s.Epoch.Counter = 9 }), ErrEpochUnproven, "epoch 9 after 1"},
		{"after another epoch of our number", signedBy("a1", func(s *EpochStatement) { s.Before.ID = [16]byte{7} }), ErrEpochSplit, "recovered twice"},
	} {
		got, err := later.ProveEpoch(later.Cluster().Epoch, []EpochStatement{test.s}, sealed)
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) || got != later.Cluster().Epoch {
			t.Errorf("%s: %s, %v", test.what, got, err)
		}
	}
	if _, err := later.ProveEpoch(later.Cluster().Epoch, []EpochStatement{good}, sealed); err != nil {
		t.Errorf("control: %v", err)
	}
	// Who missed more than is remembered believes the signature alone.
	far := signedBy("a1", func(s *EpochStatement) { s.Before, s.Epoch = Epoch{40, [16]byte{40}}, Epoch{41, [16]byte{41}} })
	if got, err := later.ProveEpoch(later.Cluster().Epoch, []EpochStatement{far}, sealed); err != nil || got != far.Epoch {
		t.Errorf("far ahead: %s, %v", got, err)
	}
}

// founded recovers on r1, whom nobody knew, signed by whoever has the key.
func founded(t *testing.T, v *View, by []byte) *View {
	t.Helper()
	o := recoverOptions()
	o.Node, o.EpochID, o.EventID, o.Sign = "r1", [16]byte{5}, [16]byte{5}, seal(by)
	o.Founder = &Node{Name: "r1", UID: [16]byte{5}, HostKey: hostKey("r1"), SealKey: sealKey("r1"), Address: "10.0.0.9:8310"}
	o.Sealed = []byte("sealed to r1")
	return mustRecover(t, v, o)
}

// TestFounder: who has the root's key begins an epoch on a host that nobody knew, and says so to whoever knows the root; the
// host may then begin further ones by itself. A signature by anything but a root counts for nothing, and no name that has
// a host is taken over.
func TestFounder(t *testing.T) {
	first := beforeLoss(t).View()
	second := founded(t, first, []byte("root"))
	n, ok := second.Node("r1")
	if _, sealed := second.Seal("r1"); !ok || !sealed || n.EffectiveRole() != "operator" || n.BindingEpoch != 1 || second.Core()[0].Node != "r1" {
		t.Errorf("r1 is %+v, the core %+v", n, second.Core())
	}
	o := recoverOptions()
	o.Node, o.Backup, o.EpochID, o.EventID, o.Sign = "r1", false, [16]byte{6}, [16]byte{6}, seal(hostKey("r1"))
	third := mustRecover(t, second, o)
	proof, err := DecodeEpochProof(EncodeEpochProof(third.EpochStatements()))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := first.ProveEpoch(first.Cluster().Epoch, proof, sealed); err != nil || got != third.Cluster().Epoch {
		t.Errorf("to who knows the root: %s, %v", got, err)
	}
	if f := first.Founders(proof, sealed); len(f) != 1 || f[0].Node != "r1" || f[0].Address != "10.0.0.9:8310" || !bytes.Equal(f[0].HostKey, hostKey("r1")) {
		t.Errorf("founders: %+v", f)
	}
	for what, by := range map[string][]byte{"its own key": hostKey("r1"), "a member's key": hostKey("a1"), "another root": []byte("other")} {
		list := founded(t, first, by).EpochStatements()
		if got, err := first.ProveEpoch(first.Cluster().Epoch, list, sealed); !errors.Is(err, ErrEpochUnproven) || got != first.Cluster().Epoch {
			t.Errorf("signed with %s: %s, %v", what, got, err)
		}
		if f := first.Founders(list, sealed); len(f) != 0 {
			t.Errorf("signed with %s: founders %+v", what, f)
		}
	}
	taken := proof[0]
	taken.Node = "a2"
	taken.Signature, _ = seal([]byte("root"))(taken.Signed())
	if _, err := first.ProveEpoch(first.Cluster().Epoch, []EpochStatement{taken}, sealed); err == nil || !strings.Contains(err.Error(), "another host") {
		t.Errorf("under the name of a2: %v", err)
	}
	o.Founder, o.Sealed = &Node{Name: "a2", HostKey: hostKey("r1"), SealKey: sealKey("r1")}, []byte("s")
	o.Node = "a2"
	if _, err := Recover(first, o); err == nil || !strings.Contains(err.Error(), "another host") {
		t.Errorf("recovered as a2: %v", err)
	}
}

// TestEpochStatementsAreBounded: the newest are kept, the proof has its size, and nothing larger or damaged is read.
func TestEpochStatementsAreBounded(t *testing.T) {
	v := testGenesis().View()
	for i := range MaxEpochStatements + 3 {
		v = nextEpoch(t, v, byte(2+i))
	}
	list := v.EpochStatements()
	proof := EncodeEpochProof(list)
	if len(list) != MaxEpochStatements || list[len(list)-1].Epoch != v.Cluster().Epoch || len(proof) > MaxEpochProofBytes {
		t.Errorf("%d statements up to %s, %d bytes", len(list), list[len(list)-1].Epoch, len(proof))
	}
	if got, err := testGenesis().View().ProveEpoch(testGenesis().View().Cluster().Epoch, list, sealed); err != nil || got != v.Cluster().Epoch {
		t.Errorf("from the first epoch, beyond what is remembered: %s, %v", got, err)
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "too long": make([]byte, MaxEpochProofBytes+1), "cut": proof[:len(proof)-1], "more behind": append(slices.Clone(proof), 0),
		"too many": append([]byte{MaxEpochStatements + 1}, proof[1:]...), "no statement": {1, 0},
	} {
		if _, err := DecodeEpochProof(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	unsigned := recoverOptions()
	unsigned.Sign = func([]byte) ([]byte, error) { return nil, errors.New("no key") }
	if _, err := Recover(beforeLoss(t).View(), unsigned); err == nil {
		t.Error("an epoch that nobody signed begins")
	}
}

// FuzzEpochProof: what comes from other agents is refused, or encodes as it came.
func FuzzEpochProof(f *testing.F) {
	o := recoverOptions()
	o.Sign = seal(hostKey("a1"))
	m, err := Recover(testGenesis().View(), o)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(EncodeEpochProof(m.View().EpochStatements()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if list, err := DecodeEpochProof(b); err == nil && !bytes.Equal(EncodeEpochProof(list), b) {
			t.Errorf("%x comes back otherwise", b)
		}
	})
}

// TestLockIndexHoldsTheEpoch: a member of an old epoch that still runs, and the recovered one, give no lock index out twice,
// for keys that were locked before and for those that were not; the later epoch's is the higher.
func TestLockIndexHoldsTheEpoch(t *testing.T) {
	old := beforeLoss(t)
	locked := func(m *Machine, key string) uint64 {
		return do(t, m, Lock{Key: key, Session: testSession(1).ID.String()}, CodeOK).Number()
	}
	o := recoverOptions()
	o.Backup = false
	recovered, err := Recover(old.View(), o)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := old.View().Get("lock")
	after, _ := recovered.View().Get("lock")
	if before.LockIndex != 1 || after.LockIndex != 1+epochLocks {
		t.Errorf("held over the recovery: %d, then %d", before.LockIndex, after.LockIndex)
	}
	for range 3 { // the old one goes on, and gets ahead
		do(t, old, Unlock{Key: "lock", Session: testSession(1).ID.String()}, CodeOK)
		locked(old, "lock")
	}
	if a, b := locked(old, "new"), locked(recovered, "new"); a != 1 || b != 1+epochLocks {
		t.Errorf("a key that was never locked: %d in the old epoch, %d in the new", a, b)
	}
	do(t, recovered, Unlock{Key: "lock", Session: testSession(1).ID.String()}, CodeOK)
	ahead, _ := old.View().Get("lock")
	if next := locked(recovered, "lock"); next <= ahead.LockIndex || next != 2+epochLocks {
		t.Errorf("locked again: %d, the old epoch is at %d", next, ahead.LockIndex)
	}
}
