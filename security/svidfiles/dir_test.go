package svidfiles

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

var (
	key   = File{Name: KeyName, Data: []byte("a key"), Secret: true}
	chain = File{Name: ChainName, Data: []byte("a chain")}
)

// TestWrite: files are there with their modes, whatever the umask, what is the same is left alone, and what a crash left
// behind is in nobody's way.
func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity")
	d := open(t, path)
	if err := os.WriteFile(filepath.Join(path, newName), []byte("half a"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if changed, err := d.Write(key, chain); err != nil || len(changed) != 2 && changed != nil {
			t.Fatalf("%v, %v", changed, err)
		}
	}
	if changed, err := d.Write(key, File{Name: ChainName, Data: []byte("another chain")}); err != nil || len(changed) != 1 || changed[0] != filepath.Join(path, ChainName) {
		t.Errorf("one is new: %v, %v", changed, err)
	}
	for name, want := range map[string]fs.FileMode{".": 0o700 | fs.ModeDir, KeyName: 0o600, ChainName: 0o644} {
		if info, err := os.Lstat(filepath.Join(path, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if err := os.Chmod(filepath.Join(path, KeyName), 0o644); err != nil { //nolint:gosec // what is to be mended
		t.Fatal(err)
	}
	if changed, err := d.Write(key); err != nil || len(changed) != 1 {
		t.Errorf("a key that others may read is not written anew: %v, %v", changed, err)
	}
	if text, err := os.ReadFile(filepath.Join(path, ChainName)); err != nil || string(text) != "another chain" {
		t.Errorf("%q, %v", text, err)
	}
	if left, err := filepath.Glob(filepath.Join(path, newName)); err != nil || left != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestOneWriter: a second one is refused until the first has closed.
func TestOneWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity")
	first := open(t, path)
	if _, err := Open(path); !errors.Is(err, ErrHeld) {
		t.Errorf("a second writer: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

// TestOthersDirectories: a directory in which others may put what is followed is not used.
func TestOthersDirectories(t *testing.T) {
	base := t.TempDir()
	real := filepath.Join(base, "real")
	shared := filepath.Join(base, "shared")
	file := filepath.Join(base, "file")
	if err := errors.Join(os.Mkdir(real, 0o700), os.Symlink(real, filepath.Join(base, "link")), os.Mkdir(shared, 0o700),
		os.Chmod(shared, 0o777), os.WriteFile(file, nil, 0o600)); err != nil { //nolint:gosec // what is refused
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(base, "link"): "symbolic link", filepath.Join(base, "link") + "/": "symbolic link", shared: "chmod go-w", file: "is no directory", filepath.Join(base, "no", "parent"): "no such file",
	} {
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(real, 4711, 4711); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(real); err == nil || !strings.Contains(err.Error(), "another user") {
			t.Errorf("another user's: %v", err)
		}
	}
}

// TestOthersFiles: with a link or another user's file in the place of any of them nothing is written at all, and what the link
// names is as it was. The control: without it all are written.
func TestOthersFiles(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(outside, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, put := range map[string]func(path string) error{
		"symbolic link":   func(path string) error { return os.Symlink(outside, path) },
		"no regular file": func(path string) error { return os.Mkdir(path, 0o700) },
		"another user's": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, 4711, 4711))
		},
	} {
		for _, place := range []string{ChainName, lockName} {
			if what == "another user's" && os.Geteuid() != 0 {
				t.Logf("not root: no file of another user is made")
				continue
			}
			path := filepath.Join(t.TempDir(), "identity")
			if err := errors.Join(os.Mkdir(path, 0o700), put(filepath.Join(path, place))); err != nil {
				t.Fatal(err)
			}
			d, err := Open(path)
			if err == nil {
				_, err = d.Write(key, chain)
				_ = d.Close()
			}
			if err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("%s as %s: %v", what, place, err)
			}
			if _, err := os.Lstat(filepath.Join(path, KeyName)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s as %s: the key was written all the same: %v", what, place, err)
			}
			if err := os.RemoveAll(filepath.Join(path, place)); err != nil {
				t.Fatal(err)
			}
			if changed, err := open(t, path).Write(key, chain); err != nil || len(changed) != 2 {
				t.Errorf("control: %v, %v", changed, err)
			}
		}
	}
	if text, err := os.ReadFile(outside); err != nil || string(text) != "precious" {
		t.Errorf("what the link names: %q, %v", text, err)
	}
}

// TestNamesOfFiles: a name leads nowhere else.
func TestNamesOfFiles(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "identity"))
	for _, name := range []string{"", ".", "..", "/", "../key.pem", "a/b", "/etc/passwd", lockName, newName} {
		if _, err := d.Write(File{Name: name}); err == nil {
			t.Errorf("%q was written", name)
		}
	}
}
