package state

import "strings"

// Get returns the key's row.
func (v *View) Get(key string) (KV, bool) { return v.s.kv(key) }

// List returns the rows whose keys begin with prefix, in order of their bytes, at most limit of
// them and never more than MaxListRows; limit <= 0 means MaxListRows. Use Scan to see them all.
func (v *View) List(prefix string, limit int) []KV {
	var out []KV
	limit = listLimit(limit)
	v.Scan(prefix, func(kv KV) bool {
		out = append(out, kv)
		return len(out) < limit
	})
	return out
}

// Scan calls f with the rows whose keys begin with prefix, in order of their bytes, until f
// returns false.
func (v *View) Scan(prefix string, f func(KV) bool) {
	v.s.scan(TableKV, prefix, "", func(r *record) bool { return f(r.kv()) })
}

// Keys returns the keys that begin with prefix, in order. With a separator, keys are cut behind
// its first occurrence after the prefix and each result appears once, as in a directory listing.
// The limit is that of List.
func (v *View) Keys(prefix, separator string, limit int) []string {
	var out []string
	limit = listLimit(limit)
	for from, more := "", true; more; {
		more = false
		v.s.scan(TableKV, prefix, from, func(r *record) bool {
			key := r.key
			i := -1
			if separator != "" {
				i = strings.Index(key[len(prefix):], separator)
			}
			if i >= 0 {
				key = key[:len(prefix)+i+len(separator)]
			}
			out = append(out, key)
			if i >= 0 {
				from, more = afterPrefix(key), len(out) < limit
				more = more && from != ""
				return false // go on behind the whole directory
			}
			return len(out) < limit
		})
	}
	return out
}

// afterPrefix returns the smallest string above all that begin with prefix, "" if there is none.
func afterPrefix(prefix string) string {
	b := []byte(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return ""
}

func listLimit(limit int) int {
	if limit <= 0 || limit > MaxListRows {
		return MaxListRows
	}
	return limit
}

// KeyRevision is what a reader of key is told and waits from: the revision that last wrote it, or
// the table's when there is no such key. It never goes back.
func (v *View) KeyRevision(key string) uint64 {
	if r, ok := v.s.get(TableKV, key); ok {
		return r.revision
	}
	return v.KVRevision()
}

// PrefixRevision is what a reader of prefix is told and waits from: the highest revision that
// wrote or deleted one of its keys, or the table's when there is no trace of any. It never goes
// back. It costs a walk over the prefix.
func (v *View) PrefixRevision(prefix string) uint64 {
	found, revision := v.s.prefixRevision(prefix)
	if !found {
		return v.KVRevision()
	}
	return revision
}

// PrefixChanged is the highest revision that may have written or deleted a key with that prefix:
// PrefixRevision, except that it stays low (the floor) while there is no trace of any key.
func (v *View) PrefixChanged(prefix string) uint64 {
	_, revision := v.s.prefixRevision(prefix)
	return revision
}

// KVRevision is the revision of the last change to any key.
func (v *View) KVRevision() uint64 { return v.s.tables[TableKV].revision }

// KeyCount is how many keys there are. It costs nothing.
func (v *View) KeyCount() int { return v.s.tables[TableKV].rows }

func (s *store) prefixRevision(prefix string) (found bool, revision uint64) {
	if prefix == "" {
		return s.tables[TableKV].revision > 0, s.tables[TableKV].revision
	}
	revision = s.floor()
	for _, t := range []Table{TableKV, TableTombstone} {
		s.scan(t, prefix, "", func(r *record) bool {
			found, revision = true, max(revision, r.revision)
			return true
		})
	}
	return found, revision
}

func (r *record) kv() KV { return must(decodeKV(r.key, r.revision, r.row)) }

// kvToPut is kv of a key that is written next.
func (s *store) kvToPut(key string) (KV, bool) {
	r, ok := s.tree.find(TableKV, key)
	if !ok {
		return KV{}, false
	}
	return r.kv(), true
}

func (s *store) kv(key string) (KV, bool) {
	r, ok := s.get(TableKV, key)
	if !ok {
		return KV{}, false
	}
	return r.kv(), true
}
