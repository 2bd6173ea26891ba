package watch

import (
	"sort"
	"sync"

	"github.com/parley-mesh/parley/state"
)

// The ring keeps the changes of about the last MaxRingEntries published batches, as far as they fit
// in MaxRingBytes. Entries that fell out stay in memory until the slice next grows, so that twice
// the limit is what it costs at most.
const (
	MaxRingEntries = 8192
	MaxRingBytes   = 16 << 20
)

// entry is one published batch that moved the revision. It is never changed.
type entry struct {
	at      state.Position
	changes []state.Change
	bytes   int
}

// A place is how far a reader of the ring has come.
type place struct {
	life     uint64 // counts the times that the whole state was replaced
	revision uint64
}

// history is the changes of a ring, all or those of some classes.
type history struct {
	entries []entry
	bytes   int
	from    uint64 // nothing is missing of what came after this revision
}

func (h *history) add(at state.Position, changes []state.Change) {
	e := entry{at: at, changes: changes, bytes: 64}
	for i := range changes {
		e.bytes += changes[i].Bytes()
	}
	h.entries = append(h.entries, e)
	h.bytes += e.bytes
	for len(h.entries) > MaxRingEntries || h.bytes > MaxRingBytes {
		h.from = h.entries[0].at.Revision
		h.bytes -= h.entries[0].bytes
		h.entries = h.entries[1:]
	}
}

// after returns what came after a revision, or false if that is no longer all here.
func (h *history) after(revision uint64) ([]entry, bool) {
	if revision < h.from {
		return nil, false
	}
	all := h.entries
	i := sort.Search(len(all), func(i int) bool { return all[i].at.Revision > revision })
	// Later appends write behind these, never into them: sharing the array is safe.
	return all[i:len(all):len(all)], true
}

// ring holds the newest View and the changes that led to it, always in step with each other. It keeps those of the public
// class apart as well: they are few, and a follower that was away while keys were written by the thousand goes on all the
// same. The rows are the same memory twice.
type ring struct {
	frames frameCache
	mu     struct {
		sync.Mutex  // held for appends and slicing only
		view        *state.View
		life        uint64
		begun       bool
		all, public history
	}
}

// publicClass is what agents outside the core follow.
var publicClass = state.NewClassSet(state.ClassPublic)

// begin makes a new ring one that knows of nothing before its first View. It is called under mu.
func (r *ring) begin() {
	if !r.mu.begun {
		r.mu.begun = true
		r.forget()
	}
}

func (r *ring) forget() {
	from := r.mu.view.Revision()
	r.mu.all, r.mu.public = history{from: from}, history{from: from}
}

// push adds a batch. Without changes the ring only takes note of the new View.
func (r *ring) push(v *state.View, t state.Touched) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begin()
	prev := r.mu.view.Revision()
	r.mu.view = v
	if t.All || v.Revision() < prev || v.Revision() == prev && len(t.Changes) > 0 {
		r.mu.life++
		r.forget()
		return
	}
	if v.Revision() == prev {
		return
	}
	r.mu.all.add(v.Position(), t.Changes)
	if public := ofClass(t.Changes, state.ClassPublic); len(public) > 0 {
		r.mu.public.add(v.Position(), public)
	}
}

// ofClass returns the changes of one class.
func ofClass(changes []state.Change, class state.Class) []state.Change {
	var out []state.Change
	for _, c := range changes {
		if c.Class == class {
			out = append(out, c)
		}
	}
	return out
}

// recent is what a reader at some place has not seen. Gone means that the ring no longer has all
// of it: anything may have changed.
type recent struct {
	view    *state.View // what the entries lead to
	place   place
	entries []entry
	gone    bool
}

func (r *ring) since(p place) recent { return r.sinceOf(p, state.AllClasses) }

// sinceOf is since for a reader of some classes; the entries may be of others as well.
func (r *ring) sinceOf(p place, classes state.ClassSet) recent {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begin()
	now := r.mu.view.Revision()
	out := recent{view: r.mu.view, place: place{life: r.mu.life, revision: now}}
	if p == out.place {
		return out
	}
	h := &r.mu.all
	if classes == publicClass {
		h = &r.mu.public
	}
	entries, whole := h.after(p.revision)
	if p.life != r.mu.life || p.revision > now || !whole {
		out.gone = true
		return out
	}
	out.entries = entries
	return out
}

// start is the place of a reader that resumes at a revision it got in this life or, if it was
// another's, will be told so by the digest.
func (r *ring) start(revision uint64) place {
	r.mu.Lock()
	defer r.mu.Unlock()
	return place{life: r.mu.life, revision: revision}
}
