package state

import "fmt"

// Follower is the state of an agent outside the core: the rows of the classes that it was
// promised, brought by a snapshot and deltas. It belongs to one goroutine.
type Follower struct {
	s    *store
	view *View
	load *loader // a snapshot being received, nil if none is
}

// NewFollower returns an empty follower of the given classes, at revision 0.
func NewFollower(classes ...Class) *Follower {
	return &Follower{s: newStore(NewClassSet(classes...))}
}

// View returns the state so far. It is empty, at index 0, before the first snapshot.
func (f *Follower) View() *View {
	if f.view == nil {
		f.view = &View{f.s}
	}
	return f.view
}

// Classes returns what the follower was promised.
func (f *Follower) Classes() ClassSet { return f.s.classes }

// Apply performs a delta. With an error (ErrGap, ErrClass or ErrMalformed, wrapped) the follower is
// unchanged.
func (f *Follower) Apply(d Delta) (Touched, error) {
	if err := f.check(d); err != nil {
		return Touched{}, fmt.Errorf("delta to revision %d: %w", d.Revision, err)
	}
	s := f.s.edit()
	for _, c := range d.Changes {
		s.apply(c)
	}
	if d.Index == 0 {
		s.at.Revision = d.Revision
	} else {
		s.at = d.Position()
	}
	f.s, f.view = s, nil
	return Touched{Changes: d.Changes}, nil
}

func (f *Follower) check(d Delta) error {
	at := f.s.at
	if d.PrevRevision != at.Revision || d.Revision < d.PrevRevision || d.Index != 0 && d.Index < at.Index {
		return fmt.Errorf("it leads from revision %d to index %d, we are at revision %d, index %d: %w",
			d.PrevRevision, d.Index, at.Revision, at.Index, ErrGap)
	}
	last := d.PrevRevision
	for _, c := range d.Changes {
		if !f.s.classes.Has(c.Table.Class()) || c.Table == TableTombstone {
			return fmt.Errorf("table %s: %w", c.Table, ErrClass)
		}
		if c.Revision <= d.PrevRevision || c.Revision < last || c.Revision > d.Revision {
			return fmt.Errorf("%w: change at revision %d", ErrMalformed, c.Revision)
		}
		last = c.Revision
		if c.Row == nil && c.Table == TableKV {
			if err := CheckKey(c.Key); err != nil {
				return fmt.Errorf("%w: %w", ErrMalformed, err)
			}
		}
		if c.Row == nil {
			continue
		}
		if err := checkRow(c.Table, c.Key, c.Revision, c.Row); err != nil {
			return err
		}
	}
	return nil
}

// Advance moves the position while the revision stays, and verifies that our rows add up to the
// digest (View.DigestOf) that the sender has at that revision. The index never goes back: a sender
// that has seen less Raft traffic since is no error. The errors wrap ErrGap or ErrDigest.
func (f *Follower) Advance(to Position, digest [32]byte) error {
	if to.Revision != f.s.at.Revision {
		return fmt.Errorf("the sender is at revision %d, we are at %d: %w", to.Revision,
			f.s.at.Revision, ErrGap)
	}
	if f.s.digestOf(f.s.classes) != digest {
		return fmt.Errorf("at revision %d: %w", to.Revision, ErrDigest)
	}
	if to.Index > f.s.at.Index {
		s := f.s.edit()
		s.at = to
		f.s, f.view = s, nil
	}
	return nil
}

// LoadBegin starts to receive a snapshot, and forgets one half received. The state stays as it is
// until LoadEnd.
func (f *Follower) LoadBegin() { f.load = newLoader(f.s.classes) }

// Loading reports whether a snapshot is half received.
func (f *Follower) Loading() bool { return f.load != nil }

// LoadChunk takes the next piece of a snapshot's bytes. After an error the snapshot is forgotten.
func (f *Follower) LoadChunk(p []byte) error {
	if f.load == nil {
		return fmt.Errorf("%w: piece of a snapshot that did not begin", ErrMalformed)
	}
	err := f.load.write(p)
	if err != nil {
		f.load = nil
	}
	return err
}

// LoadEnd replaces the state by the snapshot, if that came whole, is of the sender's revision, adds
// up to the sender's digest as well as to its own, and does not lead back (ErrGap: revisions that
// were shown must not be given out a second time).
func (f *Follower) LoadEnd(at Position, digest [32]byte) (Touched, error) {
	if f.load == nil {
		return Touched{}, fmt.Errorf("%w: end of a snapshot that did not begin", ErrMalformed)
	}
	s, err := f.load.finish()
	f.load = nil
	if err != nil {
		return Touched{}, err
	}
	if s.at.Revision != at.Revision || at.Revision < f.s.at.Revision {
		return Touched{}, fmt.Errorf("snapshot of revision %d, the sender is at %d, we are at %d: %w",
			s.at.Revision, at.Revision, f.s.at.Revision, ErrGap)
	}
	if s.digestOf(s.classes) != digest {
		return Touched{}, fmt.Errorf("snapshot of revision %d: %w", at.Revision, ErrDigest)
	}
	s.at.Index = max(s.at.Index, f.s.at.Index)
	f.s, f.view = s, nil
	return Touched{All: true}, nil
}

// LoadAbort forgets a snapshot half received.
func (f *Follower) LoadAbort() { f.load = nil }
