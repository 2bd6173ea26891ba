package consensus

import (
	"encoding/binary"

	"go.etcd.io/raft/v3/raftpb"
)

// packedLog is the part of a log in memory that is applied: of most entries a number, since the core asks nothing more of
// them than how long they are, to send them to who is behind. It changes at its ends alone, so the writer keeps it from one
// state to the next, and looks at each entry once. With 100,000 of them in memory that is the difference between a state that
// delays heartbeats and one that does not.
type packedLog struct {
	first uint64   // index of numbers[0]
	term  uint64   // of the last one
	list  []uint32 // the length of the data and the two bits below
}

// What a packed entry is.
const (
	packedWhole = 1 << iota // it is written whole, as it is in another term than the one before, or no batch
	packedTyped             // its type is there, and not only meant

	packedShift = 2
)

// pack takes what was applied since, and forgets what the log has dropped.
func (p *packedLog) pack(l *memLog, applied uint64) {
	switch next := p.first + uint64(len(p.list)); {
	case p.first == 0 || l.first() < p.first || l.first() > next:
		*p = packedLog{first: l.first(), list: p.list[:0]}
	default:
		p.list = p.list[:copy(p.list, p.list[l.first()-p.first:])]
		p.first = l.first()
	}
	if len(p.list) == 0 {
		p.term = l.term0
	}
	for i := p.first + uint64(len(p.list)); i <= min(applied, l.last()); i++ {
		e := l.entries[i-p.first]
		p.list = append(p.list, p.number(e))
		p.term = e.GetTerm()
	}
}

func (p *packedLog) number(e *raftpb.Entry) uint32 {
	data := e.GetData()
	if e.GetTerm() != p.term || e.GetType() != raftpb.EntryNormal || len(data) < batchHeaderSize+commandOverhead || data[0] != batchVersion ||
		len(data) > maxBatchBytes {
		return packedWhole
	}
	number := uint32(len(data)) << packedShift //nolint:gosec // checked
	if e.Type != nil {
		number |= packedTyped
	}
	return number
}

// packed writes or reads the entries of the log: first those that are applied, then the others.
func (w *walk) packed(l *memLog, s *recordedState) {
	p := &s.past
	if !w.reading {
		p.pack(l, s.core.applied)
	}
	if w.reading {
		l.entries = nil
	}
	n := w.length(len(p.list))
	term := l.term0
	for i := range n {
		var number uint64
		if !w.reading {
			number = uint64(p.list[i])
		}
		w.uint(&number)
		if w.reading {
			l.entries = append(l.entries, nil)
		}
		switch e := &l.entries[i]; {
		case number&packedWhole != 0:
			w.entry(e)
			if w.reading {
				term = (*e).GetTerm()
			}
		case w.reading:
			*e = w.unpacked(number, l.first()+uint64(i), term)
		}
	}
	rest := l.entries[n:]
	w.entries(&rest)
	if w.reading {
		l.entries = append(l.entries, rest...)
	}
}

// unpacked is an entry of that length: a batch of one command.
func (w *walk) unpacked(number, index, term uint64) *raftpb.Entry {
	e := &raftpb.Entry{Index: new(index), Term: new(term)}
	if number&packedTyped != 0 {
		e.Type = raftpb.EntryNormal.Enum()
	}
	size := number >> packedShift
	if size < batchHeaderSize+commandOverhead || size > maxBatchBytes {
		w.fail("an entry of %d bytes", size)
		return e
	}
	if e.Data = w.zeros(size); e.Data != nil {
		e.Data[0] = batchVersion
		binary.BigEndian.PutUint32(e.Data[9:], 1)
		binary.BigEndian.PutUint32(e.Data[batchHeaderSize:], uint32(size-batchHeaderSize-commandOverhead)) //nolint:gosec // checked
	}
	return e
}
