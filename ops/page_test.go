package ops

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/ops/slo"
)

var update = flag.Bool("update", false, "write the tables of docs/alerts.md anew")

const alertsPage = "../docs/alerts.md"

// The tables of docs/alerts.md are those of this package. Run with -update after a change.
func TestAlertsPage(t *testing.T) {
	text, err := os.ReadFile(alertsPage)
	if err != nil {
		t.Fatal(err)
	}
	want := string(text)
	for _, table := range []struct{ head, rows string }{
		{"| alert | fires when | for | severity | runbook |\n|---|---|---|---|---|\n", alertRows()},
		{"| objective | good | target over 30 days |\n|---|---|---|\n", objectiveRows()},
		{"| metric | what |\n|---|---|\n", metricRows()},
	} {
		before, after, found := strings.Cut(want, table.head)
		if !found {
			t.Fatalf("there is no table %q", table.head)
		}
		for strings.HasPrefix(after, "|") {
			_, after, _ = strings.Cut(after, "\n")
		}
		want = before + table.head + table.rows + after
	}
	switch {
	case want == string(text):
	case *update:
		if err := os.WriteFile(alertsPage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Error("docs/alerts.md is not what the tables say; run: go test ./ops -run TestAlertsPage -update")
	}
}

func alertRows() string {
	var b strings.Builder
	for _, a := range Alerts() {
		when := fmt.Sprintf("%#q %s %g", a.Metric, a.Compare, a.Threshold)
		if a.Guard != nil {
			when += fmt.Sprintf(", with %#q %s %g", a.Guard.Metric, a.Guard.Compare, a.Guard.Threshold)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", a.ID, when, a.For, a.Severity, a.Runbook)
	}
	return b.String()
}

func objectiveRows() string {
	var b strings.Builder
	for _, o := range slo.Objectives() {
		fmt.Fprintf(&b, "| `%s` | %s | %g%% |\n", o.Name, o.Good, 100*o.Target)
	}
	return b.String()
}

func metricRows() string {
	var b strings.Builder
	for _, m := range Metrics() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", m.Name, m.Help)
	}
	return b.String()
}
