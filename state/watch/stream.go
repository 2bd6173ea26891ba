package watch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/parley-mesh/parley/state"
)

// ErrBehind is returned (wrapped) by Stream when the caller has more than this agent: it should
// ask another one.
var ErrBehind = errors.New("this agent is behind the follower")

// Stream sends the changes of the given classes, and no byte of any other, until ctx ends, send
// fails, or Run ends. It resumes from the cursor while the ring has what came since, otherwise it
// sends a snapshot first. It starts no goroutine: send may block, and a slow one costs the follower
// a snapshot, nobody else anything.
//
// Changes go out as they happen. Progress that concerns only other classes is reported as an empty
// delta at the pace of Timing.Quiet, silence is broken by a heartbeat with a digest.
//
// The classes that the agent's own View lacks, ErrBehind and ErrTooMany end it at once.
func (h *Hub) Stream(ctx context.Context, from Cursor, classes []state.Class, send func([]byte) error) error {
	f, err := h.Feed(from, classes, send)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.run(ctx)
}

// Feed is a change stream that its owner drives, as Stream does: first by Begin, then by Look whenever something may
// have changed and from time to time. It belongs to one goroutine. Close it.
type Feed struct {
	sub    *Subscription
	stream *stream
}

// Feed makes the stream; errors are those that end Stream at once.
func (h *Hub) Feed(from Cursor, classes []state.Class, send func([]byte) error) (*Feed, error) {
	set, err := h.offered(classes)
	if err != nil {
		return nil, err
	}
	sub := &Subscription{hub: h, classes: set}
	if err := h.enter(sub); err != nil {
		return nil, err
	}
	s := &stream{hub: h, classes: set, send: send, place: h.ring.start(from.Revision)}
	s.at.Revision = from.Revision
	return &Feed{sub: sub, stream: s}, nil
}

// Begin brings the follower up to date.
func (f *Feed) Begin() error { return f.stream.begin() }

// Look sends what is new. With tick, Timing.Quiet has passed since the last Look with tick.
func (f *Feed) Look(tick bool) error {
	if tick {
		f.stream.silent += f.stream.hub.timing.Quiet
	}
	return f.stream.catchUp(tick)
}

// Close ends it.
func (f *Feed) Close() { f.sub.Close() }

func (f *Feed) run(ctx context.Context) error {
	if err := f.Begin(); err != nil {
		return err
	}
	tick := time.NewTicker(f.stream.hub.timing.Quiet)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.stream.hub.done:
			return ErrStopped
		case <-f.sub.c:
			err = f.Look(false)
		case <-tick.C:
			err = f.Look(true)
		}
		if err != nil {
			return err
		}
	}
}

// offered returns the set of classes, which another agent named, if this one can serve it.
func (h *Hub) offered(classes []state.Class) (set state.ClassSet, err error) {
	v := h.View()
	for _, c := range classes {
		if !c.Valid() || !v.Holds(c) {
			return 0, fmt.Errorf("change stream of class %s: this agent does not hold it", c)
		}
		if c == state.ClassReplica {
			return 0, fmt.Errorf("change stream of class %s: it is for the replicas of the log, which have the log", c)
		}
		set |= state.NewClassSet(c)
	}
	if !set.Valid() {
		return 0, errors.New("change stream of no class: name at least one")
	}
	return set, nil
}

// stream is one follower being served.
type stream struct {
	hub     *Hub
	classes state.ClassSet
	send    func([]byte) error
	place   place          // in the ring
	at      state.Position // what the follower has
	silent  time.Duration  // since the last frame
}

// begin brings the follower up to date, and lets it compare digests before anything else: what it
// has may come from another life of the cluster.
func (s *stream) begin() error {
	now := s.hub.ring.sinceOf(s.place, s.classes)
	if here := now.view.Revision(); s.at.Revision > here {
		return fmt.Errorf("revision %d was asked for, revision %d is here: %w", s.at.Revision, here,
			ErrBehind)
	}
	if s.at.Revision == 0 || now.gone {
		return s.snapshot(now)
	}
	if now.view.Revision() > s.at.Revision {
		if err := s.deltas(now, s.step(now)); err != nil {
			return err
		}
	}
	return s.heartbeat(now.view)
}

// catchUp sends what is new in the classes. On a tick it also reports progress elsewhere.
func (s *stream) catchUp(tick bool) error {
	now := s.hub.ring.sinceOf(s.place, s.classes)
	if now.gone {
		return s.snapshot(now)
	}
	to := now.view.Position()
	if to.Revision > s.at.Revision {
		if next := s.step(now); next.changes > 0 || tick {
			return s.deltas(now, next)
		}
		return nil
	}
	if tick && (to.Index > s.at.Index || s.silent >= s.hub.timing.Heartbeat) {
		return s.heartbeat(now.view)
	}
	return nil
}

// step returns the frames that bring the follower to now; others that are where it is get the same ones. None means that
// they would be too large.
func (s *stream) step(now recent) cachedStep {
	next := step{place: place{life: now.place.life, revision: s.at.Revision}, to: now.view.Position(), classes: s.classes}
	if known, ok := s.hub.ring.frames.get(next); ok {
		return known
	}
	changes := filter(now.entries, s.at.Revision, s.classes)
	out := cachedStep{step: next, changes: len(changes)}
	packed, err := pack(s.at.Revision, next.to, changes, state.MaxDeltaBytes)
	if err != nil {
		return out
	}
	for _, d := range packed {
		b, err := EncodeFrame(Frame{Kind: FrameDelta, Delta: d})
		if err != nil {
			out.frames = nil
			return out
		}
		out.frames = append(out.frames, b)
	}
	s.hub.ring.frames.put(out)
	return out
}

func (s *stream) deltas(now recent, next cachedStep) error {
	if len(next.frames) == 0 {
		return s.snapshot(now)
	}
	for _, b := range next.frames {
		s.silent = 0
		if err := s.send(b); err != nil {
			return err
		}
	}
	s.reached(now)
	return nil
}

// heartbeat must describe the revision that the follower has. When the state has moved on
// meanwhile, the next look sends that first.
func (s *stream) heartbeat(v *state.View) error {
	if v.Revision() != s.at.Revision {
		return nil
	}
	s.at = v.Position()
	return s.frame(Frame{Kind: FrameHeartbeat, Position: s.at, Digest: v.DigestOf(s.classes)})
}

func (s *stream) snapshot(now recent) error {
	if err := s.frame(Frame{Kind: FrameSnapshotBegin}); err != nil {
		return err
	}
	if err := now.view.WriteSnapshotOf(s.classes, chunks{s}); err != nil {
		return err
	}
	end := Frame{
		Kind: FrameSnapshotEnd, Position: now.view.Position(), Digest: now.view.DigestOf(s.classes),
	}
	if err := s.frame(end); err != nil {
		return err
	}
	s.reached(now)
	return nil
}

func (s *stream) reached(now recent) {
	s.place, s.at = now.place, now.view.Position()
}

func (s *stream) frame(f Frame) error {
	b, err := EncodeFrame(f)
	if err != nil {
		return err
	}
	s.silent = 0
	return s.send(b)
}

// chunks sends what is written to it as snapshot chunks.
type chunks struct{ s *stream }

func (c chunks) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), ChunkBytes)
		if err := c.s.frame(Frame{Kind: FrameSnapshotChunk, Data: rest[:n]}); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(p), nil
}
