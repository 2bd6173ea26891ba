package state

import (
	"bytes"
	"testing"
)

// What the requests of an entry get is theirs alone: their keys say where they are, no row reaches into another, and a request
// more than was counted has room as well.
func TestRequestRoom(t *testing.T) {
	for _, requests := range []int{0, 1, roomRequests, 3*roomRequests + 5} {
		commands := make([]decodedCommand, requests+2)
		for i := range requests {
			commands[i].Request[0] = 1
		}
		room := roomFor(commands)
		var keys []string
		var rows [][]byte
		records := map[*record]bool{}
		for i := range requests + 1 {
			size := []int{90, 1, 4 * roomRow, 4*roomRow + 1, 127}[i%5]
			row := append(room.row(size), bytes.Repeat([]byte{byte(i)}, size)...)
			if cap(row) != size && size <= 4*roomRow {
				t.Fatalf("a row of %d bytes has room for %d: it reaches into the next", size, cap(row))
			}
			keys, rows = append(keys, room.key(7, uint32(i))), append(rows, row) //nolint:gosec // few
			records[room.record()] = true
		}
		for i, row := range rows {
			if keys[i] != requestKey(7, uint32(i)) { //nolint:gosec // few
				t.Errorf("request %d of %d: key %x", i, requests, keys[i])
			}
			if !bytes.Equal(row, bytes.Repeat([]byte{byte(i)}, len(row))) {
				t.Errorf("request %d of %d: its row is %x", i, requests, row)
			}
		}
		if len(records) != requests+1 {
			t.Errorf("%d records for %d requests", len(records), requests+1)
		}
	}
}
