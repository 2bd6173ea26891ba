package sim

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/consensus"
)

// evidenceRing holds whole lives of a run.
const evidenceRing = 16 << 20

var hostNames = regexp.MustCompile(`\bn[0-9]+\b`)

// keepEvidence runs a seed that failed once more, and writes to dir what happened in it, and what the replicas that the failure
// names (all, where it names none) had recorded when it came to it. It says how to look at them.
func keepEvidence(o Options, failed error, dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // there is no secret in it
		return "", err
	}
	var trace bytes.Buffer
	last := map[string][]byte{} // by host, of its last life
	o.Trace = func(line string) { trace.WriteString(line) }
	o.RecordBytes, o.Recording = evidenceRing, func(host string, recording []byte) { last[host] = recording }
	if again := Run(o); fmt.Sprint(again.Err) != fmt.Sprint(failed) {
		return "", fmt.Errorf("run once more it ends otherwise: %w", again.Err)
	}
	write := func(name string, content []byte) (string, error) {
		path := filepath.Join(dir, fmt.Sprintf("seed-%d-of-%d-%s", o.Seed, o.Nodes, name))
		return path, os.WriteFile(path, content, 0o644) //nolint:gosec // the same
	}
	path, err := write("trace", trace.Bytes())
	if err != nil {
		return "", err
	}
	said := "what happened: " + path
	named := hostNames.FindAllString(fmt.Sprint(failed), -1)
	for _, h := range sortedHosts(last) {
		if len(named) > 0 && !slices.Contains(named, h) {
			continue
		}
		if path, err = write(h+".rec", last[h]); err != nil {
			return "", err
		}
		said += fmt.Sprintf("\nwhat the core of %s did: go run ./cmd/agent replay --any-build %s", h, path)
	}
	return said, nil
}

func sortedHosts(m map[string][]byte) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// TestEvidence: a failure leaves the trace of the very run that failed, and a recording of each replica that it names, which
// replays.
func TestEvidence(t *testing.T) {
	o, dir := Options{Seed: 9, Nodes: 3}, t.TempDir()
	was := Run(o)
	if was.Err != nil {
		t.Fatal(was.Err)
	}
	if _, err := keepEvidence(o, fmt.Errorf("n2 did what nobody did"), dir); err == nil {
		t.Error("a run that does not fail is taken for one that does")
	}
	said, err := keepEvidence(o, nil, dir)
	if err != nil {
		t.Fatal(err)
	}
	var trace bytes.Buffer
	o.Trace = func(line string) { trace.WriteString(line) }
	Run(o)
	kept, err := os.ReadFile(filepath.Join(dir, "seed-9-of-3-trace"))
	if err != nil || !bytes.Equal(kept, trace.Bytes()) {
		t.Errorf("the trace of the run that is recorded is another one: %d and %d bytes, %v", len(kept), trace.Len(), err)
	}
	for _, name := range []string{"n1", "n2", "n3"} {
		path := filepath.Join(dir, "seed-9-of-3-"+name+".rec")
		recording, err := os.ReadFile(path)
		if err != nil || !strings.Contains(said, "replay --any-build "+path) {
			t.Fatalf("%v; it is said: %s", err, said)
		}
		got, err := consensus.Replay(recording, "sim")
		if err == nil {
			err = got.Differs()
		}
		if err != nil || got.Events == 0 {
			t.Errorf("%s: %v, %d events", name, err, got.Events)
		}
	}
}
