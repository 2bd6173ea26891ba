package ops

import (
	"slices"
	"testing"
)

// Every alert has an id of its own, judges a reading that is listed with its help, and names a runbook
// that is there.
func TestAlertsAreComplete(t *testing.T) {
	runbooks := []string{runbookServerDown, runbookCrashLoop, runbookCorruption, runbookFirewall, runbookDataLoss, runbookPoison, runbookAlgorithm, runbookExpiry, runbookHeisenbug, runbookCopied}
	seen := map[string]bool{}
	for _, a := range Alerts() {
		if a.ID == "" || seen[a.ID] {
			t.Errorf("alert id %q is empty or taken", a.ID)
		}
		seen[a.ID] = true
		if !slices.Contains(runbooks, a.Runbook) {
			t.Errorf("%s names the runbook %q, want one of %q", a.ID, a.Runbook, runbooks)
		}
		if a.Summary == "" || !slices.Contains([]Severity{Page, Warn, Ticket}, a.Severity) {
			t.Errorf("%s: summary %q, severity %q", a.ID, a.Summary, a.Severity)
		}
		conditions := []Condition{a.Condition}
		if a.Guard != nil {
			conditions = append(conditions, *a.Guard)
		}
		for _, c := range conditions {
			if !slices.ContainsFunc(Metrics(), func(m Metric) bool { return m.Name == c.Metric && m.Help != "" }) {
				t.Errorf("%s judges %s, which Metrics does not list", a.ID, c.Metric)
			}
			c.holds(Readings{c.Metric: 0}) // panics for an unknown comparison
		}
	}
	for _, id := range []string{
		"quorum-margin", "no-leader", "voter-unhealthy", "crash-loop", "digest-mismatch", "storage-damage", "udp-fallback",
		"link-unreachable", "slo-config-write-page", "slo-config-write-ticket", "slo-membership-accuracy-page", "slo-membership-accuracy-ticket",
		"certificate-old", "certificate-expires", "root-expires", "authority-old", "authority-expires", "slo-certificate-freshness-page", "host-copied", "generations-stuck",
	} {
		if !seen[id] {
			t.Errorf("there is no alert %s", id)
		}
	}
}
