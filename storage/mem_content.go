package storage

import (
	"bytes"
	"slices"
)

// memSector is the unit that a crashed Mem writes wholly or not at all, except in FaultTorn.
const memSector = 512

type sector = [memSector]byte

// zeroSector is what every sector of zeros refers to: a log is zero-filled before it is written.
var zeroSector sector

// memContent is the bytes of a file. Its sectors may be shared with other contents and are replaced, never changed, but
// for those of a mapped file. So what becomes durable, and what a crash leaves, costs a reference for each sector.
type memContent struct {
	size    int
	sectors []*sector // the last one is zero behind size
}

// memWrite is a write within one sector that no Sync has covered yet; offset -1 empties the file.
type memWrite struct {
	offset int64
	data   []byte // never changed
}

// splitWrite returns data as writes of one sector each, which refer to a copy of it.
func splitWrite(data []byte, offset int64) []memWrite {
	parts := make([]memWrite, 0, len(data)/memSector+2)
	var own []byte // of what is left of data up to zeros, once it is needed
	for len(data) > 0 {
		n := min(len(data), memSector-int(offset%memSector))
		switch {
		case len(own) > 0:
			parts = append(parts, memWrite{offset, own[:n:n]})
			own = own[n:]
		case n == memSector && bytes.Equal(data[:n], zeroSector[:]):
			parts = append(parts, memWrite{offset, zeroSector[:]})
		default:
			own = bytes.Clone(data[:n+untilZero(data[n:])])
			parts = append(parts, memWrite{offset, own[:n:n]})
			own = own[n:]
		}
		data, offset = data[n:], offset+int64(n)
	}
	return parts
}

// untilZero is how much of data there is before a sector of zeros, as most of a page is that a small frame fills.
func untilZero(data []byte) int {
	for at := 0; at+memSector <= len(data); at += memSector {
		if bytes.Equal(data[at:at+memSector], zeroSector[:]) {
			return at
		}
	}
	return len(data)
}

// apply performs a write.
func (c *memContent) apply(w memWrite) {
	if w.offset < 0 {
		*c = memContent{}
		return
	}
	c.grow(int(w.offset) + len(w.data))
	at := &c.sectors[w.offset/memSector]
	if len(w.data) == memSector {
		*at = (*sector)(w.data)
		return
	}
	changed := **at
	copy(changed[w.offset%memSector:], w.data)
	*at = &changed
}

// grow makes the content at least size bytes long.
func (c *memContent) grow(size int) {
	c.size = max(c.size, size)
	c.sectors = slices.Grow(c.sectors, max(0, (size+memSector-1)/memSector-len(c.sectors)))
	for len(c.sectors)*memSector < size {
		c.sectors = append(c.sectors, &zeroSector)
	}
}

// readAt copies what is there from offset on, and returns how much that was.
func (c *memContent) readAt(p []byte, offset int64) int {
	read := 0
	for at := int(offset); at < c.size && read < len(p); at = int(offset) + read {
		from := at % memSector
		read += copy(p[read:], c.sectors[at/memSector][from:min(memSector, from+c.size-at)])
	}
	return read
}

// share returns the same content, to be written by itself.
func (c *memContent) share() memContent {
	return memContent{c.size, append([]*sector(nil), c.sectors...)}
}

// flip inverts the bits of mask in one byte.
func (c *memContent) flip(offset int64, mask byte) {
	changed := *c.sectors[offset/memSector]
	changed[offset%memSector] ^= mask
	c.sectors[offset/memSector] = &changed
}

// together moves the first size bytes to one place in memory, and returns it: what is stored there is the content.
func (c *memContent) together(size int) []byte {
	all := make([]byte, (size+memSector-1)/memSector*memSector)
	c.readAt(all, 0)
	for i := range len(all) / memSector {
		c.sectors[i] = (*sector)(all[i*memSector:])
	}
	return all[:size]
}

// clone returns the same content, which shares nothing: of a mapped file.
func (c *memContent) clone() memContent {
	copied := c.share()
	copied.together(c.size)
	return copied
}
