package state

import (
	"encoding/binary"
	"hash/maphash"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/mutant"
)

// requestBook finds the rows of requests by their ids, and says which are the oldest. It follows from the rows, and is no
// part of the state. It is written while an entry is applied: after one that came to no end it is thrown away.
//
// Requests come at one end and go at the other, so they lie in a ring in the order of their rows. A table of their hashes says
// where in the ring each is: a request that was never made, as nearly all, is known for that by a glance into one place of
// memory, where a map of ids looks into several, and each of them is in no cache.
type requestBook struct {
	ring        []askedRequest
	first, used int
	table       []uint64 // a power of two; 0, or the hash above the place in the ring
	seed        maphash.Seed
	bytes       int
	floor       uint64
	amid        bool // an entry
}

// askedRequest is where in the log a request was done, when, and how many bytes its row counts for.
type askedRequest struct {
	id    [16]byte
	at    clock.Stamp
	index uint64
	place uint32
	size  int32
}

func (q *askedRequest) key() string { return requestKey(q.index, q.place) }

const (
	firstRequests = 64                              // that a book has room for at first
	usualRequests = MaxRequests + MaxRequests/8     // and when it is full, with those of one entry
	hashMark      = 1 << 31                         // in each hash: no place of the table that is taken is 0
	maxRowSize    = MaxRequestResult + 4*requestRow // what a row can count for, and more
)

func newRequestBook(s *store) *requestBook {
	b := &requestBook{seed: maphash.MakeSeed()}
	if mutant.On(mutant.SnapshotWithoutDedup) {
		return b
	}
	s.scan(TableRequest, "", "", func(r *record) bool {
		if r.key == floorKey {
			b.floor = must(decodeFloor(r.row))
			return true
		}
		q := must(decodeRequest(r.row))
		key := []byte(r.key)
		b.add(q.id, askedRequest{at: q.at, index: binary.BigEndian.Uint64(key), place: binary.BigEndian.Uint32(key[8:])}, len(r.row))
		return true
	})
	return b
}

// oldest is the stamp of the request that stands first, 0 without one.
func (b *requestBook) oldest() clock.Stamp {
	if b.used == 0 {
		return 0
	}
	return b.ring[b.first].at
}

// at is the request that stands at a place of the order.
func (b *requestBook) at(n int) *askedRequest {
	if n += b.first; n >= len(b.ring) {
		n -= len(b.ring)
	}
	return &b.ring[n]
}

func (b *requestBook) hash(id *[16]byte) uint64 { return maphash.Bytes(b.seed, id[:])>>32 | hashMark }

// find returns nil for a request that is not remembered.
func (b *requestBook) find(id *[16]byte) *askedRequest {
	if b.used == 0 {
		return nil
	}
	hash, mask := b.hash(id), uint64(len(b.table)-1)
	for i := hash & mask; b.table[i] != 0; i = (i + 1) & mask {
		if entry := b.table[i]; entry>>32 == hash && b.ring[uint32(entry)].id == *id { //nolint:gosec // the lower half
			return &b.ring[uint32(entry)] //nolint:gosec // the lower half
		}
	}
	return nil
}

// add puts a request, whose row has so many bytes, behind the others.
func (b *requestBook) add(id [16]byte, q askedRequest, row int) {
	if b.used == len(b.ring) {
		b.grow()
	}
	q.id, q.size = id, int32(min(row, maxRowSize)+requestRow) //nolint:gosec // checked
	place := b.first + b.used
	if place >= len(b.ring) {
		place -= len(b.ring)
	}
	b.ring[place] = q
	b.used++
	b.bytes += int(q.size)
	b.enter(place)
}

func (b *requestBook) enter(place int) {
	hash, mask := b.hash(&b.ring[place].id), uint64(len(b.table)-1)
	i := hash & mask
	for b.table[i] != 0 {
		i = (i + 1) & mask
	}
	b.table[i] = hash<<32 | uint64(place) //nolint:gosec // not negative
}

// grow makes room for more, and keeps a third of the table empty.
func (b *requestBook) grow() {
	room := max(firstRequests, 2*len(b.ring))
	if len(b.ring) < usualRequests {
		room = min(room, usualRequests)
	}
	ring := make([]askedRequest, room)
	for n := range b.used {
		ring[n] = *b.at(n)
	}
	size := 2 * firstRequests
	for 2*size < 3*room {
		size *= 2
	}
	b.ring, b.first, b.table = ring, 0, make([]uint64, size)
	for place := range b.used {
		b.enter(place)
	}
}

// dropFirst forgets the request that stands first.
func (b *requestBook) dropFirst() {
	q := &b.ring[b.first]
	mask := uint64(len(b.table) - 1)
	entry := b.hash(&q.id)<<32 | uint64(b.first) //nolint:gosec // not negative
	hole := entry >> 32 & mask
	for b.table[hole] != entry {
		hole = (hole + 1) & mask
	}
	// What stands behind it and would have stood there comes there.
	for i := (hole + 1) & mask; b.table[i] != 0; i = (i + 1) & mask {
		if home := b.table[i] >> 32 & mask; (i-home)&mask >= (i-hole)&mask {
			b.table[hole], hole = b.table[i], i
		}
	}
	b.table[hole] = 0
	b.bytes -= int(q.size)
	if b.first++; b.first == len(b.ring) {
		b.first = 0
	}
	b.used--
}
