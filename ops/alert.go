package ops

import (
	"fmt"
	"math"
	"time"

	"github.com/parley-mesh/parley/ops/slo"
)

// A Severity says who has to know. Page wakes somebody, Warn is looked at within the day, Ticket within the
// week.
type Severity string

// The severities.
const (
	Page   Severity = "page"
	Warn   Severity = "warn"
	Ticket Severity = "ticket"
)

// A Comparison says on which side of the threshold a reading is bad.
type Comparison string

// The comparisons.
const (
	Below   Comparison = "<"
	AtMost  Comparison = "<="
	Above   Comparison = ">"
	AtLeast Comparison = ">="
)

// A Condition holds for a reading on the named side of the threshold.
type Condition struct {
	Metric    string
	Compare   Comparison
	Threshold float64
}

// holds reports whether the condition is true, and false for known when there is no such reading, or none
// that is a number.
func (c Condition) holds(r Readings) (held, known bool) {
	value, ok := r[c.Metric]
	if !ok || math.IsNaN(value) || math.IsInf(value, 0) {
		return false, false
	}
	switch c.Compare {
	case Below:
		return value < c.Threshold, true
	case AtMost:
		return value <= c.Threshold, true
	case Above:
		return value > c.Threshold, true
	case AtLeast:
		return value >= c.Threshold, true
	}
	panic(fmt.Sprintf("ops: no such comparison: %q", c.Compare))
}

// An Alert fires when its condition has held for a time. Guard, if set, has to hold too: margin 0 of a
// core of one is how it was meant.
type Alert struct {
	ID string
	Condition
	Guard    *Condition
	For      time.Duration
	Severity Severity
	Runbook  string
	Summary  string // one line for whoever is woken, which also reads well behind "fires when"
	Core     bool   // about the core, which every agent sees: the leader tells the timeline, once for all
}

// Alerts returns every alert of an agent, those of the SLOs last. The slice is the caller's own.
func Alerts() []Alert {
	return append(append([]Alert(nil), alerts...), sloAlerts()...)
}

// The runbooks that alerts, causes and checks name.
const (
	runbookServerDown = "server-down"
	runbookCrashLoop  = "crash-loop"
	runbookCorruption = "data-corruption"
	runbookFirewall   = "firewall"
	runbookDataLoss   = "data-loss"
	runbookPoison     = "query-of-death"
	runbookAlgorithm  = "incorrect-algorithm"
	runbookExpiry     = "certificate-expires"
	runbookHeisenbug  = "heisenbug"
	runbookCopied     = "host-copied"
)

var alerts = []Alert{
	{
		ID: "quorum-margin", Condition: Condition{CoreQuorumMargin, AtMost, 0}, Guard: &Condition{CoreVoters, AtLeast, 3},
		For: 2 * time.Second, Severity: Page, Runbook: runbookServerDown, Core: true,
		Summary: "one more lost core member stops writes, or they have stopped",
	},
	{
		ID: "no-leader", Condition: Condition{CoreLeaderKnown, Below, 1},
		For: 3 * time.Second, Severity: Page, Runbook: runbookServerDown, Core: true,
		Summary: "the core has no leader: writes and linearizable reads wait",
	},
	{
		ID: "voter-unhealthy", Condition: Condition{CoreUnhealthyVoters, Above, 0},
		For: 2 * time.Second, Severity: Warn, Runbook: runbookServerDown, Core: true,
		Summary: "a voter of the core does not answer",
	},
	{
		ID: "core-slow", Condition: Condition{CoreSlow, Above, 1},
		For: time.Minute, Severity: Warn, Runbook: runbookServerDown,
		Summary: "the disk or the processor of this core member is too slow to lead: it gives the lead away, if another one is faster",
	},
	{
		ID: "crash-loop", Condition: Condition{AgentCrashes, AtLeast, 3},
		Severity: Page, Runbook: runbookCrashLoop,
		Summary: "an agent was started three times or more within ten minutes, each time after an end that was not clean",
	},
	{
		ID: "safe-mode", Condition: Condition{AgentSafeMode, AtLeast, 1},
		Severity: Warn, Runbook: runbookCrashLoop,
		Summary: "this agent ended badly again and again and leaves part of its work out until it was stable for ten minutes",
	},
	{
		ID: "digest-mismatch", Condition: Condition{DigestMinority, Above, 0},
		Severity: Page, Runbook: runbookCorruption,
		Summary: "core members disagree about the state at the same index",
	},
	{
		ID: "state-undecided", Condition: Condition{CoreUndecided, Above, 0},
		Severity: Page, Runbook: runbookCorruption, Core: true,
		Summary: "the core members hold different states and none has a majority: writes are refused",
	},
	{
		ID: "incorrect-algorithm", Condition: Condition{CoreViolations, Above, 0},
		Severity: Page, Runbook: runbookAlgorithm,
		Summary: "a promise of the algorithm did not hold: this program, or a machine of the core, is wrong",
	},
	{
		ID: "heisenbug", Condition: Condition{RecordingsKept, Above, 0},
		Severity: Warn, Runbook: runbookHeisenbug,
		Summary: "a promise that did not hold, a crash, or a wrong state of the core that was not seen before is recorded and can be replayed",
	},
	{
		ID: "state-fenced", Condition: Condition{CoreFenced, Above, 0},
		Severity: Warn, Runbook: runbookCorruption,
		Summary: "the state of this core member was wrong: it answers nothing and is being rebuilt",
	},
	{
		ID: "state-stays-fenced", Condition: Condition{CoreFenced, Above, 0},
		For: 10 * time.Minute, Severity: Page, Runbook: runbookCorruption,
		Summary: "the state of this core member was wrong and is not right again after ten minutes",
	},
	{
		ID: "storage-damage", Condition: Condition{StorageScrubErrors, Above, 0},
		Severity: Page, Runbook: runbookCorruption,
		Summary: "the log or a snapshot on this agent's disk is damaged",
	},
	{
		ID: "log-in-doubt", Condition: Condition{CoreSuspended, Above, 0},
		For: 30 * time.Second, Severity: Warn, Runbook: runbookCorruption,
		Summary: "a core member waits to hear every other voter before it votes: the end of its log is in doubt",
	},
	{
		ID: "query-of-death", Condition: Condition{CoreApplyStopped, Above, 0},
		For: 5 * time.Second, Severity: Page, Runbook: runbookPoison,
		Summary: "a core member applies nothing: it crashes on a command, or waits for others that do",
	},
	{
		ID: "udp-fallback", Condition: Condition{NetUDPFallback, Above, 0.05},
		For: 10 * time.Second, Severity: Warn, Runbook: runbookFirewall,
		Summary: "gossip falls back to TCP: UDP does not get through somewhere",
	},
	{
		ID: "link-unreachable", Condition: Condition{NetUnreachable, Above, 0},
		For: 5 * time.Second, Severity: Page, Runbook: runbookFirewall,
		Summary: "this agent cannot reach an agent that is alive",
	},
	{
		ID: "core-relayed", Condition: Condition{RelayLinks, Above, 0},
		For: time.Minute, Severity: Warn, Runbook: runbookFirewall,
		Summary: "core members reach each other only by way of another: a link between them is gone",
	},
	{
		ID: "canary-lost", Condition: Condition{CanariesLost, Above, 0},
		Severity: Page, Runbook: runbookDataLoss,
		Summary: "acknowledged writes are gone: a recovery gave them up, or the core has lost them",
	},
	{
		ID: "keys-gone", Condition: Condition{KeysGone, Above, 0.1},
		Severity: Page, Runbook: runbookDataLoss,
		Summary: "more than a tenth of all keys was deleted within ten minutes: what does that may not mean to",
	},
	{
		ID: "root-unopened", Condition: Condition{CoreUnopened, Above, 0},
		Severity: Warn, Runbook: runbookDataLoss,
		Summary: "a core member can no longer open the root: without the others the cluster could not certify anybody",
	},
	{
		ID: "space-low", Condition: Condition{StorageWritesRefused, Above, 0},
		For: time.Second, Severity: Warn, Runbook: runbookDataLoss,
		Summary: "too little space is free on a core member's disk: it takes no writes while it leads",
	},
	{
		ID: "backup-late", Condition: Condition{BackupLag, Above, 2},
		For: time.Minute, Severity: Warn, Runbook: runbookDataLoss,
		Summary: "the newest scheduled backup is more than twice as old as it should be",
	},
	{
		ID: "certificate-old", Condition: Condition{IdentityLeast, Below, 1.0 / 3},
		Severity: Warn, Runbook: runbookExpiry,
		Summary: "a certificate of this host has less than a third of its life left: its renewal fails",
	},
	{
		ID: "certificate-expires", Condition: Condition{IdentityLeast, Below, 1.0 / 6},
		Severity: Page, Runbook: runbookExpiry,
		Summary: "a certificate of this host is about to end, or has ended: its renewal fails",
	},
	{
		ID: "root-expires", Condition: Condition{IdentityRootLeft, Below, 90 * 24 * 3600},
		Severity: Ticket, Runbook: runbookExpiry,
		Summary: "a root of trust ends within ninety days",
	},
	{
		ID: "authority-old", Condition: Condition{IdentityAuthority, Below, 1.0 / 3},
		Severity: Ticket, Runbook: runbookExpiry,
		Summary: "the authority that another one has signed has less than a third of its life left: the next one has to be signed",
	},
	{
		ID: "authority-expires", Condition: Condition{IdentityAuthority, Below, 1.0 / 10},
		Severity: Page, Runbook: runbookExpiry,
		Summary: "the authority that another one has signed is about to end, and all certificates of the cluster with it",
	},
	{
		ID: "host-copied", Condition: Condition{IdentityCopied, Above, 0},
		Severity: Page, Runbook: runbookCopied, Core: true,
		Summary: "a host was seen twice, or went back to an older copy of its files: it is not renewed until somebody decides",
	},
	{
		ID: "generations-stuck", Condition: Condition{IdentityStuck, Above, 0},
		For: time.Minute, Severity: Warn, Runbook: runbookExpiry,
		Summary: "this host cannot read, or not write, what shows at a renewal that it is no copy: a full disk or a damaged file",
	},
	{
		ID: "restore-unverified", Condition: Condition{BackupVerifiedAge, Above, 7 * 24 * 3600},
		For: time.Minute, Severity: Ticket, Runbook: runbookDataLoss,
		Summary: "no scheduled backup was verified by restoring it for seven days",
	},
}

// sloRunbooks is what to do when an objective's budget burns.
var sloRunbooks = map[string]string{slo.ConfigWrite: runbookServerDown, slo.MembershipAccuracy: runbookFirewall, slo.CertificateFreshness: runbookExpiry}

// sloAlerts makes two alerts for each objective: the rules decide over windows of their own, so there is
// no For.
func sloAlerts() []Alert {
	var out []Alert
	for _, o := range slo.Objectives() {
		for _, severity := range []slo.Severity{slo.Page, slo.Ticket} {
			out = append(out, Alert{
				ID:        "slo-" + o.Name + "-" + string(severity),
				Condition: Condition{o.BurnMetric(severity), Above, 1},
				Severity:  Severity(severity), Runbook: sloRunbooks[o.Name],
				Summary: fmt.Sprintf("the error budget of %s (%s, target %g%%) burns too fast", o.Name, o.Good, 100*o.Target),
			})
		}
	}
	return out
}
