package workload

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The socket is for all, in a directory that only its owner changes; what stands in its way is named, and not removed unless
// it is a socket that nobody serves.
func TestListen(t *testing.T) {
	base, err := os.MkdirTemp("", "wl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	path := filepath.Join(base, "run", SocketName)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{path: 0o666, filepath.Dir(path): 0o755} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: got %v, %v", name, info.Mode(), err)
		}
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "served by another program") {
		t.Errorf("a second server: got %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:forcetypeassert // it is one
	_ = l.Close()
	if l, err = Listen(path); err != nil {
		t.Errorf("after a server that crashed: %v", err)
	} else {
		_ = l.Close()
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("a file was taken for a socket")
	}
	open := filepath.Join(base, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil { //nolint:gosec // what the test is about
		t.Fatal(err)
	}
	if _, err := Listen(filepath.Join(open, SocketName)); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("a directory that all may write: got %v", err)
	}
	if _, err := Listen(filepath.Join(base, strings.Repeat("x", maxSocketPath))); err == nil {
		t.Error("a path over the limit was taken")
	}
}
