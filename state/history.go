package state

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/parley-mesh/parley/clock"
)

// Limits of the history of keys, part of the meaning of version 1 of the commands.
const (
	HistoryVersions = 16             // earlier versions of one key that are kept, if there is room
	HistoryMost     = 128            // that are kept of one key; of one with large rows twice HistoryVersions
	historyLarge    = 1 << 10        // bytes of a large row
	MaxHistory      = 1 << 17        // earlier versions of all keys
	MaxHistoryBytes = 64 << 20       // what they cost together, by historyCost
	HistoryHours    = 7 * 24         // for so long a version is kept after its end, if there is room
	historySweep    = 1 << 13        // versions that one entry forgets at most
	historySlack    = 1 << 10        // versions that are forgotten together, so that it is seldom
	historyRow      = 160            // bytes counted for a version besides its key and row
	millisPerHour   = 60 * 60 * 1000 // of a stamp
)

// What a key was before is a row of TableHistory under the revision S that put an end to it and the key: the row that it
// was, with the revision R that had written it. What was before that is under R and the key, and so on: a key's history is
// a chain from its row, or from its tombstone, through the revisions. A deletion that was followed by a put is an empty row, and one of revision 0 stands for what was purged.
//
//	put a x      revision 3
//	put a y      revision 5    history (5, a) = x of 3
//	delete a     revision 8    history (8, a) = y of 5      tombstone a of 8
//	put a z      revision 9    history (9, a) = deletion of 8
//
// So the oldest stand first for all keys together, a new one is always the last, and its bytes are those of the row that
// it replaces. What a command overwrites of its own was never seen by anybody, and is no version.
//
// Rows are forgotten from the front: beyond MaxHistory or MaxHistoryBytes, and when they are old. For the age there is one
// row of TableHistoryMark an hour: up to which revision everything had happened when the hour began. The one under
// floorKey says what was forgotten: a key without a row before it is new only if it is above. While there is more to
// forget than one entry takes, TableHistorySweep says up to where. Of one key the newest
// HistoryVersions stay when their number reaches HistoryMost, so that a key that is written all the time does not take the
// room of all others. The history is in no change stream: it never leaves the replicas of the log.

// keep makes before, which revision at puts an end to, a part of the key's history. row is what the key has now.
func (s *store) keep(key string, at uint64, before *record, row []byte) {
	if before == nil || !s.history {
		return
	}
	if before.revision != at {
		r := &record{table: TableHistory, head: at, key: historyKey(at, key), revision: before.revision, row: before.row}
		inner := &before.hash
		if before.table != TableKV {
			sum := hashRow(TableKV, key, before.revision, nil)
			inner = &sum
		}
		r.hash = hashHistory(at, inner)
		s.put(r)
	}
	// Version counts from 1 again after a deletion.
	if before.table != TableKV || row != nil && rowVersion(row)%trimEvery(before.row, row) == 0 && !s.short(key, row) {
		s.trim(key, at)
	}
}

// trimEvery is how many versions of a key come between two looks at them: where they are forgotten in turn with those of all
// other keys before they are that many, a look costs next to nothing.
func trimEvery(before, row []byte) uint64 {
	if max(len(before), len(row)) > historyLarge {
		return HistoryVersions
	}
	return HistoryMost - HistoryVersions
}

// short reports whether a key has no more than HistoryVersions, without looking at them: it is of that age, and was not there
// before. To walk so many rows that were written long ago costs more than the put.
func (s *store) short(key string, row []byte) bool {
	if rowVersion(row) > HistoryVersions {
		return false
	}
	_, older := s.get(TableHistory, historyKey(rowCreated(row), key))
	return !older
}

// trim forgets all but the newest versions of a key, whose row or tombstone is of revision at.
func (s *store) trim(key string, at uint64) {
	for n := 0; ; n++ {
		r, ok := s.get(TableHistory, historyKey(at, key))
		if !ok {
			return
		}
		if at = r.revision; n >= HistoryVersions {
			s.drop(r)
		}
	}
}

// compactHistory does what the hour asks for, and keeps to the limits. from is where the state was before the entry.
func (a *applying) compactHistory(from Position) {
	s := a.s
	if a.at != 0 && from.Stamp != 0 && hourOf(a.at) > hourOf(from.Stamp) {
		a.markHour(from.Revision)
	}
	full := s.tables[TableHistory].rows > MaxHistory || s.historyBytes > MaxHistoryBytes
	old := s.tables[TableHistorySweep].rows > 0
	if !full && !old {
		return
	}
	floor, gone := s.sweepTo(), 0
	first, last := "", uint64(0) // of them: a key, and an end
	rows, size := s.tables[TableHistory].rows, s.historyBytes
	done := true
	s.scan(TableHistory, "", "", func(r *record) bool {
		crowded := full && (rows > MaxHistory-historySlack || size > MaxHistoryBytes-MaxHistoryBytes/64)
		if !crowded && historyEnd(r.key) > floor {
			return false
		}
		if done = gone < historySweep; !done {
			return false
		}
		if gone == 0 {
			first = r.key
		}
		gone, last = gone+1, historyEnd(r.key)
		rows, size = rows-1, size-historyCost(r)
		return true
	})
	if gone > 0 {
		s.dropRun(TableHistory, first, gone)
		a.setMark(TableHistoryMark, floorKey, encodeFloor(last))
	}
	if old && done {
		a.setMark(TableHistorySweep, "", nil)
	}
}

// markHour notes that everything up to a revision happened before the hour that has begun, and has forgotten what was
// before the hours that are long over.
func (a *applying) markHour(revision uint64) {
	hour := hourOf(a.at)
	var over []string
	floor := a.s.sweepTo()
	a.s.scan(TableHistoryMark, "", "\x00", func(r *record) bool {
		if binary.BigEndian.Uint64([]byte(r.key))+HistoryHours > hour {
			return false
		}
		over, floor = append(over, r.key), max(floor, must(decodeFloor(r.row)))
		return true
	})
	for _, key := range over {
		a.setMark(TableHistoryMark, key, nil)
	}
	if len(over) > 0 {
		a.setMark(TableHistorySweep, "", encodeFloor(floor))
	}
	a.setMark(TableHistoryMark, hourKey(hour), encodeFloor(revision))
}

// setMark changes a row that nobody else is told of.
func (a *applying) setMark(t Table, key string, row []byte) {
	a.s.apply(Change{Table: t, Key: key, Row: row, Revision: a.s.at.Revision})
}

// sweepTo is the revision up to which the history is being forgotten because of its age, 0 if it is not.
func (s *store) sweepTo() uint64 {
	r, ok := s.get(TableHistorySweep, "")
	if !ok {
		return 0
	}
	return must(decodeFloor(r.row))
}

func hourOf(at clock.Stamp) uint64 { return uint64(at) >> 16 / millisPerHour }

func hourKey(hour uint64) string { return string(binary.BigEndian.AppendUint64(nil, hour)) }

// historyKey orders versions by their ends.
func historyKey(end uint64, key string) string {
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], end)
	return string(head[:]) + key
}

func historyEnd(key string) uint64 { return binary.BigEndian.Uint64([]byte(key[:8])) }

func historyCost(r *record) int { return historyRow + len(r.key) + len(r.row) }

// hashHistory is over the hash that the row had, so that a large value is not hashed again.
func hashHistory(end uint64, row *[32]byte) [32]byte {
	var b [1 + 8 + 32]byte
	b[0] = byte(TableHistory)
	binary.BigEndian.PutUint64(b[1:], end)
	copy(b[9:], row[:])
	return sha256.Sum256(b[:])
}

// rowVersion reads the version alone out of a key's row.
func rowVersion(row []byte) uint64 {
	r := openRow(row)
	r.uvarint() // flags
	r.uvarint() // create revision
	return r.uvarint()
}

// rowCreated is rowVersion for the create revision.
func rowCreated(row []byte) uint64 {
	r := openRow(row)
	r.uvarint() // flags
	return r.uvarint()
}

func checkHistoryRow(key string, revision uint64, row []byte) error {
	if len(key) < 8 || historyEnd(key) <= revision {
		return fmt.Errorf("%w: version of a key that ends before it begins", ErrMalformed)
	}
	if err := CheckKey(key[8:]); err != nil {
		return err
	}
	if len(row) == 0 {
		return nil // a deletion
	}
	_, err := decodeKV(key[8:], revision, row)
	return err
}

func checkHistoryMark(key string, row []byte) error {
	if len(key) != 8 && key != floorKey {
		return fmt.Errorf("%w: mark of no hour", ErrMalformed)
	}
	_, err := decodeFloor(row)
	return err
}

// versionOf is a version as a KV: one of a deletion has Version 0.
func versionOf(key string, r *record) KV {
	if len(r.row) == 0 {
		return KV{Key: key, ModRevision: r.revision}
	}
	return must(decodeKV(key, r.revision, r.row))
}

// head is the key's row or its tombstone.
func (s *store) head(key string) (*record, bool) {
	if r, ok := s.get(TableKV, key); ok {
		return r, true
	}
	return s.get(TableTombstone, key)
}

// before is the version that the revision put an end to. known is false when that is not known any more; a key that did not
// exist has Version and ModRevision 0.
func (s *store) before(now KV) (was KV, known bool) {
	r, ok := s.get(TableHistory, historyKey(now.ModRevision, now.Key))
	if !ok {
		return KV{}, s.first(now)
	}
	return versionOf(now.Key, r), r.revision > 0
}

// first reports whether a version without a row before it is the first of its key: that row was not forgotten with age.
func (s *store) first(kv KV) bool {
	return kv.Version > 0 && kv.CreateRevision == kv.ModRevision && kv.ModRevision > s.historyFloor()
}

// historyFloor is the highest revision that put an end to a version which was forgotten with all that ended before.
func (s *store) historyFloor() uint64 {
	r, ok := s.get(TableHistoryMark, floorKey)
	if !ok {
		return 0
	}
	return must(decodeFloor(r.row))
}

// versions calls f with the versions of a key, the one that it has now first, until f returns false. A version whose
// Version is 0 is a deletion, and has nothing but its revision. It reports whether f has seen all that there ever were, as
// far as deletions are remembered.
func (s *store) versions(key string, f func(KV) bool) (whole bool) {
	r, ok := s.head(key)
	for n := 0; ok; n++ {
		kv := versionOf(key, r)
		if !f(kv) {
			return false
		}
		if r, ok = s.get(TableHistory, historyKey(kv.ModRevision, key)); !ok {
			return s.first(kv) && n < HistoryVersions // else it may have been cut there
		}
		ok = r.revision > 0
	}
	return r == nil
}

// History returns the versions of a key, the one that it has now first. One whose Version is 0 is a deletion. since is 0
// when the last is the first that there ever was, as far as deletions are remembered; else nothing is known of what was
// before its revision. It costs a look-up each.
func (v *View) History(key string) (versions []KV, since uint64) {
	whole := v.s.versions(key, func(kv KV) bool {
		versions = append(versions, kv)
		return true
	})
	if !whole {
		since = versions[len(versions)-1].ModRevision
	}
	return versions, since
}

// GetAt returns what the key was when the state was at a revision. found is false when it did not exist, and since is not 0
// when it cannot be known: the key's history begins there.
func (v *View) GetAt(key string, revision uint64) (kv KV, found bool, since uint64) {
	var last KV
	whole := v.s.versions(key, func(version KV) bool {
		last = version
		return version.ModRevision > revision
	})
	switch {
	case last.ModRevision <= revision: // also of a key that never was
		return last, last.Version > 0, 0
	case whole:
		return KV{}, false, 0
	}
	return KV{}, false, last.ModRevision
}
