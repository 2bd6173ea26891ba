package state

import (
	"strings"
)

// heads are the items of a node in short, to be searched without looking at the records: most of them are in no cache. They are
// never changed.
type heads struct {
	of     [maxItems]uint64
	prefix [maxSkip]byte // what all keys begin with, as far as it is left out of of
	skip   int           // how much of it there is; 0 in a node with items of several tables
}

// maxSkip is the longest prefix that is left out. Of a longer one the heads are all alike, and the keys are compared as without
// them.
const maxSkip = 32

// shortOf is the table and the first seven bytes of a key, or of the rest of it. Records are in the order of these, as far as
// they differ.
func shortOf(table Table, key string) uint64 { return uint64(table)<<56 | headOf(key)>>8 }

// makeHeads is for a node with items.
func (n *node) makeHeads() *heads {
	h := &heads{}
	first, last := n.items[0], n.items[n.count-1]
	if first.table == last.table {
		most := min(len(first.key), len(last.key), maxSkip)
		for h.skip < most && first.key[h.skip] == last.key[h.skip] {
			h.skip++
		}
		copy(h.prefix[:], first.key[:h.skip])
	}
	for i, r := range n.items[:n.count] {
		h.of[i] = shortOf(r.table, r.key[h.skip:])
	}
	return h
}

// beside says where a record belongs that does not begin as all others of the node do: before or behind them.
func (n *node) beside(table Table, key string) (place int, apart bool) {
	h := n.heads
	if h.skip == 0 {
		return 0, false
	}
	switch own := Table(h.of[0] >> 56); {
	case table < own:
		return 0, true
	case table > own:
		return n.count, true
	case len(key) >= h.skip && key[:h.skip] == string(h.prefix[:h.skip]):
		return 0, false
	case key < string(h.prefix[:h.skip]):
		return 0, true
	}
	return n.count, true
}

// searchHeads is search by the heads.
func (n *node) searchHeads(table Table, key string) (place int, found bool) {
	if place, apart := n.beside(table, key); apart {
		return place, false
	}
	h := n.heads
	short := shortOf(table, key[h.skip:])
	low, high := 0, n.count
	for low < high {
		mid := int(uint(low+high) >> 1)
		before := short < h.of[mid]
		if short == h.of[mid] {
			order := strings.Compare(key, n.items[mid].key)
			if order == 0 {
				return mid, true
			}
			before = order < 0
		}
		if before {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low, false
}
