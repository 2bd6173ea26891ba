package storage

import (
	"bytes"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
)

// replay rebuilds the log from its frames, in order.
type replay struct {
	tip     tip
	links   links
	entries []*raftpb.Entry
	anchor  anchorState
}

// segmentScan is what one segment's bytes hold.
type segmentScan struct {
	segment
	data []byte
	end  int64 // after the last good frame
	// doubtful is where the frames begin that the anchor does not cover; end if there are none.
	doubtful int64

	frames  []scannedFrame // what check found
	checked bool
}

// scannedFrame is a frame that is intact in itself and follows the one before.
type scannedFrame struct {
	frameHeader
	header  hash
	payload []byte
	entries []*raftpb.Entry
	added   []link // of the entries
	wrong   error  // the checksum is right and the content is not; nothing follows
}

// errWrong is a frame with right checksums and wrong content: two independent hash families disagree,
// which no torn write explains.
type errWrong struct{ detail string }

func (e errWrong) Error() string { return e.detail }

// aliasFrom is the part of a segment that entries must fill for it to stay in memory as it was read, in eighths.
// Otherwise they are copied, so that little does not keep much.
const aliasFrom = 6

// check does all that can be known of a segment without the ones before it, which is nearly all of the work: it finds the
// intact frames from the first on, until one is missing, torn, or of another history, and follows the chain of the entries
// inside each. The segment's header says where the first frame begins, and enter holds that against the segment before.
func (s *segmentScan) check() {
	s.checked = true
	at := s.start
	filled := 0
	for offset := int64(pageBytes); ; {
		f, payload, found := s.frame(offset, at)
		if !found {
			break
		}
		sum := sumHeader(s.data[offset : offset+frameHeaderBytes])
		s.frames = append(s.frames, scannedFrame{frameHeader: f, header: sum, payload: payload})
		at.seq, at.frame = f.seq, sum
		offset += int64(f.bytes())
		filled += len(payload)
	}
	alias := filled >= len(s.data)/8*aliasFrom
	chainer := newChainer()
	for i := range s.frames {
		f := &s.frames[i]
		if f.wrong = f.follow(chainer, alias); f.wrong != nil {
			s.frames = s.frames[:i+1]
			return
		}
	}
}

// follow decodes the entries and follows their chain.
func (f *scannedFrame) follow(chainer *chainer, alias bool) error {
	payload := f.payload
	f.payload = nil
	if !alias {
		payload = bytes.Clone(payload)
	}
	entries, err := decodeEntries(payload, f.prevIndex, f.count)
	if err != nil {
		return errWrong{"checksum right, content wrong: " + err.Error()}
	}
	chain := f.before
	added := make([]link, len(entries))
	for i, entry := range entries {
		chain = chainer.next(chain, entry)
		added[i] = link{chain, entry.GetTerm()}
	}
	if chain != f.after {
		return errWrong{"checksum right, SHA-256 chain of the entries wrong"}
	}
	f.entries, f.added = entries, added
	return nil
}

// run applies frames from the first on, until one is missing, torn, or of another history. An
// errWrong ends it with the offset of that frame in s.end. The replay has come to where the segment begins.
func (s *segmentScan) run(r *replay) error {
	if !s.checked {
		s.check()
	}
	s.end, s.doubtful = pageBytes, pageBytes
	frames := s.frames
	s.frames = nil
	for i := range frames {
		if err := r.apply(&frames[i]); err != nil {
			return err
		}
		s.end += int64(frames[i].bytes())
		if r.tip.seq <= r.anchor.tip.seq {
			s.doubtful = s.end
		}
	}
	return nil
}

// frame reads the frame at offset if it is intact and the one that follows t; another one is left
// over from a tail that was cut.
func (s *segmentScan) frame(offset int64, t tip) (f frameHeader, payload []byte, found bool) {
	room := s.data[offset : int64(len(s.data))-pageBytes]
	f, found = decodeFrameHeader(room, s.number, s.salt)
	if !found || f.seq != t.seq+1 || f.prev != t.frame {
		return frameHeader{}, nil, false
	}
	payload, found = f.payload(room, s.salt)
	return f, payload, found
}

// apply advances the replay by one intact frame.
func (r *replay) apply(f *scannedFrame) error {
	if f.durable >= f.seq {
		return errWrong{fmt.Sprintf("frame claims that frame %d was durable before it", f.durable)}
	}
	if err := r.position(&f.frameHeader); err != nil {
		return err
	}
	if f.wrong != nil {
		return f.wrong
	}
	term := f.prevTerm
	if n := len(f.added); n > 0 {
		term = f.added[n-1].term
	}
	r.links.replace(f.prevIndex, f.added)
	r.entries = append(r.entries, f.entries...)
	r.tip = tip{seq: f.seq, frame: f.header, index: r.links.last(), term: term, chain: f.after, hard: f.hard}
	return r.checkAnchor()
}

// position makes prevIndex the last entry, as the frame says.
func (r *replay) position(f *frameHeader) error {
	here, known := r.links.at(f.prevIndex)
	switch {
	case f.kind != frameAppend && f.kind != frameReset:
		return errWrong{fmt.Sprintf("unknown frame kind %d; a newer program wrote it", f.kind)}
	case f.kind == frameReset || f.prevIndex < r.links.base:
		// Below base: entries that compaction removed and this frame replaces. The frame chain
		// vouches for its prevIndex.
		r.links = newLinks(f.prevIndex, f.prevTerm, f.before)
		r.entries = nil
	case !known:
		return errWrong{fmt.Sprintf("entries after %d follow entry %d", f.prevIndex, r.links.last())}
	case here.chain != f.before || here.term != f.prevTerm:
		return errWrong{fmt.Sprintf("frame disagrees about the entries up to %d", f.prevIndex)}
	default:
		r.entries = r.entries[:f.prevIndex-r.links.base]
	}
	return nil
}

// checkAnchor compares the replay with the anchor where both are at the same frame.
func (r *replay) checkAnchor() error {
	if r.tip.seq == r.anchor.tip.seq && r.tip.frame != r.anchor.tip.frame {
		return errWrong{"the anchor knows another frame of this number: the files come from two copies of the directory"}
	}
	return nil
}

// evidence looks beyond the end of the good frames. durable is true if an intact later header says
// that frame seq was synced. torn is where the leftovers of unfinished writes end, s.end without any.
func (s *segmentScan) evidence(seq uint64) (durable bool, torn int64) {
	torn = s.end
	limit := int64(len(s.data)) - pageBytes
	if s.end < limit && claimsFrame(s.data[s.end:], s.number, s.salt) {
		torn = s.end + pageBytes
	}
	for offset := s.end; offset < limit; offset += pageBytes {
		f, found := decodeFrameHeader(s.data[offset:limit], s.number, s.salt)
		if !found || f.seq < seq {
			continue
		}
		durable = durable || f.durable >= seq
		torn = max(torn, min(limit, offset+int64(f.bytes())))
	}
	return durable, torn
}

// readSegment loads a whole segment: one large read instead of two small ones for each frame.
func readSegment(fsys FS, path string, number uint64, id identity) (*segmentScan, error) {
	data, err := ReadFile(fsys, path, maxSegmentBytes)
	if err != nil {
		return nil, readError(path, err, hintLog)
	}
	if len(data) < minSegmentBytes {
		return nil, &DamageError{Path: path, Detail: fmt.Sprintf("only %d bytes", len(data)), Hint: hintLog}
	}
	h, err := judgeHeaders(path, data, data[len(data)-pageBytes:], int64(len(data)), number, id)
	if err != nil {
		return nil, err
	}
	return &segmentScan{segment: segment{h, path}, data: data}, nil
}

// judgeHeaders returns what the first and the last page of a segment of size bytes say, of which one
// intact header is enough.
func judgeHeaders(path string, first, last []byte, size int64, number uint64, id identity) (segmentHeader, error) {
	h, err := decodeSegmentHeader(first)
	if err != nil {
		var lastErr error
		h, lastErr = decodeSegmentHeader(last)
		if errors.Is(err, errFormat) {
			return segmentHeader{}, fmt.Errorf("read %s: %w", path, err)
		}
		if lastErr != nil {
			return segmentHeader{}, &DamageError{Path: path, Detail: "both headers are bad: " + errors.Join(err, lastErr).Error(), Hint: hintLog}
		}
	}
	switch {
	case h.id != id:
		return segmentHeader{}, &ForeignError{Path: path, Have: h.id.String(), Want: id.String()}
	case h.size != size:
		return segmentHeader{}, &DamageError{Path: path, Offset: size, Detail: fmt.Sprintf("%d bytes instead of %d", size, h.size), Hint: hintLog}
	case h.number != number:
		return segmentHeader{}, &DamageError{Path: path, Detail: fmt.Sprintf("the file is segment %d, renamed", h.number), Hint: hintLog}
	}
	return h, nil
}
