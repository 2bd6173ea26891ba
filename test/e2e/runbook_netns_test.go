//go:build linux

package e2e

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/parley-mesh/parley/ops/lab"
	"github.com/parley-mesh/parley/ops/runbook"
)

// TestRunbookFirewall: with UDP blocked between two agents the diagnosis leads to opening it, and the verify step holds
// once it is open again.
func TestRunbookFirewall(t *testing.T) {
	t.Parallel() // it mostly waits
	n := newNetwork(t, lab.DefaultAgents)
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute, Place: n.place})
	asked := l.Agents[0]
	settledAlerts(t, asked, "firewall")
	n.cutBoth([]string{"a4"}, []string{"a5"}, "udp")
	eventually(t, time.Minute, "the diagnosis sees the links", func(context.Context) error {
		run := startRunbook(t, "firewall", "--dry-run", "--addr", asked.Addr()).end(t)
		if !slices.Contains(run.path(), "open-udp") {
			return errors.New(run.String())
		}
		return nil
	})
	verifyFails(t, "firewall", "all-links", asked) // the control

	walk := startRunbook(t, "firewall", "--yes", "--addr", asked.Addr())
	walk.waitFor(t, 40*time.Second, "UDP does not get through")
	n.heal()
	run := walk.end(t)
	want := []string{"links-up", "tcp-blocked", "open-udp", "all-links"}
	if run.exit != 0 || run.Result != runbook.Pass || run.NotThis || !slices.Equal(run.path(), want) {
		t.Errorf("got %s\n%s", run, run.shown)
	}
}
