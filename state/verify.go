package state

import (
	"errors"
	"fmt"

	"github.com/parley-mesh/parley/mutant"
)

// Sweep walks over the rows of successive Views, a part at a time, and compares each row with the hash that was made when
// it was written. Digests are sums of these hashes: they find out a replica that wrote something else than the others,
// but not one whose memory changed under a row afterwards. The zero value begins at the first row.
type Sweep struct {
	table Table
	key   string
	count uint64
}

// Next looks at the next rows of v, at most limit. It reports whether that was the last, after which it begins anew. The
// error names a row whose bytes are not what was written, and wraps ErrMemory.
func (s *Sweep) Next(v *View, limit int) (whole bool, err error) {
	seen := 0
	var wrong error
	var last *record
	v.s.tree.ascend(s.table, s.key, func(r *record) bool {
		if r.table == s.table && r.key == s.key && s.count > 0 {
			return true // the last one of the part before
		}
		if seen == limit {
			return false
		}
		seen++
		last = r
		wrong = r.intact()
		return wrong == nil
	})
	if last == nil || seen < limit {
		*s = Sweep{}
		return true, wrong
	}
	s.table, s.key = last.table, last.key
	s.count++
	return false, wrong
}

// ErrMemory is in the chain of errors about rows that changed in memory.
var ErrMemory = errors.New("the memory of this machine is not to be trusted")

// intact compares the row's bytes with the hash made when they were written.
func (r *record) intact() error {
	if hashRow(r.table, r.key, r.revision, r.row) == r.hash && r.head == headOf(r.key) {
		return nil
	}
	return fmt.Errorf("the row %q of table %s is not what was written at revision %d: %w", shortKey(r.key), r.table, r.revision, ErrMemory)
}

// shortKey is a key for a message.
func shortKey(key string) string {
	const most = 64
	if len(key) > most {
		return key[:most] + "..."
	}
	return key
}

// skipped is the planted mistake digest-skips-row: some rows are left out of the digest.
func skipped(t Table, key string) bool {
	return mutant.On(mutant.DigestSkipsRow) && t == TableKV && bucketOf(t, key)%2 == 1
}
