//go:build linux

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLabInterrupted: a lab that is told to stop while it starts says so, exits as a shell expects after a signal, and
// leaves neither process nor file. It once spoke of a token that may or may not have been made.
func TestLabInterrupted(t *testing.T) {
	for _, test := range []struct {
		signal syscall.Signal
		after  string // the last line before it
		code   int
	}{
		{syscall.SIGINT, "a1 founds the cluster", 130},
		{syscall.SIGINT, "a2 to a5 join with a token", 130},
		{syscall.SIGTERM, "waiting until all see each other", 143},
	} {
		dir := filepath.Join(shortDir(t), "lab")
		cmd := exec.Command(program, "lab", "--dir", dir)
		log := filepath.Join(t.TempDir(), "said")
		out, err := os.Create(log)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr, cmd.Stdout = out, out
		said := func() string {
			text, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		if err := startToDieWithUs(cmd); err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); !strings.Contains(said(), test.after); time.Sleep(5 * time.Millisecond) {
			if time.Since(began) > 30*time.Second {
				_ = cmd.Process.Kill()
				t.Fatalf("it never said %q: %s", test.after, said())
			}
		}
		if err := cmd.Process.Signal(test.signal); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // its exit code is below
		_ = out.Close()
		if code := cmd.ProcessState.ExitCode(); code != test.code {
			t.Errorf("%s after %q: exit code %d, want %d", test.signal, test.after, code, test.code)
		}
		text := said()
		if !strings.Contains(text, "parley: error: the lab was stopped while it started") || strings.Contains(text, "may or may not") {
			t.Errorf("%s after %q: it said\n%s", test.signal, test.after, text)
		}
		if left, err := os.ReadDir(dir); err == nil {
			t.Errorf("%s after %q: it left %v", test.signal, test.after, left)
		}
		if pids := agentsIn(t, dir); len(pids) > 0 {
			t.Errorf("%s after %q: processes %v are left", test.signal, test.after, pids)
		}
	}
}

// agentsIn are the processes whose arguments name a directory.
func agentsIn(t *testing.T, dir string) (pids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if line, err := os.ReadFile(f); err == nil && bytes.Contains(line, []byte(dir)) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}
