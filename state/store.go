package state

import (
	"github.com/parley-mesh/parley/clock"
	"github.com/tidwall/btree"
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
	key      string
	revision uint64
	row      []byte
	hash     [32]byte
}

type tableInfo struct {
	rows     int
	revision uint64 // of the last change, deletions included
}

// store holds the rows and what is kept up to date about them. It has one writer, and is copied
// before it is shared: a copy shares tree nodes and digest pages with its origin until one of the
// two writes to them.
//
// After copyStore both sides consider all pages shared (owned is cleared on both), as the B-tree
// does with its nodes. Only then may either be written again.
type store struct {
	at      Position
	classes ClassSet // what this replica holds; rows of other classes are never stored
	tree    *btree.BTreeG[*record]
	sums    [classCount]sum
	tables  [tableEnd]tableInfo
	pages   [pageCount]*page
	owned   uint64 // bit i: pages[i] is ours alone
}

func newStore(classes ClassSet) *store {
	empty := new(page)
	s := &store{
		classes: classes,
		tree:    btree.NewBTreeGOptions(recordLess, btree.Options{NoLocks: true}),
	}
	for i := range s.pages {
		s.pages[i] = empty
	}
	return s
}

func recordLess(a, b *record) bool {
	if a.table != b.table {
		return a.table < b.table
	}
	return a.key < b.key
}

// copyStore returns a store with the same content; either can be written without the other
// noticing. It writes to s.
func (s *store) copyStore() *store {
	s.owned = 0
	c := *s
	c.tree = s.tree.Copy()
	return &c
}

func (s *store) get(t Table, key string) (*record, bool) {
	return s.tree.Get(&record{table: t, key: key})
}

// apply performs one change: the only place where rows come and go.
func (s *store) apply(c Change) {
	s.tables[c.Table].revision = max(s.tables[c.Table].revision, c.Revision)
	if c.Row == nil {
		s.remove(c.Table, c.Key)
	} else {
		s.set(c.Table, c.Key, c.Revision, c.Row)
	}
	switch {
	case c.Table == TableKV && c.Row == nil:
		s.set(TableTombstone, c.Key, c.Revision, nil)
	case c.Table == TableKV:
		s.remove(TableTombstone, c.Key)
	case c.Table == TableFloor:
		s.forgetTombstones(s.floor())
	}
}

func (s *store) set(t Table, key string, revision uint64, row []byte) {
	r := &record{table: t, key: key, revision: revision, row: row}
	r.hash = hashRow(t, key, revision, row)
	old, replaced := s.tree.Set(r)
	if replaced {
		s.account(old, -1)
	}
	s.account(r, +1)
}

func (s *store) remove(t Table, key string) {
	if t == TableTombstone && s.tables[t].rows == 0 {
		return // the common case of every put
	}
	if old, ok := s.tree.Delete(&record{table: t, key: key}); ok {
		s.account(old, -1)
	}
}

// account adds r to the sums, its bucket and its table's count, or takes it out.
func (s *store) account(r *record, n int) {
	if skipped(r.table, r.key) {
		s.tables[r.table].rows += n
		return
	}
	bucket := bucketOf(r.table, r.key)
	i, j := bucket/pageBuckets, bucket%pageBuckets
	if s.owned&(1<<i) == 0 {
		p := *s.pages[i]
		s.pages[i] = &p
		s.owned |= 1 << i
	}
	total, own := &s.sums[r.table.Class()-1], &s.pages[i][j]
	if n > 0 {
		total.add(&r.hash)
		own.add(&r.hash)
	} else {
		total.sub(&r.hash)
		own.sub(&r.hash)
	}
	s.tables[r.table].rows += n
}

// scan calls f with the records of t whose keys begin with prefix, in order from the key from
// (which must begin with it, or be ""), until f returns false.
func (s *store) scan(t Table, prefix, from string, f func(*record) bool) {
	if from < prefix {
		from = prefix
	}
	s.tree.Ascend(&record{table: t, key: from}, func(r *record) bool {
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
