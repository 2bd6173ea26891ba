package state

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/parley-mesh/parley/clock"
)

// The book knows the requests that a map and a list know, while it grows, goes round and becomes empty.
func TestRequestBook(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		book := newRequestBook(newStore(AllClasses))
		var list []askedRequest
		known, bytes := map[[16]byte]askedRequest{}, 0
		newID := func() (id [16]byte) {
			binary.BigEndian.PutUint64(id[8:], rnd.Uint64N(1<<12)) // some are asked again
			return id
		}
		for step := range 20_000 {
			id := newID()
			want, there := known[id]
			if got := book.find(&id); (got != nil) != there || there && *got != want {
				t.Fatalf("seed %d, step %d: found %v of %x, want %v", seed, step, got, id, want)
			}
			growing := step/2000%2 == 0
			switch drop := rnd.IntN(5) < 2 || !growing && rnd.IntN(2) == 0; {
			case drop && len(list) > 0:
				bytes -= int(list[0].size)
				delete(known, list[0].id)
				list = list[1:]
				book.dropFirst()
			case !drop && !there:
				row := rnd.IntN(1000)
				q := askedRequest{at: clock.Stamp(step), index: uint64(step), place: uint32(seed)} //nolint:gosec // small
				book.add(id, q, row)
				q.id, q.size = id, int32(requestRow+row) //nolint:gosec // small
				list, known[id], bytes = append(list, q), q, bytes+requestRow+row
			}
			oldest := clock.Stamp(0)
			if len(list) > 0 {
				oldest = list[0].at
			}
			if book.used != len(list) || book.bytes != bytes || book.oldest() != oldest {
				t.Fatalf("seed %d, step %d: %d requests of %d bytes, the oldest of %d; want %d, %d, %d", seed, step,
					book.used, book.bytes, book.oldest(), len(list), bytes, oldest)
			}
		}
		for n, q := range list {
			if *book.at(n) != q || book.find(&q.id) != book.at(n) {
				t.Fatalf("seed %d: %v stands in place %d, want %v", seed, *book.at(n), n, q)
			}
		}
		if taken := book.taken(); taken != len(list) {
			t.Errorf("seed %d: %d places of the table are taken, by %d requests", seed, taken, len(list))
		}
	}
}

// taken counts the places of the table that are.
func (b *requestBook) taken() (n int) {
	for _, entry := range b.table {
		if entry != 0 {
			n++
		}
	}
	return n
}

// A full book has room for the requests of one entry besides, and is not twice as large for them.
func TestRequestBookIsNoLargerThanItMustBe(t *testing.T) {
	book := newRequestBook(newStore(AllClasses))
	for n := range uint64(MaxRequests + 2048) {
		book.add(id(n, 1), askedRequest{index: n}, 100)
	}
	if len(book.ring) != usualRequests || len(book.table) > 2*MaxRequests {
		t.Errorf("room for %d requests, %d places in the table", len(book.ring), len(book.table))
	}
	for n := range uint64(MaxRequests) {
		request := id(n, 1)
		if q := book.find(&request); q == nil || q.index != n {
			t.Fatalf("found %v, want the request of %d", q, n)
		}
	}
}
