package storage

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

func openTestLog(t *testing.T, fsys FS) (*Log, Recovered) {
	t.Helper()
	log, recovered, err := OpenLog(logOptions(fsys))
	if err != nil {
		t.Fatal(err)
	}
	return log, recovered
}

// put appends count entries of size bytes after the last one, one frame each, durably.
func put(t *testing.T, log *Log, count, size int) {
	t.Helper()
	for range count {
		index := log.tip.index + 1
		entry := newEntry(1, index, bytes.Repeat([]byte{byte(index)}, size))
		if err := log.Append([]*raftpb.Entry{entry}, nil, true); err != nil {
			t.Fatal(err)
		}
	}
}

func mustClose(t *testing.T, log *Log) {
	t.Helper()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
}

// overwrite changes a file on the disk behind the log's back.
func overwrite(t *testing.T, fsys FS, path string, offset int64, data []byte) {
	t.Helper()
	f, err := fsys.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(data, offset); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func wantDamage(t *testing.T, fsys *Mem, what string) *DamageError {
	t.Helper()
	before := len(fsys.Ops())
	_, _, err := OpenLog(logOptions(fsys))
	var damage *DamageError
	if !errors.As(err, &damage) {
		t.Fatalf("%s: err = %v, want *DamageError", what, err)
	}
	if changed := fsys.Ops()[before:]; len(changed) > 0 {
		t.Errorf("%s: a refused log was changed: %v", what, changed)
	}
	if !strings.Contains(err.Error(), "rejoin") && !strings.Contains(err.Error(), "learner") || !strings.Contains(err.Error(), "backup") {
		t.Errorf("%s: error does not say what to do: %v", what, err)
	}
	return damage
}

func walPath(number uint64) string { return filepath.Join(dataDir, "wal", segmentName(number)) }

func TestFreshLog(t *testing.T) {
	log, recovered := openTestLog(t, NewMem())
	if recovered.FirstIndex != 1 || recovered.LastIndex != 0 || recovered.HardState != nil || recovered.Unclean {
		t.Errorf("recovered %+v", recovered)
	}
	if chain, ok := log.Chain(0); !ok || chain != [32]byte{} {
		t.Errorf("Chain(0) = %x, %v", chain, ok)
	}
	if _, ok := log.Chain(1); ok {
		t.Error("Chain(1) of an empty log")
	}
}

func TestChainIsEqualForEqualLogs(t *testing.T) {
	// However entries were grouped or overwritten, equal logs have equal chains.
	a, _ := openTestLog(t, NewMem())
	put(t, a, 5, 10)
	b, _ := openTestLog(t, NewMem())
	wrong := []*raftpb.Entry{newEntry(1, 1, bytes.Repeat([]byte{1}, 10)), newEntry(9, 2, nil), newEntry(9, 3, nil)}
	if err := b.Append(wrong, nil, true); err != nil {
		t.Fatal(err)
	}
	var right []*raftpb.Entry
	for index := uint64(2); index <= 5; index++ {
		right = append(right, newEntry(1, index, bytes.Repeat([]byte{byte(index)}, 10)))
	}
	if err := b.Append(right, nil, true); err != nil {
		t.Fatal(err)
	}
	for index := uint64(0); index <= 5; index++ {
		if x, y := a.chainAt(t, index), b.chainAt(t, index); x != y {
			t.Errorf("chain at %d: %s and %s", index, x, y)
		}
	}
}

func TestAppendRefusesWhatDoesNotContinue(t *testing.T) {
	log, _ := openTestLog(t, NewMem())
	put(t, log, 3, 1)
	for what, entries := range map[string][]*raftpb.Entry{
		"gap":       {newEntry(1, 5, nil)},
		"index 0":   {newEntry(1, 0, nil)},
		"hole":      {newEntry(1, 4, nil), newEntry(1, 6, nil)},
		"too large": {newEntry(1, 4, make([]byte, traceSegment))},
	} {
		if err := log.Append(entries, nil, true); err == nil {
			t.Errorf("%s: appended", what)
		}
	}
	if err := log.Append([]*raftpb.Entry{newEntry(1, 4, make([]byte, log.maxFrame()-frameHeaderBytes-entryHeaderBytes+1))}, nil, true); !errors.Is(err, ErrEntryTooLarge) {
		t.Errorf("err = %v, want ErrEntryTooLarge", err)
	}
	put(t, log, 1, log.maxFrame()-frameHeaderBytes-entryHeaderBytes)
	if err := log.Compact(5); err == nil {
		t.Error("compacted beyond the last entry")
	}
}

func TestLargeAppendIsSplit(t *testing.T) {
	// One call of many frames and segments; the commit index comes with the last frame only.
	fsys := NewMem()
	log, _ := openTestLog(t, fsys)
	var entries []*raftpb.Entry
	for index := uint64(1); index <= 60; index++ {
		entries = append(entries, newEntry(2, index, make([]byte, 3000)))
	}
	term, vote, commit := uint64(2), uint64(1), uint64(60)
	fsys.Inject(len(fsys.Ops())+4, FaultCrash)
	hs := &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}
	if err := log.Append(entries, hs, true); err == nil {
		t.Fatal("the crash did not happen")
	}
	_, recovered := openTestLog(t, fsys.Crash(KeepUnsynced, 0))
	if n := recovered.LastIndex; n == 0 || n == 60 || recovered.HardState.GetTerm() != 2 || recovered.HardState.GetCommit() > n {
		t.Errorf("recovered %d entries and %v; want some, term 2, and no commit beyond", n, recovered.HardState)
	}
	log, _ = openTestLog(t, NewMem())
	if err := log.Append(entries, hs, true); err != nil || log.tip.index != 60 || log.tip.hard.commit != 60 {
		t.Errorf("err %v, last %d, %+v", err, log.tip.index, log.tip.hard)
	}
}

func TestHardStateAloneIsHeldBack(t *testing.T) {
	fsys := NewMem()
	log, _ := openTestLog(t, fsys)
	put(t, log, 1, 1)
	before := len(fsys.Ops())
	commit := uint64(1)
	if err := log.Append(nil, &raftpb.HardState{Commit: &commit}, false); err != nil {
		t.Fatal(err)
	}
	if ops := fsys.Ops()[before:]; len(ops) > 0 {
		t.Errorf("an unsynced hard state did %v", ops)
	}
	mustClose(t, log)
	if _, recovered := openTestLog(t, fsys); recovered.HardState.GetCommit() != 1 || recovered.Unclean {
		t.Errorf("recovered %+v", recovered)
	}
}

func TestRecycledSegmentHasNoLiveFrames(t *testing.T) {
	// The bytes of a segment's earlier life lie where frames are expected; they must not be read. The
	// bug this prevents: a log that continues with old entries.
	fsys := NewMem()
	log, _ := openTestLog(t, fsys)
	put(t, log, 13, 3000) // two full segments and one frame
	if err := log.Compact(13); err != nil {
		t.Fatal(err)
	}
	put(t, log, 6, 3000) // rolls into a recycled file
	stale := 0
	data, err := ReadFile(fsys, log.active.path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for offset := int(log.active.offset); offset < len(data)-pageBytes; offset += pageBytes {
		if order.Uint32(data[offset:]) == frameMagic {
			stale++
		}
	}
	if stale == 0 {
		t.Fatal("no old frames in the recycled segment; the test proves nothing")
	}
	mustClose(t, log)
	if _, recovered := openTestLog(t, fsys); recovered.LastIndex != 19 || recovered.TornBytes != 0 {
		t.Errorf("last %d, torn %d; want 19 and nothing", recovered.LastIndex, recovered.TornBytes)
	}
}

func TestTornTailIsKeptAside(t *testing.T) {
	fsys := NewMem()
	log, _ := openTestLog(t, fsys)
	put(t, log, 2, 100)
	fsys.Inject(len(fsys.Ops()), FaultTorn)
	if err := log.Append([]*raftpb.Entry{newEntry(1, 3, bytes.Repeat([]byte("x"), 11000))}, nil, true); err == nil {
		t.Fatal("the write was not torn")
	}
	disk := fsys.Crash(LoseUnsynced, 0)
	log, recovered := openTestLog(t, disk)
	if recovered.LastIndex != 2 || recovered.TornBytes == 0 || !recovered.Unclean {
		t.Errorf("recovered last %d, torn %d, unclean %v", recovered.LastIndex, recovered.TornBytes, recovered.Unclean)
	}
	path := filepath.Join(dataDir, "wal", "torn-0000000000000001-0000000000000003")
	kept, err := ReadFile(disk, path, 1<<20)
	if err != nil || !bytes.Contains(kept, bytes.Repeat([]byte("x"), 1000)) {
		t.Errorf("kept %d bytes, %v", len(kept), err)
	}
	put(t, log, 1, 1)
	mustClose(t, log)
	if _, recovered := openTestLog(t, disk); recovered.LastIndex != 3 {
		t.Errorf("last %d, want 3", recovered.LastIndex)
	}
}

// A frame that was acknowledged, and of which one byte went bad before the anchor covered it, leaves the member in doubt:
// wherever that byte is.
func TestSpoiledLastFrameIsDoubted(t *testing.T) {
	const size = 40 // of its data
	for at := range int64(frameHeaderBytes + entryHeaderBytes + size) {
		if at >= 184 && at < frameHeaderBytes {
			continue // padding of the header: nothing is lost
		}
		fsys := NewMem()
		log, _ := openTestLog(t, fsys)
		put(t, log, 2, size)
		disk := fsys.Crash(KeepUnsynced, 0)
		disk.Flip(log.active.path, log.active.offset-pageBytes+at, 0x10)
		log, recovered, err := OpenLog(logOptions(disk))
		if err != nil || recovered.LastIndex != 1 || recovered.InDoubt == "" {
			t.Errorf("byte %d: last %d, in doubt %q, %v", at, recovered.LastIndex, recovered.InDoubt, err)
		}
		if err == nil {
			mustClose(t, log)
		}
	}
}

func TestTornFilesAreBounded(t *testing.T) {
	disk := NewMem()
	for range 3 * maxTornFiles { // some are cut while a segment is made, and leave none
		log, recovered := openTestLog(t, disk)
		put(t, log, 1, 1)
		disk.Inject(len(disk.Ops()), FaultTorn)
		_ = log.Append([]*raftpb.Entry{newEntry(1, recovered.LastIndex+2, bytes.Repeat([]byte("x"), 11000))}, nil, true)
		disk = disk.Crash(LoseUnsynced, 0)
	}
	openTestLog(t, disk)
	names, err := listPrefix(disk, filepath.Join(dataDir, "wal"), tornPrefix)
	if err != nil || len(names) != maxTornFiles {
		t.Errorf("%d torn files, %v; want %d", len(names), err, maxTornFiles)
	}
}

func TestLostTailNeedsTheAnchor(t *testing.T) {
	// A frame that the anchor covers vanishes. Control: without the anchor nobody notices.
	fsys := NewMem()
	log, _ := openTestLog(t, fsys)
	put(t, log, 4, 100)
	last := log.active.offset - pageBytes
	if err := log.syncAnchor(); err != nil {
		t.Fatal(err)
	}
	disk := fsys.Crash(LoseUnsynced, 0)
	overwrite(t, disk, walPath(1), last, make([]byte, pageBytes))
	if damage := wantDamage(t, disk, "lost tail"); damage.Seq != 4 || damage.Offset != last || damage.Path != walPath(1) {
		t.Errorf("damage at %s %d, frame %d", damage.Path, damage.Offset, damage.Seq)
	}
	options := logOptions(disk)
	options.ignoreAnchor = true
	if _, recovered, err := OpenLog(options); err != nil || recovered.LastIndex != 3 {
		t.Errorf("control: last %d, %v; want the loss to go unnoticed", recovered.LastIndex, err)
	}
}

// The newest segment is lost with all that the anchor does not cover yet. Without the segment's number in the anchor the log
// would look new, with a forgotten vote, or end whole at the segment before.
func TestLostNewestSegmentIsSeen(t *testing.T) {
	for name, frames := range map[string]int{"the first": 1, "a later one": 9} {
		t.Run(name, func(t *testing.T) {
			fsys := NewMem()
			log, _ := openTestLog(t, fsys)
			mustNil(t, log.Append(nil, &raftpb.HardState{Term: new(uint64(3)), Vote: new(uint64(2)), Commit: new(uint64(0))}, true))
			for len(log.segments) == 1 && frames > 1 {
				put(t, log, 1, 5000)
			}
			lost := log.active.path
			mustNil(t, fsys.Remove(lost))
			fsys = fsys.Crash(KeepUnsynced, 0)
			_ = wantDamage(t, fsys, "lost "+lost)
			if report := mustScrub(t, scrubOptions(fsys)); report.Errors != 1 {
				t.Errorf("scrub: %+v", report)
			}
			s, err := Salvage(logOptions(fsys), nil)
			if frames == 1 && !errors.Is(err, ErrNotSalvaged) {
				t.Errorf("salvaged: %+v, %v", s, err)
			}
			if frames > 1 && (err != nil || s.InDoubt == "") {
				t.Errorf("salvaged: %+v, %v, want doubt", s, err)
			}
		})
	}
	// Control: a creation that was cut before there was a segment is begun again.
	fsys := NewMem()
	mustNil(t, fsys.MkdirAll(dataDir, dirPerm))
	mustNil(t, createAnchor(fsys, filepath.Join(dataDir, anchorName), identity{traceCluster, 7}))
	log, recovered := openTestLog(t, fsys)
	if recovered.LastIndex != 0 || recovered.InDoubt != "" {
		t.Errorf("cut creation: %+v", recovered)
	}
	mustClose(t, log)
	// Control: an anchor of a program that did not say it hides the loss of the newest segment.
	fsys = NewMem()
	log, _ = openTestLog(t, fsys)
	for len(log.segments) == 1 {
		put(t, log, 1, 5000)
	}
	mustNil(t, log.anchor.begin(0, log.segments[1].start))
	mustNil(t, fsys.Remove(log.active.path))
	if _, _, err := OpenLog(logOptions(fsys.Crash(KeepUnsynced, 0))); err != nil {
		t.Errorf("without the number in the anchor: %v", err)
	}
}

func TestBadFrameBeforeADurableOne(t *testing.T) {
	// The anchor is old, but frame 4 says that 3 was synced: 2 is damage, not a torn tail. Frame 4
	// itself, which nothing vouches for, may go.
	for page, damaged := range map[int64]bool{2: true, 4: false} {
		fsys := NewMem()
		log, _ := openTestLog(t, fsys)
		put(t, log, 4, 100)
		disk := fsys.Crash(LoseUnsynced, 0)
		overwrite(t, disk, walPath(1), page*pageBytes, make([]byte, 512))
		if damaged {
			_ = wantDamage(t, disk, "bad frame 2")
			continue
		}
		if _, recovered := openTestLog(t, disk); recovered.LastIndex != 3 || !recovered.Unclean {
			t.Errorf("recovered up to %d, unclean %v; want 3, true", recovered.LastIndex, recovered.Unclean)
		}
	}
}

func TestCutFramesStayCut(t *testing.T) {
	// 1. Frames 1 and 2 are written, not synced. 2. The crash loses 1 and keeps 2; both are cut.
	// 3. Another frame 1 of the same size is written. Frame 2 now follows it in number and place.
	fsys := NewMem()
	log, _ := openTestLog(t, fsys)
	for index := uint64(1); index <= 2; index++ {
		mustNil(t, log.Append([]*raftpb.Entry{newEntry(1, index, []byte("old"))}, nil, false))
	}
	disk := fsys.Crash(KeepUnsynced, 0)
	overwrite(t, disk, walPath(1), pageBytes, make([]byte, pageBytes))
	log, recovered := openTestLog(t, disk)
	if recovered.LastIndex != 0 || recovered.TornBytes != 2*pageBytes {
		t.Errorf("recovered %d entries, %d bytes torn; want 0, two pages", recovered.LastIndex, recovered.TornBytes)
	}
	mustNil(t, log.Append([]*raftpb.Entry{newEntry(2, 1, []byte("new"))}, nil, true))
	_, recovered = openTestLog(t, disk.Crash(LoseUnsynced, 0))
	if recovered.LastIndex != 1 || string(recovered.Entries[0].Data) != "new" {
		t.Errorf("recovered %v; want the new entry alone", recovered.Entries)
	}
}

func TestTornAnchorLeavesTheOneBefore(t *testing.T) {
	for rounds := 1; rounds <= 4; rounds++ {
		fsys := NewMem()
		log, _ := openTestLog(t, fsys)
		for range rounds {
			put(t, log, 1, 100)
			mustNil(t, log.syncAnchor())
		}
		put(t, log, 1, 100)
		fsys.Inject(len(fsys.Ops()), FaultTorn)
		if err := log.syncAnchor(); err == nil {
			t.Fatal("the write was not torn")
		}
		anchor, _, err := readAnchor(fsys.Crash(LoseUnsynced, 0), filepath.Join(dataDir, anchorName), log.id)
		if err != nil || anchor.tip.seq < uint64(rounds) {
			t.Errorf("anchor at frame %d, %v; want %d", anchor.tip.seq, err, rounds)
		}
	}
}

func TestAcknowledgeBeforeSyncLoses(t *testing.T) {
	// Control: a caller that acknowledges without sync loses data in the crash that sync survives.
	for _, sync := range []bool{true, false} {
		fsys := NewMem()
		log, _ := openTestLog(t, fsys)
		if err := log.Append([]*raftpb.Entry{newEntry(1, 1, []byte("x"))}, nil, sync); err != nil {
			t.Fatal(err)
		}
		_, recovered := openTestLog(t, fsys.Crash(LoseUnsynced, 0))
		if found := recovered.LastIndex == 1; found != sync {
			t.Errorf("sync %v: entry found %v", sync, found)
		}
	}
}

func TestFiveDamages(t *testing.T) {
	// A closed log of three segments, damaged in the ways that other logs serve or cut.
	base := NewMem()
	log, _ := openTestLog(t, base)
	put(t, log, 10, 3000)
	if err := log.syncAnchor(); err != nil {
		t.Fatal(err)
	}
	old := base.Crash(LoseUnsynced, 0)
	base = base.Crash(LoseUnsynced, 0)
	log, _ = openTestLog(t, base)
	put(t, log, 4, 3000)
	mustClose(t, log)
	segment := func(fsys FS, number uint64) []byte {
		data, err := ReadFile(fsys, walPath(number), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for what, damage := range map[string]func(disk *Mem){
		"zeroed sector in the middle": func(d *Mem) { overwrite(t, d, walPath(1), 3*pageBytes+512, make([]byte, 512)) },
		"zeroed last frame":           func(d *Mem) { overwrite(t, d, walPath(3), 2*pageBytes, make([]byte, pageBytes)) },
		"two frames swapped": func(d *Mem) {
			data := segment(d, 1)
			overwrite(t, d, walPath(1), 2*pageBytes, data[3*pageBytes:4*pageBytes])
			overwrite(t, d, walPath(1), 3*pageBytes, data[2*pageBytes:3*pageBytes])
		},
		"older copy of the last segment": func(d *Mem) { overwrite(t, d, walPath(2), 0, segment(old, 2)) },
		"a segment removed":              func(d *Mem) { mustNil(t, d.Remove(walPath(2))) },
		"the last segment removed":       func(d *Mem) { mustNil(t, d.Remove(walPath(3))) },
		"all segments removed":           func(d *Mem) { removeAll(t, d, walPath(1), walPath(2), walPath(3)) },
		"a segment cut short":            func(d *Mem) { shorten(t, d, walPath(3), 3*pageBytes) },
		"a segment emptied":              func(d *Mem) { shorten(t, d, walPath(3), 0) },
		"both headers gone": func(d *Mem) {
			overwrite(t, d, walPath(2), 0, make([]byte, 512))
			overwrite(t, d, walPath(2), traceSegment-pageBytes, make([]byte, 512))
		},
		"a segment renamed":  func(d *Mem) { mustNil(t, d.Rename(walPath(1), walPath(4))) },
		"unreadable":         func(d *Mem) { d.FailReads(walPath(2)) },
		"anchor removed":     func(d *Mem) { mustNil(t, d.Remove(filepath.Join(dataDir, anchorName))) },
		"anchor zeroed":      func(d *Mem) { overwrite(t, d, filepath.Join(dataDir, anchorName), 0, make([]byte, anchorBytes)) },
		"anchor of a branch": func(d *Mem) { branchAnchor(t, d, log) },
	} {
		t.Run(what, func(t *testing.T) {
			disk := base.Crash(LoseUnsynced, 0)
			damage(disk)
			disk = disk.Crash(KeepUnsynced, 0)
			if what == "unreadable" {
				disk.FailReads(walPath(2))
			}
			_ = wantDamage(t, disk, what)
		})
	}
}

func mustNil(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func removeAll(t *testing.T, fsys FS, paths ...string) {
	t.Helper()
	for _, path := range paths {
		mustNil(t, fsys.Remove(path))
	}
}

func shorten(t *testing.T, fsys FS, path string, size int64) {
	t.Helper()
	data, err := ReadFile(fsys, path, 1<<20)
	mustNil(t, err)
	f, err := fsys.Create(path, filePerm)
	mustNil(t, err)
	_, err = f.WriteAt(data[:size], 0)
	mustNil(t, err)
}

// branchAnchor writes an anchor that knows another last frame.
func branchAnchor(t *testing.T, fsys FS, log *Log) {
	t.Helper()
	state := anchorState{id: log.id, generation: 99, tip: log.tip}
	state.tip.frame[0] ^= 1
	overwrite(t, fsys, filepath.Join(dataDir, anchorName), 0, state.encode())
}

func TestChecksumCollisionIsNotServed(t *testing.T) {
	// Two values with the same CRC32C are swapped on the disk, in the last frame, before the anchor
	// knows it: the SHA-256 chain refuses what the checksum accepts.
	first, _ := hex.DecodeString("e9b1302140011a58")
	second, _ := hex.DecodeString("2d9ca8df4c4db03e")
	fsys := NewMem()
	log, _ := openTestLog(t, fsys)
	mustNil(t, log.Append([]*raftpb.Entry{newEntry(1, 1, first)}, nil, true))
	disk := fsys.Crash(LoseUnsynced, 0)
	overwrite(t, disk, walPath(1), pageBytes+frameHeaderBytes+entryHeaderBytes, second)
	if damage := wantDamage(t, disk, "collision"); !strings.Contains(damage.Detail, "SHA-256") {
		t.Errorf("detail %q; the pair does not collide and the test proves nothing", damage.Detail)
	}
}

func TestOneBadHeaderIsRestored(t *testing.T) {
	for _, offset := range []int64{0, traceSegment - pageBytes} {
		fsys := NewMem()
		log, _ := openTestLog(t, fsys)
		put(t, log, 1, 1)
		mustClose(t, log)
		overwrite(t, fsys, walPath(1), offset, make([]byte, pageBytes))
		log, _ = openTestLog(t, fsys)
		mustClose(t, log)
		data, err := ReadFile(fsys, walPath(1), 1<<20)
		if err != nil || !bytes.Equal(data[:pageBytes], data[len(data)-pageBytes:]) {
			t.Errorf("header at %d was not restored (%v)", offset, err)
		}
	}
}

func TestForeignLogIsRefused(t *testing.T) {
	fsys := NewMem()
	log, _ := openTestLog(t, fsys)
	mustClose(t, log)
	for what, change := range map[string]func(*LogOptions){
		"cluster": func(o *LogOptions) { o.ClusterID[0]++ },
		"member":  func(o *LogOptions) { o.RaftID++ },
	} {
		options := logOptions(fsys)
		change(&options)
		var foreign *ForeignError
		if _, _, err := OpenLog(options); !errors.As(err, &foreign) || !strings.Contains(err.Error(), "data_dir") {
			t.Errorf("%s: err = %v, want *ForeignError with a hint", what, err)
		}
		mustNil(t, fsys.Rename(filepath.Join(dataDir, anchorName), filepath.Join(dataDir, "away")))
		if _, err := readSegment(fsys, walPath(1), 1, identity{options.ClusterID, options.RaftID}); !errors.As(err, &foreign) {
			t.Errorf("%s: segment: err = %v, want *ForeignError", what, err)
		}
		mustNil(t, fsys.Rename(filepath.Join(dataDir, "away"), filepath.Join(dataDir, anchorName)))
	}
}

func TestFullDisk(t *testing.T) {
	// A full disk: appends go on in what is prepared, then fail without harm, then work again.
	fsys := NewMem()
	log, _ := openTestLog(t, fsys)
	mustNil(t, log.prepareSpare(context.Background()))
	fsys.Limit(fsys.Used())
	put(t, log, 12, 3000) // the active segment and the prepared one
	for range 3 {
		err := log.Append([]*raftpb.Entry{newEntry(1, 13, make([]byte, 3000))}, nil, true)
		if !errors.Is(err, ErrNoSpace) {
			t.Fatalf("err = %v, want ErrNoSpace", err)
		}
	}
	if _, recovered := openTestLog(t, fsys.Crash(LoseUnsynced, 0)); recovered.LastIndex != 12 {
		t.Errorf("full disk, restart: last %d, want 12", recovered.LastIndex)
	}
}

// The disk was full at the moment when the anchor was to say that there is another segment. The next write says it first: without, the
// loss of that segment, acknowledged writes in it, would go unnoticed.
func TestSegmentIsNamedOnceThereIsRoom(t *testing.T) {
	fill := func(fsys *Mem) (log *Log, failed error) {
		log, _ = openTestLog(t, fsys)
		for index := uint64(1); len(log.segments) == 1; index++ {
			failed = log.Append([]*raftpb.Entry{newEntry(1, index, make([]byte, 5000))}, nil, true)
		}
		return log, failed
	}
	fsys := NewMem()
	log, failed := fill(fsys)
	mustNil(t, failed)
	ops := fsys.Ops()
	at := len(ops) - 1
	for at > 0 && ops[at] != (Op{"write", filepath.Join(dataDir, anchorName)}) {
		at--
	}
	fsys = NewMem()
	fsys.Inject(at, FaultNoSpace)
	last := log.tip.index
	if log, failed = fill(fsys); !errors.Is(failed, ErrNoSpace) || log.tip.index != last-1 {
		t.Fatalf("not prepared: %v, %d entries, want %d", failed, log.tip.index, last-1)
	}
	put(t, log, 1, 5000)
	mustNil(t, fsys.Remove(log.active.path))
	mustNil(t, fsys.SyncDir(filepath.Dir(log.active.path)))
	_ = wantDamage(t, fsys.Crash(LoseUnsynced, 0), "lost "+log.active.path)
}

func TestSpaceComesBack(t *testing.T) {
	for _, how := range []string{"limit lifted", "compaction"} {
		fsys := NewMem()
		log, _ := openTestLog(t, fsys)
		fsys.Limit(fsys.Used() + traceSegment)
		put(t, log, 12, 3000)
		if err := log.Append([]*raftpb.Entry{newEntry(1, 13, make([]byte, 3000))}, nil, true); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("err = %v, want ErrNoSpace", err)
		}
		if how == "compaction" {
			mustNil(t, log.Compact(12))
		} else {
			fsys.Limit(0)
		}
		put(t, log, 3, 3000)
		if _, recovered := openTestLog(t, fsys.Crash(LoseUnsynced, 0)); recovered.LastIndex != 15 {
			t.Errorf("%s: last %d, want 15", how, recovered.LastIndex)
		}
	}
}

func TestResetContinuesAfterTheSnapshot(t *testing.T) {
	for _, index := range []uint64{3, 100} { // below and beyond the last entry
		fsys := NewMem()
		log, _ := openTestLog(t, fsys)
		put(t, log, 20, 3000)
		mustNil(t, log.Reset(index, 6, [32]byte{5}, nil))
		if len(log.segments) != 1 {
			t.Errorf("%d segments after Reset, want 1", len(log.segments))
		}
		if err := log.Append([]*raftpb.Entry{newEntry(6, index, nil)}, nil, true); err == nil {
			t.Error("appended at the snapshot's own index")
		}
		mustNil(t, log.Append([]*raftpb.Entry{newEntry(6, index+1, []byte("new"))}, nil, true))
		_, r := openTestLog(t, fsys.Crash(LoseUnsynced, 0))
		if r.FirstIndex != index+1 || r.LastIndex != index+1 || r.PrevTerm != 6 || r.PrevChain != [32]byte{5} || string(r.Entries[0].Data) != "new" {
			t.Errorf("recovered %+v", r)
		}
	}
}

func TestOverwriteBelowCompactedSegments(t *testing.T) {
	// Entries 1-6 fill a segment; the next one begins after 6 and overwrites from 4 on; then 6 is
	// compacted. The log that is left begins with a frame, not with its segment's own start.
	fsys := NewMem()
	log, _ := openTestLog(t, fsys)
	put(t, log, 7, 3000)
	var again []*raftpb.Entry
	for index := uint64(4); index <= 8; index++ {
		again = append(again, newEntry(2, index, []byte("again")))
	}
	mustNil(t, log.Append(again, nil, true))
	mustNil(t, log.Compact(6))
	if len(log.segments) != 1 {
		t.Fatalf("%d segments, want 1", len(log.segments))
	}
	want, _ := log.Chain(8)
	log, r := openTestLog(t, fsys.Crash(LoseUnsynced, 0))
	if r.FirstIndex != 4 || r.LastIndex != 8 || r.PrevTerm != 1 || r.Entries[0].GetTerm() != 2 {
		t.Errorf("recovered %d to %d, previous term %d", r.FirstIndex, r.LastIndex, r.PrevTerm)
	}
	if got, _ := log.Chain(8); got != want {
		t.Errorf("chain %x, want %x", got, want)
	}
}

func TestRunKeepsTheAnchorFresh(t *testing.T) {
	// The anchor is durable within 20 ms of each sync, and a segment is always ready.
	synctest.Test(t, func(t *testing.T) {
		fsys := NewMem()
		log, _ := openTestLog(t, fsys)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- log.Run(ctx) }()
		for range 20 {
			put(t, log, 1, 3000)
			time.Sleep(20 * time.Millisecond)
			synctest.Wait()
			anchor, _, err := readAnchor(fsys, filepath.Join(dataDir, anchorName), log.id)
			if err != nil || anchor.tip != log.tip {
				t.Fatalf("anchor at frame %d of %d, %v", anchor.tip.seq, log.tip.seq, err)
			}
			if len(log.mu.spares) == 0 {
				t.Fatal("no segment ready")
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
		mustClose(t, log)
	})
}

func TestRunEndsWithAFatalError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := NewMem()
		log, _ := openTestLog(t, fsys)
		ended := make(chan error, 1)
		go func() { ended <- log.Run(t.Context()) }()
		synctest.Wait()
		fsys.Inject(len(fsys.Ops())+1, FaultIO) // the sync of the next append
		err := log.Append([]*raftpb.Entry{newEntry(1, 1, nil)}, nil, true)
		var fatal *FatalError
		if !errors.As(err, &fatal) || fatal.Op != "sync" {
			t.Fatalf("err = %v, want a *FatalError of sync", err)
		}
		for what, got := range map[string]error{
			"Run":     <-ended,
			"Append":  log.Append(nil, nil, true),
			"Compact": log.Compact(0),
			"Reset":   log.Reset(1, 1, [32]byte{}, nil),
			"Close":   log.Close(),
		} {
			if !errors.Is(got, fatal) {
				t.Errorf("%s after the failed sync = %v, want %v", what, got, fatal)
			}
		}
	})
}

func TestRunOutlastsAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := NewMem()
		log, _ := openTestLog(t, fsys)
		fsys.Limit(fsys.Used())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- log.Run(ctx) }()
		time.Sleep(time.Minute)
		fsys.Limit(0)
		time.Sleep(spaceRetry + time.Millisecond)
		synctest.Wait()
		if len(log.mu.spares) != 1 {
			t.Errorf("%d segments ready after space came back, want 1", len(log.mu.spares))
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}

func TestCloseTwice(t *testing.T) {
	log, _ := openTestLog(t, NewMem())
	mustClose(t, log)
	mustClose(t, log)
	if err := log.Append(nil, nil, true); !errors.Is(err, ErrClosed) {
		t.Errorf("Append after Close = %v, want ErrClosed", err)
	}
}

func TestSparesAreBounded(t *testing.T) {
	fsys := NewMem()
	log, _ := openTestLog(t, fsys)
	put(t, log, 60, 3000)
	mustNil(t, log.Compact(60))
	mustClose(t, log)
	names, err := listPrefix(fsys, filepath.Join(dataDir, "wal"), sparePrefix)
	if err != nil || len(names) != maxSpares {
		t.Errorf("spares %v, %v; want %d", names, err, maxSpares)
	}
	log, _ = openTestLog(t, fsys)
	if len(log.mu.spares) != maxSpares {
		t.Errorf("%d spares adopted, want %d", len(log.mu.spares), maxSpares)
	}
}

func TestLogOptions(t *testing.T) {
	for _, size := range []int64{-4096, 1, minSegmentBytes - pageBytes, minSegmentBytes + 1, maxSegmentBytes + pageBytes} {
		options := logOptions(NewMem())
		options.SegmentBytes = size
		if _, _, err := OpenLog(options); err == nil {
			t.Errorf("SegmentBytes %d accepted", size)
		}
	}
	if _, _, err := OpenLog(LogOptions{FS: NewMem(), Dir: dataDir}); err == nil {
		t.Error("raft id 0 accepted")
	}
}

func TestOSFileSystem(t *testing.T) {
	// The same log on the machine's own file system, with real segments, across three starts.
	options := logOptions(OS())
	options.Dir, options.SegmentBytes = t.TempDir(), 1<<20
	for start := range 3 {
		log, recovered, err := OpenLog(options)
		mustNil(t, err)
		if want := uint64(start * 50); recovered.LastIndex != want {
			t.Fatalf("start %d: last %d, want %d", start, recovered.LastIndex, want)
		}
		put(t, log, 50, 40_000)
		mustNil(t, log.Compact(log.tip.index-10))
		if start == 2 {
			mustClose(t, log)
			continue
		}
		mustNil(t, log.closeFiles())
	}
}

// chainAt is the chain at index, for comparisons.
func (l *Log) chainAt(t *testing.T, index uint64) string {
	t.Helper()
	chain, ok := l.Chain(index)
	if !ok {
		t.Fatalf("no chain at %d", index)
	}
	return fmt.Sprintf("%x", chain)
}
