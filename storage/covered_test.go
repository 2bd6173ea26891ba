package storage

import (
	"testing"
)

// coveredLog is a closed log of several segments, in whose second and third begins what no snapshot covers.
func coveredLog(t *testing.T) (fsys *Mem, covered uint64) {
	t.Helper()
	fsys = NewMem()
	log, _ := openTestLog(t, fsys)
	put(t, log, 20, 5000)
	if len(log.segments) < 4 {
		t.Fatalf("%d segments", len(log.segments))
	}
	covered = log.segments[2].start.index + 1
	mustClose(t, log)
	return fsys, covered
}

func openCovered(t *testing.T, fsys FS, covered uint64) (*Log, Recovered) {
	t.Helper()
	o := logOptions(fsys)
	o.Covered = covered
	log, recovered, err := OpenLog(o)
	if err != nil {
		t.Fatal(err)
	}
	return log, recovered
}

// Of a log that a snapshot covers in part, the segments are read that hold what comes behind it. It is the same log otherwise:
// it goes on, its chain is the same, and a compaction lets the segments go that were passed over.
func TestCoveredSegmentsArePassedOver(t *testing.T) {
	fsys, covered := coveredLog(t)
	whole, all := openTestLog(t, fsys)
	mustClose(t, whole)
	log, recovered := openCovered(t, fsys, covered)
	from := log.segments[2].start.index
	if recovered.FirstIndex != from+1 || recovered.LastIndex != 20 || len(recovered.Entries) != int(20-from) {
		t.Fatalf("recovered %d entries, %d to %d, behind %d", len(recovered.Entries), recovered.FirstIndex, recovered.LastIndex, from)
	}
	if all.FirstIndex != 1 || len(all.Entries) != 20 {
		t.Errorf("control: without a snapshot %d entries from %d", len(all.Entries), all.FirstIndex)
	}
	for index := from; index <= 20; index++ {
		if got, want := log.chainAt(t, index), whole.chainAt(t, index); got != want {
			t.Errorf("chain at %d: %s, want %s", index, got, want)
		}
	}
	if before, _ := whole.Chain(from); recovered.PrevChain != before {
		t.Error("another chain before the first entry")
	}
	put(t, log, 3, 5000)
	if report := mustScrub(t, scrubOf(fsys, log)); report.Errors != 0 || report.Segments != len(log.segments) {
		t.Errorf("scrubbed %d of %d segments, %v", report.Segments, len(log.segments), report.Problems)
	}
	mustNil(t, log.Compact(covered))
	if first := log.segments[0]; first.number != 3 || len(files(fsys, walPath(1))) != 0 {
		t.Errorf("after a compaction the log begins with segment %d", first.number)
	}
	mustClose(t, log)
	if again, recovered := openTestLog(t, fsys); recovered.LastIndex != 23 || again.tip.seq != log.tip.seq {
		t.Errorf("reopened it ends with %d", recovered.LastIndex)
	}
}

func scrubOf(fsys FS, log *Log) ScrubOptions {
	o := scrubOptions(fsys)
	o.Log = log
	return o
}

// Damage in what is passed over is found by the next scrub. In what has to be read it is refused as ever, and so is whatever is wrong with
// the headers and names of the segments before.
func TestDamageBesideCoveredSegments(t *testing.T) {
	for what, tt := range map[string]struct {
		segment uint64
		offset  int64
		refused bool
	}{
		"a frame that is covered":             {1, pageBytes + 300, false},
		"a frame of the segment before":       {2, pageBytes + 300, false},
		"a frame of the first that is read":   {3, pageBytes + 300, true},
		"both headers of one that is covered": {2, 20, true},
	} {
		t.Run(what, func(t *testing.T) {
			fsys, covered := coveredLog(t)
			overwrite(t, fsys, walPath(tt.segment), tt.offset, []byte{0xee, 0xee, 0xee})
			if tt.offset < pageBytes {
				overwrite(t, fsys, walPath(tt.segment), int64(traceSegment)-pageBytes+tt.offset, []byte{0xee, 0xee, 0xee})
			}
			_ = wantDamage(t, fsys, "control: all is read")
			o := logOptions(fsys)
			o.Covered = covered
			log, _, err := OpenLog(o)
			if (err != nil) != tt.refused {
				t.Fatalf("err = %v, want one: %v", err, tt.refused)
			}
			if err == nil {
				if report := mustScrub(t, scrubOf(fsys, log)); report.Errors == 0 {
					t.Error("the scrub finds nothing")
				}
			}
		})
	}
	fsys, covered := coveredLog(t)
	mustNil(t, fsys.Remove(walPath(2)))
	o := logOptions(fsys)
	o.Covered = covered
	if _, _, err := OpenLog(o); err == nil {
		t.Error("a segment is missing, and the log opens")
	}
}

// What the anchor says counts for a log that is covered as for any other: an end that is missing is damage. An anchor from before
// what would be read, and a header that was bad at one end, have all read.
func TestCoveredLogIsHeldAgainstItsAnchor(t *testing.T) {
	fsys, covered := coveredLog(t)
	log, _ := openCovered(t, fsys, covered)
	last, end := log.active.path, log.active.offset
	mustClose(t, log)
	overwrite(t, fsys, last, end-2*pageBytes, make([]byte, 2*pageBytes))
	o := logOptions(fsys)
	o.Covered = covered
	if _, _, err := OpenLog(o); err == nil {
		t.Error("the end is missing, and the log opens")
	}

	fsys, covered = coveredLog(t)
	overwrite(t, fsys, walPath(1), 20, []byte{0xee})
	if _, recovered := openCovered(t, fsys, covered); recovered.FirstIndex != 1 {
		t.Errorf("a header is bad at one end: recovered from %d", recovered.FirstIndex)
	}
	r := &recovery{log: &Log{fs: fsys, id: identity{traceCluster, 7}, covered: covered, spares: spares{dir: dataDir + "/wal"}}}
	if rest := r.passOver([]uint64{1, 2, 3, 4}, anchorState{}); len(rest) != 4 {
		t.Errorf("the anchor is of before all, and %v would be read", rest)
	}
}
