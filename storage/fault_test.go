package storage

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
)

var crashModes = []CrashMode{LoseUnsynced, KeepUnsynced, LosePart, GarblePart}

// eachOp runs check for every operation of the trace, half of them on each core.
func eachOp(t *testing.T, check func(t *testing.T, n int, op Op)) {
	t.Helper()
	ops := traceOps(t)
	for half := range 2 {
		t.Run(fmt.Sprint(half), func(t *testing.T) {
			t.Parallel()
			for n := half; n < len(ops); n += 2 * raceStride {
				check(t, n, ops[n])
			}
		})
	}
}

// faulty runs the trace on a new disk with one fault.
func faulty(n int, fault Fault, retry bool) (*world, error) {
	fsys := NewMem()
	fsys.Inject(n, fault)
	w := newWorld(fsys)
	return w, w.run(retry)
}

func TestCrashAtEveryOperation(t *testing.T) {
	// Power is cut at each operation, or in the middle of each write; what was acknowledged is found.
	eachOp(t, func(t *testing.T, n int, op Op) {
		for _, fault := range []Fault{FaultCrash, FaultTorn} {
			w, err := faulty(n, fault, false)
			if !errors.Is(err, ErrCrashed) {
				t.Fatalf("operation %d %v: %v, want a crash", n, op, err)
			}
			for _, mode := range crashModes {
				disk := w.fs.Crash(mode, uint64(n))
				what := fmt.Sprintf("operation %d %v, fault %d, mode %d", n, op, fault, mode)
				w.mustHold(t, disk, what)
				w.mustHold(t, disk.Crash(LoseUnsynced, 0), what+", and again after recovery")
			}
		}
	})
}

func TestCrashDuringRecovery(t *testing.T) {
	// Recovery itself is cut at each of its operations, and the next one finds the same.
	for _, n := range []int{60, 150, 201, 333} {
		w, _ := faulty(n, FaultTorn, false)
		for _, mode := range crashModes {
			for k := 0; ; k++ {
				disk := w.fs.Crash(mode, uint64(n))
				disk.Inject(k, FaultTorn)
				f := restart(disk)
				if f.logErr == nil && f.snapErr == nil {
					break
				}
				w.mustHold(t, disk.Crash(LosePart, uint64(k)), fmt.Sprintf("operation %d, mode %d, recovery operation %d", n, mode, k))
			}
		}
	}
}

func TestNoSpaceAtEveryOperation(t *testing.T) {
	// ENOSPC at each operation: the call fails or the log does without, the retry works, nothing is lost.
	eachOp(t, func(t *testing.T, n int, op Op) {
		w, err := faulty(n, FaultNoSpace, true)
		if err != nil {
			t.Fatalf("operation %d %v: %v, want the retry to work", n, op, err)
		}
		w.mustHold(t, w.fs, fmt.Sprintf("operation %d %v", n, op))
	})
}

func TestIOErrorAtEveryOperation(t *testing.T) {
	// EIO at each operation ends the process. A restart on the same kernel, whose page cache holds
	// clean pages that never reached the disk, must not build on them: after a power cut all is there.
	eachOp(t, func(t *testing.T, n int, op Op) {
		what := fmt.Sprintf("operation %d %v", n, op)
		w, err := faulty(n, FaultIO, false)
		if err == nil && op.Kind != "remove" {
			t.Fatalf("%s: no error", what)
		}
		var fatal *FatalError
		isSync := op.Kind == "sync" || op.Kind == "syncdir"
		if err != nil && (isSync || strings.HasSuffix(op.Path, segmentSuffix)) && !errors.As(err, &fatal) {
			t.Fatalf("%s: %v, want a *FatalError", what, err)
		}
		if fatal != nil && w.snaps != nil && !strings.Contains(fatal.Path, "snap") {
			if again := w.log.Append(nil, nil, true); !errors.Is(again, fatal) {
				t.Fatalf("%s: the log goes on with %v after %v", what, again, err)
			}
		}
		if n%4 == 0 {
			copied, _ := faulty(n, FaultIO, false)
			copied.mustHold(t, copied.fs.Crash(LosePart, 1), what+", power cut at once")
		}
		w.mustHold(t, w.fs, what+", process restarted")
		w.mustHold(t, w.fs.Crash(LoseUnsynced, 0), what+", restarted, then power cut")
	})
}

func TestLostSyncAtEverySync(t *testing.T) {
	// A sync that lies, then a power cut: acknowledged data is there, or its loss is reported. It may
	// go unnoticed only while the anchor does not cover it, or when the lie was about the anchor.
	ops := traceOps(t)
	unnoticed, noticed := 0, 0
	for n, op := range ops {
		if op.Kind != "sync" && op.Kind != "syncdir" {
			continue
		}
		for _, later := range []int{1, 3, 9, 27} {
			fsys := NewMem()
			fsys.Inject(n, FaultLostSync)
			fsys.Inject(n+later, FaultCrash)
			w := newWorld(fsys)
			_ = w.run(false)
			f := restart(fsys.Crash(LoseUnsynced, 0))
			what := fmt.Sprintf("operation %d %v, power cut %d later", n, op, later)
			if w.judgeLie(t, f, op, what) {
				noticed++
			} else {
				unnoticed++
			}
		}
	}
	t.Logf("%d noticed or harmless, %d unnoticed", noticed, unnoticed)
}

// judgeLie checks a restart after a lie; it returns false for a loss that went unnoticed as it may.
func (w *world) judgeLie(t *testing.T, f found, op Op, what string) bool {
	t.Helper()
	w.mustBeHonest(t, f, what)
	if f.logErr != nil || f.snapErr != nil {
		return true
	}
	if w.matchLog(f.recovered, w.allowed) >= 0 && w.matchSnap(f, w.snapAllowed) >= 0 {
		return true
	}
	anchorLie := strings.HasSuffix(op.Path, anchorName) || op.Path == dataDir
	if w.matchLog(f.recovered, w.anchored) < 0 && !anchorLie {
		t.Fatalf("%s: lost what the anchor covers: found up to %d, %d is anchored", what, f.recovered.LastIndex, w.history[w.anchored].last())
	}
	if !f.recovered.Unclean {
		t.Fatalf("%s: a loss in a log that counts as clean", what)
	}
	return false
}

// mustBeHonest fails if a restart served something that never was, or refused for another reason than
// damage.
func (w *world) mustBeHonest(t *testing.T, f found, what string) {
	t.Helper()
	var damage *DamageError
	if f.logErr != nil && !errors.As(f.logErr, &damage) || f.snapErr != nil && !errors.As(f.snapErr, &damage) {
		t.Fatalf("%s: log %v, snapshot %v; want *DamageError", what, f.logErr, f.snapErr)
	}
	if f.logErr == nil && w.matchLog(f.recovered, 0) < 0 {
		t.Fatalf("%s: served a log that never was: entries %d to %d", what, f.recovered.FirstIndex, f.recovered.LastIndex)
	}
	if f.snapErr == nil && w.matchSnap(f, 0) < 0 {
		t.Fatalf("%s: served a snapshot that never was: %d", what, f.meta.Index)
	}
}

func TestBitFlipAtEveryOperation(t *testing.T) {
	// After each operation the process is killed and one bit of every third file turns: what was anchored is
	// served intact or refused.
	eachOp(t, func(t *testing.T, n int, op Op) {
		w, _ := faulty(n, FaultCrash, false)
		for i, path := range w.fs.Crash(KeepUnsynced, 0).Paths() {
			if (n+i)%3 != 0 {
				continue // the next operations flip in the others
			}
			disk := w.fs.Crash(KeepUnsynced, 0)
			data, err := ReadFile(disk, path, 1<<20)
			if err != nil || len(data) == 0 {
				continue
			}
			offset := (n*7919 + i*104729) % len(data)
			if live := len(data) / 2; n%2 == 0 { // more often where frames are
				offset %= live + 1
			}
			disk.Flip(path, int64(offset), 1<<(n%8))
			f := restart(disk)
			what := fmt.Sprintf("operation %d %v, flip in %s at %d", n, op, path, offset)
			w.mustBeHonest(t, f, what)
			if f.logErr == nil && w.matchLog(f.recovered, w.anchored) < 0 {
				t.Fatalf("%s: lost what the anchor covers", what)
			}
		}
	})
}

func TestBitFlipAtRest(t *testing.T) {
	// Every 29th byte of every file of a closed log: never a wrong or a shorter log, never a panic.
	w := newWorld(NewMem())
	if err := w.run(false); err != nil {
		t.Fatal(err)
	}
	refused, fine := 0, 0
	closed := w.fs.Crash(LoseUnsynced, 0)
	for _, path := range closed.Paths() {
		data, err := ReadFile(closed, path, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for offset := 0; offset < len(data); offset += 29 * raceStride {
			disk := w.fs.Crash(LoseUnsynced, 0)
			disk.Flip(path, int64(offset), 1<<(offset%8))
			f := restart(disk)
			what := fmt.Sprintf("flip in %s at %d", path, offset)
			w.mustBeHonest(t, f, what)
			switch {
			case f.logErr != nil || f.snapErr != nil:
				refused++
			case w.matchLog(f.recovered, w.allowed) < 0:
				t.Fatalf("%s: served a shorter log", what)
			default:
				fine++
			}
		}
	}
	if refused == 0 || fine == 0 {
		t.Errorf("%d refused, %d without effect; want some of both", refused, fine)
	}
	t.Logf("%d refused, %d without effect", refused, fine)
}

// TestFailSoon: of the operations of a kind the one that was asked for fails, once; a crash ends the wait.
func TestFailSoon(t *testing.T) {
	m, happened := NewMem(), 0
	f, err := m.Create("/f", filePerm)
	if err != nil {
		t.Fatal(err)
	}
	write := func() error { _, err := f.WriteAt([]byte("x"), 0); return err }
	m.FailSoon("write", 1, FaultIO, func() { happened++ })
	if err := errors.Join(f.Sync(), write(), f.Sync()); err != nil || happened != 0 {
		t.Fatalf("too early: %v, %d", err, happened)
	}
	if err := write(); !errors.Is(err, syscall.EIO) || happened != 1 {
		t.Errorf("the second write: %v, %d", err, happened)
	}
	if err := write(); err != nil {
		t.Errorf("the third: %v", err)
	}
	m.FailSoon("read", 0, FaultIO, func() { happened++ })
	if err := write(); err != nil {
		t.Errorf("a write while a read shall fail: %v", err)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, syscall.EIO) || happened != 2 {
		t.Errorf("the read: %v, %d", err, happened)
	}
	m.FailSoon("", 0, FaultCrash, func() { happened++ })
	if err := f.Sync(); !errors.Is(err, ErrCrashed) || !m.Crashed() || happened != 3 {
		t.Errorf("the power cut: %v, %v, %d", err, m.Crashed(), happened)
	}
	next := m.Crash(GarblePart, 1)
	next.FailSoon("write", 5, FaultIO, func() { happened++ })
	if again := next.Crash(KeepUnsynced, 0); again.Crashed() || again.Size("/f") != 1 {
		t.Errorf("after the crash: %v, %d bytes", again.Crashed(), again.Size("/f"))
	}
}
