package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestWriteFileAtomic(t *testing.T) {
	// Cut at each operation, in each way: the old content or the new one, and the new one once told.
	for _, mode := range crashModes {
		for n := 0; ; n++ {
			fsys := NewMem()
			mustNil(t, fsys.MkdirAll("/d", dirPerm))
			mustNil(t, WriteFileAtomic(fsys, "/d/f", []byte("old"), filePerm))
			fsys.Inject(len(fsys.Ops())+n, FaultTorn)
			err := WriteFileAtomic(fsys, "/d/f", []byte("new"), filePerm)
			got, readErr := ReadFile(fsys.Crash(mode, uint64(n)), "/d/f", 10)
			if text := string(got); readErr != nil || text != "new" && (err == nil || text != "old") {
				t.Errorf("mode %d, operation %d: %q, %v after %v", mode, n, text, readErr, err)
			}
			if err == nil {
				break
			}
		}
	}
}

func TestWriteFileAtomicErrors(t *testing.T) {
	write := func(n int, fault Fault) error {
		fsys := NewMem()
		fsys.Inject(n, fault)
		return WriteFileAtomic(fsys, "/f", []byte("x"), filePerm)
	}
	var fatal *FatalError
	for n, op := range []string{"create", "write", "sync", "rename", "syncdir"} {
		err := write(n, FaultIO)
		if isFatal := errors.As(err, &fatal); err == nil || isFatal != strings.HasPrefix(op, "sync") {
			t.Errorf("EIO on %s: %v", op, err)
		}
		if err := write(n, FaultNoSpace); !strings.HasPrefix(op, "sync") && !errors.Is(err, ErrNoSpace) {
			t.Errorf("ENOSPC on %s: %v", op, err)
		}
	}
}

func TestWriteFileAtomicOnDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, text := range []string{"first, and longer", "second"} {
		mustNil(t, WriteFileAtomic(OS(), path, []byte(text), 0o600))
		got, err := os.ReadFile(path)
		if err != nil || string(got) != text {
			t.Errorf("%q, %v; want %q", got, err, text)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestReadFileIsBounded(t *testing.T) {
	fsys := NewMem()
	mustNil(t, WriteFileAtomic(fsys, "/f", make([]byte, 11), filePerm))
	if _, err := ReadFile(fsys, "/f", 10); !errors.Is(err, errTooLong) {
		t.Errorf("err = %v, want errTooLong", err)
	}
	if _, err := ReadFile(fsys, "/g", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("err = %v, want ErrNotExist", err)
	}
}

func TestReadErrors(t *testing.T) {
	// Only what the disk lost is damage; nobody is told to remove a log for want of a permission.
	var damage *DamageError
	if err := readError("p", fmt.Errorf("open: %w", syscall.EACCES), hintLog); errors.As(err, &damage) {
		t.Errorf("EACCES became %v", err)
	}
	if err := readError("p", fmt.Errorf("read: %w", syscall.EIO), hintLog); !errors.As(err, &damage) {
		t.Errorf("EIO became %v", err)
	}
}

func TestLockDir(t *testing.T) {
	dir := t.TempDir()
	lock, err := LockDir(dir)
	mustNil(t, err)
	_, err = LockDir(dir)
	if want := fmt.Sprintf("another agent (pid %d) uses this data dir", os.Getpid()); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), want) {
		t.Errorf("err = %v, want %q", err, want)
	}
	mustNil(t, lock.Close())
	lock, err = LockDir(dir)
	mustNil(t, err)
	mustNil(t, lock.Close())
	if _, err := LockDir(filepath.Join(dir, "none")); err == nil || errors.Is(err, ErrLocked) {
		t.Errorf("no directory: %v", err)
	}
}

func TestMemLosesWhatWasNotSynced(t *testing.T) {
	fsys := NewMem()
	f, err := fsys.Create("/f", filePerm)
	mustNil(t, err)
	_, _ = f.WriteAt([]byte("synced"), 0)
	mustNil(t, f.Sync())
	mustNil(t, fsys.SyncDir("/"))
	_, _ = f.WriteAt([]byte("cached"), 0)
	for mode, want := range map[CrashMode]string{LoseUnsynced: "synced", KeepUnsynced: "cached"} {
		if got, err := ReadFile(fsys.Crash(mode, 0), "/f", 10); err != nil || string(got) != want {
			t.Errorf("mode %d: %q, %v; want %q", mode, got, err, want)
		}
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, ErrCrashed) {
		t.Errorf("write after the crash: %v", err)
	}
}

func TestMemFailedSyncNeverReachesTheDisk(t *testing.T) {
	// As on Linux: a second sync succeeds, reads show the data, the disk does not have it.
	fsys := NewMem()
	f, err := fsys.Create("/f", filePerm)
	mustNil(t, err)
	mustNil(t, fsys.SyncDir("/"))
	_, _ = f.WriteAt([]byte("x"), 0)
	fsys.Inject(len(fsys.Ops()), FaultIO)
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("err = %v, want EIO", err)
	}
	mustNil(t, f.Sync())
	if got, _ := ReadFile(fsys, "/f", 10); string(got) != "x" {
		t.Errorf("cache has %q", got)
	}
	if got, _ := ReadFile(fsys.Crash(LoseUnsynced, 0), "/f", 10); len(got) != 0 {
		t.Errorf("disk has %q", got)
	}
}

func TestMemLies(t *testing.T) {
	fsys := NewMem()
	fsys.Lie(func(path string) bool { return path == "/f" })
	f, err := fsys.Create("/f", filePerm)
	mustNil(t, err)
	mustNil(t, fsys.SyncDir("/"))
	_, _ = f.WriteAt([]byte("x"), 0)
	mustNil(t, f.Sync())
	if got, _ := ReadFile(fsys.Crash(LoseUnsynced, 0), "/f", 10); len(got) != 0 {
		t.Errorf("disk has %q after a sync that lied", got)
	}
}
