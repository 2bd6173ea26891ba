package state

import (
	"bytes"
	"strings"
	"testing"
)

// fuzzSeeds has a command of each kind.
func fuzzSeeds() []Command {
	return []Command{
		Put{Key: "k", Value: []byte("v"), Compare: ptr(3)}, Delete{Key: "k"}, DeletePrefix{Prefix: "p"},
		Txn{Compare: []Compare{{Key: "k", Target: TargetValue, Relation: Less}}, Then: []Op{{Kind: OpGet, Key: "k"}}},
		TokenCreate{Token: testToken(1)}, TokenRevoke{ID: testToken(1).ID}, testJoin(1, "a2"),
		NodeSetRole{Node: "a1", Role: "local"}, NodeSetLeft{Node: "a1"}, CoreGrant{Node: "a1", Allow: true},
		CoreAssign{Node: "a1"}, CoreRetire{RaftID: 3}, CoreHold{Node: "a1", Millis: 1000}, CoreSeal{Node: "a1", Sealed: []byte("s")},
		SetCoreSize{Size: 3}, SetClusterVersion{Version: 1}, SetBundle{Bundle{Roots: [][]byte{{1}}}}, Probe{}, WriteCanary{Node: "a1"},
		OperatorBind{Name: "eve", Role: "local", KeyHash: [32]byte{1}, Replace: true}, OperatorRemove{Name: "eve"},
		EntrySet{Entry: testEntryRow(), Replace: true}, EntryDelete{Name: "web"},
		UpstreamPrepare{Chain: [][]byte{[]byte("a"), []byte("r")}, Seals: []Seal{{Node: "a1", Sealed: []byte("s")}}, RecoverySealed: []byte("r")}, UpstreamLeave{},
		SealKeySet{Node: "a1", Key: sealKey("a1"), Signing: RootHash{1}, Next: RootHash{2}, Sealed: []byte("s"), NextSealed: []byte("n")},
		JWTKeyPublish{ID: strings.Repeat("a", 32), Node: "a1", Key: []byte("k"), NotAfter: 9}, JWTKeyRevoke{ID: strings.Repeat("a", 32)},
		EventAppend{ID: [16]byte{1}, Node: "a1", Kind: EventNote, Subject: "s", Message: "m", Origin: 7},
		SessionCreate{testSession(1)}, SessionDestroy{ID: testSession(1).ID, Reason: ReasonTTL, Term: 3},
		Lock{Key: "k", Session: testSession(1).ID.String()}, Unlock{Key: "k", Value: []byte("v")},
		NodePlace{Node: "a1", Zone: "east", Address: "10.0.0.1:8310"},
		KVUndo{Key: "k", Revision: 3}, KVPurge{Key: "k"},
		RootPrepare{Root: []byte{2}, Seals: []Seal{{Node: "a1", Sealed: []byte("s")}}, RecoverySealed: []byte("r")},
		RootSeal{Node: "a1", Sealed: []byte("s")}, RootActivate{RootHash{1}}, RootRetire{RootHash{1}}, CARotate{Force: true},
		NodeEvict{Node: "a1", Reason: "stolen"}, NodeTrust{Node: "a1"},
		NodeGenerations{[]GenerationClaim{{Node: "a1", Binding: 1, Series: 2, First: 3, Marks: []GenerationMark{{4}, {5}}, Live: true}}},
		NodeGenerations{[]GenerationClaim{{Node: "a1", First: 1, Marks: []GenerationMark{{1}}}, {Node: "a2", First: 1, Marks: []GenerationMark{{1}}, Word: 7}}},
		AdmissionSet{Admission: testAdmission("own"), Replace: true}, AdmissionDelete{Name: "own"},
		DenySet{Kind: DenyID, Subject: "spiffe://example.test/svc/web", Seconds: 9, Reason: "stolen"}, DenyRemove{Kind: DenySerial, Subject: strings.Repeat("4a", 16)},
		RecoverySet{Recovery{SealKey: sealKey("recovery"), Sealed: []byte("s")}},
		fullRegister(), CatalogDeregister{Node: "x1", Check: "c"}, fullTxn(),
		Txn{Then: []Op{{Kind: OpLock, Key: "k", Session: "s"}, {Kind: OpCheckRevision, Key: "k", Compare: ptr(1)}}},
	}
}

// Every kind of command is a seed of FuzzDecode.
func TestEveryCommandIsASeed(t *testing.T) {
	seen := make(map[kind]bool)
	for _, c := range fuzzSeeds() {
		seen[c.kind()] = true
	}
	for k := kind(1); k < kindEnd; k++ {
		if !seen[k] {
			t.Errorf("no %q among the seeds", kinds[k].name)
		}
	}
}

// Any bytes decode or are refused, without a panic, and what decodes has one encoding. Applied, they change the state
// as the same command does, or are refused; a replica that does not know them stops before it.
func FuzzDecode(f *testing.F) {
	for _, c := range fuzzSeeds() {
		f.Add(encode(f, c))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Decode(b)
		if err != nil {
			return
		}
		if again, err := Encode(e, Version); err == nil && !bytes.Equal(again, b) {
			t.Fatalf("two encodings of %+v:\n%x\n%x", e, b, again)
		}
		one, two := testGenesis(), testGenesis()
		if _, _, err := one.Apply(2, 1, stampAt(1), [][]byte{b}); err != nil {
			t.Fatalf("apply: %v", err)
		}
		if _, _, err := two.Apply(2, 1, stampAt(1), [][]byte{bytes.Clone(b)}); err != nil || one.View().Digest() != two.View().Digest() {
			t.Fatalf("another replica: %v, digests %x and %x", err, one.View().Digest(), two.View().Digest())
		}
	})
}

// A snapshot restores or is refused, also one whose checksum and digest were made to fit.
func FuzzRestore(f *testing.F) {
	for _, v := range []*View{someState(f).View(), NewMachine().View()} {
		b := snapshotOf(f, v, AllClasses)
		f.Add(b)
		f.Add(b[:len(b)-1-trailerBytes])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if m := NewMachine(); m.Restore(bytes.NewReader(b)) == nil {
			readAll(m.View(), "a")
		}
		l := newLoader(AllClasses)
		if l.write(b) != nil || l.s == nil || l.ended {
			return
		}
		if l.write(append([]byte{trailerBytes}, forgeTrailer(l)...)) != nil {
			return
		}
		if s, err := l.finish(); err == nil {
			readAll(&View{s}, "a")
		}
	})
}

const trailerBytes = 1 + 32 + 32

func forgeTrailer(l *loader) []byte {
	s := *l.s
	for t := range s.tables {
		s.tables[t].revision = l.want[t].revision
	}
	digest := s.digestOf(AllClasses)
	return append(l.hash.Sum([]byte{itemTrailer}), digest[:]...)
}

// readAll panics if a stored row does not decode.
func readAll(v *View, key string) {
	v.Cluster()
	v.Nodes()
	v.Tokens()
	v.Core()
	v.Bundle()
	v.Operators()
	v.Operator(key)
	v.Entries()
	v.Entry(key)
	v.JWTKeys()
	v.Forks()
	v.Generations(Node{Name: key})
	v.Seal(key)
	v.Events(0, func(Event) bool { return true })
	for _, s := range v.Sessions() {
		v.HeldKeys(s.ID)
	}
	v.SessionsOf(key)
	v.s.nodeSessions(key)
	v.s.lockDelay(key)
	v.List("", 0)
	v.PrefixRevision(key)
	v.History(key)
	v.s.scan(TableHistory, "", "", func(r *record) bool {
		versionOf(r.key[8:], r)
		return true
	})
	v.s.sweepTo()
	readCatalogOf(v, key)
}

// Rows of any bytes are refused or readable: this is what stands between a snapshot whose checksum
// is right and a panic later.
func FuzzRow(f *testing.F) {
	for _, rt := range rowTypes {
		f.Add(byte(rt.table), rt.key, rt.encode(rt.row))
	}
	f.Add(byte(TableHold), holdKey(testSession(1).ID, "k"), newRow(0))
	f.Add(byte(TableDelay), "k", encodeDelay(stampAt(1)))
	f.Add(byte(TableDelayEnd), delayEndKey(stampAt(1), "k"), newRow(0))
	f.Add(byte(TableNodeSessions), "a1", encodeCount(1))
	f.Add(byte(TableServiceName), catalogKey("web", catalogKey("x1", "s")), newRow(0))
	f.Add(byte(TableCatalogIndex), serviceTrace("web"), encodeTrace(trace{1, 2}))
	f.Add(byte(TableCatalogIndex), "", encodeFloor(3))
	f.Add(byte(TableHistory), historyKey(2, "k"), encodeKV(KV{Value: []byte("v"), CreateRevision: 1, Version: 1}))
	f.Add(byte(TableHistory), historyKey(2, "k"), []byte{})
	f.Add(byte(TableHistoryMark), hourKey(1), encodeFloor(3))
	f.Add(byte(TableHistorySweep), "", encodeFloor(3))
	f.Add(byte(TableSessionCheck), sessionCheckPrefix("x1", "c")+sessionKey(testSession(1).ID), newRow(0))
	f.Fuzz(func(t *testing.T, table byte, key string, row []byte) {
		if checkRow(Table(table), key, 1, row) != nil {
			return
		}
		s := newStore(AllClasses)
		s.apply(Change{Table: Table(table), Class: Table(table).Class(), Key: key, Row: row, Revision: 1})
		readAll(&View{s}, key)
	})
}

// Results and transaction answers come from other agents.
func FuzzDecodeResult(f *testing.F) {
	f.Add(EncodeResult(refuse(CodeConflict, "no")))
	f.Add(encodeTxnAnswer(TxnAnswer{
		Results: []OpResult{
			{Found: true, KV: KV{Key: "k"}}, {Tree: []KV{{Key: "l"}}},
			{Node: fullRegister().Node}, {Service: fullRegister().Service}, {Check: &fullRegister().Checks[0]},
		},
		Errors: []OpError{{Op: 1, Code: CodeConflict, Message: "m"}},
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if res, err := DecodeResult(b); err == nil && !bytes.Equal(EncodeResult(res), b) {
			t.Fatalf("two encodings of %+v", res)
		}
		if a, err := DecodeTxnAnswer(b); err == nil && !bytes.Equal(encodeTxnAnswer(a), b) {
			t.Fatalf("two encodings of %+v", a)
		}
	})
}
