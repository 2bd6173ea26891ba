package state

import (
	"crypto/sha256"
	"encoding/binary"
)

// DigestBuckets is the number of buckets that rows are added up in. Two replicas whose digests
// differ compare buckets, then the rows of the bucket that differs.
const DigestBuckets = 4096

// A sum adds up row hashes, four lanes of 64 bits that wrap around, so that a row can be taken out
// again and the order does not matter. It catches mistakes and bad memory. It would not stop
// someone who can choose rows to make two states collide, and need not: those who write the rows
// of a core are trusted with all of them.
type sum [4]uint64

func (s *sum) add(hash *[32]byte) {
	for i := range s {
		s[i] += binary.LittleEndian.Uint64(hash[8*i:])
	}
}

func (s *sum) sub(hash *[32]byte) {
	for i := range s {
		s[i] -= binary.LittleEndian.Uint64(hash[8*i:])
	}
}

func (s *sum) append(b []byte) []byte {
	for _, lane := range s {
		b = binary.LittleEndian.AppendUint64(b, lane)
	}
	return b
}

// hashRow covers the table, the key, the revision and the row.
func hashRow(t Table, key string, revision uint64, row []byte) [32]byte {
	if t == TableHistory {
		inner := hashRow(TableKV, key[8:], revision, row)
		return hashHistory(historyEnd(key), &inner)
	}
	const head = 32 // table, revision and the key's length
	var stack [512]byte
	b := stack[:0]
	if n := head + len(key) + len(row); n > len(stack) {
		b = make([]byte, 0, n)
	}
	b = append(b, byte(t))
	b = binary.AppendUvarint(b, revision)
	b = appendString(b, key)
	return sha256.Sum256(append(b, row...))
}

// bucketOf is FNV-1a of table and key, folded. It must not depend on the row: both versions of a
// row that two replicas disagree about belong in the same bucket.
// What a key was is in the bucket of what it is.
func bucketOf(t Table, key string) int {
	if t == TableHistory {
		t, key = TableKV, key[8:]
	}
	const offset, prime = 2166136261, 16777619
	h := (uint32(offset) ^ uint32(t)) * prime
	for i := range len(key) {
		h = (h ^ uint32(key[i])) * prime
	}
	return int((h ^ h>>12 ^ h>>24) % DigestBuckets)
}

// classDigest covers the class's rows and, for each of its tables, the count of rows and the
// revision of the last change, deletions included.
func (s *store) classDigest(c Class) [32]byte {
	if s.settled.Has(c) {
		return s.digests[c-1]
	}
	var stack [512]byte // core members note a digest after each entry
	b := append(append(stack[:0], "parley class 1\n"...), byte(c))
	b = s.sums[c-1].append(b)
	for t := Table(1); t < tableEnd; t++ {
		if t.Class() == c && s.lists(t) {
			b = append(b, byte(t))
			b = binary.LittleEndian.AppendUint64(b, uint64(s.tables[t].rows))
			b = binary.LittleEndian.AppendUint64(b, s.tables[t].revision)
		}
	}
	return sha256.Sum256(b)
}

// settle makes the digests of the classes that have changed. Whoever changes rows and then shares the store calls it, as
// digests are asked for after each entry, and most change few classes.
func (s *store) settle() {
	for c := ClassPublic; c <= ClassReplica; c++ {
		if !s.settled.Has(c) {
			s.digests[c-1] = s.classDigest(c)
			s.settled |= 1 << c
		}
	}
}

// digestOf covers the revision and the digests of the set's classes.
func (s *store) digestOf(set ClassSet) [32]byte {
	var stack [256]byte
	b := append(stack[:0], "parley state 1\n"...)
	b = binary.LittleEndian.AppendUint64(b, s.at.Revision)
	for c := ClassPublic; c <= ClassReplica; c++ {
		if set.Has(c) {
			d := s.classDigest(c)
			b = append(append(b, byte(c)), d[:]...)
		}
	}
	return sha256.Sum256(b)
}
