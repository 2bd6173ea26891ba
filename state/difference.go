package state

// A RowMark says which row it is and which bytes it has, without them: two replicas whose digests
// differ find the rows that do by comparing marks, bucket by bucket.
type RowMark struct {
	Table    Table
	Key      string
	Revision uint64
	Hash     [32]byte
}

// BucketRows returns the marks of the rows in the given buckets, in order, at most limit of them.
// It looks at every row: it is for finding damage, not for every day.
func (v *View) BucketRows(buckets []int, limit int) []RowMark {
	var wanted [DigestBuckets]bool
	for _, b := range buckets {
		wanted[b] = true
	}
	var marks []RowMark
	v.s.tree.scan(func(r *record) bool {
		if len(marks) == limit {
			return false
		}
		if wanted[bucketOf(r.table, r.key)] {
			marks = append(marks, RowMark{Table: r.table, Key: r.key, Revision: r.revision, Hash: r.hash})
		}
		return true
	})
	return marks
}

// DifferentRows compares the marks of the same buckets of two replicas, of which the second may have
// applied more: older is as of the revision at, newer as of a later one or the same. It returns rows
// that differ for no good reason, in order. A row that newer changed or deleted since is no
// difference, so that replicas can be compared while they work; when both are at the same revision
// nothing is let pass. Requests come and go without a revision: of these only rows that both have count.
func DifferentRows(older, newer []RowMark, at uint64, sameRevision bool) []RowMark {
	type place struct {
		table Table
		key   string
	}
	had := make(map[place]RowMark, len(older))
	for _, m := range older {
		had[place{m.Table, m.Key}] = m
	}
	var different []RowMark
	for _, m := range newer {
		p := place{m.Table, m.Key}
		was, ok := had[p]
		delete(had, p)
		if m.Table.Class() == ClassReplica && (!ok || m.Key == floorKey) {
			continue
		}
		if m.Revision <= at && (!ok || was != m) {
			different = append(different, m)
		}
	}
	for _, m := range older {
		if _, missing := had[place{m.Table, m.Key}]; missing && sameRevision && m.Table.Class() != ClassReplica {
			different = append(different, m)
		}
	}
	return different
}
