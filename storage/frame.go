package storage

import (
	"crypto/sha256"
	"errors"
	"hash/crc32"
	"math"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
)

const (
	frameMagic       = 0x31464c50 // "PLF1"
	frameHeaderBytes = 192
	entryHeaderBytes = 16

	// maxFrameBytes bounds one frame, header included; Append splits what is larger.
	maxFrameBytes = 8 << 20
)

// frameKind says what a frame does to the log.
type frameKind uint32

const (
	frameAppend frameKind = 1 // entries after prevIndex replace all that followed it
	frameReset  frameKind = 2 // the log is empty and continues after prevIndex
)

// frameHeader is one group commit, but for the entries. The header's own checksum lets recovery know
// a frame whose payload is gone, and keeps it from believing lengths in random bytes.
type frameHeader struct {
	segment    uint64 // number of the segment it was written to
	seq        uint64
	durable    uint64 // the highest seq known to be synced when this was written
	prev       hash   // of the previous frame's header
	prevIndex  uint64 // the entry before the first one here
	prevTerm   uint64
	before     hash // the entry chain at prevIndex
	after      hash // the entry chain after the last entry here
	hard       hardState
	length     uint32 // of the payload
	count      uint32 // of entries
	payloadCRC uint32 // salted
	kind       frameKind
}

// saltedCRC is the checksum of the salt and b. That of the salt is made by hand: crc32 would put it on the heap each time.
func saltedCRC(salt [8]byte, b []byte) uint32 {
	crc := ^uint32(0)
	for _, v := range salt {
		crc = castagnoli[byte(crc)^v] ^ crc>>8 //nolint:gosec // its last byte
	}
	return crc32.Update(^crc, castagnoli, b)
}

// encode writes the header to the first frameHeaderBytes of b and returns its hash.
func (f *frameHeader) encode(b []byte, salt [8]byte) hash {
	b = b[:frameHeaderBytes]
	clear(b)
	out := order.AppendUint32(b[:0], frameMagic)
	out = order.AppendUint32(out, 0)
	out = order.AppendUint64(out, f.segment)
	out = order.AppendUint64(out, f.seq)
	out = order.AppendUint64(out, f.durable)
	out = append(out, f.prev[:]...)
	out = order.AppendUint64(out, f.prevIndex)
	out = order.AppendUint64(out, f.prevTerm)
	out = append(out, f.before[:]...)
	out = append(out, f.after[:]...)
	out = f.hard.append(out)
	out = order.AppendUint32(out, f.length)
	out = order.AppendUint32(out, f.count)
	out = order.AppendUint32(out, f.payloadCRC)
	order.AppendUint32(out, uint32(f.kind))
	order.PutUint32(b[4:], saltedCRC(salt, b[8:]))
	return sha256.Sum256(b)
}

// decodeFrameHeader reads a header of the given segment from the start of b, false if there is no
// intact one. That may be a torn write, an old frame or damage: only what surrounds it can tell.
func decodeFrameHeader(b []byte, segment uint64, salt [8]byte) (f frameHeader, found bool) {
	if !beginsFrame(b, segment) || order.Uint32(b[4:]) != saltedCRC(salt, b[8:frameHeaderBytes]) {
		return frameHeader{}, false
	}
	c := cursor{b[8:]}
	f = frameHeader{
		segment: c.u64(), seq: c.u64(), durable: c.u64(), prev: c.hash(),
		prevIndex: c.u64(), prevTerm: c.u64(), before: c.hash(), after: c.hash(), hard: c.hard(),
		length: c.u32(), count: c.u32(), payloadCRC: c.u32(), kind: frameKind(c.u32()),
	}
	return f, f.seq < maxSeq
}

// maxSeq is more than a log ever counts to: a frame, a segment or an anchor that says so was forged, and is none. It
// binds the writer too, or a log that begins just below would acknowledge frames that its next start does not read.
const maxSeq = 1 << 62

// repairSeqs is the room below maxSeq that a repair needs: it goes on above all that it saw.
const repairSeqs = 1 << 32

// beginsFrame reports whether b begins like a frame of this segment, intact or torn.
func beginsFrame(b []byte, segment uint64) bool {
	return len(b) >= frameHeaderBytes && order.Uint32(b) == frameMagic && order.Uint64(b[8:]) == segment
}

// claimsFrame reports whether a frame of this segment was begun at b, whatever became of it: it begins like one, or is one
// whose beginning is damaged, for with the right beginning its checksum is right.
func claimsFrame(b []byte, segment uint64, salt [8]byte) bool {
	if len(b) < frameHeaderBytes || beginsFrame(b, segment) {
		return len(b) >= frameHeaderBytes
	}
	header := slices.Clone(b[8:frameHeaderBytes])
	order.PutUint64(header, segment)
	return order.Uint32(b[4:]) == saltedCRC(salt, header)
}

// payload returns the entries' bytes of the frame that begins b, false if they are not intact.
func (f *frameHeader) payload(b []byte, salt [8]byte) ([]byte, bool) {
	if f.length > maxFrameBytes || int(f.length) > len(b)-frameHeaderBytes {
		return nil, false
	}
	payload := b[frameHeaderBytes : frameHeaderBytes+int(f.length)]
	return payload, saltedCRC(salt, payload) == f.payloadCRC
}

// bytes returns the size of the frame on disk.
func (f *frameHeader) bytes() int { return alignPage(frameHeaderBytes + int(f.length)) }

// entriesBytes returns the size of the payload for entries.
func entriesBytes(entries []*raftpb.Entry) int {
	n := 0
	for _, entry := range entries {
		n += entryHeaderBytes + len(entry.GetData())
	}
	return n
}

func appendEntry(b []byte, entry *raftpb.Entry) []byte {
	b = order.AppendUint64(b, entry.GetTerm())
	b = order.AppendUint32(b, uint32(entry.GetType()))
	b = order.AppendUint32(b, uint32(len(entry.GetData())))
	return append(b, entry.GetData()...)
}

// decodeEntries reads exactly count entries that follow prevIndex. Their Data alias payload.
func decodeEntries(payload []byte, prevIndex uint64, count uint32) ([]*raftpb.Entry, error) {
	if uint64(count)*entryHeaderBytes > uint64(len(payload)) || prevIndex > math.MaxUint64-uint64(count) {
		return nil, errors.New("more entries than bytes")
	}
	// One allocation each for what raftpb wants by pointer.
	entries, made := make([]*raftpb.Entry, count), make([]raftpb.Entry, count)
	numbers, types := make([]uint64, 2*count), make([]raftpb.EntryType, count)
	c := cursor{payload}
	for i := range made {
		if len(c.rest) < entryHeaderBytes {
			return nil, errors.New("entry header is cut")
		}
		term, index := &numbers[2*i], &numbers[2*i+1]
		*term, *index, types[i] = c.u64(), prevIndex+1+uint64(i), raftpb.EntryType(c.u32())
		length := c.u32()
		if uint64(length) > uint64(len(c.rest)) {
			return nil, errors.New("entry is cut")
		}
		made[i].Term, made[i].Index, made[i].Type = term, index, &types[i]
		if length > 0 {
			made[i].Data = c.take(int(length))
		}
		entries[i] = &made[i]
	}
	if len(c.rest) != 0 {
		return nil, errors.New("bytes after the last entry")
	}
	return entries, nil
}
