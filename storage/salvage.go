package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
)

// ErrNotReproduced is returned, wrapped, by Offer for entries that do not lead to the chain that the log needs.
var ErrNotReproduced = errors.New("entries do not reproduce the chain of the log")

// ErrNotSalvaged is returned, wrapped, by Salvage when nothing says what the log has held, or two things contradict
// each other. The log cannot be repaired under its raft id.
var ErrNotSalvaged = errors.New("nothing says for certain what the log has held")

// Point is a place in a log: an entry and the chain over everything up to it.
type Point struct {
	Index, Term uint64
	Chain       [32]byte
}

// Gap is what a damaged log needs next: the entries that end with the one of index Last and chain Chain. None at or
// below After is wanted; those just above it may be known.
type Gap struct {
	After, Last uint64
	Chain       [32]byte
}

// Salvaged is what is left of a damaged log. The entry chain makes it content addressed: whatever is missing has a
// hash that only the right entries reproduce, so it does not matter who supplies them.
//
//	s, err := Salvage(options, snapshot)
//	for gap, more := s.Missing(); more; gap, more = s.Missing() {
//		prev, entries, err := askAnyPeer(gap)
//		err = s.Offer(prev, entries) // ErrNotReproduced: ask another one
//	}
//	err = s.Repair(options) // then OpenLog
//
// It is used by one goroutine.
type Salvaged struct {
	// Damage says what is wrong and where; at most 100.
	Damage []ScrubProblem
	// Verified is up to where the log is intact from its beginning, Intact how many entries are in it somewhere.
	Verified uint64
	Intact   int
	// Last is where the log has to end: nothing is known to have been durable beyond it.
	Last Point
	// HardState is the newest one known, nil if none was ever written.
	HardState *raftpb.HardState
	// InDoubt says why more than Last and a newer vote may have been promised to others, "" if that cannot be.
	// After a repair the voter has to hear all others before it votes or counts: Recovered.InDoubt.
	InDoubt string

	id         identity
	seq        uint64 // no frame had a higher one
	segments   []uint64
	newest     uint64 // of the segments that are there, and of those that the anchor says were begun
	generation uint64 // of the anchor
	known      map[hash]knownEntry
	indexes    []uint64 // of the entries known, sorted
	floor      *Point   // the snapshot that the log continues from
	starts     map[hash]Point

	at      Point // what Last has been followed down to
	entries []*raftpb.Entry
	whole   bool
}

// knownEntry is an entry of which the chain after it is the key.
type knownEntry struct {
	entry  *raftpb.Entry
	before Point
}

// Salvage reads a log, damaged or not, and changes nothing. snapshot is the newest intact one; nil if there is none.
// Errors: *ForeignError, wrapped ErrNotSalvaged, others as they come from the file system.
func Salvage(o LogOptions, snapshot *SnapshotMeta) (*Salvaged, error) {
	l, err := newLog(o)
	if err != nil {
		return nil, err
	}
	r := &salvage{log: l, out: &Salvaged{id: l.id, known: map[hash]knownEntry{}, starts: map[hash]Point{{}: {}}}}
	if snapshot != nil {
		r.out.floor = &Point{snapshot.Index, snapshot.Term, snapshot.Chain}
	}
	if err := r.readAnchor(filepath.Join(o.Dir, anchorName)); err != nil {
		return nil, err
	}
	if err := r.readSegments(); err != nil {
		return nil, err
	}
	if r.out.seq >= maxSeq-repairSeqs {
		return nil, fmt.Errorf("salvage %s: %w: a frame has the number %d, which no log gets to", r.log.spares.dir, ErrNotSalvaged, r.out.seq)
	}
	if err := r.findEnd(); err != nil {
		return nil, err
	}
	if r.out.Damage, err = logProblems(o); err != nil {
		return nil, err
	}
	r.finish()
	return r.out, nil
}

// salvage is one run of Salvage.
type salvage struct {
	log      *Log
	out      *Salvaged
	anchor   anchorState
	anchored bool
	last     *salvagedSegment // the newest one that can be read
}

// salvagedSegment is what the pages of one segment hold, in order.
type salvagedSegment struct {
	segmentHeader
	frames []salvagedFrame
	claims map[int64]bool // offsets of pages that begin like a frame and are none
}

// salvagedFrame is a frame whose header is intact; whole means that its entries are too.
type salvagedFrame struct {
	frameHeader
	sum    hash
	offset int64
	whole  bool
	term   uint64 // of the last entry, 0 if that is not known
}

func (f *salvagedFrame) tip() tip {
	return tip{seq: f.seq, frame: f.sum, index: f.prevIndex + uint64(f.count), term: f.term, chain: f.after, hard: f.hard}
}

// logProblems is what Scrub says of a log that nobody uses.
func logProblems(o LogOptions) ([]ScrubProblem, error) {
	s := &scrubber{chainer: newChainer(), o: ScrubOptions{FS: o.FS, Dir: o.Dir, ClusterID: o.ClusterID, RaftID: o.RaftID}}
	if err := s.scrubLog(context.Background()); err != nil {
		return nil, err
	}
	return s.report.Problems, nil
}

func (r *salvage) readAnchor(path string) error {
	anchor, found, err := readAnchor(r.log.fs, path, r.log.id)
	var damage *DamageError
	if err != nil && !errors.As(err, &damage) {
		return err
	}
	r.anchor, r.anchored = anchor, found && err == nil
	r.out.generation, r.out.seq, r.out.newest = anchor.generation, anchor.tip.seq, anchor.segment
	return nil
}

// readSegments takes in every file with frames, also those of a repair that was cut and those kept aside: an entry
// proves itself, wherever it is found.
func (r *salvage) readSegments() error {
	dir := r.log.spares.dir
	names, err := r.log.fs.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list log segments: %w", err)
	}
	for _, name := range names {
		number, live := parseSegmentName(name)
		if !live && !strings.HasPrefix(name, repairedPrefix) && !strings.HasPrefix(name, damagedPrefix) {
			continue
		}
		found, err := r.readSegment(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if !live {
			continue
		}
		r.out.segments = append(r.out.segments, number)
		r.out.newest = max(r.out.newest, number)
		if found == nil || found.number != number {
			continue
		}
		start := found.start
		r.out.starts[start.chain] = Point{start.index, start.term, start.chain}
		if r.last == nil || number > r.last.number {
			r.last = found
		}
	}
	return nil
}

// readSegment takes in one file, nil if neither of its headers is intact: without the salt nothing in it can be told
// from what the file held before.
func (r *salvage) readSegment(path string) (*salvagedSegment, error) {
	data, err := readDamaged(r.log.fs, path)
	if err != nil || len(data) < minSegmentBytes {
		return nil, err
	}
	h, err := decodeSegmentHeader(data)
	if err != nil {
		h, err = decodeSegmentHeader(data[len(data)-pageBytes:])
	}
	switch {
	case errors.Is(err, errFormat):
		return nil, fmt.Errorf("read %s: %w", path, err)
	case err != nil:
		return nil, nil //nolint:nilnil // there is nothing, and that is no error
	case h.id != r.log.id:
		return nil, &ForeignError{Path: path, Have: h.id.String(), Want: r.log.id.String()}
	}
	s := &salvagedSegment{segmentHeader: h, claims: map[int64]bool{}}
	r.out.seq = max(r.out.seq, h.start.seq)
	limit := min(int64(len(data)), h.size-pageBytes)
	for offset := int64(pageBytes); offset < limit; {
		offset += r.readFrame(s, data[offset:limit], offset)
	}
	return s, nil
}

// readFrame takes in what begins at offset, and returns how far to go on.
func (r *salvage) readFrame(s *salvagedSegment, data []byte, offset int64) int64 {
	f, found := decodeFrameHeader(data, s.number, s.salt)
	if !found {
		s.claims[offset] = claimsFrame(data, s.number, s.salt)
		return pageBytes
	}
	r.out.seq = max(r.out.seq, f.seq)
	kept := salvagedFrame{frameHeader: f, sum: sumHeader(data[:frameHeaderBytes]), offset: offset}
	if f.count == 0 {
		kept.term = f.prevTerm
	}
	size := int64(pageBytes)
	if payload, intact := f.payload(data, s.salt); intact {
		entries, err := decodeEntries(bytes.Clone(payload), f.prevIndex, f.count)
		if err == nil && r.out.learn(Point{f.prevIndex, f.prevTerm, f.before}, entries, f.after) {
			kept.whole, size = true, int64(f.bytes())
			if n := len(entries); n > 0 {
				kept.term = entries[n-1].GetTerm()
			}
		}
	}
	s.frames = append(s.frames, kept)
	if f.kind == frameReset {
		r.out.starts[f.before] = Point{f.prevIndex, f.prevTerm, f.before}
	}
	return size
}

// readDamaged is ReadFile of a file of which some pages cannot be read: those are zeros.
func readDamaged(fsys FS, path string) (_ []byte, err error) {
	data, err := ReadFile(fsys, path, maxSegmentBytes)
	if err == nil {
		return data, nil
	}
	var damage *DamageError
	if !errors.As(readError(path, err, hintLog), &damage) {
		return nil, err
	}
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	data = make([]byte, min(size, maxSegmentBytes))
	for offset := 0; offset < len(data); offset += pageBytes {
		page := data[offset:min(offset+pageBytes, len(data))]
		if readFull(f, page, int64(offset)) != nil {
			clear(page)
		}
	}
	return data, nil
}

// learn remembers entries, if they lead from before to after.
func (s *Salvaged) learn(before Point, entries []*raftpb.Entry, after hash) bool {
	chainer := newChainer()
	found := make([]knownEntry, len(entries))
	keys := make([]hash, len(entries))
	for i, entry := range entries {
		found[i] = knownEntry{entry, before}
		before = Point{entry.GetIndex(), entry.GetTerm(), chainer.next(before.Chain, entry)}
		keys[i] = before.Chain
	}
	if before.Chain != after {
		return false
	}
	for i, key := range keys {
		s.known[key] = found[i]
	}
	return true
}

// finish sums up what was found.
func (r *salvage) finish() {
	s := r.out
	s.Intact = len(s.known)
	for _, k := range s.known {
		s.indexes = append(s.indexes, k.entry.GetIndex())
	}
	slices.Sort(s.indexes)
	s.indexes = slices.Compact(s.indexes)
	s.at = s.Last
	s.Verified = r.verified()
}

// verified is where a reader from the beginning would get to.
func (r *salvage) verified() uint64 {
	numbers := slices.Sorted(slices.Values(r.out.segments))
	replayed := replay{}
	for i, number := range numbers {
		path := filepath.Join(r.log.spares.dir, segmentName(number))
		scan, err := readSegment(r.log.fs, path, number, r.log.id)
		if err != nil {
			break
		}
		if i == 0 {
			replayed.tip, replayed.links = scan.start, newLinks(scan.start.index, scan.start.term, scan.start.chain)
		}
		if replayed.tip != scan.start || scan.run(&replayed) != nil {
			break
		}
	}
	return replayed.tip.index
}
