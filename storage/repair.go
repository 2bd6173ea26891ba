package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

const (
	repairedPrefix = "repaired-" // a segment of a repaired log that is not switched to yet
	damagedPrefix  = "damaged-"  // a damaged file that was replaced, kept for people
	damagedAnchor  = damagedPrefix + anchorName

	// maxDamagedFiles bounds the damaged segments kept, of the newest repair only.
	maxDamagedFiles = 2

	// repairFrameBytes is the most entries of a frame that a repair writes.
	repairFrameBytes = 1 << 20
)

// ErrIncomplete is returned by Repair while entries are missing.
var ErrIncomplete = errors.New("entries of the damaged log are missing still")

// Repair replaces the damaged log by the salvaged one, whose gaps must be filled. A crash at any moment leaves the
// damaged log, or the whole repaired one: the new segments are written aside, then a record of the switch, which
// OpenLog completes. The raft id stays, and so does the hard state, as the caller left it. Damaged files are kept in
// wal/damaged-*. Nobody may have the log open. Errors: ErrIncomplete; as Append's, after which Repair may be called
// again.
func (s *Salvaged) Repair(o LogOptions) error {
	if _, more := s.Missing(); more {
		return fmt.Errorf("repair the log: %w", ErrIncomplete)
	}
	l, err := newLog(o)
	if err != nil {
		return err
	}
	w := &repairWriter{log: l, salvaged: s, root: o.Dir}
	if err := w.run(); err != nil {
		return fmt.Errorf("repair the log: %w", err)
	}
	l.log.Warn("damaged log repaired", zap.Uint64("first", s.at.Index+1), zap.Uint64("index", s.Last.Index),
		zap.Int("count", len(s.entries)), zap.String("reason", s.InDoubt))
	return nil
}

// repairWriter writes the segments of a repaired log.
type repairWriter struct {
	log      *Log
	salvaged *Salvaged
	root     string

	header segmentHeader
	image  []byte // of the segment that is being filled
	offset int64
	tip    tip
	count  uint64 // segments written
}

func (w *repairWriter) run() error {
	dir, s := w.log.spares.dir, w.salvaged
	for _, path := range []string{w.root, dir} {
		if err := w.log.fs.MkdirAll(path, dirPerm); err != nil {
			return classify("mkdir", path, err)
		}
	}
	if err := removePrefix(w.log.fs, dir, repairedPrefix); err != nil {
		return err
	}
	first := s.newest + 1
	w.tip = tip{seq: s.seq, index: s.at.Index, term: s.at.Term, chain: s.at.Chain}
	w.begin(first)
	if err := w.fill(); err != nil {
		return err
	}
	if err := w.end(); err != nil {
		return err
	}
	record := repairRecord{
		first: first, count: w.count, keep: s.damagedSegments(),
		anchor: anchorState{id: s.id, generation: s.generation + 2, doubt: s.InDoubt != "", tip: w.tip, segment: w.header.number},
	}
	if err := w.keepAnchor(dir); err != nil {
		return err
	}
	if err := syncDir(w.log.fs, dir); err != nil {
		return err
	}
	if err := WriteFileAtomic(w.log.fs, filepath.Join(dir, repairName), record.encode(), filePerm); err != nil {
		return err
	}
	return finishRepair(w.log.fs, w.root, s.id)
}

// keepAnchor keeps the anchor of the damaged log, whatever is in it.
func (w *repairWriter) keepAnchor(dir string) error {
	content, err := ReadFile(w.log.fs, filepath.Join(w.root, anchorName), maxSegmentBytes)
	if err != nil {
		return nil //nolint:nilerr // there is nothing to keep
	}
	return writeTmpRename(w.log.fs, filepath.Join(dir, damagedAnchor), content[:min(len(content), anchorBytes)], filePerm)
}

// damagedSegments are the newest segments with problems.
func (s *Salvaged) damagedSegments() []uint64 {
	var numbers []uint64
	for _, p := range s.Damage {
		if number, ok := parseSegmentName(filepath.Base(p.File)); ok && slices.Contains(s.segments, number) {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	return numbers[max(0, len(numbers)-maxDamagedFiles):]
}

// fill writes all entries and the hard state.
func (w *repairWriter) fill() error {
	var hard hardState
	if hs := w.salvaged.HardState; hs != nil {
		hard = hardState{hs.GetTerm(), hs.GetVote(), min(hs.GetCommit(), w.salvaged.Last.Index)}
	}
	entries := slices.Clone(w.salvaged.entries)
	slices.Reverse(entries)
	limit := min(w.log.maxFrame(), frameHeaderBytes+repairFrameBytes)
	for {
		n, size := 0, frameHeaderBytes
		for n < len(entries) && (n == 0 || size+entriesBytes(entries[n:n+1]) <= limit) {
			size += entriesBytes(entries[n : n+1])
			n++
		}
		now := hard
		if n < len(entries) {
			now.commit = 0 // no frame says that an entry is committed that comes after it
		}
		if err := w.frame(entries[:n], now); err != nil {
			return err
		}
		if entries = entries[n:]; len(entries) == 0 {
			return nil
		}
	}
}

func (w *repairWriter) frame(entries []*raftpb.Entry, hard hardState) error {
	f := frameHeader{kind: frameAppend, prevIndex: w.tip.index, prevTerm: w.tip.term, before: w.tip.chain, hard: hard}
	f.length, f.count = uint32(entriesBytes(entries)), uint32(len(entries))
	if f.bytes() > w.log.maxFrame() {
		return fmt.Errorf("frame of %d bytes: %w; keep the size of segments", f.bytes(), ErrEntryTooLarge)
	}
	if int64(f.bytes()) > w.header.size-pageBytes-w.offset {
		number := w.header.number + 1
		if err := w.end(); err != nil {
			return err
		}
		w.begin(number)
	}
	chain, term := f.before, f.prevTerm
	buf := make([]byte, frameHeaderBytes, f.bytes())
	for _, entry := range entries {
		buf = appendEntry(buf, entry)
		chain, term = w.log.chainer.next(chain, entry), entry.GetTerm()
	}
	f.segment, f.seq, f.prev, f.after, f.durable = w.header.number, w.tip.seq+1, w.tip.frame, chain, w.tip.seq
	f.payloadCRC = saltedCRC(w.header.salt, buf[frameHeaderBytes:])
	sum := f.encode(buf, w.header.salt)
	copy(w.image[w.offset:], buf)
	w.offset += int64(f.bytes())
	w.tip = tip{seq: f.seq, frame: sum, index: f.prevIndex + uint64(len(entries)), term: term, chain: chain, hard: hard}
	return nil
}

// begin makes the image of an empty segment.
func (w *repairWriter) begin(number uint64) {
	w.header = segmentHeader{id: w.log.id, number: number, salt: newSalt(), size: w.log.spares.size, start: w.tip}
	w.image, w.offset = make([]byte, w.header.size), pageBytes
	page := w.header.encode()
	copy(w.image, page)
	copy(w.image[w.header.size-pageBytes:], page)
}

// end writes the image aside, durably but for its name.
func (w *repairWriter) end() error {
	path := filepath.Join(w.log.spares.dir, repairedPrefix+segmentName(w.header.number))
	if op, err := writeSynced(w.log.fs, path, w.image, filePerm); err != nil {
		return classifySoft(op, path, err)
	}
	w.count++
	return nil
}

// removePrefix removes the files whose name begins with prefix.
func removePrefix(fsys FS, dir, prefix string) error {
	names, err := listPrefix(fsys, dir, prefix)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range names {
		if err := fsys.Remove(filepath.Join(dir, name)); err != nil {
			return classifySoft("remove", name, err)
		}
	}
	return nil
}
