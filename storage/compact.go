package storage

import (
	"fmt"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"
)

// Compact says that a durable snapshot covers the entries up to index. Segments that hold nothing
// later are recycled; Chain forgets what is below index. An index beyond the last entry is an error.
// Other errors are as Append's; after ErrNoSpace the rest is done by the next Compact.
func (l *Log) Compact(index uint64) error {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	if err := l.usable(); err != nil {
		return err
	}
	if index > l.tip.index {
		return fmt.Errorf("compact to entry %d: the last entry is %d; Reset is for snapshots beyond it", index, l.tip.index)
	}
	l.mu.Lock()
	l.mu.links.trim(index)
	l.mu.Unlock()
	covered := 0
	for covered+1 < len(l.segments) && l.segments[covered+1].start.index <= index {
		covered++
	}
	return l.fail(l.retire(covered))
}

// Reset makes the log empty, to continue after index as an installed snapshot says; hs nil keeps the
// hard state. It is durable when it returns. Errors are as Append's.
func (l *Log) Reset(index, term uint64, chain [32]byte, hs *raftpb.HardState) error {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	if err := l.usable(); err != nil {
		return err
	}
	hard := l.hard
	if hs != nil {
		hard = hardState{term: hs.GetTerm(), vote: hs.GetVote(), commit: hs.GetCommit()}
	}
	f := frameHeader{kind: frameReset, prevIndex: index, prevTerm: term, before: chain, hard: hard}
	if _, err := l.writeFrame(&f, nil); err != nil {
		return l.fail(err)
	}
	l.hard = hard
	l.mu.Lock()
	l.mu.links = newLinks(index, term, chain)
	l.mu.Unlock()
	if err := l.sync(); err != nil {
		return l.fail(err)
	}
	return l.fail(l.retire(len(l.segments) - 1))
}

// retire recycles the n oldest segments, each durably before the next: recovery takes a gap in the
// numbers for damage. The anchor goes first, so that no lie about the newest segment can leave less
// than what was given up here without being noticed.
func (l *Log) retire(n int) error {
	if n > 0 {
		if err := l.anchor.write(l.durable(), false); err != nil {
			return err
		}
	}
	for range n {
		if err := l.retireOldest(); err != nil {
			return err
		}
		if err := l.fs.SyncDir(l.spares.dir); err != nil {
			return classify("sync", l.spares.dir, err)
		}
	}
	return nil
}

// retireOldest keeps the file as a spare if one is wanted, else removes it.
func (l *Log) retireOldest() error {
	old := l.segments[0]
	l.mu.Lock()
	wanted := len(l.mu.spares) < maxSpares && old.size == l.spares.size
	l.mu.Unlock()
	if !wanted {
		if err := l.fs.Remove(old.path); err != nil {
			return classify("remove", old.path, err)
		}
		l.segments = l.segments[1:]
		return nil
	}
	spare := filepath.Join(l.spares.dir, fmt.Sprintf("%s%016x", sparePrefix, l.spareCount.Add(1)))
	if err := l.fs.Rename(old.path, spare); err != nil {
		return classify("rename", old.path, err)
	}
	l.segments = l.segments[1:]
	l.putSpare(spare)
	return nil
}
