package state

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
)

// A snapshot is a sequence of items, each with its length before it: a header, the rows in order
// of (table, key), a trailer. The header holds the position, the classes and what each table must
// add up to; the trailer the SHA-256 of every byte before it and the digest of the state.
const (
	snapshotMagic  = "parley state"
	snapshotFormat = 1

	itemHeader  = 'H'
	itemRow     = 'R'
	itemTrailer = 'T'

	maxItemBytes = maxRowBytes + maxTableKeyBytes + 32
)

// WriteSnapshot streams the whole state to w, for Machine.Restore. Writes are about 64 KiB each.
func (v *View) WriteSnapshot(w io.Writer) error { return v.WriteSnapshotOf(AllClasses, w) }

// WriteAsIs is WriteSnapshot of a state that may be wrong, as evidence: rows are not checked, and Restore may refuse it.
func (v *View) WriteAsIs(w io.Writer) error { return v.write(AllClasses, w, true) }

// WriteSnapshotOf streams the rows of some classes to w, for a Follower of exactly those. A row that changed in memory since
// it was written is an error that wraps ErrMemory: it gets no further. So are rows out of order, and rows that do not add up to
// the digest.
func (v *View) WriteSnapshotOf(set ClassSet, w io.Writer) error { return v.write(set, w, false) }

func (v *View) write(set ClassSet, w io.Writer, asIs bool) error {
	if !set.Valid() || set&^v.s.classes != 0 {
		return fmt.Errorf("snapshot of classes %b of a state that holds %b", set, v.s.classes)
	}
	buffered := bufio.NewWriterSize(w, 64<<10)
	sw := &snapshotWriter{w: buffered, hash: sha256.New(), asIs: asIs, rows: tally{revision: v.s.at.Revision}}
	sw.item(v.s.appendHeader([]byte{itemHeader}, set))
	v.s.tree.scan(func(r *record) bool {
		if set.Has(r.table.Class()) {
			sw.row(r)
		}
		return sw.err == nil
	})
	trailer := sw.hash.Sum([]byte{itemTrailer})
	digest := v.s.digestOf(set)
	if !asIs && sw.err == nil {
		sw.err = sw.rows.check(v.s, set, digest)
	}
	sw.item(append(trailer, digest[:]...))
	if sw.err != nil {
		return fmt.Errorf("write snapshot at index %d: %w", v.Index(), sw.err)
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("write snapshot at index %d: %w", v.Index(), err)
	}
	return nil
}

func (s *store) appendHeader(b []byte, set ClassSet) []byte {
	b = append(b, snapshotMagic...)
	b = binary.AppendUvarint(b, snapshotFormat)
	b = append(b, byte(set))
	b = appendPosition(b, s.at)
	for t := Table(1); t < tableEnd; t++ {
		if set.Has(t.Class()) && s.lists(t) {
			b = append(b, byte(t))
			b = binary.AppendUvarint(b, uint64(s.tables[t].rows))
			b = binary.AppendUvarint(b, s.tables[t].revision)
		}
	}
	return b
}

type snapshotWriter struct {
	w    io.Writer
	hash hash.Hash
	buf  []byte
	head [binary.MaxVarintLen64]byte
	asIs bool
	rows tally
	err  error
}

func (sw *snapshotWriter) row(r *record) {
	if !sw.asIs {
		if sw.err = r.intact(); sw.err == nil {
			sw.err = sw.rows.count(r)
		}
		if sw.err != nil { // a snapshot of wrong memory would outlive it
			return
		}
	}
	b := append(sw.buf[:0], itemRow, byte(r.table))
	b = binary.AppendUvarint(b, r.revision)
	b = appendString(b, r.key)
	b = appendBytes(b, r.row)
	sw.buf = b
	sw.item(b)
}

func (sw *snapshotWriter) item(body []byte) {
	n := binary.PutUvarint(sw.head[:], uint64(len(body)))
	sw.write(sw.head[:n])
	sw.write(body)
}

func (sw *snapshotWriter) write(b []byte) {
	if sw.err == nil {
		sw.hash.Write(b)
		_, sw.err = sw.w.Write(b)
	}
}
