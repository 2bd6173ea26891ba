package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/parley-mesh/parley/ops"
)

// TestGenerationsThatCannotBeWrittenAreSeen: a host whose disk takes no new secret goes on with the one that it has, and its check and
// its metric say so until there is room, which is found without a renewal. The control is before and after.
func TestGenerationsThatCannotBeWrittenAreSeen(t *testing.T) {
	r := start(t, single(t), 0)
	ratchet := r.agent.ratchet
	draw := func() {
		t.Helper()
		if _, err := ratchet.Link(); err != nil {
			t.Fatal(err)
		}
		if err := ratchet.Accepted(); err != nil {
			t.Fatal(err)
		}
	}
	says := func(status string, metric float64) {
		t.Helper()
		within(t, fmt.Sprintf("the check is %s and the metric %v", status, metric), func(ctx context.Context) error {
			report, err := r.Check(ctx)
			for _, c := range report.Checks {
				if c.ID == "generations" && c.Status != status {
					return fmt.Errorf("%+v", c)
				}
			}
			readings := ops.Readings{}
			sources := r.agent.opsSources()
			sources.read(readings)
			if got, ok := readings[ops.IdentityStuck]; !ok || got != metric {
				return fmt.Errorf("the metric is %v, %t", got, ok)
			}
			return err
		})
	}
	draw()
	says(string(ops.CheckOK), 0)
	full := filepath.Join(r.agent.dir.path, "identity", "generation.secret.tmp")
	if err := os.MkdirAll(filepath.Join(full, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	draw()
	says(string(ops.CheckWarn), 1)
	if err := os.RemoveAll(full); err != nil {
		t.Fatal(err)
	}
	says(string(ops.CheckOK), 0)
}
