package storage

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
)

// findEnd decides where the log has to end, and whether anything after that may have been promised.
func (r *salvage) findEnd() error {
	switch {
	case r.last == nil && !r.anchored:
		return fmt.Errorf("salvage %s: %w: neither a segment nor the anchor is intact", r.log.spares.dir, ErrNotSalvaged)
	case r.last == nil && r.anchor.tip.seq == 0 && r.out.floor == nil:
		return fmt.Errorf("salvage %s: %w: no segment is left, no snapshot, and the anchor knows of no frame", r.log.spares.dir, ErrNotSalvaged)
	}
	end, offset := r.anchor.tip, int64(0)
	if r.last != nil {
		w := &endWalk{segment: r.last, tip: r.last.start, offset: pageBytes, anchor: r.anchor}
		if err := w.run(); err != nil {
			return fmt.Errorf("salvage %s: %w", r.log.spares.dir, err)
		}
		end, offset = w.tip, w.offset
	}
	s := r.out
	s.Last = Point{end.index, end.term, end.chain}
	if h := end.hard; h != (hardState{}) {
		s.HardState = &raftpb.HardState{Term: &h.term, Vote: &h.vote, Commit: &h.commit}
	}
	s.InDoubt = r.doubt(end, offset)
	return nil
}

// doubt says why something after end may have been durable. A log that was closed has nothing after its anchor.
func (r *salvage) doubt(end tip, offset int64) string {
	switch {
	case r.anchored && r.anchor.clean && r.anchor.tip.seq == end.seq:
		return ""
	case r.anchored && r.anchor.doubt:
		return "an earlier start found the end of the log in doubt"
	case !r.anchored:
		return "the anchor is lost"
	case r.last == nil || r.out.newest > r.last.number:
		return "the newest segment is lost, only the anchor says how far it went"
	case offset == 0:
		return "the end of the log is lost, only the anchor says how far it went"
	case r.last.unfinished(end, offset):
		return "the last frame is damaged, and nothing says whether it was durable"
	}
	return ""
}

// unfinished reports whether something that looks like a frame follows the end.
func (s *salvagedSegment) unfinished(end tip, offset int64) bool {
	if s.claims[offset] {
		return true
	}
	for i := range s.frames {
		if f := &s.frames[i]; f.offset >= offset && f.seq > end.seq {
			return true
		}
	}
	return false
}

// endWalk follows the frames of the newest segment over the damage in it. A frame is linked to the one before by the
// hash of its header, so frames of a tail that was cut are not taken for later ones: nothing links to them, and none
// of them says that a frame was durable from where the log was cut.
type endWalk struct {
	segment *salvagedSegment
	bySeq   map[uint64][]*salvagedFrame
	anchor  anchorState
	tip     tip
	offset  int64 // after the tip's frame; 0 if that is not here
	proven  uint64
}

func (w *endWalk) run() error {
	w.bySeq = make(map[uint64][]*salvagedFrame, len(w.segment.frames))
	w.proven = max(w.anchor.tip.seq, w.tip.seq)
	for i := range w.segment.frames {
		f := &w.segment.frames[i]
		w.bySeq[f.seq] = append(w.bySeq[f.seq], f)
		if f.durable < f.seq {
			w.proven = max(w.proven, f.durable)
		}
	}
	for more := true; more; more = w.jump() {
		if err := w.follow(); err != nil {
			return err
		}
	}
	return nil
}

// follow goes on for as long as frames are linked. One whose entries are damaged counts if it was durable.
func (w *endWalk) follow() error {
	for {
		if w.tip.seq == w.anchor.tip.seq && w.tip.frame != w.anchor.tip.frame {
			return fmt.Errorf("%w: the anchor knows another frame %d than the log does", ErrNotSalvaged, w.tip.seq)
		}
		next := w.find(w.tip.seq+1, func(f *salvagedFrame) bool {
			return f.prev == w.tip.frame && (f.whole || f.seq <= w.proven)
		})
		if next == nil {
			return nil
		}
		w.moveTo(next)
	}
}

// jump goes over a gap, to a frame that is known to come later; false if there is none.
func (w *endWalk) jump() bool {
	if a := w.anchor.tip; a.seq > w.tip.seq {
		if f := w.find(a.seq, func(f *salvagedFrame) bool { return f.sum == a.frame }); f != nil {
			w.moveTo(f)
		} else {
			w.tip, w.offset = a, 0
		}
		return true
	}
	var latest *salvagedFrame
	for i := range w.segment.frames {
		f := &w.segment.frames[i]
		if f.durable > w.tip.seq && f.durable < f.seq && (latest == nil || f.seq > latest.seq) {
			latest = f
		}
	}
	if latest == nil {
		return false
	}
	w.moveTo(latest)
	return true
}

func (w *endWalk) moveTo(f *salvagedFrame) { w.tip, w.offset = f.tip(), f.offset+int64(f.bytes()) }

func (w *endWalk) find(seq uint64, is func(*salvagedFrame) bool) *salvagedFrame {
	for _, f := range w.bySeq[seq] {
		if is(f) {
			return f
		}
	}
	return nil
}
