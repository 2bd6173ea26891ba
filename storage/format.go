package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// pageBytes is the unit of everything in the log: headers and frames begin and end on it, so writing
// a frame touches no page of an earlier one, and no torn write can damage what was acknowledged.
const pageBytes = 4096

// formatVersion is in every header; another one is refused.
const formatVersion = 1

// errFormat is an intact file of another version: not damage, and nothing to repair.
var errFormat = errors.New("written in a format of another version of this program; start that version")

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	order      = binary.LittleEndian
)

// hash is a SHA-256.
type hash = [32]byte

// identity is whose files these are.
type identity struct {
	cluster [16]byte
	raft    uint64
}

func (id identity) String() string { return fmt.Sprintf("cluster %x member %x", id.cluster, id.raft) }

// hardState is raftpb.HardState without its pointers.
type hardState struct{ term, vote, commit uint64 }

// tip is the state of the log after a frame: what the next frame, the next segment and the anchor
// have to agree with.
type tip struct {
	seq   uint64 // of the frame; the first frame is 1
	frame hash   // of that frame's header
	index uint64 // the last entry
	term  uint64 // its term
	chain hash   // the entry chain up to it
	hard  hardState
}

const tipBytes = 8 + 32 + 8 + 8 + 32 + 24

func (t tip) append(b []byte) []byte {
	b = order.AppendUint64(b, t.seq)
	b = append(b, t.frame[:]...)
	b = order.AppendUint64(b, t.index)
	b = order.AppendUint64(b, t.term)
	b = append(b, t.chain[:]...)
	return t.hard.append(b)
}

func (h hardState) append(b []byte) []byte {
	b = order.AppendUint64(b, h.term)
	b = order.AppendUint64(b, h.vote)
	return order.AppendUint64(b, h.commit)
}

// cursor reads fixed fields in order; the caller has checked the length.
type cursor struct{ rest []byte }

func (c *cursor) take(n int) []byte {
	head := c.rest[:n:n]
	c.rest = c.rest[n:]
	return head
}

func (c *cursor) u32() uint32 { return order.Uint32(c.take(4)) }
func (c *cursor) u64() uint64 { return order.Uint64(c.take(8)) }
func (c *cursor) hash() hash  { return hash(c.take(32)) }

func (c *cursor) hard() hardState {
	return hardState{term: c.u64(), vote: c.u64(), commit: c.u64()}
}

func (c *cursor) tip() tip {
	return tip{seq: c.u64(), frame: c.hash(), index: c.u64(), term: c.u64(), chain: c.hash(), hard: c.hard()}
}

// segmentHeader is the page at both ends of a segment. start is the state before its first frame, so
// a segment can be read without the ones before it.
type segmentHeader struct {
	id     identity
	number uint64
	salt   [8]byte // random; makes frames of the file's earlier life invalid
	size   int64
	start  tip
}

var segmentMagic = []byte("PARLEYLG")

const segmentHeaderBytes = 8 + 4 + 4 + 16 + 8 + 8 + 8 + 8 + tipBytes

func (h segmentHeader) encode() []byte {
	b := append(make([]byte, 0, pageBytes), segmentMagic...)
	b = order.AppendUint32(b, 0)
	b = order.AppendUint32(b, formatVersion)
	b = append(b, h.id.cluster[:]...)
	b = order.AppendUint64(b, h.id.raft)
	b = order.AppendUint64(b, h.number)
	b = append(b, h.salt[:]...)
	b = order.AppendUint64(b, uint64(h.size))
	b = h.start.append(b)
	order.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	return b[:pageBytes]
}

func decodeSegmentHeader(b []byte) (segmentHeader, error) {
	if len(b) < segmentHeaderBytes || !bytes.Equal(b[:8], segmentMagic) {
		return segmentHeader{}, errors.New("no segment header")
	}
	if order.Uint32(b[8:]) != crc32.Checksum(b[12:segmentHeaderBytes], castagnoli) {
		return segmentHeader{}, errors.New("segment header has a wrong checksum")
	}
	c := cursor{b[12:]}
	if version := c.u32(); version != formatVersion {
		return segmentHeader{}, fmt.Errorf("%w (%d, not %d)", errFormat, version, formatVersion)
	}
	h := segmentHeader{
		id:     identity{cluster: [16]byte(c.take(16)), raft: c.u64()},
		number: c.u64(),
		salt:   [8]byte(c.take(8)),
		size:   int64(c.u64()),
		start:  c.tip(),
	}
	if h.start.seq >= maxSeq {
		return segmentHeader{}, errors.New("segment header names a frame that no log gets to")
	}
	return h, nil
}

// alignPage rounds n up to whole pages.
func alignPage(n int) int { return (n + pageBytes - 1) &^ (pageBytes - 1) }
