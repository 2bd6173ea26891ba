package ops

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

const (
	expiringWarn = 1.0 / 3 // of the certificate's life; it is renewed at half of it
	expiringPage = 1.0 / 6
	diskFloor    = 64 << 20 // bytes: less than one segment of the log
	clockSlack   = 1.0      // seconds that the state's stamps may be ahead of this host's clock
)

// explainers are in the order of the ranks: what explains most of the rest comes first. A dead voter may
// well be why there is no leader, never the other way round.
var explainers = []func(*inquiry){
	(*inquiry).deadCore, (*inquiry).silentCore, (*inquiry).noQuorum, (*inquiry).corruption, (*inquiry).crashLoop, (*inquiry).diskFull,
	(*inquiry).certificate, (*inquiry).links, (*inquiry).clock, (*inquiry).deadAgents, (*inquiry).otherAlerts, (*inquiry).noData,
}

// Explain names what is wrong, in the order in which to look at it. It judges readings and facts itself, so
// that a cause is there before its alert has waited long enough to fire.
func Explain(r Readings, alerts []AlertStatus, f Facts) Explanation {
	q := &inquiry{readings: r, alerts: alerts, facts: f}
	for _, explain := range explainers {
		explain(q)
	}
	for i := range q.causes {
		q.causes[i].Rank = i + 1
	}
	if q.causes == nil {
		q.causes = []Cause{}
	}
	return Explanation{Healthy: len(q.causes) == 0, Causes: q.causes}
}

// inquiry is one call of Explain.
type inquiry struct {
	readings Readings
	alerts   []AlertStatus
	facts    Facts
	causes   []Cause
}

func (q *inquiry) add(c Cause) { q.causes = append(q.causes, c) }

// above reports a reading that is there and over a bound.
func (q *inquiry) above(metric string, bound float64) (float64, bool) {
	value, ok := q.readings[metric]
	return value, ok && value > bound
}

// alertLine says where an alert stands, "" when it is ok or unknown.
func (q *inquiry) alertLine(id string) string {
	for _, a := range q.alerts {
		if a.ID == id && (a.State == StateFiring || a.State == StatePending) {
			return fmt.Sprintf("alert %s is %s since %s", id, a.State, clockTime(a.Since))
		}
	}
	return ""
}

// evidence drops the lines that have nothing to say.
func evidence(lines ...string) []string {
	return slices.DeleteFunc(lines, func(line string) bool { return line == "" })
}

func clockTime(t time.Time) string { return t.UTC().Format("15:04:05Z") }

func isGone(state string) bool { return state == "dead" || state == "left" }

// isDead reports a member that is gone by gossip's word, or that gossip has not met and Raft does not hear.
func (c CoreFact) isDead() bool { return isGone(c.Member) || c.Member == MemberUnknown && !c.Healthy }

// deadCore names each dead core member, voters first.
func (q *inquiry) deadCore() {
	dead := slices.DeleteFunc(slices.Clone(q.facts.Core), func(c CoreFact) bool { return !c.isDead() })
	slices.SortStableFunc(dead, func(a, b CoreFact) int {
		return cmp.Or(compareBool(a.Learner, b.Learner), cmp.Compare(a.Name, b.Name))
	})
	for _, c := range dead {
		what, severity, alert := "voter", Page, "quorum-margin"
		if q.marginIsSafe() {
			severity, alert = Warn, "voter-unhealthy"
		}
		if c.Learner {
			what, severity, alert = "learner", Warn, ""
		}
		line := fmt.Sprintf("gossip holds %s %s %s", what, c.Name, c.Member)
		if c.Member == MemberUnknown {
			line = fmt.Sprintf("gossip has not met %s %s since this agent started", what, c.Name)
		}
		if !c.Since.IsZero() {
			line += " since " + clockTime(c.Since)
		}
		q.add(Cause{
			Cause: CauseCoreMemberDead, Subject: c.Name, Severity: severity, Alert: alert, Runbook: runbookServerDown,
			Evidence: evidence(line, q.marginLine(), q.alertLine(alert)),
			Command:  "parley runbook run server-down --var node=" + c.Name,
		})
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (q *inquiry) marginIsSafe() bool {
	_, safe := q.above(CoreQuorumMargin, 0)
	return safe
}

func (q *inquiry) marginLine() string {
	margin, ok := q.readings[CoreQuorumMargin]
	voters := q.readings[CoreVoters]
	switch {
	case !ok:
		return ""
	case q.noMajority():
		return fmt.Sprintf("no majority of the %g voters is healthy", voters)
	case margin < 0:
		return "writes have stopped, although a majority of the voters is healthy"
	}
	return fmt.Sprintf("%g of %g voters may still fail", margin, voters)
}

// noMajority reports a core that cannot have a leader. A margin below 0 does not say that: it is below 0 as well while
// a majority that is healthy has not elected one.
func (q *inquiry) noMajority() bool {
	voters, ok := q.readings[CoreVoters]
	unhealthy, measured := q.readings[CoreUnhealthyVoters]
	return ok && measured && 2*(voters-unhealthy) <= voters
}

// noQuorum tells a core that cannot have a leader from one that has none at the moment.
func (q *inquiry) noQuorum() {
	_, measured := q.readings[CoreQuorumMargin]
	known, ok := q.readings[CoreLeaderKnown]
	switch {
	case q.noMajority():
		q.add(Cause{
			Cause: CauseNoQuorum, Subject: "core", Severity: Page, Alert: "no-leader", Runbook: runbookServerDown,
			Evidence: evidence(q.marginLine(), q.alertLine("no-leader")), Command: "parley core",
		})
	case ok && known < 1:
		line := "this agent knows no leader"
		if !measured {
			line = "no core member tells this agent who leads"
		}
		q.add(Cause{
			Cause: CauseNoLeader, Subject: "core", Severity: Page, Alert: "no-leader", Runbook: runbookServerDown,
			Evidence: evidence(line, q.marginLine(), q.alertLine("no-leader")), Command: "parley core",
		})
	}
}

func (q *inquiry) corruption() {
	if n, ok := q.above(DigestMinority, 0); ok {
		q.add(Cause{
			Cause: CauseDigestMismatch, Subject: "core", Severity: Page, Alert: "digest-mismatch", Runbook: runbookCorruption,
			Evidence: evidence(fmt.Sprintf("%g core members differ from the majority at the same index", n), q.alertLine("digest-mismatch")),
			Command:  "parley digest compare",
		})
	}
	if n, ok := q.above(StorageScrubErrors, 0); ok {
		q.add(Cause{
			Cause: CauseStorageDamage, Subject: q.facts.Node, Severity: Page, Alert: "storage-damage", Runbook: runbookCorruption,
			Evidence: evidence(fmt.Sprintf("the last scrub found %g errors in log and snapshots", n), q.alertLine("storage-damage")),
			Command:  "parley storage scrub",
		})
	}
}

func (q *inquiry) crashLoop() {
	if n := q.readings[AgentStarts]; n >= 3 {
		q.add(Cause{
			Cause: CauseCrashLoop, Subject: "agents", Severity: Page, Alert: "crash-loop", Runbook: runbookCrashLoop,
			Evidence: evidence(fmt.Sprintf("%g starts of one agent within 10 minutes", n), q.alertLine("crash-loop")),
			Command:  "parley runbook run crash-loop",
		})
	}
}

func (q *inquiry) diskFull() {
	free, ok := q.readings[StorageFreeBytes]
	if !ok || free >= diskFloor {
		return
	}
	q.add(Cause{
		Cause: CauseDiskFull, Subject: q.facts.Node, Severity: Page,
		Evidence: evidence(
			fmt.Sprintf("%.0f MiB are free for the data directory, a segment of the log takes 64", math.Floor(free/(1<<20))),
			ratioLine(q.readings, StorageFreeRatio, "of the file system is free")),
		Command: "df -h DATA_DIR",
	})
}

func ratioLine(r Readings, metric, what string) string {
	ratio, ok := r[metric]
	if !ok {
		return ""
	}
	return fmt.Sprintf("%.1f %% %s", 100*ratio, what)
}

func (q *inquiry) certificate() {
	left, ok := q.readings[IdentityRemaining]
	if !ok || left >= expiringWarn {
		return
	}
	c := Cause{
		Cause: CauseCertificateExpiring, Subject: q.facts.Node, Severity: Warn, Command: "parley status",
		Evidence: evidence(ratioLine(q.readings, IdentityRemaining, "of the certificate's life is left, it is renewed at half"),
			"it ends at "+clockTime(q.facts.Certificate)),
	}
	if left < expiringPage {
		c.Severity = Page
	}
	if left <= 0 {
		c.Cause = CauseCertificateExpired
		c.Evidence = []string{"this agent's certificate ended at " + clockTime(q.facts.Certificate) + ", peers refuse it"}
	}
	q.add(c)
}

func (q *inquiry) links() {
	if n, ok := q.above(NetUnreachable, 0); ok {
		q.add(Cause{
			Cause: CauseLinksDown, Subject: q.facts.Node, Severity: Page, Alert: "link-unreachable", Runbook: runbookFirewall,
			Evidence: evidence(fmt.Sprintf("%g live agents cannot be reached from %s", n, q.facts.Node), q.alertLine("link-unreachable")),
			Command:  "parley net matrix",
		})
	}
	if _, ok := q.above(NetUDPFallback, 0.05); ok {
		q.add(Cause{
			Cause: CauseUDPFallback, Subject: q.facts.Node, Severity: Warn, Alert: "udp-fallback", Runbook: runbookFirewall,
			Evidence: evidence(ratioLine(q.readings, NetUDPFallback, "of this agent's links are on TCP"), q.alertLine("udp-fallback")),
			Command:  "parley net matrix",
		})
	}
}

func (q *inquiry) clock() {
	if ahead, ok := q.above(ClockAhead, clockSlack); ok {
		q.add(Cause{
			Cause: CauseClock, Subject: q.facts.Node, Severity: Warn, Command: "date -u",
			Evidence: []string{fmt.Sprintf("the state's newest stamp is %.1f s ahead of this host's clock: "+
				"this clock is behind, or a core member's is ahead", ahead)},
		})
	}
}

// silentCore names the voters that gossip does not hold dead, and that do not answer.
func (q *inquiry) silentCore() {
	for _, c := range q.facts.Core {
		if c.Healthy || c.Learner || c.isDead() {
			continue
		}
		q.add(Cause{
			Cause: CauseCoreMemberUnhealthy, Subject: c.Name, Severity: Warn, Alert: "voter-unhealthy", Runbook: runbookServerDown,
			Evidence: evidence(fmt.Sprintf("voter %s does not answer, gossip holds it %s", c.Name, c.Member), q.marginLine(), q.alertLine("voter-unhealthy")),
			Command:  "parley node status " + c.Name,
		})
	}
}

// deadAgents names the dead that are not in the core.
func (q *inquiry) deadAgents() {
	for _, m := range q.facts.Members {
		inCore := slices.ContainsFunc(q.facts.Core, func(c CoreFact) bool { return c.Name == m.Name })
		if m.State != "dead" || inCore {
			continue
		}
		line := fmt.Sprintf("gossip holds %s dead", m.Name)
		if !m.Since.IsZero() {
			line += " since " + clockTime(m.Since)
		}
		q.add(Cause{
			Cause: CauseAgentDead, Subject: m.Name, Severity: Warn, Runbook: runbookServerDown,
			Evidence: []string{line, "it is outside the core: writes and reads go on"},
			Command:  "parley runbook run server-down --var node=" + m.Name,
		})
	}
}

// otherAlerts names what fires and no cause above accounts for.
func (q *inquiry) otherAlerts() {
	for _, a := range q.alerts {
		named := slices.ContainsFunc(q.causes, func(c Cause) bool { return c.Alert == a.ID || c.Runbook == a.Runbook && !isSLO(a.ID) })
		if a.State != StateFiring || named {
			continue
		}
		q.add(Cause{
			Cause: CauseAlert, Subject: a.ID, Severity: a.Severity, Alert: a.ID, Runbook: a.Runbook,
			Evidence: evidence(a.Summary, q.alertLine(a.ID)), Command: "parley runbook run " + a.Runbook,
		})
	}
}

func isSLO(id string) bool { return strings.HasPrefix(id, "slo-") }

// noData keeps an agent that has measured nothing from calling itself healthy.
func (q *inquiry) noData() {
	if len(q.readings) == 0 {
		q.add(Cause{
			Cause: CauseNoData, Subject: q.facts.Node, Severity: Warn, Command: "parley status",
			Evidence: []string{"this agent has not looked at itself yet"},
		})
	}
}
