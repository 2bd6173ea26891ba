package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// MaxSnapshotBytes bounds what a loader takes.
const MaxSnapshotBytes = 8 << 30

// Beside runs work beside its caller and returns what waits for its end. One piece of work at a time is under way, each sees
// what the ones before have done, and none of it touches anything that the caller does meanwhile.
type Beside func(work func()) (wait func())

// handBytes is how much of a snapshot is summed up at a time.
const handBytes = 256 << 10

// loader builds a store from a snapshot that arrives in pieces. What it has built is nobody's
// until finish has verified all of it.
//
// Much of what a load costs is hashing: the checksum over all bytes, and the hash of each row. Both are needed at the end
// alone, so they are made of a quarter of a megabyte at a time, beside the reading of the next. The checksum is left out for
// bytes that were verified: it could only find what the digest, which is made of all rows again, finds as well.
type loader struct {
	s       *store // nil before the header
	classes ClassSet
	want    [tableEnd]tableInfo
	hash    hash.Hash
	pending []byte // the start of an item whose rest has not come
	last    *record
	left    int64 // bytes that may still come
	beside  Beside
	trusted bool      // the bytes were verified: their checksum is not looked at
	unhandy int       // bytes of items since the last hand
	fresh   []*record // in the tree, without their hashes
	text    []byte    // items that are not in hash yet
	under   []*record // whose hashes are being made
	read    []byte    // what is being summed up
	wait    func()    // until under and read are done; nil: nothing is
	ended   bool      // the trailer was right
	err     error     // the first one, kept
}

func newLoader(classes ClassSet) *loader {
	return &loader{classes: classes, hash: sha256.New(), left: MaxSnapshotBytes, beside: inTurn}
}

// inTurn does the work at once.
func inTurn(work func()) (wait func()) {
	work()
	return func() {}
}

// readSnapshot reads a snapshot of exactly the given classes.
func (l *loader) readSnapshot(r io.Reader) (*store, error) {
	defer l.collect() // what is under way ends before this does
	if whole, ok := r.(io.WriterTo); ok {
		if _, err := whole.WriteTo(l); err != nil && l.err == nil {
			return nil, fmt.Errorf("read snapshot: %w", err)
		}
		return l.finish()
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if werr := l.write(buf[:n]); werr != nil {
			return nil, werr
		}
		if errors.Is(err, io.EOF) {
			return l.finish()
		}
		if err != nil {
			return nil, fmt.Errorf("read snapshot: %w", err)
		}
	}
}

// write takes the next piece, of any size; it keeps no reference to it.
func (l *loader) write(p []byte) error {
	if l.err != nil {
		return l.err
	}
	if l.left -= int64(len(p)); l.left < 0 {
		l.err = fmt.Errorf("snapshot over its limit: %w", ErrTooLarge)
		return l.err
	}
	p = l.complete(p)
	for l.err == nil {
		body, n, err := cutItem(p)
		if err != nil || n == 0 {
			l.err = err
			break
		}
		l.err = l.item(p[:n], body)
		p = p[n:]
	}
	l.pending = append(l.pending, p...)
	return l.err
}

// Write implements io.Writer.
func (l *loader) Write(p []byte) (int, error) {
	if err := l.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// complete takes from p what the item that was begun lacks, and returns the rest: none, unless the item is complete.
func (l *loader) complete(p []byte) (rest []byte) {
	for len(l.pending) > 0 && len(p) > 0 && l.err == nil {
		n := min(len(p), lacking(l.pending))
		l.pending, p = append(l.pending, p[:n]...), p[n:]
		body, n, err := cutItem(l.pending)
		if l.err = err; n > 0 {
			l.err = l.item(l.pending, body)
			l.pending = l.pending[:0]
		}
	}
	return p
}

// lacking is how many bytes the beginning of an item lacks, 1 if its length is not known yet.
func lacking(b []byte) int {
	size, head := binary.Uvarint(b)
	if head <= 0 {
		return 1
	}
	return max(1, head+int(min(size, maxItemBytes))-len(b)) //nolint:gosec // at most an item
}

// cutItem returns the first item's body and how many bytes it took with its length, 0 when it is
// not complete.
func cutItem(b []byte) (body []byte, n int, err error) {
	size, head := binary.Uvarint(b)
	switch {
	case head < 0 || head > 0 && (size == 0 || size > maxItemBytes):
		return nil, 0, fmt.Errorf("%w: snapshot item of %d bytes", ErrMalformed, size)
	case head == 0 || uint64(len(b)-head) < size:
		return nil, 0, nil
	}
	n = head + int(size)
	return b[head:n], n, nil
}

func (l *loader) item(whole, body []byte) error {
	r := &reader{b: body[1:]}
	kind := body[0]
	switch {
	case l.ended:
		return fmt.Errorf("%w: snapshot goes on behind its trailer", ErrMalformed)
	case kind == itemTrailer && l.s != nil:
		return l.trailer(r)
	}
	if !l.trusted {
		l.text = append(l.text, whole...)
	}
	if l.unhandy += len(whole); l.unhandy >= handBytes {
		l.hand()
	}
	switch {
	case kind == itemHeader && l.s == nil:
		return l.header(r)
	case kind == itemRow && l.s != nil:
		return l.row(r)
	}
	return fmt.Errorf("%w: snapshot item %q out of place", ErrMalformed, kind)
}

func (l *loader) header(r *reader) error {
	if magic := r.take(len(snapshotMagic), "magic"); !bytes.Equal(magic, []byte(snapshotMagic)) {
		return fmt.Errorf("%w: not a snapshot of the state", ErrMalformed)
	}
	if format := r.uvarint(); format != snapshotFormat && r.err == nil {
		return fmt.Errorf("%w: snapshot format %d is unknown to this binary: %w", ErrMalformed, format, ErrLater)
	}
	if set := ClassSet(r.byte("classes")); set != l.classes && r.err == nil {
		return fmt.Errorf("snapshot of classes %b instead of %b: %w", set, l.classes, ErrClass)
	}
	s := newStore(l.classes)
	s.at = readPosition(r)
	if err := l.tables(r); err != nil {
		return err
	}
	l.s = s
	return r.done()
}

// tables reads what each table has to add up to. See lastListed for those that may be missing.
func (l *loader) tables(r *reader) error {
	for t := Table(1); t < tableEnd && (t <= lastListed || len(r.b) > 0); t++ {
		if !l.classes.Has(t.Class()) || t > lastListed && Table(r.b[0]) > t {
			continue
		}
		if Table(r.byte("table")) != t {
			r.fail("tables out of order")
		}
		l.want[t] = tableInfo{rows: readInt(r, "rows"), revision: r.uvarint()}
		if t > lastListed && l.want[t] == (tableInfo{}) {
			r.fail("an empty table is listed")
		}
	}
	if len(r.b) > 0 && Table(r.b[0]) >= tableEnd {
		return fmt.Errorf("%w: table %d is unknown to this binary: %w", ErrMalformed, r.b[0], ErrLater)
	}
	return r.err
}

func (l *loader) row(r *reader) error {
	next := &record{table: Table(r.byte("table")), revision: r.uvarint()}
	next.key = r.string(maxTableKeyBytes, "key")
	next.head = headOf(next.key)
	next.row = bytes.Clone(r.bytes(maxRowBytes, "row"))
	if err := r.done(); err != nil {
		return err
	}
	if !next.table.Valid() || !l.classes.Has(next.table.Class()) {
		return fmt.Errorf("snapshot row of table %s: %w", next.table, ErrClass)
	}
	if next.revision > l.s.at.Revision {
		return fmt.Errorf("%w: snapshot row of revision %d, after the snapshot's own", ErrMalformed, next.revision)
	}
	if err := checkRow(next.table, next.key, next.revision, next.row); err != nil {
		return err
	}
	if err := l.place(next); err != nil {
		return err
	}
	l.fresh = append(l.fresh, next)
	return nil
}

// place puts a row behind all others. There are snapshots in which one stands too late, of a tree that had put it into the wrong
// leaf: that its rows are the right ones the digest says, which knows no order, and here it goes where it belongs.
func (l *loader) place(next *record) error {
	if l.last == nil || recordLess(l.last, next) {
		l.s.tree.load(next)
		l.last = next
		return nil
	}
	if l.s.tree.set(next) != nil {
		return fmt.Errorf("%w: snapshot holds the row %q of table %s twice", ErrMalformed, shortKey(next.key), next.table)
	}
	return nil
}

// hand has what was read summed up, once what was handed before is.
func (l *loader) hand() {
	l.collect()
	l.unhandy = 0
	l.read, l.text = l.text, l.read[:0]
	l.under, l.fresh = l.fresh, l.under[:0]
	text, rows, sum := l.read, l.under, l.hash
	l.wait = l.beside(func() {
		sum.Write(text)
		for _, r := range rows {
			r.hash = hashRow(r.table, r.key, r.revision, r.row)
		}
	})
}

// collect waits for what was handed and counts its rows.
func (l *loader) collect() {
	if l.wait == nil {
		return
	}
	l.wait()
	l.wait = nil
	for _, r := range l.under {
		l.s.account(r, +1)
	}
}

func (l *loader) trailer(r *reader) error {
	checksum, digest := r.fixed32("checksum"), r.fixed32("digest")
	if err := r.done(); err != nil {
		return err
	}
	l.hand()
	l.collect()
	if !l.trusted && !bytes.Equal(checksum[:], l.hash.Sum(nil)) {
		return fmt.Errorf("%w: snapshot checksum", ErrMalformed)
	}
	for t := Table(1); t < tableEnd; t++ {
		if l.s.tables[t].rows != l.want[t].rows {
			return fmt.Errorf("%w: snapshot has %d rows of table %s, not %d", ErrMalformed,
				l.s.tables[t].rows, t, l.want[t].rows)
		}
		l.s.tables[t].revision = l.want[t].revision
	}
	if l.s.digestOf(l.classes) != digest {
		return fmt.Errorf("snapshot at index %d: %w", l.s.at.Index, ErrDigest)
	}
	l.ended = true
	return nil
}

// finish returns the store if the snapshot came whole.
func (l *loader) finish() (*store, error) {
	if l.err != nil {
		return nil, l.err
	}
	if !l.ended || len(l.pending) > 0 {
		return nil, fmt.Errorf("%w: snapshot cut off", ErrMalformed)
	}
	return l.s, nil
}
