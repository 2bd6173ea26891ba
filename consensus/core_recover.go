package consensus

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Recovered is what the disk held at start. The zero value is a blank node that waits to be added.
type Recovered struct {
	FirstIndex uint64 // index of Entries[0], or the next index when there are none; 0 counts as 1
	PrevTerm   uint64 // term at FirstIndex-1
	Entries    []*raftpb.Entry
	HardState  *raftpb.HardState // nil if none was ever written
	Snapshot   *SnapshotRef      // newest verified snapshot, nil if none
	InDoubt    string            // why more may have been promised than the log holds, "" if nothing says so
}

// SnapshotRef names a snapshot. Manifest is what a peer needs to fetch it by chunks.
type SnapshotRef struct {
	Index, Term uint64
	Chain       [32]byte
	ConfState   *raftpb.ConfState
	Manifest    []byte
	Size        uint64 // bytes of the state in it; 0 if that is not known
}

// recoverLog checks what was recovered and builds the log in memory. reset says that the log on
// disk ends before the snapshot, or disagrees with it, and must be restarted behind it: the node
// crashed between making a peer's snapshot durable and restarting its log. A snapshot holds only
// committed entries, so it wins.
func recoverLog(r Recovered) (log *memLog, reset bool, err error) {
	first := max(r.FirstIndex, 1)
	l := &memLog{offset: first - 1, term0: r.PrevTerm}
	for i, e := range r.Entries {
		if e.GetIndex() != first+uint64(i) {
			return nil, false, fmt.Errorf("%w: recovered log has entry %d where %d belongs", ErrLost, e.GetIndex(), first+uint64(i))
		}
	}
	l.append(r.Entries)
	if r.Snapshot != nil {
		l.snap = *r.Snapshot
	}
	snap := l.snap
	if l.offset > snap.Index {
		return nil, false, fmt.Errorf("%w: %w: recovered log begins at %d, after the snapshot at %d: the entries between "+
			"are missing; restore a snapshot or rejoin this node under a new id", ErrLost, ErrNoSnapshot, first, snap.Index)
	}
	if term, err := l.Term(snap.Index); err != nil || term != snap.Term {
		l.reset(snap)
		reset = true
	}
	hs, err := recoverHardState(r.HardState, l)
	if err != nil {
		return nil, false, err
	}
	l.hard = hs
	return l, reset, nil
}

// recoverHardState fits the saved term, vote and commit to the log. Commit is written without a
// sync and may lag; it may never lead.
func recoverHardState(saved *raftpb.HardState, l *memLog) (*raftpb.HardState, error) {
	term, vote, commit := saved.GetTerm(), saved.GetVote(), max(saved.GetCommit(), l.snap.Index)
	if commit > l.last() {
		return nil, fmt.Errorf("%w: the log ends at %d but %d was committed: acknowledged entries are lost; "+
			"rejoin this node under a new id", ErrLost, l.last(), commit)
	}
	lastTerm, err := l.Term(l.last())
	if err != nil {
		return nil, fmt.Errorf("term of the last entry %d: %w", l.last(), err)
	}
	if lastTerm > term {
		// Only a snapshot that was installed right before the crash can be ahead. We were never in
		// that term, so we cast no vote in it.
		term, vote = lastTerm, raft.None
	}
	if term == 0 {
		return nil, nil
	}
	return &raftpb.HardState{Term: new(term), Vote: new(vote), Commit: new(commit)}, nil
}
