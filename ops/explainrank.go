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

	// burnedOut is how long an objective has had no bad event when its trouble counts as over. Core members have one
	// probe a second.
	burnedOut = 30 * time.Second
)

// explainers are in the order of the ranks: that writes have stopped comes first, then what explains most of the rest.
// A dead voter may well be why there is no leader, never the other way round.
var explainers = []func(*inquiry){
	(*inquiry).noQuorum, (*inquiry).deadCore, (*inquiry).silentCore, (*inquiry).noLeader, (*inquiry).corruption, (*inquiry).crashLoop, (*inquiry).diskFull,
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

// severity is that of an alert that fires. One that does not fire yet wakes nobody, so neither does its cause; of one
// that is not known the cause's own severity has to do.
func (q *inquiry) severity(id string, own Severity) Severity {
	for _, a := range q.alerts {
		switch {
		case a.ID != id:
		case a.State == StateFiring:
			return a.Severity
		case own == Page:
			return Warn
		}
	}
	return own
}

func (q *inquiry) fires(id string) bool {
	return slices.ContainsFunc(q.alerts, func(a AlertStatus) bool { return a.ID == id && a.State == StateFiring })
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
		what := "voter"
		severity, alert := q.voterAlert()
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

// voterAlert is the alert that a missing voter is behind.
func (q *inquiry) voterAlert() (Severity, string) {
	if q.marginIsSafe() {
		return q.severity("voter-unhealthy", Warn), "voter-unhealthy"
	}
	return q.severity("quorum-margin", Page), "quorum-margin"
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
	case !ok, margin < 0 && !q.lostQuorum():
		return ""
	case margin < 0:
		return fmt.Sprintf("no majority of the %g voters is healthy", voters)
	}
	return fmt.Sprintf("%g of %g voters may still fail", margin, voters)
}

// noQuorum names a core that cannot have a leader.
func (q *inquiry) noQuorum() {
	if q.lostQuorum() {
		q.add(Cause{
			Cause: CauseNoQuorum, Subject: "core", Severity: q.severity("no-leader", Page), Alert: "no-leader", Runbook: runbookServerDown,
			Evidence: evidence(q.marginLine(), q.alertLine("no-leader")), Command: "parley core",
		})
	}
}

// lostQuorum tells a majority that is not there from a majority that has no leader at the moment, which is below 0 as
// well.
func (q *inquiry) lostQuorum() bool {
	margin, measured := q.readings[CoreQuorumMargin]
	unhealthy, counted := q.readings[CoreUnhealthyVoters]
	voters := q.readings[CoreVoters]
	return measured && margin < 0 && (!counted || voters-unhealthy < math.Floor(voters/2)+1)
}

// noLeader names a core that has none at the moment.
func (q *inquiry) noLeader() {
	known, ok := q.readings[CoreLeaderKnown]
	if !ok || known >= 1 || q.lostQuorum() {
		return
	}
	line := "this agent knows no leader"
	if _, measured := q.readings[CoreQuorumMargin]; !measured {
		line = "no core member tells this agent who leads"
	}
	q.add(Cause{
		Cause: CauseNoLeader, Subject: "core", Severity: q.severity("no-leader", Page), Alert: "no-leader", Runbook: runbookServerDown,
		Evidence: evidence(line, q.marginLine(), q.alertLine("no-leader")), Command: "parley core",
	})
}

func (q *inquiry) corruption() {
	if q.readings[CoreUndecided] > 0 {
		q.add(Cause{
			Cause: CauseUndecided, Subject: "core", Severity: Page, Alert: "state-undecided", Runbook: runbookCorruption,
			Evidence: evidence("the core members hold different states and none has a majority, so writes are refused", q.alertLine("state-undecided")),
			Command:  "parley digest compare",
		})
	}
	if n := q.readings[CoreViolations]; n > 0 {
		q.add(Cause{
			Cause: CauseInvariant, Subject: q.facts.Node, Severity: Page, Alert: "incorrect-algorithm", Runbook: runbookAlgorithm,
			Evidence: evidence(fmt.Sprintf("an invariant of the algorithm did not hold %g times since this agent started", n), q.alertLine("incorrect-algorithm")),
			Command:  "parley invariant list",
		})
	}
	if q.readings[CoreFenced] > 0 {
		q.add(Cause{
			Cause: CauseFenced, Subject: q.facts.Node, Severity: q.severity("state-stays-fenced", Warn), Alert: "state-fenced", Runbook: runbookCorruption,
			Evidence: evidence("the state of this core member was wrong; it answers nothing until it equals that of the others at three checkpoints",
				q.alertLine("state-fenced"), q.alertLine("state-stays-fenced")),
			Command: "parley events --kind state-fenced",
		})
	}
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
	if q.readings[CoreSuspended] > 0 {
		q.add(Cause{
			Cause: CauseLogInDoubt, Subject: q.facts.Node, Severity: Warn, Alert: "log-in-doubt", Runbook: runbookCorruption,
			Evidence: evidence("this agent may have acknowledged more than its log holds, and waits to hear every other voter", q.alertLine("log-in-doubt")),
			Command:  "parley events --kind log-in-doubt",
		})
	}
}

func (q *inquiry) crashLoop() {
	n := q.readings[AgentCrashes]
	if n < 3 {
		return
	}
	subject, command := "agents", "parley runbook run crash-loop"
	if who := q.facts.Crashing; who != "" {
		subject, command = who, command+" --var node="+who
	}
	q.add(Cause{
		Cause: CauseCrashLoop, Subject: subject, Severity: Page, Alert: "crash-loop", Runbook: runbookCrashLoop,
		Evidence: evidence(fmt.Sprintf("%g starts of one agent within 10 minutes, each after an end that was not clean", n), q.alertLine("crash-loop")),
		Command:  command,
	})
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
	q.linksDown()
	if _, ok := q.above(NetUDPFallback, 0.05); ok {
		q.add(Cause{
			Cause: CauseUDPFallback, Subject: q.facts.Node, Severity: Warn, Alert: "udp-fallback", Runbook: runbookFirewall,
			Evidence: evidence(ratioLine(q.readings, NetUDPFallback, "of this agent's links are on TCP"), q.alertLine("udp-fallback")),
			Command:  "parley net matrix",
		})
	}
}

// linksDown leaves out whom another cause accounts for: an agent that was killed is not reached for some seconds before
// gossip is sure. Once the alert fires it is the network, whatever else is said of that agent.
func (q *inquiry) linksDown() {
	n, ok := q.above(NetUnreachable, 0)
	if !ok {
		return
	}
	line := fmt.Sprintf("%g live agents cannot be reached from %s", n, q.facts.Node)
	if q.facts.Unreachable != nil {
		names := q.facts.Unreachable
		if !q.fires("link-unreachable") {
			names = slices.DeleteFunc(slices.Clone(names), q.inDoubt)
		}
		if len(names) == 0 {
			return
		}
		line = fmt.Sprintf("%s cannot reach %s", q.facts.Node, strings.Join(names, ", "))
	}
	q.add(Cause{
		Cause: CauseLinksDown, Subject: q.facts.Node, Severity: q.severity("link-unreachable", Page), Alert: "link-unreachable",
		Runbook: runbookFirewall, Evidence: evidence(line, q.alertLine("link-unreachable")), Command: "parley net matrix",
	})
}

// inDoubt reports an agent that gossip does not hold alive, or a core member that does not answer.
func (q *inquiry) inDoubt(name string) bool {
	return slices.ContainsFunc(q.facts.Members, func(m MemberFact) bool { return m.Name == name }) ||
		slices.ContainsFunc(q.facts.Core, func(c CoreFact) bool { return c.Name == name && !c.Healthy })
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
		severity, alert := q.voterAlert()
		q.add(Cause{
			Cause: CauseCoreMemberUnhealthy, Subject: c.Name, Severity: severity, Alert: alert, Runbook: runbookServerDown,
			Evidence: evidence(fmt.Sprintf("voter %s does not answer, gossip holds it %s", c.Name, c.Member), q.marginLine(), q.alertLine(alert)),
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
		over, command := q.burnedOut(a.ID)
		q.add(Cause{
			Cause: CauseAlert, Subject: a.ID, Severity: a.Severity, Alert: a.ID, Runbook: a.Runbook,
			Evidence: evidence(a.Summary, q.alertLine(a.ID), over), Command: cmp.Or(command, "parley runbook run "+a.Runbook),
		})
	}
}

// burnedOut says of an objective's alert that its trouble is over, if it is: its runbook would find nothing.
func (q *inquiry) burnedOut(alert string) (line, command string) {
	for _, b := range q.facts.Burns {
		if strings.HasPrefix(alert, "slo-"+b.Objective+"-") && b.Quiet >= burnedOut {
			return fmt.Sprintf("it burned until %s, and nothing was bad since: the alert ends by itself when the bad minutes have left its windows",
				clockTime(b.LastBad)), "parley slo " + b.Objective
		}
	}
	return "", ""
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
