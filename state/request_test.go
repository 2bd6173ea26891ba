package state

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/clock"
	"pgregory.net/rapid"
)

// ask is a command with a request id.
type ask struct {
	id [16]byte
	c  Command
}

// id is that of request n, made at an index.
func id(born uint64, n int) [16]byte {
	return NewRequestID(born, [8]byte{byte(n), byte(n >> 8), byte(n >> 16)})
}

// doAll performs requests as the machine's next entry.
func doAll(t testing.TB, m *Machine, at clock.Stamp, asks ...ask) []Result {
	t.Helper()
	encoded := make([][]byte, len(asks))
	for i, q := range asks {
		var err error
		if encoded[i], err = Encode(Envelope{Caller: fmt.Sprint("uid:0@a", i), Request: q.id, Command: q.c}, Version); err != nil {
			t.Fatal(err)
		}
	}
	out, _, err := m.Apply(m.View().Index()+1, 1, at, encoded)
	if err != nil {
		t.Fatal(err)
	}
	results := make([]Result, len(out))
	for i := range out {
		if results[i], err = DecodeResult(out[i]); err != nil {
			t.Fatal(err)
		}
	}
	return results
}

func doOnce(t testing.TB, m *Machine, request [16]byte, c Command) Result {
	t.Helper()
	return doAll(t, m, stampAt(int(m.View().Index())), ask{request, c})[0]
}

// restored is the machine after a snapshot.
func restored(t testing.TB, m *Machine) *Machine {
	t.Helper()
	fresh := NewMachine()
	if err := fresh.Restore(bytes.NewReader(snapshotOf(t, m.View(), AllClasses))); err != nil {
		t.Fatal(err)
	}
	return fresh
}

// Who asks again is told the first answer, whatever has happened since, and nothing is done: the same on
// a replica that has its state from a snapshot. Without it a put that was retried would undo what was
// written in between, and a compare-and-set would say that it lost to itself.
func TestRetryIsToldTheFirstAnswer(t *testing.T) {
	m := testGenesis()
	for name, c := range map[string]Command{
		"put":    Put{Key: "put", Value: []byte("1")},
		"cas":    Put{Key: "cas", Value: []byte("1"), Compare: ptr(0)},
		"refuse": Put{Key: "refuse", Value: []byte("1"), Compare: ptr(7)},
		"txn": Txn{Compare: []Compare{{Key: "txn", Target: TargetVersion, Relation: Equal}},
			Then: []Op{{Kind: OpPut, Key: "txn", Value: []byte("1")}}, Else: []Op{{Kind: OpGet, Key: "txn"}}},
		"number": CoreAssign{Node: "a1"},
	} {
		t.Run(name, func(t *testing.T) {
			request := id(m.View().Index(), 1)
			first := doOnce(t, m, request, c)
			do(t, m, Put{Key: name, Value: []byte("2")}, CodeOK)
			before := m.View().Digest()
			for _, replica := range []*Machine{m, restored(t, m)} {
				if again := doOnce(t, replica, request, c); !reflect.DeepEqual(again, first) {
					t.Errorf("first answered %+v, then %+v", first, again)
				}
				if replica.View().Digest() != before {
					t.Error("the retry changed something")
				}
			}
		})
	}
}

// Two copies of a request in one entry count once.
func TestRetryInOneEntry(t *testing.T) {
	m := testGenesis()
	q := ask{id(1, 1), Put{Key: "k", Value: []byte("v"), Compare: ptr(0)}}
	q.id = id(m.View().Index(), 1)
	got := doAll(t, m, stampAt(1), q, q, ask{id(m.View().Index(), 2), q.c})
	if got[0].Code != CodeOK || !reflect.DeepEqual(got[0], got[1]) || got[2].Code != CodeConflict {
		t.Errorf("answered %+v", got)
	}
}

// An id that comes with another command is a mistake that must not pass for an answer; through whom it
// comes does not matter.
func TestRequestOfAnotherCommand(t *testing.T) {
	m := testGenesis()
	request := id(m.View().Index(), 1)
	doOnce(t, m, request, Put{Key: "k", Value: []byte("v")})
	before := m.View().Digest()
	for _, c := range []Command{Put{Key: "k", Value: []byte("w")}, Put{Key: "l", Value: []byte("v")}, Delete{Key: "k"}} {
		if got := doOnce(t, m, request, c); got.Code != CodeReused || got.Message == "" || got.Revision != m.View().Revision() {
			t.Errorf("%T: %+v", c, got)
		}
	}
	if m.View().Digest() != before {
		t.Error("something changed")
	}
}

// What was forgotten is not done a second time: the caller is told that nobody knows. What was made after
// all that was forgotten is new.
func TestForgottenRequests(t *testing.T) {
	fill := func(m *Machine, n int, answer string) {
		born := m.View().Index()
		for i := 0; i < n; {
			var asks []ask
			for range min(2048, n-i) {
				i++
				asks = append(asks, ask{id(born, 1000+i), Txn{Then: []Op{{Kind: OpGet, Key: answer}}}})
			}
			doAll(t, m, stampAt(1000), asks...)
		}
	}
	for name, forget := range map[string]func(m *Machine){
		"by count": func(m *Machine) { fill(m, MaxRequests, "none") },
		"by bytes": func(m *Machine) {
			do(t, m, Put{Key: "large", Value: bytes.Repeat([]byte("v"), MaxRequestResult-200)}, CodeOK)
			fill(m, MaxRequestBytes/(MaxRequestResult-200), "large")
		},
		"by age": func(m *Machine) {
			doAll(t, m, stampAt(RequestRetention+requestGrace+2000), ask{[16]byte{}, Probe{}})
		},
		"all at once, and more than is kept": func(m *Machine) {
			do(t, m, Put{Key: "large", Value: bytes.Repeat([]byte("v"), MaxRequestResult-200)}, CodeOK)
			var asks []ask
			for i := range MaxRequestBytes/(MaxRequestResult-200) + requestBatch + 10 {
				asks = append(asks, ask{id(m.View().Index(), 1000+i), Txn{Then: []Op{{Kind: OpGet, Key: "large"}}}})
			}
			doAll(t, m, stampAt(1000), asks...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := testGenesis()
			request, put := id(m.View().Index(), 1), Put{Key: "k", Value: []byte("v")}
			if got := doOnce(t, m, request, put); got.Code != CodeOK {
				t.Fatal(got)
			}
			forget(m)
			if n, size := m.View().Rows(TableRequest), m.book.bytes; n > MaxRequests+1 || size > MaxRequestBytes || m.book.used > n {
				t.Errorf("%d rows of %d bytes are kept, and %d keys", n, size, m.book.used)
			}
			for _, replica := range []*Machine{m, restored(t, m)} {
				digest := replica.View().Digest()
				if got := doOnce(t, replica, request, put); got.Code != CodeForgotten || got.Message == "" {
					t.Errorf("the retry was answered %+v", got)
				}
				if replica.View().Digest() != digest {
					t.Error("the retry changed something")
				}
				if got := doOnce(t, replica, id(replica.View().Index(), 1), put); got.Code != CodeOK {
					t.Errorf("a new request was answered %+v", got)
				}
			}
		})
	}
}

// An answer that is too large to keep is not given a second time, and neither is the command done again.
func TestLargeAnswerIsNotKept(t *testing.T) {
	m := testGenesis()
	do(t, m, Put{Key: "large", Value: bytes.Repeat([]byte("v"), MaxRequestResult)}, CodeOK)
	request := id(m.View().Index(), 1)
	txn := Txn{Then: []Op{{Kind: OpGet, Key: "large"}, {Kind: OpPut, Key: "k"}}}
	if got := doOnce(t, m, request, txn); got.Code != CodeOK || len(got.Body) < MaxRequestResult {
		t.Fatal(got.Code, got.Message)
	}
	revision := m.View().Revision()
	if got := doOnce(t, m, request, txn); got.Code != CodeForgotten || !strings.Contains(got.Message, "was done") {
		t.Error(got)
	}
	if m.View().Revision() != revision {
		t.Error("it was done again")
	}
}

// An id that was made at an index that is still to come would never be forgotten.
func TestRequestFromTheFuture(t *testing.T) {
	m := testGenesis()
	if got := doOnce(t, m, id(m.View().Index()+1, 1), Put{Key: "k"}); got.Code != CodeInvalid || m.View().Rows(TableRequest) != 0 {
		t.Error(got)
	}
}

// After a recovery nobody knows what became of a request that was made before.
func TestRecoveryForgetsRequests(t *testing.T) {
	m := testGenesis()
	request := id(m.View().Index(), 1)
	doOnce(t, m, request, Put{Key: "k"})
	later := id(m.View().Index(), 2)
	m, err := Recover(m.View(), RecoverOptions{Node: "a1", EpochID: [16]byte{2}, At: stampAt(5000), Message: "recovered"})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range [][16]byte{request, later} {
		if got := doOnce(t, m, r, Put{Key: "k"}); got.Code != CodeForgotten {
			t.Error(got)
		}
	}
	if got := doOnce(t, m, id(m.View().Index(), 1), Put{Key: "k"}); got.Code != CodeOK {
		t.Error(got)
	}
	checkRows(t, m.View())
}

func checkRows(t testing.TB, v *View) {
	t.Helper()
	v.s.tree.scan(func(r *record) bool {
		if err := checkRow(r.table, r.key, r.revision, r.row); err != nil {
			t.Errorf("%s %q: %v", r.table, r.key, err)
		}
		return true
	})
}

// Replicas agree about requests, whatever is asked, again or not, and wherever one of them is restored.
func TestReplicasAgreeAboutRequests(t *testing.T) {
	genAsk := rapid.Custom(func(t *rapid.T) ask {
		q := ask{c: genCommand.Draw(t, "command")}
		if rapid.Bool().Draw(t, "with an id") {
			q.id = id(rapid.Uint64Range(0, 6).Draw(t, "born"), rapid.IntRange(0, 3).Draw(t, "n"))
		}
		return q
	})
	rapid.Check(t, func(rt *rapid.T) {
		one, two := testGenesis(), testGenesis()
		entries := rapid.SliceOfN(rapid.SliceOfN(genAsk, 0, 4), 1, 25).Draw(rt, "entries")
		restoreAt := rapid.IntRange(0, len(entries)-1).Draw(rt, "restore at")
		for i, asks := range entries {
			if i == restoreAt {
				two = restored(t, one)
			}
			at := stampAt(i * RequestRetention / 8)
			got, want := doAll(t, two, at, asks...), doAll(t, one, at, asks...)
			if !reflect.DeepEqual(got, want) {
				rt.Fatalf("entry %d: results differ:\n%v\n%v", i, got, want)
			}
			checkSame(rt, one.View(), two.View())
			checkBook(rt, one)
		}
		checkRows(t, one.View())
	})
}

// checkBook compares the book with one that is made of the rows.
func checkBook(t rapid.TB, m *Machine) {
	t.Helper()
	rebuilt := newRequestBook(m.s)
	if m.book.bytes != rebuilt.bytes || m.book.floor != rebuilt.floor || m.book.oldest() != rebuilt.oldest() {
		t.Fatalf("the book says %d, %d and %d, its rows say %d, %d and %d", m.book.bytes, m.book.floor, m.book.oldest(),
			rebuilt.bytes, rebuilt.floor, rebuilt.oldest())
	}
	if m.book.used != rebuilt.used {
		t.Fatalf("the book has %d requests, there are %d", m.book.used, rebuilt.used)
	}
	if taken := m.book.taken(); taken != m.book.used {
		t.Fatalf("the book finds %d requests, there are %d", taken, m.book.used)
	}
	for n := range rebuilt.used {
		want := rebuilt.at(n)
		if got := m.book.at(n); *got != *want || m.book.find(&want.id) != got {
			t.Fatalf("the book has %+v in place %d and finds %+v, its row is %+v", *got, n, m.book.find(&want.id), *want)
		}
	}
}

// Replicas that are compared while they work are not told apart by requests that one of them has still to
// see; a request that both have and that differs is found.
func TestDifferentRequests(t *testing.T) {
	one, two := testGenesis(), testGenesis()
	born := one.View().Index()
	refused := ask{id(born, 1), Put{Key: "k", Compare: ptr(9)}}
	for _, m := range []*Machine{one, two} {
		doAll(t, m, stampAt(1), ask{id(born, 0), Put{Key: "k"}})
	}
	doAll(t, two, stampAt(2), refused) // no new revision
	all := make([]int, DigestBuckets)
	for i := range all {
		all[i] = i
	}
	marks := func(m *Machine) []RowMark { return m.View().BucketRows(all, 1000) }
	at := one.View().Revision()
	if got := DifferentRows(marks(one), marks(two), at, at == two.View().Revision()); len(got) != 0 {
		t.Errorf("%v", got)
	}
	other := marks(two)
	for i := range other {
		if other[i].Table == TableRequest {
			other[i].Hash[0]++
		}
	}
	if got := DifferentRows(marks(one), other, at, true); len(got) != 1 {
		t.Errorf("%v", got)
	}
}
