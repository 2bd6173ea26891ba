package state

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Who holds what is told twice, by the key's row and by the index of a session's keys. They agree
// after every entry, every holder exists, the counts by node are right, and no lock-delay is in one
// of its two tables only.
func TestHoldsAgreeWithKeys(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := testGenesis()
		for i, commands := range rapid.SliceOfN(genEntry, 1, 30).Draw(rt, "entries") {
			apply(t, m, stampAt(i*1000), commands...)
			checkHolds(rt, m.View())
		}
	})
}

func checkHolds(t *rapid.T, v *View) {
	byKey, byIndex := map[string]string{}, map[string]string{}
	v.Scan("", func(kv KV) bool {
		if kv.Session != "" {
			byKey[kv.Key] = kv.Session
		}
		return true
	})
	nodes := map[string]int{}
	for _, s := range v.Sessions() {
		nodes[s.Node]++
		for _, key := range v.HeldKeys(s.ID) {
			byIndex[key] = s.ID.String()
		}
	}
	if fmt.Sprint(byKey) != fmt.Sprint(byIndex) || v.Rows(TableHold) != len(byKey) {
		t.Fatalf("keys say %v, the index %v, in %d rows", byKey, byIndex, v.Rows(TableHold))
	}
	v.s.scan(TableNodeSessions, "", "", func(r *record) bool {
		if got := v.s.nodeSessions(r.key); got != nodes[r.key] || got != len(v.SessionsOf(r.key)) {
			t.Fatalf("node %s: %d sessions counted, there are %d", r.key, got, nodes[r.key])
		}
		return true
	})
	v.s.scan(TableDelay, "", "", func(r *record) bool {
		until, _ := v.s.lockDelay(r.key)
		if _, ok := v.s.get(TableDelayEnd, delayEndKey(until, r.key)); !ok {
			t.Fatalf("the lock-delay of %q has no end", r.key)
		}
		return true
	})
	if v.Rows(TableDelay) != v.Rows(TableDelayEnd) {
		t.Fatalf("%d lock-delays, %d ends", v.Rows(TableDelay), v.Rows(TableDelayEnd))
	}
}

// A text is read if it is that of a UUID, and what is read is written the same.
func TestSessionIDText(t *testing.T) {
	id := SessionID{0xad, 0xf4, 0x23, 0x8a, 0x88, 0x2b, 0x9d, 0xdc, 0x4a, 0x9d, 0x5b, 0x67, 0x58, 0xe4, 0x15, 0x9e}
	const text = "adf4238a-882b-9ddc-4a9d-5b6758e4159e"
	for _, in := range []string{text, strings.ToUpper(text)} {
		if got, err := ParseSessionID(in); got != id || err != nil || got.String() != text {
			t.Errorf("%s: got %s, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "x", text[1:], text + "0", strings.Replace(text, "a", "g", 1),
		strings.ReplaceAll(text, "-", ""), "adf4238a8-82b-9ddc-4a9d-5b6758e4159e", strings.ReplaceAll(text, "-", "--")} {
		if got, err := ParseSessionID(in); err == nil {
			t.Errorf("%q: read as %s", in, got)
		}
	}
}

// What could never be a session is refused before it reaches the log.
func TestSessionChecks(t *testing.T) {
	for name, change := range map[string]func(*Session){
		"no id":            func(s *Session) { s.ID = SessionID{} },
		"long name":        func(s *Session) { s.Name = strings.Repeat("n", MaxSessionNameBytes+1) },
		"bad node":         func(s *Session) { s.Node = "A 1" },
		"short ttl":        func(s *Session) { s.TTL, s.Lease = MinSessionTTL-1, MinSessionTTL-1 },
		"long ttl":         func(s *Session) { s.TTL, s.Lease = MaxSessionTTL+1, MaxSessionTTL+1 },
		"negative ttl":     func(s *Session) { s.TTL, s.Lease = -time.Second, 0 },
		"lease under ttl":  func(s *Session) { s.Lease = s.TTL - 1 },
		"lease over twice": func(s *Session) { s.Lease = 2*s.TTL + 1 },
		"lease alone":      func(s *Session) { s.TTL = 0 },
		"long delay":       func(s *Session) { s.LockDelay = MaxLockDelay + 1 },
		"negative delay":   func(s *Session) { s.LockDelay = -1 },
		"no behavior":      func(s *Session) { s.Behavior = "" },
		"many checks":      func(s *Session) { s.NodeChecks = strings.Fields(strings.Repeat("c ", MaxSessionChecks+1)) },
		"checks together": func(s *Session) {
			s.NodeChecks, s.ServiceChecks = strings.Fields(strings.Repeat("c ", MaxSessionChecks)), []string{"d"}
		},
		"long check":  func(s *Session) { s.ServiceChecks = []string{strings.Repeat("c", MaxCheckNameBytes+1)} },
		"empty check": func(s *Session) { s.NodeChecks = []string{""} },
		"past":        func(s *Session) { s.CreateRevision = 1 },
	} {
		s := testSession(1)
		change(&s)
		if _, err := Encode(Envelope{Command: SessionCreate{s}}, Version); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
	largest := testSession(1)
	largest.Name = strings.Repeat("n", MaxSessionNameBytes)
	for range MaxSessionChecks {
		largest.NodeChecks = append(largest.NodeChecks, strings.Repeat("c", MaxCheckNameBytes))
	}
	m := testGenesis()
	do(t, m, CatalogRegister{Name: "a1", Checks: []CatalogCheck{
		{Node: "a1", ID: largest.NodeChecks[0], Status: CheckPassing},
	}}, CodeOK)
	do(t, m, SessionCreate{largest}, CodeOK)
	restored := NewMachine()
	if err := restored.Restore(bytes.NewReader(snapshotOf(t, m.View(), AllClasses))); err != nil {
		t.Fatal(err)
	}
	got, _ := restored.View().Session(largest.ID)
	want, _ := m.View().Session(largest.ID)
	if fmt.Sprint(got) != fmt.Sprint(want) || got.CreateRevision == 0 || got.CreatedAt == 0 {
		t.Errorf("restored %+v, was %+v", got, want)
	}
	for _, c := range []Command{
		Lock{Key: "", Session: "s"}, Lock{Key: "k", Session: strings.Repeat("s", maxSessionBytes+1)},
		Unlock{Key: "k", Value: make([]byte, MaxValueBytes+1)}, SessionDestroy{Reason: "boredom"},
		Txn{Then: []Op{{Kind: OpCheckRevision, Key: "k"}}}, Txn{Then: []Op{{Kind: OpLock}}},
	} {
		if _, err := Encode(Envelope{Command: c}, Version); err == nil {
			t.Errorf("encoded %+v", c)
		}
	}
}

// Sessions are bounded, together and for each node; one that ends makes room.
func TestSessionLimits(t *testing.T) {
	m := testGenesis()
	m.s.set(TableNode, "a2", 1, EncodeNode(Node{Name: "a2"}))
	create := func(n int, node string, want Code) {
		t.Helper()
		s := testSession(0)
		s.ID, s.Node = SessionID{1, 12: byte(n >> 24), 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)}, node
		do(t, m, SessionCreate{s}, want)
	}
	create(1, "a1", CodeOK)
	m.s.set(TableNodeSessions, "a1", 1, encodeCount(MaxNodeSessions))
	create(2, "a1", CodeLimit)
	create(2, "a2", CodeOK)
	m.s.tables[TableSession].rows = MaxSessions
	create(3, "a2", CodeLimit)
	do(t, m, SessionDestroy{ID: SessionID{1, 15: 1}, Reason: ReasonAsked}, CodeOK)
	create(3, "a1", CodeOK)
}

// A session holds so many keys and no more; when it ends all of them are let go in one command.
func TestSessionKeyLimit(t *testing.T) {
	m := testGenesis()
	do(t, m, SessionCreate{testSession(1)}, CodeOK)
	do(t, m, SessionCreate{testSession(2)}, CodeOK)
	lock := func(i, session int) Lock {
		return Lock{Key: fmt.Sprintf("k/%d", i), Session: testSession(session).ID.String()}
	}
	for i := range MaxSessionKeys {
		do(t, m, lock(i, 1), CodeOK)
	}
	do(t, m, lock(MaxSessionKeys, 1), CodeLimit)
	do(t, m, lock(0, 1), CodeOK)
	do(t, m, lock(MaxSessionKeys, 2), CodeOK)
	do(t, m, SessionDestroy{ID: testSession(1).ID, Reason: ReasonTTL}, CodeOK)
	if v := m.View(); v.Rows(TableHold) != 1 || v.Rows(TableDelay) != MaxSessionKeys {
		t.Errorf("%d holds, %d lock-delays", v.Rows(TableHold), v.Rows(TableDelay))
	}
}

// Keys that are held or in their lock-delay are bounded together. Lock-delays that are over make
// room, a bounded number of them with each command.
func TestHoldLimit(t *testing.T) {
	m := testGenesis()
	do(t, m, SessionCreate{testSession(1)}, CodeOK)
	over := stampAt(1000)
	for i := range maxSweep + 10 {
		key := fmt.Sprintf("d/%d", i)
		m.s.set(TableDelay, key, 1, encodeDelay(over))
		m.s.set(TableDelayEnd, delayEndKey(over, key), 1, newRow(0))
	}
	id := testSession(1).ID.String()
	delays := m.s.tables[TableDelay].rows
	m.s.tables[TableHold].rows += MaxHolds - delays
	before := m.View().Revision()
	if res, _ := apply(t, m, over-1, Lock{Key: "k", Session: id}); res[0].Code != CodeLimit {
		t.Fatalf("one holding too many: %+v", res[0])
	}
	if m.View().Revision() != before {
		t.Error("a refused lock changed something")
	}
	if res, _ := apply(t, m, over, Lock{Key: "k", Session: id}); res[0].Code != CodeOK {
		t.Fatalf("lock-delays that are over still count: %+v", res[0])
	}
	if got := m.View().Rows(TableDelay); got != 0 && got != delays-maxSweep {
		t.Errorf("%d lock-delays left of %d", got, delays)
	}
}

// The longest key can be held and delayed: its index rows pass through a snapshot and a delta.
func TestLongestKeyIsHeld(t *testing.T) {
	m := testGenesis()
	key := strings.Repeat("k", MaxKeyBytes)
	do(t, m, SessionCreate{testSession(1)}, CodeOK)
	f := NewFollower(ClassPublic, ClassKV)
	load(t, f, m.View())
	prev := m.View().Revision()
	_, touched := apply(t, m, stampAt(5), Lock{Key: key, Session: testSession(1).ID.String()},
		SessionDestroy{ID: testSession(1).ID, Reason: ReasonAsked})
	v := m.View()
	b, err := EncodeDelta(Delta{
		Index: v.Index(), Term: v.Term(), Stamp: v.Stamp(), Revision: v.Revision(), PrevRevision: prev, Changes: touched.Changes,
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := DecodeDelta(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Apply(d); err != nil {
		t.Fatal(err)
	}
	if f.View().ClassDigest(ClassKV) != v.ClassDigest(ClassKV) {
		t.Error("the follower differs")
	}
	if err := NewMachine().Restore(bytes.NewReader(snapshotOf(t, v, AllClasses))); err != nil {
		t.Error(err)
	}
}

// Ops that only read answer without the log what a transaction of them would, errors included, and change nothing;
// ops that write are not answered so.
func TestReadOpsIsATransaction(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := testGenesis()
		for i, commands := range rapid.SliceOfN(genEntry, 1, 15).Draw(rt, "entries") {
			apply(t, m, stampAt(i*1000), commands...)
		}
		ops := rapid.SliceOfN(genOp, 0, 4).Draw(rt, "ops")
		before := dump(t, m.View())
		got, ok := m.View().ReadOps(ops)
		if dump(t, m.View()) != before {
			rt.Fatal("a read changed the state")
		}
		if !ok {
			return
		}
		res, _ := apply(t, m, stampAt(99_000), Txn{Then: ops})
		if want := encodeTxnAnswer(got); !bytes.Equal(res[0].Body, want) {
			rt.Fatalf("read %x, the transaction answers %x", want, res[0].Body)
		}
	})
	for _, kind := range []OpKind{OpPut, OpDelete, OpDeletePrefix, OpLock, OpUnlock, "bogus"} {
		if _, ok := testGenesis().View().ReadOps([]Op{{Kind: kind, Key: "k"}}); ok {
			t.Errorf("%s was taken for a read", kind)
		}
	}
}

// An op that ran into a limit is the last: the others would cost as much again.
func TestTransactionStopsAtALimit(t *testing.T) {
	m := testGenesis()
	fill(t, m, "k/", MaxDeletePrefix+1)
	res := do(t, m, Txn{Then: []Op{{Kind: OpDeletePrefix}, {Kind: OpGetExisting, Key: "none"}, {Kind: OpDeletePrefix}}}, CodeLimit)
	if a, err := DecodeTxnAnswer(res.Body); err != nil || len(a.Errors) != 1 {
		t.Errorf("errors %+v, %v", a.Errors, err)
	}
	res = do(t, m, Txn{Then: []Op{{Kind: OpGetTree}, {Kind: OpGetTree}}}, CodeLimit)
	if a, err := DecodeTxnAnswer(res.Body); err != nil || len(a.Errors) != 1 {
		t.Errorf("a tree over the limit: %+v, %v", a.Errors, err)
	}
}

// TestFencingNumbers: a lock index grows with each holder for as long as the key is there, and begins anew with a key that
// was deleted; the revision at which a session was made, its fencing token, never goes back.
func TestFencingNumbers(t *testing.T) {
	m := testGenesis()
	token, index := uint64(0), []uint64{}
	for i := range 4 {
		s := testSession(i + 1)
		s.LockDelay = 0
		do(t, m, SessionCreate{s}, CodeOK)
		made, ok := m.View().Session(s.ID)
		if !ok || made.CreateRevision <= token {
			t.Errorf("session %d has the token %d after %d", i, made.CreateRevision, token)
		}
		token = made.CreateRevision
		index = append(index, do(t, m, Lock{Key: "k", Session: s.ID.String()}, CodeOK).Number())
		do(t, m, SessionDestroy{ID: s.ID, Reason: ReasonAsked}, CodeOK)
		if i == 2 {
			do(t, m, Delete{Key: "k"}, CodeOK)
		}
	}
	if want := []uint64{1, 2, 3, 1}; !slices.Equal(index, want) {
		t.Errorf("lock indexes %v, want %v", index, want)
	}
}
