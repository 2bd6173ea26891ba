package watch

import (
	"fmt"

	"github.com/parley-mesh/parley/mutant"
	"github.com/parley-mesh/parley/state"
)

// A FrameKind is the first byte of a frame of the change stream.
type FrameKind byte

// A stream is either a snapshot (begin, chunks, end) or nothing, then deltas and heartbeats.
const (
	FrameSnapshotBegin FrameKind = 1 + iota // what follows replaces all you have
	FrameSnapshotChunk                      // Data: the next bytes of a state snapshot
	FrameSnapshotEnd                        // at Position your rows must have Digest
	FrameDelta                              // Delta: continue from your revision
	FrameHeartbeat                          // at Position your rows must have Digest
)

const (
	// MaxFrameBytes bounds a frame: a delta and its kind.
	MaxFrameBytes = state.MaxDeltaBytes + 1
	// ChunkBytes is the size of the snapshot chunks that a sender makes.
	ChunkBytes = 64 << 10
)

// Frame is one message of the stream. Which fields count depends on Kind.
type Frame struct {
	Kind     FrameKind
	Data     []byte
	Delta    state.Delta
	Position state.Position
	Digest   [32]byte
}

// EncodeFrame returns the frame's bytes. The error, for a delta that is too large, wraps
// state.ErrTooLarge. An unknown kind is a programmer error.
func EncodeFrame(f Frame) ([]byte, error) {
	b := []byte{byte(f.Kind)}
	switch f.Kind {
	case FrameSnapshotBegin:
		return b, nil
	case FrameSnapshotChunk:
		if len(f.Data) >= MaxFrameBytes {
			return nil, fmt.Errorf("snapshot chunk of %d bytes: %w", len(f.Data), state.ErrTooLarge)
		}
		return append(b, f.Data...), nil
	case FrameDelta:
		d, err := state.EncodeDelta(f.Delta)
		return append(b, d...), err
	case FrameSnapshotEnd, FrameHeartbeat:
		b = append(b, f.Digest[:]...)
		return append(b, state.EncodePosition(f.Position)...), nil
	}
	panic(fmt.Sprintf("watch: no such frame kind: %d", f.Kind))
}

// DecodeFrame reads what EncodeFrame wrote. Data aliases b. The error wraps state.ErrMalformed or
// state.ErrTooLarge.
func DecodeFrame(b []byte) (Frame, error) {
	if len(b) > MaxFrameBytes {
		return Frame{}, fmt.Errorf("frame of %d bytes: %w", len(b), state.ErrTooLarge)
	}
	if len(b) == 0 {
		return Frame{}, fmt.Errorf("%w: empty frame", state.ErrMalformed)
	}
	f := Frame{Kind: FrameKind(b[0])}
	rest := b[1:]
	var err error
	switch f.Kind {
	case FrameSnapshotBegin:
	case FrameSnapshotChunk:
		f.Data, rest = rest, nil
	case FrameDelta:
		f.Delta, err = state.DecodeDelta(rest)
		rest = nil
	case FrameSnapshotEnd, FrameHeartbeat:
		if len(rest) < len(f.Digest) {
			return Frame{}, fmt.Errorf("%w: frame cut off", state.ErrMalformed)
		}
		copy(f.Digest[:], rest)
		f.Position, rest, err = state.DecodePosition(rest[len(f.Digest):])
	default:
		return Frame{}, fmt.Errorf("%w: frame kind %d", state.ErrMalformed, b[0])
	}
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%w: bytes behind the frame", state.ErrMalformed)
	}
	if err != nil {
		return Frame{}, err
	}
	return f, nil
}

// filter returns the changes of entries that follow revision and belong to the classes, in order.
// Tombstones and floors have the class of the keys they stand for.
func filter(entries []entry, after uint64, classes state.ClassSet) []state.Change {
	var out []state.Change
	for _, e := range entries {
		for _, c := range e.changes {
			if mutant.On(mutant.WatchDropsEvent) && len(out) > 0 && c.Revision%7 == 0 {
				continue
			}
			if c.Revision > after && classes.Has(c.Class) {
				out = append(out, c)
			}
		}
	}
	return out
}

// pack cuts changes into deltas of at most limit bytes that lead from prev to the position. A cut
// is made between revisions only, so that a follower never shows half a transaction; a revision
// that does not fit alone is ErrTooLarge: a snapshot has to carry it.
//
// Only the last has the position: at which index an earlier one ends is not known.
func pack(prev uint64, to state.Position, changes []state.Change, limit int) ([]state.Delta, error) {
	var out []state.Delta
	for len(changes) > 0 {
		n, ok := fit(changes, limit)
		if !ok {
			return nil, fmt.Errorf("changes of revision %d: %w", changes[0].Revision, state.ErrTooLarge)
		}
		d := state.Delta{
			Revision: changes[n-1].Revision, PrevRevision: prev, Changes: changes[:n:n],
		}
		out = append(out, d)
		prev = d.Revision
		changes = changes[n:]
	}
	if len(out) == 0 {
		out = append(out, state.Delta{PrevRevision: prev})
	}
	last := &out[len(out)-1]
	last.Index, last.Term, last.Stamp, last.Revision = to.Index, to.Term, to.Stamp, to.Revision
	return out, nil
}

// fit returns how many of the changes go into one delta, whole revisions only.
func fit(changes []state.Change, limit int) (n int, ok bool) {
	const head = 128 // position and counts
	size := head
	for i, c := range changes {
		size += c.EncodedBytes()
		if size > limit || i >= state.MaxDeltaChanges {
			return n, n > 0
		}
		if i+1 == len(changes) || changes[i+1].Revision != c.Revision {
			n = i + 1
		}
	}
	return n, true
}
