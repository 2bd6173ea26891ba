package storage

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
)

// logView is what a log should hold.
type logView struct {
	segments []segment // oldest first
	end      tip       // after the last frame; of an open log only
	offset   int64     // where the frames of the last segment end; 0: wherever they end
	anchor   anchorState
}

// scrubLog verifies the anchor, and segment by segment every frame. Each segment's header says where
// the log stood before it, so damage in one does not hide that in the next.
func (s *scrubber) scrubLog(ctx context.Context) error {
	read := s.openView
	if s.o.Log == nil {
		read = s.closedView
	}
	view, err := read(ctx)
	if err != nil {
		return err
	}
	for i := range view.segments {
		if err := s.scrubSegment(ctx, view, i); err != nil {
			return err
		}
	}
	return nil
}

// openView asks the log in use.
func (s *scrubber) openView(ctx context.Context) (logView, error) {
	l := s.o.Log
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return logView{}, ctx.Err()
	}
	view := logView{segments: append([]segment(nil), l.segments...), end: l.tip, offset: l.active.offset}
	anchor, err := l.anchor, l.usable()
	<-l.turn
	if err != nil {
		return logView{}, fmt.Errorf("scrub the log: %w", err)
	}
	slots, err := anchor.read()
	if err != nil {
		return logView{}, fmt.Errorf("scrub %s: %w", anchor.path, err)
	}
	_, found := s.scrubAnchor(anchor.path, slots)
	s.add(found)
	return view, nil
}

// read returns the content of an anchor that is in use.
func (a *anchorFile) read() ([]byte, error) {
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	if a.file == nil {
		return nil, ErrClosed
	}
	content := make([]byte, anchorBytes)
	return content, readFull(a.file, content, 0)
}

// scrubAnchor wants both slots intact and returns the newer one.
func (s *scrubber) scrubAnchor(path string, content []byte) (newest anchorState, found []ScrubProblem) {
	id := identity{s.o.ClusterID, s.o.RaftID}
	for offset := 0; offset < anchorBytes; offset += pageBytes {
		slot, err := decodeAnchor(content[min(offset, len(content)):])
		switch {
		case err != nil:
			found = append(found, ScrubProblem{path, int64(offset), err.Error()})
		case slot.id != id:
			found = append(found, ScrubProblem{path, int64(offset), "belongs to " + slot.id.String() + ", not to " + id.String()})
		case slot.generation > newest.generation:
			newest = slot
		}
	}
	return newest, found
}

// closedAnchor forgives one bad slot after an unclean stop: it was being written, and the next start
// writes it again.
func (s *scrubber) closedAnchor(path string, content []byte) anchorState {
	newest, found := s.scrubAnchor(path, content)
	if len(found) > 1 || newest.clean || newest.generation == 0 {
		s.add(found)
	}
	return newest
}

// closedView reads from the disk what a log that nobody uses should hold.
func (s *scrubber) closedView(context.Context) (logView, error) {
	var view logView
	dir := filepath.Join(s.o.Dir, "wal")
	numbers, err := segmentNumbers(s.o.FS, dir)
	if err != nil {
		return view, fmt.Errorf("list log segments: %w", err)
	}
	path := filepath.Join(s.o.Dir, anchorName)
	content, err := ReadFile(s.o.FS, path, anchorBytes)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(numbers) == 0: // made later than cluster.toml
	case errors.Is(err, fs.ErrNotExist):
		s.add([]ScrubProblem{{path, 0, "missing"}})
	case err != nil:
		found, err := s.problem(path, 0, err)
		if err != nil {
			return view, err
		}
		s.add(found)
	default:
		view.anchor = s.closedAnchor(path, content)
	}
	if lost := view.anchor.segment; len(numbers) == 0 && view.anchor.used() {
		s.add([]ScrubProblem{{dir, 0, fmt.Sprintf("all segments are missing, frame %d was durable in segment %d", view.anchor.tip.seq, lost)}})
	} else if len(numbers) > 0 && lost > numbers[len(numbers)-1] {
		s.add([]ScrubProblem{{filepath.Join(dir, segmentName(lost)), 0, "missing, and the anchor says that it was begun"}})
	}
	for i, number := range numbers {
		path := filepath.Join(dir, segmentName(number))
		if i > 0 && number != numbers[i-1]+1 {
			s.add([]ScrubProblem{{path, 0, fmt.Sprintf("segment %d follows segment %d: the files between are missing", number, numbers[i-1])}})
		}
		if err := s.closedSegment(&view, path, number); err != nil {
			return view, err
		}
	}
	return view, nil
}

// closedSegment adds a segment to the view by one of its headers.
func (s *scrubber) closedSegment(view *logView, path string, number uint64) error {
	header, err := s.readHeaders(path, number)
	if err == nil {
		view.segments = append(view.segments, segment{header, path})
		return nil
	}
	found, err := s.problem(path, 0, err)
	s.add(found)
	return err
}

// readHeaders is the part of readSegment that needs two pages.
func (s *scrubber) readHeaders(path string, number uint64) (_ segmentHeader, err error) {
	f, err := s.o.FS.Open(path)
	if err != nil {
		return segmentHeader{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return segmentHeader{}, err
	}
	if size < minSegmentBytes || size > maxSegmentBytes {
		return segmentHeader{}, &DamageError{Path: path, Detail: fmt.Sprintf("%d bytes are no segment", size)}
	}
	first, last := make([]byte, pageBytes), make([]byte, pageBytes)
	// A page that cannot be read is as bad as one that is wrong: the walk reports which.
	_, _ = readFull(f, first, 0), readFull(f, last, size-pageBytes)
	return judgeHeaders(path, first, last, size, number, identity{s.o.ClusterID, s.o.RaftID})
}

// scrubSegment verifies one segment. What is found in a file that was recycled meanwhile says nothing.
func (s *scrubber) scrubSegment(ctx context.Context, view logView, i int) error {
	w := &segmentWalk{scrubber: s, segment: view.segments[i], tip: view.segments[i].start, offset: pageBytes, anchor: view.anchor.tip}
	limit := w.size - pageBytes
	last := i == len(view.segments)-1
	w.proven = math.MaxUint64 // rolling and the writer's own word say so
	switch {
	case last && view.offset > 0:
		limit = view.offset
	case last:
		w.proven = view.anchor.tip.seq
	}
	if i == 0 {
		w.checkAnchor()
	}
	err := w.run(ctx, limit)
	if errors.Is(err, fs.ErrNotExist) {
		w.found, err = append(w.found, ScrubProblem{w.path, 0, "missing"}), nil
	}
	if err != nil {
		return err
	}
	switch {
	case w.stopped:
	case !last && view.segments[i+1].number == w.number+1:
		w.wantEnd(view.segments[i+1].start)
	case last && view.offset > 0:
		w.wantEnd(view.end)
	case last:
		if err := w.judgeTail(view.anchor); err != nil {
			return err
		}
	}
	if len(w.found) > 0 && s.recycled(w.number) {
		return nil
	}
	s.add(w.found)
	s.report.Disagree += w.disagree
	s.report.Segments++
	s.report.Entries += w.entries
	return nil
}

// recycled reports whether the log in use has given up a segment.
func (s *scrubber) recycled(number uint64) bool {
	l := s.o.Log
	if l == nil {
		return false
	}
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	return number < l.segments[0].number
}

// segmentWalk reads the frames of one segment.
type segmentWalk struct {
	segment
	scrubber *scrubber
	anchor   tip   // of a log that nobody uses
	tip      tip   // after the last frame read
	offset   int64 // of the next one
	entries  uint64
	proven   uint64 // frames up to it were durable once: damage in them is no torn tail
	doubt    bool   // the last frame's entries are damaged, so what they were is not known
	unlinked bool   // the next frame's CRC is right and its hash of the frame before is wrong
	found    []ScrubProblem
	disagree int  // of found: see ScrubReport.Disagree
	stopped  bool // by a problem after which nothing in this segment can be judged
}

func (w *segmentWalk) report(offset int64, format string, args ...any) {
	w.found = append(w.found, ScrubProblem{w.path, offset, fmt.Sprintf(format, args...)})
}

// stop is report for what ends the walk.
func (w *segmentWalk) stop(format string, args ...any) {
	w.report(w.offset, format+"; frames after it in this segment were not read", args...)
	w.stopped = true
}

// run reads up to limit, or to the first frame that is not the next one.
func (w *segmentWalk) run(ctx context.Context, limit int64) (err error) {
	f, err := w.scrubber.o.FS.Open(w.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := w.headers(f); err != nil {
		return err
	}
	r := bufio.NewReaderSize(pacedReader{w.scrubber, ctx, io.NewSectionReader(f, pageBytes, limit-pageBytes)}, int(min(scrubReadBytes, max(limit-pageBytes, 0))))
	page := make([]byte, pageBytes)
	for w.offset < limit && !w.stopped {
		more, err := w.frame(r, page, limit)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			w.stop("cannot be read: %v", err)
		}
		if !more {
			return nil
		}
	}
	return nil
}

// headers compares both header pages with what they have to say.
func (w *segmentWalk) headers(f File) error {
	want, have := w.encode(), make([]byte, pageBytes)
	for _, offset := range []int64{0, w.size - pageBytes} {
		if err := readFull(f, have, offset); err != nil {
			w.report(offset, "header cannot be read: %v", err)
		} else if !bytes.Equal(have, want) {
			w.report(offset, "this header is damaged; the segment has two")
		}
	}
	return nil
}

// frame reads and verifies the next frame; more is false where there is none.
func (w *segmentWalk) frame(r io.Reader, page []byte, limit int64) (more bool, err error) {
	if _, err := io.ReadFull(r, page); err != nil {
		return false, err
	}
	f, found := decodeFrameHeader(page, w.number, w.salt)
	if !found || f.seq != w.tip.seq+1 {
		return false, nil
	}
	if w.unlinked = f.prev != w.tip.frame; w.unlinked {
		return false, nil
	}
	if f.length > maxFrameBytes || w.offset+int64(f.bytes()) > limit {
		w.stop("frame %d says that it has %d bytes", f.seq, f.length)
		return false, nil
	}
	whole := page
	if rest := f.bytes() - pageBytes; rest > 0 {
		whole = append(page[:pageBytes:pageBytes], make([]byte, rest)...)
		if _, err := io.ReadFull(r, whole[pageBytes:]); err != nil {
			return false, err
		}
	}
	if _, intact := f.payload(whole, w.salt); !intact && f.seq > w.proven {
		return false, nil
	}
	problem, disagree := w.content(&f, whole)
	if w.doubt = problem != ""; w.doubt {
		w.report(w.offset, "frame %d: %s", f.seq, problem)
	}
	w.disagreeIf(disagree)
	w.tip = tip{
		seq: f.seq, frame: sumHeader(whole[:frameHeaderBytes]), index: f.prevIndex + uint64(f.count),
		term: w.lastTerm(&f, whole), chain: f.after, hard: f.hard,
	}
	w.entries += uint64(f.count)
	w.offset += int64(f.bytes())
	w.checkAnchor()
	return true, nil
}

// disagreeIf counts what was reported last among those of which the two kinds of checksum disagree.
func (w *segmentWalk) disagreeIf(disagree bool) {
	if disagree {
		w.disagree++
	}
}

// checkAnchor compares the walk with the anchor of a log that nobody uses, where both are at the same frame.
func (w *segmentWalk) checkAnchor() {
	if w.anchor.seq == w.tip.seq && w.anchor.frame != w.tip.frame {
		w.report(w.offset, "the anchor knows another frame %d", w.tip.seq)
		w.disagreeIf(true)
	}
}

// content says what is wrong with a frame whose header is intact, "" if nothing is, and whether CRC and SHA-256 of the
// entries disagree.
func (w *segmentWalk) content(f *frameHeader, whole []byte) (problem string, disagree bool) {
	payload, intact := f.payload(whole, w.salt)
	proven := w.chained(f, payload)
	switch {
	case !intact:
		return "entries do not have the checksum that was written with them", proven
	case f.durable >= f.seq:
		return fmt.Sprintf("claims that frame %d was durable before it", f.durable), false
	case f.kind != frameAppend && f.kind != frameReset:
		return fmt.Sprintf("unknown kind %d; a newer program wrote it", f.kind), false
	case f.kind == frameAppend && f.prevIndex > w.tip.index:
		return fmt.Sprintf("entries after %d follow entry %d", f.prevIndex, w.tip.index), false
	case f.kind == frameAppend && f.prevIndex == w.tip.index && !w.doubt && (f.before != w.tip.chain || f.prevTerm != w.tip.term):
		return fmt.Sprintf("disagrees about the entries up to %d", f.prevIndex), true
	case !proven:
		return "checksum right, SHA-256 chain of the entries wrong", true
	}
	return "", false
}

// chained reports whether the payload is the entries that lead to the chain after the frame.
func (w *segmentWalk) chained(f *frameHeader, payload []byte) bool {
	entries, err := decodeEntries(payload, f.prevIndex, f.count)
	if err != nil {
		return false
	}
	chain := f.before
	for _, entry := range entries {
		chain = w.scrubber.chainer.next(chain, entry)
	}
	return chain == f.after
}

// lastTerm is the term of a frame's last entry; of damaged ones it is not known.
func (w *segmentWalk) lastTerm(f *frameHeader, whole []byte) uint64 {
	payload, intact := f.payload(whole, w.salt)
	entries, err := decodeEntries(payload, f.prevIndex, f.count)
	if intact && err == nil && len(entries) > 0 {
		return entries[len(entries)-1].GetTerm()
	}
	return f.prevTerm
}

// wantEnd compares where the frames ended with where they have to.
func (w *segmentWalk) wantEnd(want tip) {
	switch {
	case w.tip.seq < want.seq:
		w.report(w.offset, "frame %d is missing or damaged, and frame %d was written after it", w.tip.seq+1, want.seq)
		w.disagreeIf(w.unlinked)
	case w.tip != want && len(w.found) == 0:
		w.report(w.offset, "the log does not go on from frame %d as the next file says", w.tip.seq)
		w.disagreeIf(w.tip.seq == want.seq)
	}
}

// judgeTail decides, as OpenLog does, whether the end of a log that nobody uses was torn or damaged.
func (w *segmentWalk) judgeTail(anchor anchorState) error {
	if anchor.tip.seq > w.tip.seq {
		w.report(w.offset, "frame %d is missing or damaged, and the anchor says that frame %d was durable", w.tip.seq+1, anchor.tip.seq)
		w.disagreeIf(w.unlinked)
		return nil
	}
	scan, err := readSegment(w.scrubber.o.FS, w.path, w.number, w.id)
	if err != nil {
		return fmt.Errorf("scrub %s: %w", w.path, err)
	}
	scan.end = w.offset
	if durable, _ := scan.evidence(w.tip.seq + 1); durable {
		w.report(w.offset, "frame %d is damaged, and a later frame says that it was durable", w.tip.seq+1)
		w.disagreeIf(w.unlinked)
	}
	return nil
}
