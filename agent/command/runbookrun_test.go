package command

import (
	"context"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/api/client"
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

// A cause that has a runbook names it, whatever else it says to run; one that runs it does not say so twice.
func TestExplanationNamesTheRunbook(t *testing.T) {
	var out strings.Builder
	explanationText(&out, client.Explanation{Causes: []client.Cause{
		{Rank: 1, Cause: "core-member-unhealthy", Subject: "n3", Severity: "page", Runbook: "server-down", Command: "parley node status n3"},
		{Rank: 2, Cause: "agent-dead", Subject: "n4", Severity: "warn", Runbook: "server-down", Command: "parley runbook run server-down --var node=n4"},
		{Rank: 3, Cause: "clock", Subject: "n1", Severity: "warn", Command: "date -u"},
	}})
	want := "1. core-member-unhealthy: n3 (page)\n   run: parley node status n3\n   runbook: parley runbook run server-down\n" +
		"2. agent-dead: n4 (warn)\n   run: parley runbook run server-down --var node=n4\n" +
		"3. clock: n1 (warn)\n   run: date -u\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
}
