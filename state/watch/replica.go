package watch

import (
	"errors"
	"fmt"

	"github.com/parley-mesh/parley/state"
)

// Cursor says from where a follower wants the stream. The zero value asks for a snapshot.
type Cursor struct{ Revision uint64 }

// Replica is the receiving side of the change stream: it feeds a state.Follower, and accepts
// nothing that is not the continuation of what it has, of a class that it was not promised, or
// that does not add up to the sender's digest. It belongs to one goroutine; its Views do not.
//
//	body := encode(replica.Resume())
//	for each frame: touched, err := replica.Feed(frame); hub.Publish(replica.View(), touched)
//
// After an error from Feed, drop the connection and resume, best with another core member. The
// last good View stays.
type Replica struct {
	follower *state.Follower
	suspect  bool // our rows did not match a digest: only a snapshot helps
}

// NewReplica returns an empty replica that was promised the given classes.
func NewReplica(classes ...state.Class) *Replica {
	return &Replica{follower: state.NewFollower(classes...)}
}

// View returns the last good state.
func (r *Replica) View() *state.View { return r.follower.View() }

// Cursor returns what the replica has.
func (r *Replica) Cursor() Cursor {
	if r.suspect {
		return Cursor{}
	}
	return Cursor{Revision: r.follower.View().Revision()}
}

// Resume begins a new connection: it forgets a snapshot half received, and returns what to ask for.
func (r *Replica) Resume() Cursor {
	r.follower.LoadAbort()
	return r.Cursor()
}

// Feed takes the next frame and returns what it changed. The error wraps one of the state package's
// ErrGap, ErrClass, ErrDigest, ErrMalformed and ErrTooLarge.
func (r *Replica) Feed(frame []byte) (state.Touched, error) {
	touched, err := r.feed(frame)
	if errors.Is(err, state.ErrDigest) {
		r.suspect = true
	}
	if err != nil {
		r.follower.LoadAbort()
		return state.Touched{}, fmt.Errorf("change stream: %w", err)
	}
	return touched, nil
}

func (r *Replica) feed(frame []byte) (state.Touched, error) {
	f, err := DecodeFrame(frame)
	if err != nil {
		return state.Touched{}, err
	}
	part := f.Kind == FrameSnapshotChunk || f.Kind == FrameSnapshotEnd
	if part != r.follower.Loading() {
		return state.Touched{}, fmt.Errorf("%w: frame kind %d out of place", state.ErrMalformed, f.Kind)
	}
	switch f.Kind {
	case FrameSnapshotBegin:
		r.follower.LoadBegin()
	case FrameSnapshotChunk:
		return state.Touched{}, r.follower.LoadChunk(f.Data)
	case FrameSnapshotEnd:
		touched, err := r.follower.LoadEnd(f.Position, f.Digest)
		if err == nil {
			r.suspect = false
		}
		return touched, err
	case FrameDelta:
		if r.suspect {
			return state.Touched{}, fmt.Errorf("a snapshot was asked for: %w", state.ErrGap)
		}
		return r.follower.Apply(f.Delta)
	case FrameHeartbeat:
		return state.Touched{}, r.follower.Advance(f.Position, f.Digest)
	}
	return state.Touched{}, nil
}
