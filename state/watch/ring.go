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
	prev    uint64 // the revision before it
	changes []state.Change
	bytes   int
}

// A place is how far a reader of the ring has come.
type place struct {
	life     uint64 // counts the times that the whole state was replaced
	revision uint64
}

// ring holds the newest View and the changes that led to it, always in step with each other.
type ring struct {
	mu struct {
		sync.Mutex // held for appends and slicing only
		view       *state.View
		life       uint64
		entries    []entry // contiguous: each prev is the revision of the one before
		bytes      int
	}
}

// push adds a batch. Without changes the ring only takes note of the new View.
func (r *ring) push(v *state.View, t state.Touched) {
	r.mu.Lock()
	defer r.mu.Unlock()
	prev := r.mu.view.Revision()
	r.mu.view = v
	if t.All || v.Revision() < prev || v.Revision() == prev && len(t.Changes) > 0 {
		r.mu.life++
		r.mu.entries, r.mu.bytes = nil, 0
		return
	}
	if v.Revision() == prev {
		return
	}
	e := entry{at: v.Position(), prev: prev, changes: t.Changes, bytes: 64}
	for i := range t.Changes {
		e.bytes += t.Changes[i].Bytes()
	}
	r.mu.entries = append(r.mu.entries, e)
	r.mu.bytes += e.bytes
	for len(r.mu.entries) > MaxRingEntries || r.mu.bytes > MaxRingBytes {
		r.mu.bytes -= r.mu.entries[0].bytes
		r.mu.entries = r.mu.entries[1:]
	}
}

// recent is what a reader at some place has not seen. Gone means that the ring no longer has all
// of it: anything may have changed.
type recent struct {
	view    *state.View // what the entries lead to
	place   place
	entries []entry
	gone    bool
}

func (r *ring) since(p place) recent {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.mu.view.Revision()
	out := recent{view: r.mu.view, place: place{life: r.mu.life, revision: now}}
	if p == out.place {
		return out
	}
	first := now
	if len(r.mu.entries) > 0 {
		first = r.mu.entries[0].prev
	}
	if p.life != r.mu.life || p.revision < first || p.revision > now {
		out.gone = true
		return out
	}
	all := r.mu.entries
	i := sort.Search(len(all), func(i int) bool { return all[i].at.Revision > p.revision })
	// Later appends write behind these, never into them: sharing the array is safe.
	out.entries = all[i:len(all):len(all)]
	return out
}

// start is the place of a reader that resumes at a revision it got in this life or, if it was
// another's, will be told so by the digest.
func (r *ring) start(revision uint64) place {
	r.mu.Lock()
	defer r.mu.Unlock()
	return place{life: r.mu.life, revision: revision}
}
