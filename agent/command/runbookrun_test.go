package command

import (
	"context"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/ops/runbook"
)

// A walk that finds nothing wrong says which alert of its runbook fires all the same, and until when the trouble was
// there. Alerts of other runbooks, causes that are none, and walks that ended badly bring no note.
func TestStillFiringIsSaid(t *testing.T) {
	const answer = `{"healthy":false,"causes":[
		{"cause":"alert","alert":"slo-config-write-page","runbook":"server-down","evidence":["it burned until 04:57:48Z","it ends by itself"]},
		{"cause":"alert","alert":"slo-membership-accuracy-page","runbook":"firewall","evidence":["x"]},
		{"cause":"core-member-dead","alert":"quorum-margin","runbook":"server-down","evidence":["y"]}]}`
	asked := 0
	execute := func(_ context.Context, c runbook.Call) runbook.Outcome {
		asked++
		if got := strings.Join(c.Args, " "); got != "health explain" || !c.ReadOnly {
			t.Errorf("asked %q, read only %t", got, c.ReadOnly)
		}
		return runbook.Outcome{Stdout: []byte(answer)}
	}
	a := &app{}
	got := a.stillFiring(t.Context(), execute, runbook.Run{ID: "server-down", Result: runbook.Pass})
	if want := "slo-config-write-page: it burned until 04:57:48Z; it ends by itself"; len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, result := range []runbook.Result{runbook.Fail, runbook.Escalate, runbook.Unverified} {
		if got := a.stillFiring(t.Context(), execute, runbook.Run{ID: "server-down", Result: result}); got != nil {
			t.Errorf("%s: %q", result, got)
		}
	}
	silent := func(context.Context, runbook.Call) runbook.Outcome { return runbook.Outcome{Exit: exitNoAgent} }
	if got := a.stillFiring(t.Context(), silent, runbook.Run{ID: "server-down", Result: runbook.Pass}); got != nil || asked != 1 {
		t.Errorf("without an agent: %q, asked %d times", got, asked)
	}
}
