package consensus

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// memLog is the raft.Storage: every entry after the compaction point, in memory, and the newest
// snapshot's reference. The disk is only read at start.
//
// It runs ahead of the disk: entries enter it when raft hands them out to be written, in that
// order, not when they are durable. That is safe because raft itself keeps what is not yet durable
// in its unstable log, which shadows Storage, and it keeps the rule that entries must be here
// before the responses to their write are stepped. It also makes lastIndex and term exact, which
// the validation of peer messages relies on.
type memLog struct {
	hard    *raftpb.HardState // at start; raft asks once
	offset  uint64            // index before the first entry kept
	term0   uint64            // term at offset
	entries []*raftpb.Entry   // entries[i] has index offset+1+i
	bytes   int               // payload bytes in entries

	snap SnapshotRef // newest durable snapshot; Index 0 = none
	// confIndex is the index of the last applied change of the core. A snapshot older than that may
	// not name its receiver, which would ignore it for ever: raft's restore drops a snapshot whose
	// ConfState lacks the receiver. Such a snapshot is not sent; wanted asks for a newer one.
	confIndex uint64
	wanted    bool
}

func (l *memLog) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return l.hard, raftpb.EnsureConfState(proto.CloneOf(l.snap.ConfState)), nil
}

func (l *memLog) first() uint64 { return l.offset + 1 }
func (l *memLog) last() uint64  { return l.offset + uint64(len(l.entries)) }

func (l *memLog) FirstIndex() (uint64, error) { return l.first(), nil }
func (l *memLog) LastIndex() (uint64, error)  { return l.last(), nil }

func (l *memLog) Term(i uint64) (uint64, error) {
	switch {
	case i < l.offset:
		return 0, raft.ErrCompacted
	case i > l.last():
		return 0, raft.ErrUnavailable
	case i == l.offset:
		return l.term0, nil
	}
	return l.entries[i-l.first()].GetTerm(), nil
}

func (l *memLog) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	if lo <= l.offset {
		return nil, raft.ErrCompacted
	}
	if hi > l.last()+1 || lo >= hi {
		return nil, raft.ErrUnavailable
	}
	ents := l.entries[lo-l.first() : hi-l.first()]
	size, n := uint64(0), 0
	for _, e := range ents {
		size += entrySize(e)
		if n > 0 && size > maxSize {
			break
		}
		n++
	}
	return ents[:n:n], nil // capacity too: the caller may append
}

// Snapshot returns the newest snapshot, or "temporarily unavailable" and notes that one is wanted.
func (l *memLog) Snapshot() (*raftpb.Snapshot, error) {
	if l.snap.Index == 0 || l.snap.Index < l.confIndex {
		l.wanted = true
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return &raftpb.Snapshot{
		Data: l.snap.Manifest,
		Metadata: &raftpb.SnapshotMetadata{
			Index: new(l.snap.Index), Term: new(l.snap.Term),
			ConfState: proto.CloneOf(l.snap.ConfState),
		},
	}, nil
}

// upTo returns entries that end with last, of at most maxBytes and at least one, without those up to after, and the term
// before the first.
func (l *memLog) upTo(after, last uint64, maxBytes int) (prevTerm uint64, entries []*raftpb.Entry) {
	if last <= l.offset || last > l.last() {
		return 0, nil
	}
	from, size := last, 0
	for ; from > max(after, l.offset); from-- {
		size += int(entrySize(l.entries[from-l.first()]))
		if from < last && size > maxBytes {
			break
		}
	}
	prevTerm, _ = l.Term(from)
	return prevTerm, slices.Clone(l.entries[from-l.offset : last-l.offset])
}

// append adds entries handed out by raft; overlap replaces everything from the first one on.
func (l *memLog) append(entries []*raftpb.Entry) {
	if len(entries) == 0 {
		return
	}
	at := entries[0].GetIndex()
	if at < l.first() || at > l.last()+1 {
		panic(fmt.Sprintf("append at %d to a log of [%d,%d]", at, l.first(), l.last()))
	}
	keep := at - l.first()
	for _, e := range l.entries[keep:] {
		l.bytes -= len(e.GetData())
	}
	if keep < uint64(len(l.entries)) {
		l.entries = l.entries[:keep:keep] // slices of the old tail are still in flight: copy on append
	}
	l.entries = append(l.entries, entries...)
	for _, e := range entries {
		l.bytes += len(e.GetData())
	}
}

// reset empties the log behind an installed snapshot.
func (l *memLog) reset(ref SnapshotRef) {
	l.offset, l.term0, l.entries, l.bytes = ref.Index, ref.Term, nil, 0
	l.snap, l.wanted = ref, false
}

// saved makes ref the snapshot that peers get, unless a newer one is here already.
func (l *memLog) saved(ref SnapshotRef) {
	if ref.Index >= l.snap.Index { // an equal one replaces a damaged one
		l.snap = ref
		l.wanted = l.wanted && ref.Index < l.confIndex
	}
}

// compact drops the entries up to index, which a snapshot must cover.
func (l *memLog) compact(index uint64) {
	if index <= l.offset || index > l.snap.Index || index > l.last() {
		return
	}
	term, _ := l.Term(index)
	rest := l.entries[index-l.offset:]
	for _, e := range l.entries[:index-l.offset] {
		l.bytes -= len(e.GetData())
	}
	// A new array: the old one is referenced by slices in flight, and would keep what we drop.
	l.entries = append(make([]*raftpb.Entry, 0, len(rest)+len(rest)/4+16), rest...)
	l.offset, l.term0 = index, term
}

// entrySize is raft's own measure of an entry in a message, near enough and without reflection.
func entrySize(e *raftpb.Entry) uint64 { return uint64(len(e.GetData())) + 24 }
