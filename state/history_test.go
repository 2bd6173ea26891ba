package state

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func showHistory(out io.Writer, v *View, key string) {
	versions, since := v.History(key)
	for _, kv := range versions {
		if kv.Version == 0 {
			fmt.Fprintf(out, "deleted mod=%d\n", kv.ModRevision)
			continue
		}
		fmt.Fprintln(out, showKV(kv))
	}
	fmt.Fprintf(out, "since=%d\n", since)
}

// A key's history is what a reader would have seen after each command, and GetAt is what was there then; nothing of it
// changes when the state is restored from a snapshot.
func TestHistoryIsWhatWas(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := testGenesis()
		keys := []string{"a", "a/1", "ab"}
		was := map[string][]KV{}
		changed := map[string]uint64{} // the revision at which a key was seen to change last
		for i, c := range rapid.SliceOfN(genCommand, 1, 60).Draw(rt, "commands") {
			if _, purge := c.(KVPurge); purge {
				continue
			}
			apply(t, m, stampAt(i*1000), c)
			for _, key := range keys {
				kv, ok := m.View().Get(key)
				if at := m.View().RowRevision(TableKV, key); at != changed[key] {
					changed[key] = at
					if !ok {
						kv = KV{Key: key, ModRevision: at}
					}
					was[key] = append(was[key], kv)
				}
			}
		}
		again := NewMachine()
		if err := again.Restore(bytes.NewReader(snapshotOf(t, m.View(), AllClasses))); err != nil {
			rt.Fatal(err)
		}
		for _, key := range keys {
			checkHistory(rt, m.View(), key, was[key])
			checkHistory(rt, again.View(), key, was[key])
		}
	})
}

// A key that is said to be short without a look at its versions has no more than may stay, whatever was done to it before;
// so nothing is kept that would have been forgotten. And one that was only ever put is short until it has more.
func TestShortHasNothingToForget(t *testing.T) {
	isShort := func(m *Machine, key string) (short, there bool) {
		r, there := m.s.get(TableKV, key)
		return there && m.s.short(key, r.row), there
	}
	rapid.Check(t, func(rt *rapid.T) {
		m := testGenesis()
		for i, n := range rapid.SliceOfN(rapid.IntRange(0, 11), 1, 80).Draw(rt, "commands") {
			var c Command = Put{Key: "a"}
			switch n {
			case 0:
				c = Delete{Key: "a"}
			case 1:
				c = Txn{Then: []Op{{Kind: OpDelete, Key: "a"}, {Kind: OpPut, Key: "a"}}}
			case 2:
				c = Txn{Then: []Op{{Kind: OpPut, Key: "a"}, {Kind: OpPut, Key: "a"}}}
			case 3:
				c = KVPurge{Key: "a"}
			}
			apply(t, m, stampAt(i), c)
			short, _ := isShort(m, "a")
			if versions, _ := m.View().History("a"); short && len(versions)-1 > HistoryVersions {
				rt.Fatalf("short with %d versions before the one that it has", len(versions)-1)
			}
		}
	})
	m := testGenesis()
	for n := 1; n <= HistoryVersions+1; n++ {
		do(t, m, Put{Key: "a"}, CodeOK)
		if short, _ := isShort(m, "a"); short != (n <= HistoryVersions) {
			t.Errorf("short is %v after %d puts", short, n)
		}
	}
	do(t, m, Delete{Key: "a"}, CodeOK)
	do(t, m, Put{Key: "a"}, CodeOK)
	if short, there := isShort(m, "a"); short || !there {
		t.Error("a key that was there before is short")
	}
}

// checkHistory compares with what was seen, oldest first. A key whose first trace is a deletion was made and deleted by one
// command, so that nobody knows what was before.
func checkHistory(t *rapid.T, v *View, key string, was []KV) {
	got, _ := v.History(key)
	slices.Reverse(got)
	missing := len(was) - len(got)
	if missing < 0 || missing > 0 && len(got) < HistoryVersions {
		t.Fatalf("%s has %d versions, want %d", key, len(got), len(was))
	}
	for i, kv := range got {
		if want := was[missing+i]; fmt.Sprint(kv) != fmt.Sprint(want) {
			t.Fatalf("version %d of %s is %+v, want %+v", i, key, kv, want)
		}
		at, found, since := v.GetAt(key, kv.ModRevision)
		if found != (kv.Version > 0) || since != 0 || fmt.Sprint(at) != fmt.Sprint(kv) {
			t.Fatalf("%s at %d is %+v (%v, since %d), want %+v", key, kv.ModRevision, at, found, since, kv)
		}
	}
}

// Of one key the newest versions stay, however it is written; those of the others stay as well.
func TestHistoryOfAKeyIsBounded(t *testing.T) {
	for name, write := range map[string]func(i int) Command{
		"put":   func(int) Command { return Put{Key: "hot"} },
		"large": func(int) Command { return Put{Key: "hot", Value: make([]byte, historyLarge)} },
		"large at times": func(i int) Command {
			return Put{Key: "hot", Value: make([]byte, i%2*historyLarge)}
		},
		"twice": func(int) Command { return Txn{Then: []Op{{Kind: OpPut, Key: "hot"}, {Kind: OpPut, Key: "hot"}}} },
		"made again": func(i int) Command {
			if i%2 == 1 {
				return Delete{Key: "hot"}
			}
			return Put{Key: "hot"}
		},
		"made again in one": func(int) Command { return Txn{Then: []Op{{Kind: OpDelete, Key: "hot"}, {Kind: OpPut, Key: "hot"}}} },
		"locked": func(i int) Command {
			if i%2 == 1 {
				return Unlock{Key: "hot", Session: testSession(1).ID.String()}
			}
			return Lock{Key: "hot", Session: testSession(1).ID.String()}
		},
		"undone": func(i int) Command {
			if i == 0 {
				return Put{Key: "hot"}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := testGenesis()
			do(t, m, SessionCreate{testSession(1)}, CodeOK)
			do(t, m, Put{Key: "cold", Value: []byte("1")}, CodeOK)
			do(t, m, Put{Key: "cold", Value: []byte("2")}, CodeOK)
			most := 0
			for i := range 20 * HistoryVersions {
				c := write(i)
				if c == nil {
					c = KVUndo{Key: "hot", Revision: m.View().RowRevision(TableKV, "hot")}
				}
				do(t, m, c, CodeOK)
				versions, _ := m.View().History("hot")
				most = max(most, len(versions)-1)
				if i > HistoryVersions && len(versions)-1 < HistoryVersions {
					t.Fatalf("%d versions after %d writes, want %d at least", len(versions)-1, i, HistoryVersions)
				}
			}
			limit := HistoryMost
			if name == "large" || name == "large at times" {
				limit = 2 * HistoryVersions
			}
			if most > limit || m.View().Rows(TableHistory) > limit+1 {
				t.Errorf("%d versions, %d rows: want at most %d", most, m.View().Rows(TableHistory), limit)
			}
			versions, since := m.View().History("hot")
			oldest := versions[len(versions)-1]
			if since != oldest.ModRevision {
				t.Errorf("since %d, the oldest version is of %d", since, oldest.ModRevision)
			}
			if _, found, since := m.View().GetAt("hot", oldest.ModRevision-1); found || since != oldest.ModRevision {
				t.Errorf("before the oldest version: found %v, since %d", found, since)
			}
			if versions, since := m.View().History("cold"); len(versions) != 2 || since != 0 {
				t.Errorf("the other key has %d versions, since %d", len(versions), since)
			}
		})
	}
}

// All versions together are bounded, by number and by bytes. The oldest go first, and the next command reclaims what one
// command has added too many.
func TestHistoryIsBounded(t *testing.T) {
	m := testGenesis()
	fill(t, m, "k/", MaxHistory+10)
	fill(t, m, "k/", 1)
	for i := 0; m.View().Rows(TableHistory) < MaxHistory; i += 1000 {
		if i > MaxHistory+10 {
			t.Fatalf("only %d versions", m.View().Rows(TableHistory))
		}
		var commands []Command
		for j := i; j < i+1000 && m.View().Rows(TableHistory)+len(commands) < MaxHistory; j++ {
			commands = append(commands, Put{Key: fmt.Sprintf("k/%07d", (j+1)%(MaxHistory+10))})
		}
		apply(t, m, stampAt(2), commands...)
	}
	if m.View().Rows(TableHistory) != MaxHistory {
		t.Fatalf("%d versions, want %d", m.View().Rows(TableHistory), MaxHistory)
	}
	do(t, m, Put{Key: "k/0000000"}, CodeOK)
	if got := m.View().Rows(TableHistory); got != MaxHistory-historySlack {
		t.Errorf("%d versions, want %d", got, MaxHistory-historySlack)
	}
	if _, since := m.View().History("k/0000001"); since == 0 {
		t.Error("the oldest version is still there")
	}
	do(t, m, KVUndo{Key: "k/0000001", Revision: m.View().KeyRevision("k/0000001")}, CodeNotFound)
	do(t, m, KVUndo{Key: "k/0000000", Revision: m.View().KeyRevision("k/0000000")}, CodeOK)
}

func TestHistoryBytesAreBounded(t *testing.T) {
	m := testGenesis()
	value := make([]byte, MaxValueBytes)
	most := 0
	for i := range 2 * MaxHistoryBytes / MaxValueBytes {
		do(t, m, Put{Key: fmt.Sprintf("k/%d", i/2), Value: value}, CodeOK)
		if i%2 == 1 {
			do(t, m, Put{Key: fmt.Sprintf("k/%d", i/2)}, CodeOK)
		}
		do(t, m, Put{Key: fmt.Sprintf("k/%d", i/2), Value: value}, CodeOK)
		most = max(most, m.s.historyBytes)
	}
	if most > MaxHistoryBytes || most < MaxHistoryBytes*9/10 {
		t.Errorf("at most %d bytes, the limit is %d", most, MaxHistoryBytes)
	}
	fresh := newStore(AllClasses)
	m.s.tree.scan(func(r *record) bool { fresh.set(r.table, r.key, r.revision, r.row); return true })
	if fresh.historyBytes != m.s.historyBytes {
		t.Errorf("%d bytes counted, they are %d", m.s.historyBytes, fresh.historyBytes)
	}
}

const hour = millisPerHour

// A version is forgotten when the hour of its end is long over, by the stamps of the log; no sooner, and a part at a time.
func TestOldHistoryIsForgotten(t *testing.T) {
	m := testGenesis()
	n := historySweep + 100
	fill(t, m, "k/", n)
	fill(t, m, "k/", n)
	at := testEpochMs % hour // into the hour
	apply(t, m, stampAt(hour-at-1), Put{Key: "late", Value: []byte("1")}, Put{Key: "late", Value: []byte("2")})
	apply(t, m, stampAt(hour-at), Put{Key: "later", Value: []byte("1")}, Put{Key: "later", Value: []byte("2")})
	apply(t, m, stampAt((HistoryHours+1)*hour-at-1), Probe{})
	if got := m.View().Rows(TableHistory); got != n+2 {
		t.Fatalf("%d versions before their time, want %d", got, n+2)
	}
	two := NewMachine()
	apply(t, m, stampAt((HistoryHours+1)*hour-at), Probe{})
	if got, want := m.View().Rows(TableHistory), n+2-historySweep; got != want {
		t.Fatalf("%d versions after one part, want %d", got, want)
	}
	if err := two.Restore(bytes.NewReader(snapshotOf(t, m.View(), AllClasses))); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*Machine{m, two} {
		apply(t, m, stampAt((HistoryHours+1)*hour-at+1), Probe{})
		if got := m.View().Rows(TableHistory); got != 1 || m.View().Rows(TableHistorySweep) != 0 {
			t.Errorf("%d versions are left, want that of the later hour", got)
		}
	}
	if m.View().Digest() != two.View().Digest() {
		t.Error("one that was restored in between differs")
	}
	for i := range 3 * HistoryHours {
		apply(t, m, stampAt((HistoryHours+2+i)*hour), Probe{})
	}
	if got := m.View().Rows(TableHistoryMark); got > HistoryHours+1 {
		t.Errorf("%d hours are remembered", got)
	}
}

// A transaction with as many ops as there may be makes one version of each key it changes, and none of one that fails.
func TestHistoryOfALargeTransaction(t *testing.T) {
	m := testGenesis()
	var first, second Txn
	for i := range MaxTxnOps / 2 {
		key := fmt.Sprintf("k/%03d", i)
		first.Then = append(first.Then, Op{Kind: OpPut, Key: key, Value: []byte("first")}, Op{Kind: OpGet, Key: key})
		kind := OpPut
		if i%3 == 0 {
			kind = OpDelete
		}
		second.Compare = append(second.Compare, Compare{Key: key, Target: TargetValue, Relation: Equal, Value: []byte("first")})
		second.Then = append(second.Then, Op{Kind: kind, Key: key})
	}
	one := do(t, m, first, CodeOK).Revision
	failing := second
	failing.Compare = failing.Compare[:1]
	failing.Then = append(slices.Clone(second.Then), Op{Kind: OpCheckAbsent, Key: "k/001"})
	do(t, m, failing, CodeConflict)
	if got := m.View().Rows(TableHistory); got != 0 {
		t.Fatalf("%d versions of a transaction that was refused", got)
	}
	two := do(t, m, second, CodeOK).Revision
	if got := m.View().Rows(TableHistory); got != MaxTxnOps/2 || two != one+1 {
		t.Fatalf("%d versions, revisions %d and %d", got, one, two)
	}
	for i := range MaxTxnOps / 2 {
		key := fmt.Sprintf("k/%03d", i)
		versions, since := m.View().History(key)
		if len(versions) != 2 || since != 0 || versions[0].ModRevision != two || versions[1].ModRevision != one || string(versions[1].Value) != "first" {
			t.Fatalf("%s: %+v since %d", key, versions, since)
		}
		do(t, m, KVUndo{Key: key, Revision: two}, CodeOK)
		if kv, ok := m.View().Get(key); !ok || string(kv.Value) != "first" {
			t.Fatalf("%s is %+v after the undo", key, kv)
		}
	}
}

// The control: without its history a replica is found out. And who follows the change stream never gets any.
func TestHistoryIsInTheDigest(t *testing.T) {
	one, two := testGenesis(), testGenesis()
	two.s.history = false
	for _, m := range []*Machine{one, two} {
		do(t, m, Put{Key: "a", Value: []byte("secret")}, CodeOK)
		do(t, m, Put{Key: "a"}, CodeOK)
	}
	if one.View().Digest() == two.View().Digest() {
		t.Error("the digest does not notice a missing version")
	}
	f := NewFollower(ClassPublic, ClassKV)
	load(t, f, one.View())
	prev := one.View().Revision()
	_, touched := apply(t, one, stampAt(9), Put{Key: "a", Value: []byte("3")})
	v := one.View()
	d := Delta{Index: v.Index(), Term: v.Term(), Stamp: v.Stamp(), Revision: v.Revision(), PrevRevision: prev, Changes: touched.Changes}
	if _, err := f.Apply(d); err != nil {
		t.Fatal(err)
	}
	if f.View().Rows(TableHistory) != 0 || bytes.Contains(snapshotOf(t, v, f.Classes()), []byte("secret")) {
		t.Error("history outside the core")
	}
	if f.View().DigestOf(f.Classes()) != v.DigestOf(f.Classes()) {
		t.Error("the follower differs")
	}
}

// What a cluster goes on with after a recovery has no history: what was purged since the backup must not come back.
func TestRecoveryForgetsHistory(t *testing.T) {
	m := testGenesis()
	do(t, m, Put{Key: "a", Value: []byte("secret")}, CodeOK)
	do(t, m, Put{Key: "a", Value: []byte("2")}, CodeOK)
	r, err := Recover(m.View(), RecoverOptions{Node: "a1", EpochID: [16]byte{2}, At: stampAt(10), EventID: [16]byte{1}, Message: "m"})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.View().Rows(TableHistory); got != 0 || bytes.Contains(snapshotOf(t, r.View(), AllClasses), []byte("secret")) {
		t.Errorf("%d versions after a recovery", got)
	}
	do(t, r, KVUndo{Key: "a", Revision: r.View().KeyRevision("a")}, CodeNotFound)
	do(t, r, Put{Key: "a", Value: []byte("3")}, CodeOK)
	do(t, r, KVUndo{Key: "a", Revision: r.View().KeyRevision("a")}, CodeOK)
	if kv, _ := r.View().Get("a"); string(kv.Value) != "2" {
		t.Errorf("got %q", kv.Value)
	}
}

// A purge finds the versions of a deleted key whose tombstone is forgotten.
func TestPurgeFindsWhatHasNoHead(t *testing.T) {
	m := testGenesis()
	do(t, m, Put{Key: "a", Value: []byte("secret")}, CodeOK)
	do(t, m, Delete{Key: "a"}, CodeOK)
	fill(t, m, "x/", MaxTombstones+1)
	do(t, m, DeletePrefix{Prefix: "x/"}, CodeOK)
	if versions, _ := m.View().History("a"); len(versions) != 0 || m.View().Rows(TableHistory) != MaxTombstones+2 {
		t.Fatalf("the tombstone is still there: %v, %d rows", versions, m.View().Rows(TableHistory))
	}
	do(t, m, KVUndo{Key: "a", Revision: 3}, CodeNotFound)
	if got := do(t, m, KVPurge{Key: "a"}, CodeOK).Number(); got != 1 {
		t.Errorf("%d versions", got)
	}
	if bytes.Contains(snapshotOf(t, m.View(), AllClasses), []byte("secret")) {
		t.Error("the secret is still there")
	}
}
