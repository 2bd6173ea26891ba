package storage

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

func scrubOptions(fsys FS) ScrubOptions {
	return ScrubOptions{FS: fsys, Dir: dataDir, ClusterID: traceCluster, RaftID: 7}
}

func mustScrub(t *testing.T, o ScrubOptions) ScrubReport {
	t.Helper()
	report, err := Scrub(context.Background(), o)
	mustNil(t, err)
	return report
}

// scrubDisk is a disk with three segments, an anchor and two snapshots, closed cleanly.
func scrubDisk(t *testing.T) *Mem {
	t.Helper()
	fsys := NewMem()
	log, _ := openTestLog(t, fsys)
	put(t, log, 10, 5000)
	mustClose(t, log)
	s := openTestSnapshots(t, fsys)
	saveBody(t, s, 4)
	saveBody(t, s, 9)
	return fsys
}

// anchorSlots says where the slots of the anchor are.
func anchorSlots(t *testing.T, fsys *Mem) (newest, older int64) {
	t.Helper()
	a, found, err := readAnchor(fsys, filepath.Join(dataDir, anchorName), identity{traceCluster, 7})
	if mustNil(t, err); !found {
		t.Fatal("no anchor")
	}
	newest = anchorOffset(a.generation)
	return newest, pageBytes - newest
}

func files(fsys *Mem, part string) []string {
	var found []string
	for _, path := range slices.Sorted(maps.Keys(fsys.mu.names)) {
		if strings.Contains(path, part) {
			found = append(found, path)
		}
	}
	return found
}

// A flipped bit in each kind of file is found, and named with file and offset; without one nothing is.
func TestScrubFindsAFlipInEachFileKind(t *testing.T) {
	manifests, chunks := files(scrubDisk(t), ".manifest"), files(scrubDisk(t), "chunks/")
	_, older := anchorSlots(t, scrubDisk(t))
	for _, tt := range []struct {
		what, path  string
		flip, names int64
		says        string
	}{
		{"nothing", walPath(1), -1, 0, ""},
		{"first header", walPath(1), 20, 0, "header"},
		{"padding of the first header", walPath(1), 3000, 0, "header"},
		{"last header", walPath(1), traceSegment - pageBytes + 70, traceSegment - pageBytes, "header"},
		{"frame header", walPath(1), pageBytes + 70, pageBytes, "frame 1 is missing or damaged"},
		{"entry", walPath(1), 3*pageBytes + 300, 3 * pageBytes, "frame 2: entries do not have the checksum"},
		{"entry of the last segment", walPath(4), pageBytes + 300, pageBytes, "frame 10: entries"},
		{"frame of the last segment", walPath(4), pageBytes + 5, pageBytes, "the anchor says that frame 10 was durable"},
		{"older anchor slot", filepath.Join(dataDir, anchorName), older + 100, older, "slot is not intact"},
		{"manifest", manifests[0], 60, 0, "wrong checksum"},
		{"newest manifest", manifests[1], 5, 0, "no manifest"},
		{"chunk", chunks[0], 10, 0, "do not have the hash"},
	} {
		fsys := scrubDisk(t)
		if tt.flip >= 0 {
			fsys.Flip(tt.path, tt.flip, 0x10)
		}
		report := mustScrub(t, scrubOptions(fsys))
		if tt.flip < 0 {
			if report.Errors != 0 || report.Segments != 4 || report.Entries != 10 || report.Snapshots != 2 {
				t.Errorf("clean: %+v", report)
			}
			continue
		}
		want := ScrubProblem{File: tt.path, Offset: tt.names}
		if len(report.Problems) != 1 || report.Errors != 1 {
			t.Errorf("%s: %+v, want one problem", tt.what, report)
			continue
		}
		got := report.Problems[0]
		if message := got.Message; !strings.Contains(message, tt.says) {
			t.Errorf("%s: message %q, want %q in it", tt.what, message, tt.says)
		}
		if got.Message = ""; got != want {
			t.Errorf("%s: %+v, want %+v", tt.what, got, want)
		}
	}
}

// No byte that counts goes unread: a flip anywhere in the used part of the log is found, open or closed.
func TestScrubReadsEveryByte(t *testing.T) {
	fsys := scrubDisk(t)
	log, _ := openTestLog(t, fsys)
	closed, open := scrubOptions(fsys), scrubOptions(fsys)
	open.Log = log
	for offset := int64(0); offset < traceSegment; offset += 53 {
		frame := (offset - pageBytes) % (2 * pageBytes)
		if inside := offset >= pageBytes && offset < traceSegment-pageBytes; inside && frame >= frameHeaderBytes+entryHeaderBytes+5000 {
			continue // between the end of a frame and its next page
		}
		fsys.Flip(walPath(2), offset, 1)
		for what, o := range map[string]ScrubOptions{"closed": closed, "open": open} {
			if report := mustScrub(t, o); report.Errors == 0 {
				t.Errorf("%s: the flip at %d was not found", what, offset)
			}
		}
		fsys.Flip(walPath(2), offset, 1)
	}
	for what, o := range map[string]ScrubOptions{"closed": closed, "open": open} {
		if report := mustScrub(t, o); report.Errors != 0 {
			t.Errorf("%s, control: %+v", what, report)
		}
	}
}

// Beside a log in use both anchor slots have to be good. Of a log that nobody uses the newest may be
// bad, when the other one does not say that the log was closed: a crash leaves the same.
func TestScrubJudgesAnchorSlots(t *testing.T) {
	fsys := scrubDisk(t)
	anchor := filepath.Join(dataDir, anchorName)
	newest, older := anchorSlots(t, fsys)
	fsys.Flip(anchor, newest+7, 1)
	if report := mustScrub(t, scrubOptions(fsys)); report.Errors != 0 {
		t.Errorf("newest slot of a closed log: %+v", report)
	}
	fsys.Flip(anchor, older+100, 1)
	if report := mustScrub(t, scrubOptions(fsys)); report.Errors != 2 {
		t.Errorf("both slots: %+v", report)
	}
	fsys = scrubDisk(t)
	o := scrubOptions(fsys)
	o.Log, _ = openTestLog(t, fsys)
	for _, offset := range []int64{100, pageBytes + 7} {
		fsys.Flip(anchor, offset, 1)
		if report := mustScrub(t, o); report.Errors != 1 {
			t.Errorf("slot at %d in use: %+v", offset, report)
		}
		fsys.Flip(anchor, offset, 1)
	}
}

// Files that are gone are named, by a closed scrub and beside the log and snapshots in use.
func TestScrubNamesMissingFiles(t *testing.T) {
	chunk := files(scrubDisk(t), "chunks/")[0]
	for _, path := range []string{walPath(1), walPath(2), walPath(4), filepath.Join(dataDir, anchorName), chunk} {
		for _, inUse := range []bool{false, true} {
			fsys := scrubDisk(t)
			o := scrubOptions(fsys)
			if inUse {
				o.Log, _ = openTestLog(t, fsys)
				o.Snapshots = openTestSnapshots(t, fsys)
			}
			mustNil(t, fsys.Remove(path))
			switch report := mustScrub(t, o); {
			case path == walPath(1) && !inUse: // the log may begin anywhere: compaction removes the oldest
			case strings.HasSuffix(path, anchorName) && inUse: // it is held open, and written again
			case report.Errors == 0:
				t.Errorf("%s, in use %t: not found missing", path, inUse)
			}
		}
	}
}

// What a power cut leaves behind is no damage, wherever it falls: a torn tail is for recovery to cut.
func TestScrubTakesNoCrashForDamage(t *testing.T) {
	eachOp(t, func(t *testing.T, n int, op Op) {
		w, _ := faulty(n, FaultTorn, false)
		for _, mode := range crashModes {
			disk := w.fs.Crash(mode, uint64(n))
			if report := mustScrub(t, scrubOptions(disk)); report.Errors != 0 {
				t.Fatalf("operation %d %v, mode %d: %+v", n, op, mode, report)
			}
		}
	})
}

// Beside a writer under load, with segments and snapshots that come and go, a scrub finds nothing; the
// control is a flip in the middle of it.
func TestScrubBesideAWriter(t *testing.T) {
	fsys := NewMem()
	log, _ := openTestLog(t, fsys)
	snapshots := openTestSnapshots(t, fsys)
	o := scrubOptions(fsys)
	o.Log, o.Snapshots = log, snapshots
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- writeUntil(stop, log, snapshots) }()
	segments := 0
	for range 200 {
		report := mustScrub(t, o)
		if report.Errors != 0 {
			t.Fatalf("beside a writer: %+v", report)
		}
		segments += report.Segments
	}
	close(stop)
	mustNil(t, <-ended)
	if segments < 200 {
		t.Errorf("%d segments in 200 scrubs", segments)
	}
	put(t, log, 1, 5000)
	fsys.Flip(log.active.path, log.active.offset-8000, 1)
	if report := mustScrub(t, o); report.Errors == 0 || report.Problems[0].File != log.active.path {
		t.Errorf("control: %+v", report)
	}
}

// writeUntil appends, overwrites, compacts and saves snapshots until stop.
func writeUntil(stop chan struct{}, log *Log, snapshots *Snapshots) error {
	for n := uint64(1); ; n++ {
		select {
		case <-stop:
			return nil
		default:
		}
		entry := newEntry(1, n, bytes.Repeat([]byte{byte(n)}, int(n%6000)))
		if err := log.Append([]*raftpb.Entry{entry}, nil, n%3 != 0); err != nil {
			return err
		}
		if n%10 != 0 {
			continue
		}
		chain, _ := log.Chain(n - 5)
		if _, err := snapshots.Save(testMeta(n-5, chain), writeBody(n)); err != nil {
			return err
		}
		if err := log.Compact(n - 5); err != nil {
			return err
		}
	}
}

// A snapshot that was found damaged at the start counts until a new one takes its place.
func TestScrubCountsWhatWasPassedOver(t *testing.T) {
	fsys := scrubDisk(t)
	fsys.Flip(files(fsys, ".manifest")[1], 60, 1)
	o := scrubOptions(fsys)
	o.Log, _ = openTestLog(t, fsys)
	o.Snapshots = openTestSnapshots(t, fsys)
	if report := mustScrub(t, o); report.Errors != 1 || report.Snapshots != 1 {
		t.Errorf("damaged newest snapshot: %+v", report)
	}
	saveBody(t, o.Snapshots, 20)
	if report := mustScrub(t, o); report.Errors != 0 {
		t.Errorf("after a new snapshot: %+v", report)
	}
}

// The rate is kept: reading takes at least as long as the limit says, and not much longer.
func TestScrubRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := scrubOptions(scrubDisk(t))
		o.BytesPerSecond = 10_000
		began := time.Now()
		report := mustScrub(t, o)
		took, want := time.Since(began), time.Duration(report.Bytes)*time.Second/10_000
		if report.Bytes < 50_000 || took < want-time.Millisecond || took > want+time.Second {
			t.Errorf("%d bytes took %s, want %s", report.Bytes, took, want)
		}
	})
}

// The end of the context ends the scrub, in the middle of a file as well.
func TestScrubStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := scrubOptions(scrubDisk(t))
		o.BytesPerSecond = 1000
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if report, err := Scrub(ctx, o); err == nil {
			t.Errorf("got %+v and no error", report)
		}
	})
}

// A report counts all and lists the first hundred.
func TestScrubListsAHundred(t *testing.T) {
	fsys := NewMem()
	log, _ := openTestLog(t, fsys)
	put(t, log, maxScrubProblems+50, 100)
	mustClose(t, log)
	for _, path := range files(fsys, segmentSuffix) {
		for page := int64(1); page < 7; page++ {
			fsys.Flip(path, page*pageBytes+250, 1)
		}
	}
	report := mustScrub(t, scrubOptions(fsys))
	if report.Errors != maxScrubProblems+50 || len(report.Problems) != maxScrubProblems {
		t.Errorf("%d errors, %d listed", report.Errors, len(report.Problems))
	}
}

// An agent outside the core has no log: only what is there is looked at.
func TestScrubWithoutALog(t *testing.T) {
	o := scrubOptions(NewMem())
	o.RaftID = 0
	if report := mustScrub(t, o); fmt.Sprint(report) != fmt.Sprint(ScrubReport{}) {
		t.Errorf("%+v", report)
	}
	o.RaftID = 7
	if report := mustScrub(t, o); report.Errors != 0 {
		t.Errorf("a log that was not made yet: %+v", report)
	}
}

// What the disk cannot read is a problem of that file, and hides nothing in the others.
func TestScrubReadErrors(t *testing.T) {
	clean := scrubDisk(t)
	for _, path := range []string{walPath(2), filepath.Join(dataDir, anchorName), files(clean, ".manifest")[0], files(clean, "chunks/")[0]} {
		fsys := scrubDisk(t)
		fsys.FailReads(path)
		fsys.Flip(walPath(4), pageBytes+300, 1)
		report := mustScrub(t, scrubOptions(fsys))
		named := func(want string) bool {
			return slices.ContainsFunc(report.Problems, func(p ScrubProblem) bool { return p.File == want })
		}
		if !named(path) || !named(walPath(4)) && path != filepath.Join(dataDir, anchorName) {
			t.Errorf("%s cannot be read: %+v", path, report)
		}
	}
}

// Whatever a bit does to the log: what makes OpenLog refuse it is found by a scrub before.
func TestScrubAgreesWithOpenLog(t *testing.T) {
	refused, found := 0, 0
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 7))
		fsys := scrubDisk(t)
		paths := append(files(fsys, segmentSuffix), files(fsys, anchorName)...)
		for range 1 + random.IntN(3) {
			path := paths[random.IntN(len(paths))]
			fsys.Flip(path, random.Int64N(int64(fsys.mu.names[path].data.size)), byte(1)<<random.IntN(8))
		}
		report := mustScrub(t, scrubOptions(fsys))
		if report.Errors > 0 {
			found++
		}
		if _, _, err := OpenLog(logOptions(fsys)); err != nil {
			if refused++; report.Errors == 0 {
				t.Errorf("seed %d: the scrub found nothing, OpenLog says: %v", seed, err)
			}
		}
	}
	if refused < 50 || found == 300 {
		t.Errorf("%d of 300 were refused and %d found: too few or too many to mean anything", refused, found)
	}
}
