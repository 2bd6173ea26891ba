package state

import (
	"fmt"
	"slices"
	"testing"
)

// A transaction that finds out at its end that it cannot be done leaves every row as it was, to the record, whatever it did
// before: puts, deletions and their tombstones, locks, histories that were cut. Without the last op it changes them.
func TestJournalTakesEverythingBack(t *testing.T) {
	m := testGenesis()
	do(t, m, SessionCreate{testSession(1)}, CodeOK)
	for i := range 40 {
		for n := range 2*HistoryVersions - i%3 {
			do(t, m, Put{Key: fmt.Sprintf("k/%02d", i), Value: fmt.Append(nil, n)}, CodeOK)
		}
	}
	do(t, m, Delete{Key: "k/05"}, CodeOK)
	do(t, m, Lock{Key: "k/06", Session: testSession(1).ID.String()}, CodeOK)

	session := testSession(1).ID.String()
	ops := []Op{
		{Kind: OpPut, Key: "k/05"}, {Kind: OpPut, Key: "k/05", Value: []byte("again")}, {Kind: OpPut, Key: "new"},
		{Kind: OpUnlock, Key: "k/06", Session: session}, {Kind: OpLock, Key: "k/07", Session: session},
		{Kind: OpDelete, Key: "k/08"}, {Kind: OpPut, Key: "k/08"}, {Kind: OpDeletePrefix, Key: "k/1"},
	}
	for i := range 40 {
		ops = append(ops, Op{Kind: OpPut, Key: fmt.Sprintf("k/%02d", i), Value: []byte("x")})
	}
	before, records := m.s, recordsOf(m.s)
	do(t, m, Txn{Then: append(slices.Clone(ops), Op{Kind: OpCheckAbsent, Key: "k/00"})}, CodeConflict)
	if got := recordsOf(m.s); !slices.Equal(got, records) {
		t.Errorf("%d records, before %d, or others", len(got), len(records))
	}
	if m.s.sums != before.sums || m.s.tables != before.tables || m.s.historyBytes != before.historyBytes || m.s.journal != nil {
		t.Errorf("what is kept about the rows differs: %+v, before %+v", m.s, before)
	}
	if m.View().Digest() != (&View{before}).Digest() {
		t.Error("another digest")
	}
	fresh := newStore(AllClasses)
	fresh.at, fresh.tables = m.s.at, m.s.tables
	m.s.tree.scan(func(r *record) bool { fresh.sums[r.table.Class()-1].add(&r.hash); return true })
	if fresh.digestOf(AllClasses) != m.View().Digest() {
		t.Error("the digest is not that of the rows")
	}

	do(t, m, Txn{Then: ops}, CodeOK)
	if slices.Equal(recordsOf(m.s), records) || m.View().Digest() == (&View{before}).Digest() {
		t.Error("the transaction does nothing when it can be done")
	}
	if got := recordsOf(before); !slices.Equal(got, records) {
		t.Error("the View of before has changed")
	}
}

func recordsOf(s *store) (list []*record) {
	s.tree.scan(func(r *record) bool { list = append(list, r); return true })
	return list
}

// An entry that panics leaves no request behind: it is done when it is tried again.
func TestRequestOfAnEntryThatFailed(t *testing.T) {
	m := testGenesis()
	e := Envelope{Caller: "uid:0@a1", Via: "a1", Request: id(m.View().Index(), 1), Command: Put{Key: "k"}}
	command, err := Encode(e, Version)
	if err != nil {
		t.Fatal(err)
	}
	index := m.View().Index() + 1
	func() {
		defer func() { _ = recover() }()
		steps := 0
		_, _, _ = m.ApplyGuarded(index, 1, stampAt(1), [][]byte{command, encode(t, Put{Key: "other"})}, Guard{Step: func(int) {
			if steps++; steps == 4 { // after the first was done
				panic("a bug")
			}
		}})
		t.Error("nothing panicked")
	}()
	if _, ok := m.View().Get("k"); ok || m.View().Index() != index-1 {
		t.Fatal("an entry that panicked is done in part")
	}
	out, _, err := m.Apply(index, 1, stampAt(1), [][]byte{command})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := m.View().Get("k"); !ok {
		t.Errorf("the command was taken for one that was done: %x", out)
	}
}
