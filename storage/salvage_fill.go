package storage

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
)

// gapSlack is how many entries more than the known ones suggest are asked for: some that are known were replaced later,
// and to ask for each of those alone would take one round each.
const gapSlack = 64

// Missing names the gap that a peer has to fill next; false when the log is complete.
func (s *Salvaged) Missing() (Gap, bool) {
	if s.walk(); s.whole {
		return Gap{}, false
	}
	after, _ := slices.BinarySearch(s.indexes, s.at.Index)
	low := uint64(0)
	if after > 0 {
		low = s.indexes[after-1] - min(s.indexes[after-1], gapSlack)
	}
	if s.floor != nil {
		low = max(low, s.floor.Index)
	}
	return Gap{After: low, Last: s.at.Index, Chain: s.at.Chain}, true
}

// walk follows the chain down from Last, as far as entries are known.
func (s *Salvaged) walk() {
	for !s.reached() {
		k, known := s.known[s.at.Chain]
		if !known || k.entry.GetIndex() != s.at.Index {
			_, start := s.starts[s.at.Chain]
			s.whole = s.whole || s.floor == nil && start
			return
		}
		s.take(k)
	}
	// Entries below the snapshot are for followers that are a little behind, if they are here anyway.
	for k, known := s.known[s.at.Chain]; known && s.at.Index > 0; k, known = s.known[s.at.Chain] {
		s.take(k)
	}
}

func (s *Salvaged) take(k knownEntry) {
	if len(s.entries) == 0 {
		s.Last.Term = k.entry.GetTerm()
	}
	s.entries = append(s.entries, k.entry)
	s.at = k.before
}

// reached reports whether the log is connected with the snapshot. A snapshot holds committed entries only, so a log that
// ends before it or disagrees with it was about to be reset behind it.
func (s *Salvaged) reached() bool {
	f := s.floor
	switch {
	case s.whole:
		return true
	case f == nil || s.at.Index > f.Index:
		return false
	case s.at.Index < f.Index || s.at.Chain != f.Chain:
		s.entries, s.Last, s.at = nil, *f, *f
	}
	s.at.Term, s.whole = f.Term, true
	return true
}

// Offer takes entries that a peer sent for the present gap: those after prev, up to the gap's last. It keeps them only
// if they reproduce the gap's chain, which proves all of them, and prev's chain too.
func (s *Salvaged) Offer(prev Point, entries []*raftpb.Entry) error {
	gap, more := s.Missing()
	if !more {
		return nil
	}
	for i, entry := range entries {
		if entry.GetIndex() != prev.Index+1+uint64(i) {
			return fmt.Errorf("entry %d where %d belongs: %w", entry.GetIndex(), prev.Index+1+uint64(i), ErrNotReproduced)
		}
	}
	if prev.Index < gap.After {
		chainer := newChainer()
		for ; prev.Index < gap.After && len(entries) > 0; entries = entries[1:] {
			prev = Point{entries[0].GetIndex(), entries[0].GetTerm(), chainer.next(prev.Chain, entries[0])}
		}
	}
	if len(entries) == 0 || prev.Index+uint64(len(entries)) != gap.Last {
		return fmt.Errorf("%d entries after %d, wanted those up to %d: %w", len(entries), prev.Index, gap.Last, ErrNotReproduced)
	}
	if !s.learn(prev, entries, gap.Chain) {
		return fmt.Errorf("entries %d to %d: %w", prev.Index+1, gap.Last, ErrNotReproduced)
	}
	return nil
}

// Reach makes the log end with target instead: what others know that this member has acknowledged, or what it has to
// hold before it may vote. Entries of the log that do not lead there are replaced. Call it before Missing.
func (s *Salvaged) Reach(target Point) {
	s.Last, s.at, s.entries, s.whole = target, target, nil, false
}
