package command

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestSnapshotSaveLeavesNothing: a save that is interrupted says so by its exit code, and leaves no file that holds the
// state of the cluster. What is no name of a file is refused before an agent is asked.
func TestSnapshotSaveLeavesNothing(t *testing.T) {
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<20))
		w.(http.Flusher).Flush()
		if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil { // the command waits for it since before it asked
			t.Error(err)
		}
		<-r.Context().Done()
	}))
	defer agent.Close()
	file := filepath.Join(t.TempDir(), "b.parley")
	code, _, errs := snapshotRun(t, "", "snapshot", "save", file, "--addr", agent.URL)
	if code != 128+int(syscall.SIGINT) || !strings.Contains(errs, "interrupted") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if left, _ := filepath.Glob(file + "*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	for _, name := range []string{"", "-"} {
		if code, _, errs := snapshotRun(t, "", "snapshot", "save", name, "--addr", agent.URL); code != exitFailed || !strings.Contains(errs, "FILE is") {
			t.Errorf("%q: exit %d: %s", name, code, errs)
		}
	}
}
