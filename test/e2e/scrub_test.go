package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// TestScrub: a scrub beside a core member that writes finds nothing and stops nobody; kill -9 leaves
// nothing that one would take for damage; a byte that was flipped on the disk of a stopped agent is found,
// with its file and place. The last is the control of the first two.
func TestScrub(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	whole(t, clients)
	load := startWriters(t, l, 2*time.Millisecond)
	progress(t, load, 200)
	for range 5 {
		for name, c := range clients {
			report, err := c.ScrubStorage(context.Background(), 1000)
			if err != nil || report.Errors != 0 || report.Entries == 0 {
				t.Errorf("beside the running %s: %+v, %v", name, report, err)
			}
		}
	}
	for name := range clients { // by any agent, of any
		parley(t, "storage", "scrub", name, "--addr", l.Agents[0].Addr(), "--expect", ".errors==0 and .entries>0").mustWork(t)
	}
	parley(t, "storage", "scrub", "a9", "--addr", l.Agents[0].Addr()).wants(t, 1, "there is no agent", "parley members")
	progress(t, load, 200)
	load.end()

	victim := l.Agents[1]
	kill(t, l, victim.Name)
	report, code := scrubOffline(t, victim)
	if report.Errors != 0 || code != 0 {
		t.Errorf("after kill -9: exit code %d, %+v", code, report)
	}
	segments, err := filepath.Glob(filepath.Join(victim.DataDir, "wal", "*.wal"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments of %s: %v, %v", victim.Name, segments, err)
	}
	flipOnDisk(t, segments[0], 4096+40)
	report, code = scrubOffline(t, victim)
	if code != 1 || report.Errors == 0 || report.Problems[0].File != segments[0] || report.Problems[0].Offset != 4096 {
		t.Errorf("control: exit code %d, %+v", code, report)
	}
}

// scrubOffline runs the command that one would type when the agent does not start.
func scrubOffline(t *testing.T, a *lab.Agent) (report client.ScrubReport, code int) {
	t.Helper()
	cmd := exec.Command(program, "storage", "scrub", "--offline", "--data-dir", a.DataDir, "-o", "json")
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err := json.Unmarshal([]byte(out.String()), &report); err != nil {
		t.Fatalf("%v: %s%s", err, out.String(), errs.String())
	}
	if _, exited := err.(*exec.ExitError); err != nil && !exited { //nolint:errorlint // Run returns it bare
		t.Fatal(err)
	}
	return report, cmd.ProcessState.ExitCode()
}

func flipOnDisk(t *testing.T, path string, offset int64) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err == nil && offset >= int64(len(content)) {
		err = fmt.Errorf("%s has %d bytes", path, len(content))
	}
	if err == nil {
		content[offset] ^= 1
		err = os.WriteFile(path, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
