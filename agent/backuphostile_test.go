package agent

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/parley-mesh/parley/storage"
)

// TestSaveBackupTouchesNothingElse: a backup is written to a file of its own alone. What is not a regular file is not
// replaced (a device once was, by --overwrite); a link that waits under the name of the half-written file is not followed,
// and a file that others can read is not filled.
func TestSaveBackupTouchesNothingElse(t *testing.T) {
	dir := t.TempDir()
	precious := filepath.Join(dir, "precious")
	if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(w io.Writer) error {
		_, err := w.Write([]byte("secret"))
		return errors.Join(err, errors.New("written"))
	}
	for name, put := range map[string]func(path string) error{
		"link":         func(path string) error { return os.Symlink(precious, path) },
		"pipe":         func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"directory":    func(path string) error { return os.Mkdir(path, 0o700) },
		"tmp link":     func(path string) error { return os.Symlink(precious, path+storage.TmpSuffix) },
		"tmp readable": func(path string) error { return os.WriteFile(path+storage.TmpSuffix, nil, 0o644) }, //nolint:gosec // the point
		"no/directory": func(string) error { return nil },
	} {
		if err := put(at(name)); err != nil {
			t.Fatal(err)
		}
		if _, err := SaveBackup(at(name), true, write); err == nil || strings.Contains(err.Error(), "written") || Hint(err) == "" {
			t.Errorf("%s: %v, hint %q", name, err, Hint(err))
		}
	}
	if text, err := os.ReadFile(precious); err != nil || string(text) != "precious" {
		t.Errorf("another file holds %q, %v", text, err)
	}
	if text, err := os.ReadFile(at("tmp readable") + storage.TmpSuffix); err != nil || len(text) > 0 {
		t.Errorf("a file that others can read holds %q, %v", text, err)
	}
	// The control: where nothing is in the way it is written, and a failure leaves nothing.
	if _, err := SaveBackup(at("free"), false, write); err == nil || !strings.Contains(err.Error(), "written") {
		t.Errorf("free: %v", err)
	}
	if left, _ := filepath.Glob(at("free*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestSaveBackupWithoutSpace: the error is about the place of the backup, not about the data directory.
func TestSaveBackupWithoutSpace(t *testing.T) {
	_, err := SaveBackup(filepath.Join(t.TempDir(), "b"), false, func(io.Writer) error { return syscall.ENOSPC })
	if err == nil || strings.Contains(err.Error()+Hint(err), "data directory") || !strings.Contains(Hint(err), "another place") {
		t.Errorf("%v, hint %q", err, Hint(err))
	}
}

// TestBackupIsReadFromAnyMedium: a backup that may only be read is read, and what is no file is not waited for.
func TestBackupIsReadFromAnyMedium(t *testing.T) {
	dir := t.TempDir()
	pipe, none := filepath.Join(dir, "pipe"), filepath.Join(dir, "readonly")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.WriteFile(none, []byte("no backup, and too short to be one"), 0o400)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, dir, "/dev/zero"} {
		if _, err := VerifyBackup(path); err == nil || !strings.Contains(err.Error(), "regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
	f, err := storage.OS().OpenRead(none)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("it was opened for writing: on a read-only medium that fails")
	}
	if report, err := VerifyBackup(none); err != nil || report.OK || report.Problem == "" {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestReportsOfSurvivorsNameNodes: the name in a survivor's report is printed, so it has to be one.
func TestReportsOfSurvivorsNameNodes(t *testing.T) {
	for name, want := range map[string]bool{"a2": true, "a2\x1b[31m": false, "a\n2": false} {
		raw, err := json.Marshal(SurvivorReport{Node: name, ClusterID: "c", LastTerm: 1, LastIndex: 2})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "report.json")
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readSurvivors([]string{file}); (err == nil) != want || err != nil && strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestCountersEnd: a number in the data directory that nothing can follow is refused. It wrapped to 0 once, and gossip
// took the host for one that had never started.
func TestCountersEnd(t *testing.T) {
	for text, want := range map[string]uint64{"": 1, "7\n": 8, "18446744073709551615\n": 0, "18446744073709551616\n": 0} {
		d := &dataDir{path: t.TempDir(), fs: storage.OS()}
		if text != "" {
			if err := d.write(incarnationFile, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := d.nextIncarnation(); got != want || (err == nil) != (want > 0) || err != nil && Hint(err) == "" {
			t.Errorf("after %q: %d, %v", text, got, err)
		}
	}
}
