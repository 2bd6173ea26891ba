package state

import (
	"encoding/binary"

	"github.com/parley-mesh/parley/clock"
)

// Position is where in history a state is. Index and Term are Raft's, Stamp is that of the last
// entry that had one.
type Position struct {
	Index, Term uint64
	Stamp       clock.Stamp
	Revision    uint64
}

// A Change is one row set, or deleted when Row is nil. Changes of TableKV imply the tombstones;
// Touched and the stream never carry TableTombstone itself.
type Change struct {
	Class    Class
	Table    Table
	Key      string
	Row      []byte
	Revision uint64
}

// Bytes estimates the memory that keeping the change costs.
func (c Change) Bytes() int { return len(c.Key) + len(c.Row) + 72 }

// Touched lists what an Apply changed, in order. All means that anything may have changed: the
// whole state was replaced.
type Touched struct {
	Changes []Change
	All     bool
}

// A record is a row as stored. It is never changed once it is in a tree.
type record struct {
	table    Table
	head     uint64 // headOf the key, beside the table: a search seldom has to look at the key itself
	key      string
	revision uint64
	row      []byte
	hash     [32]byte
}

// headOf is the first eight bytes of a key, with zeros behind a short one. Keys are in the order of their heads, as far as
// these differ.
func headOf(key string) (head uint64) {
	if len(key) >= 8 {
		return binary.BigEndian.Uint64([]byte(key[:8]))
	}
	for i := range len(key) {
		head |= uint64(key[i]) << (56 - 8*i)
	}
	return head
}

type tableInfo struct {
	rows     int
	revision uint64 // of the last change, deletions included
}

// lists reports whether a table is in the headers of snapshots, and in digests.
func (s *store) lists(t Table) bool { return t <= lastListed || s.tables[t] != tableInfo{} }

// store holds the rows and what is kept up to date about them. It has one writer until it is shared, and is written no
// more from then on, but copied: a copy shares tree nodes with its origin until it writes to them.
type store struct {
	at      Position
	classes ClassSet // what this replica holds; rows of other classes are never stored
	tree    tree
	sums    [classCount]sum
	digests [classCount][32]byte // of the classes in settled
	settled ClassSet             // the classes that did not change since their digest was made
	tables  [tableEnd]tableInfo

	history      bool // keys keep theirs
	historyBytes int  // what it costs

	journal *journal // nil unless a command is running that may have to be undone
}

func newStore(classes ClassSet) *store {
	return &store{
		classes: classes, history: classes.Has(ClassReplica), tree: newTree(),
	}
}

func recordLess(a, b *record) bool {
	if a.table != b.table {
		return a.table < b.table
	}
	return a.key < b.key
}

// edit returns a store with the same content, to be written. s must not be written any more: it may be read by anybody,
// for ever.
func (s *store) edit() *store {
	c := *s
	c.tree = s.tree.edit()
	return &c
}

func (s *store) get(t Table, key string) (*record, bool) { return s.tree.get(t, key) }

// apply performs one change: the only place where rows come and go.
func (s *store) apply(c Change) {
	s.tables[c.Table].revision = max(s.tables[c.Table].revision, c.Revision)
	s.settled &^= 1 << c.Table.Class()
	var before *record
	if c.Row == nil {
		before = s.remove(c.Table, c.Key)
	} else {
		before = s.set(c.Table, c.Key, c.Revision, c.Row)
	}
	switch {
	case c.Table == TableKV && c.Row == nil:
		s.set(TableTombstone, c.Key, c.Revision, nil)
		s.keep(c.Key, c.Revision, before, nil)
	case c.Table == TableKV:
		if before == nil { // else it was there, and has no tombstone
			before = s.remove(TableTombstone, c.Key)
		}
		s.keep(c.Key, c.Revision, before, c.Row)
	case c.Table == TableFloor:
		s.forgetTombstones(s.floor())
	}
}

// set returns the record that it replaced, remove the one that it removed, nil if there was none.
func (s *store) set(t Table, key string, revision uint64, row []byte) *record {
	r := &record{table: t, head: headOf(key), key: key, revision: revision, row: row}
	r.hash = hashRow(t, key, revision, row)
	return s.put(r)
}

func (s *store) put(r *record) (old *record) {
	if old = s.tree.set(r); old != nil {
		s.account(old, -1)
	}
	s.account(r, +1)
	s.note(old, r)
	return old
}

func (s *store) remove(t Table, key string) *record {
	if t == TableTombstone && s.tables[t].rows == 0 {
		return nil // the common case of every put
	}
	old, found := s.tree.get(t, key)
	if !found {
		return nil
	}
	s.drop(old)
	return old
}

// drop removes a record that is there.
func (s *store) drop(old *record) {
	s.tree.drop(old)
	s.account(old, -1)
	s.note(old, nil)
}

// dropRun removes so many records that follow each other in one table, of which the first is there under that key.
func (s *store) dropRun(t Table, key string, count int) {
	var gone [maxItems]*record
	for count > 0 {
		n := s.tree.dropRun(t, key, gone[:min(count, maxItems)])
		for _, old := range gone[:n] {
			s.account(old, -1)
			s.note(old, nil)
		}
		if count -= n; n == 0 {
			panic("state: fewer rows are there than were counted")
		}
	}
}

// account adds r to the sum of its class and its table's count, or takes it out.
func (s *store) account(r *record, n int) {
	s.tables[r.table].rows += n
	s.settled &^= 1 << r.table.Class()
	switch total := &s.sums[r.table.Class()-1]; {
	case skipped(r.table, r.key):
	case n > 0:
		total.add(&r.hash)
	default:
		total.sub(&r.hash)
	}
	if r.table == TableHistory {
		s.historyBytes += n * historyCost(r)
	}
}

// scan calls f with the records of t whose keys begin with prefix, in order from the key from
// (which must begin with it, or be ""), until f returns false.
func (s *store) scan(t Table, prefix, from string, f func(*record) bool) {
	if from < prefix {
		from = prefix
	}
	s.tree.ascend(t, from, func(r *record) bool {
		if r.table != t || len(r.key) < len(prefix) || r.key[:len(prefix)] != prefix {
			return false
		}
		return f(r)
	})
}

// floor is the highest revision of a forgotten tombstone, 0 while none was forgotten.
func (s *store) floor() uint64 {
	r, ok := s.get(TableFloor, "")
	if !ok {
		return 0
	}
	return must(decodeFloor(r.row))
}

func (s *store) forgetTombstones(floor uint64) {
	var gone []string
	s.scan(TableTombstone, "", "", func(r *record) bool {
		if r.revision <= floor {
			gone = append(gone, r.key)
		}
		return true
	})
	for _, key := range gone {
		s.remove(TableTombstone, key)
	}
}

// must unwraps the decoding of a stored row. Rows are checked before they are stored, so an error
// is memory gone bad or a bug: continuing would spread it.
func must[T any](v T, err error) T {
	if err != nil {
		panic("state: a stored row does not decode: " + err.Error())
	}
	return v
}
