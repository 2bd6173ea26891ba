package state

import (
	"encoding/binary"
	"strings"
)

// requestRoom is memory for the requests of one entry. They are forgotten in the order in which they came, so those of an entry
// may as well be in a few pieces of memory as in three each: the collector has less to look at.
type requestRoom struct {
	left    int // requests that are still to come
	records []record
	keys    strings.Builder
	rows    []byte
}

// Limits of the pieces, so that a request that outlives the others of its entry keeps little besides.
const (
	roomRequests = 32  // in one piece
	roomRow      = 128 // bytes of a usual row; one of more than four times that has a piece of its own
	requestKeys  = 12  // bytes of a key
)

// roomFor counts the requests of an entry.
func roomFor(commands []decodedCommand) requestRoom {
	room := requestRoom{}
	for i := range commands {
		if commands[i].Request != ([16]byte{}) {
			room.left++
		}
	}
	return room
}

// piece is for how many requests one is made.
func (m *requestRoom) piece() int { return min(max(m.left, 1), roomRequests) }

// record is called last for a request.
func (m *requestRoom) record() *record {
	if len(m.records) == 0 {
		m.records = make([]record, m.piece())
	}
	r := &m.records[0]
	m.records, m.left = m.records[1:], m.left-1
	return r
}

func (m *requestRoom) key(index uint64, place uint32) string {
	if m.keys.Cap()-m.keys.Len() < requestKeys {
		m.keys = strings.Builder{}
		m.keys.Grow(requestKeys * m.piece())
	}
	var b [requestKeys]byte
	binary.BigEndian.PutUint64(b[:], index)
	binary.BigEndian.PutUint32(b[8:], place)
	m.keys.Write(b[:])
	whole := m.keys.String() // a Builder never changes what it has given out
	return whole[len(whole)-requestKeys:]
}

// row is an empty row for so many bytes.
func (m *requestRoom) row(size int) []byte {
	if size > 4*roomRow {
		return make([]byte, 0, size)
	}
	if cap(m.rows) < size {
		m.rows = make([]byte, 0, max(size, roomRow*m.piece()))
	}
	row := m.rows[:0:size]
	m.rows = m.rows[size:size:cap(m.rows)]
	return row
}
