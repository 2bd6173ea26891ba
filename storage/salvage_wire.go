package storage

import (
	"errors"

	"go.etcd.io/raft/v3/raftpb"
)

const entriesHeaderBytes = 8 + 8 + 32 + 4

// AppendEntries encodes what a peer answers about a Gap: the entries after prev.
//
//	index 8 | term 8 | chain 32 | count 4 | entries as in a frame      (little endian)
func AppendEntries(b []byte, prev Point, entries []*raftpb.Entry) []byte {
	b = order.AppendUint64(b, prev.Index)
	b = order.AppendUint64(b, prev.Term)
	b = append(b, prev.Chain[:]...)
	b = order.AppendUint32(b, uint32(len(entries)))
	for _, entry := range entries {
		b = appendEntry(b, entry)
	}
	return b
}

// DecodeEntries is the opposite. The entries alias b. That they are the right ones is for Offer to find out.
func DecodeEntries(b []byte) (prev Point, entries []*raftpb.Entry, err error) {
	if len(b) < entriesHeaderBytes {
		return prev, nil, errors.New("answer about a gap is cut")
	}
	c := cursor{b}
	prev = Point{Index: c.u64(), Term: c.u64(), Chain: c.hash()}
	count := c.u32()
	entries, err = decodeEntries(c.rest, prev.Index, count)
	return prev, entries, err
}
