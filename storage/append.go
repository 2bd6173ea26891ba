package storage

import (
	"context"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/mutant"
)

// Append writes entries and the hard state (nil keeps the last one) as one group commit. Entries must
// be consecutive and continue the log; entries that begin at or before the last index replace all
// from there on. With sync, Append returns once all of it, and all appended before, is durable.
// Without, a hard state alone is held back until the next frame or Close.
//
// Errors: ErrNoSpace (wrapped): nothing of this call counts, the same call may be made again;
// ErrEntryTooLarge (wrapped), ErrClosed, or *FatalError, after which the log refuses everything.
// A call larger than a frame (8 MiB, or what a segment holds) is written as several, whose commit
// index advances in the last one; after ErrNoSpace in the middle the first ones may be in the log,
// unacknowledged, and repeating the call replaces them.
func (l *Log) Append(entries []*raftpb.Entry, hs *raftpb.HardState, sync bool) error {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	if err := l.usable(); err != nil {
		return err
	}
	if err := l.checkEntries(entries); err != nil {
		return err
	}
	hard := l.hard
	if hs != nil {
		hard = hardState{term: hs.GetTerm(), vote: hs.GetVote(), commit: hs.GetCommit()}
	}
	if len(entries) == 0 && !sync {
		l.hard = hard
		return nil
	}
	if err := l.writeAll(entries, hard); err != nil {
		return l.fail(err)
	}
	l.hard = hard
	if !sync {
		return nil
	}
	return l.fail(l.sync())
}

// checkEntries refuses what would not continue the log.
func (l *Log) checkEntries(entries []*raftpb.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	first := entries[0].GetIndex()
	l.mu.Lock()
	base, last := l.mu.links.base, l.mu.links.last()
	l.mu.Unlock()
	if first <= base || first > last+1 {
		return fmt.Errorf("append entries from %d: the log holds entries %d to %d", first, base+1, last)
	}
	for i, entry := range entries {
		if entry.GetIndex() != first+uint64(i) {
			return fmt.Errorf("append entries from %d: entry %d follows entry %d", first, entry.GetIndex(), first+uint64(i)-1)
		}
		if size := frameHeaderBytes + entriesBytes(entries[i:i+1]); size > l.maxFrame() {
			return fmt.Errorf("append entry %d: %d bytes with headers, limit %d: %w", entry.GetIndex(), size, l.maxFrame(), ErrEntryTooLarge)
		}
	}
	return nil
}

// maxFrame is the most bytes that a frame may have, so that it fits into an empty segment.
func (l *Log) maxFrame() int {
	return int(min(maxFrameBytes, l.spares.size-2*pageBytes))
}

// writeAll splits entries into frames as large as allowed. Term and vote go with the first, commit
// with the last, so no frame says that an entry is committed that comes after it.
func (l *Log) writeAll(entries []*raftpb.Entry, hard hardState) error {
	for {
		n, size := 0, frameHeaderBytes
		for n < len(entries) && size+entriesBytes(entries[n:n+1]) <= l.maxFrame() {
			size += entriesBytes(entries[n : n+1])
			n++
		}
		now := hard
		if n < len(entries) {
			now.commit = min(hard.commit, l.tip.hard.commit)
		}
		if err := l.writeEntries(entries[:n], now); err != nil {
			return err
		}
		if entries = entries[n:]; len(entries) == 0 {
			return nil
		}
	}
}

// writeEntries writes one frame with entries, or with a changed hard state alone.
func (l *Log) writeEntries(entries []*raftpb.Entry, hard hardState) error {
	if len(entries) == 0 && hard == l.tip.hard {
		return nil
	}
	prev := l.tip.index
	if len(entries) > 0 {
		prev = entries[0].GetIndex() - 1
	}
	l.mu.Lock()
	before, _ := l.mu.links.at(prev) // checkEntries made sure
	l.mu.Unlock()
	f := frameHeader{kind: frameAppend, prevIndex: prev, prevTerm: before.term, before: before.chain, hard: hard}
	added, err := l.writeFrame(&f, entries)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.mu.links.replace(prev, added)
	l.mu.Unlock()
	return nil
}

// writeFrame completes f, writes it, and moves the tip. It returns the links of the entries. When it
// fails for want of space the next frame takes the same place and number.
func (l *Log) writeFrame(f *frameHeader, entries []*raftpb.Entry) ([]link, error) {
	f.length, f.count = uint32(entriesBytes(entries)), uint32(len(entries))
	if l.tip.seq+1 >= maxSeq { // of a forged header: nobody writes so many
		return nil, &FatalError{Op: "number a frame of", Path: l.active.path, Err: errNumbers}
	}
	if int64(f.bytes()) > l.active.room() || l.active.offset > 4*pageBytes && l.rarely(rareRoll) {
		if err := l.roll(); err != nil {
			return nil, err
		}
	}
	if err := l.nameActive(); err != nil {
		return nil, err
	}
	added := make([]link, len(entries))
	after := link{f.before, f.prevTerm}
	buf := append(l.buf[:0], make([]byte, frameHeaderBytes)...)
	for i, entry := range entries {
		buf = appendEntry(buf, entry)
		after = link{l.chainer.next(after.chain, entry), entry.GetTerm()}
		added[i] = after
	}
	f.segment, f.seq, f.prev, f.after = l.active.number, l.tip.seq+1, l.tip.frame, after.chain
	f.durable = l.durable().seq
	f.payloadCRC = saltedCRC(l.active.salt, buf[frameHeaderBytes:])
	sum := f.encode(buf, l.active.salt)
	buf = append(buf, make([]byte, f.bytes()-len(buf))...)
	if cap(buf) <= maxKeptBuffer {
		l.buf = buf
	}
	if _, err := l.active.file.WriteAt(buf, l.active.offset); err != nil {
		return nil, classify("write", l.active.path, err)
	}
	l.active.offset += int64(len(buf))
	l.tip = tip{seq: f.seq, frame: sum, index: f.prevIndex + uint64(len(entries)), term: after.term, chain: after.chain, hard: f.hard}
	return added, nil
}

// maxKeptBuffer bounds the frame buffer kept between calls.
const maxKeptBuffer = 1 << 20

// roll makes all of the active segment durable and begins the next one.
func (l *Log) roll() error {
	if err := l.sync(); err != nil {
		return err
	}
	return l.activateNext(context.Background())
}

// sync makes everything up to the tip durable.
func (l *Log) sync() error {
	if l.durable().seq == l.tip.seq {
		return nil
	}
	if !mutant.On(mutant.SkipFsync) {
		if err := l.active.file.Sync(); err != nil {
			return classify("sync", l.active.path, err)
		}
	}
	l.mu.Lock()
	l.mu.durable = l.tip
	l.mu.Unlock()
	raise(l.anchorDue)
	return nil
}

func (l *Log) durable() tip {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.durable
}

// Chain returns the entry chain at index, which is equal on all members whose logs are equal up to
// there. It knows the entries in the log and the one before the first.
func (l *Log) Chain(index uint64) ([32]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found, ok := l.mu.links.at(index)
	return found.chain, ok
}

// usable returns why the log refuses work, nil if it does not.
func (l *Log) usable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.mu.failed != nil:
		return l.mu.failed
	case l.mu.closed:
		return ErrClosed
	}
	return nil
}
