package state

import "fmt"

// tally counts and adds up rows as they are written to a snapshot, to be compared with what the state says of itself: what its
// reader would refuse is not written.
type tally struct {
	revision uint64 // no row may be of a later one
	last     *record
	sums     [classCount]sum
	rows     [tableEnd]int
}

// count takes the next row. The error, that it is out of order or too new, wraps ErrMemory.
func (t *tally) count(r *record) error {
	if t.last != nil && !recordLess(t.last, r) {
		return fmt.Errorf("the row %q of table %s stands behind %q of table %s: %w",
			shortKey(r.key), r.table, shortKey(t.last.key), t.last.table, ErrMemory)
	}
	if r.revision > t.revision {
		return fmt.Errorf("the row %q of table %s is of revision %d, the state of %d: %w", shortKey(r.key), r.table, r.revision, t.revision, ErrMemory)
	}
	t.last = r
	t.rows[r.table]++
	if !skipped(r.table, r.key) {
		t.sums[r.table.Class()-1].add(&r.hash)
	}
	return nil
}

// check compares what was counted with the counts of the state and with its digest. The error wraps ErrMemory.
func (t *tally) check(s *store, set ClassSet, digest [32]byte) error {
	counted := *s
	counted.settled = 0
	for c := ClassPublic; c <= ClassReplica; c++ {
		if set.Has(c) {
			counted.sums[c-1] = t.sums[c-1]
		}
	}
	for table := Table(1); table < tableEnd; table++ {
		if !set.Has(table.Class()) {
			continue
		}
		if counted.tables[table].rows = t.rows[table]; t.rows[table] != s.tables[table].rows {
			return fmt.Errorf("table %s has %d rows, and counts %d: %w", table, t.rows[table], s.tables[table].rows, ErrMemory)
		}
	}
	if counted.digestOf(set) != digest {
		return fmt.Errorf("the rows at index %d do not add up to their digest: %w", s.at.Index, ErrMemory)
	}
	return nil
}
