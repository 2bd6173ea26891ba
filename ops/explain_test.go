package ops

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// healthyReadings are of a cluster with three voters in which all is well.
func healthyReadings() Readings {
	return Readings{
		CoreLeaderKnown: 1, CoreQuorumMargin: 1, CoreUnhealthyVoters: 0, CoreVoters: 3, IdentityRemaining: 0.7, AgentStarts: 1, AgentCrashes: 0,
		StorageFreeBytes: 10 << 30, StorageFreeRatio: 0.5, ClockAhead: 0, NetUnreachable: 0, NetUDPFallback: 0, DigestMinority: 0, StorageScrubErrors: 0,
	}
}

func healthyFacts() Facts {
	return Facts{
		Node: "a1", Leader: "a1", Certificate: base.Add(time.Hour),
		Core: []CoreFact{{"a1", false, true, "alive", base}, {"a2", false, true, "alive", base}, {"a3", false, true, "alive", base}},
	}
}

// Each trouble alone is named first, with whom it is about and what to run; without any, nothing is.
func TestExplainOneTrouble(t *testing.T) {
	for _, test := range []struct {
		name    string
		trouble func(Readings, *Facts)
		want    string // cause, subject, severity, alert, runbook
		command string
	}{
		{"all is well", func(Readings, *Facts) {}, "", ""},
		{"a voter is dead", func(r Readings, f *Facts) {
			r[CoreQuorumMargin], r[CoreUnhealthyVoters] = 0, 1
			f.Core[1] = CoreFact{"a2", false, false, "dead", base}
		}, "core-member-dead a2 page quorum-margin server-down", "parley runbook run server-down --var node=a2"},
		{"a voter of five is dead", func(r Readings, f *Facts) {
			r[CoreQuorumMargin], r[CoreVoters] = 1, 5
			f.Core[1] = CoreFact{"a2", false, false, "dead", base}
		}, "core-member-dead a2 warn voter-unhealthy server-down", "parley runbook run server-down --var node=a2"},
		{"a voter was never met", func(r Readings, f *Facts) {
			r[CoreQuorumMargin] = 0
			f.Core[2] = CoreFact{"a3", false, false, MemberUnknown, time.Time{}}
		}, "core-member-dead a3 page quorum-margin server-down", "parley runbook run server-down --var node=a3"},
		{"a learner is dead", func(_ Readings, f *Facts) {
			f.Core = append(f.Core, CoreFact{"a4", true, false, "dead", base})
		}, "core-member-dead a4 warn  server-down", "parley runbook run server-down --var node=a4"},
		{"no state has a majority", func(r Readings, _ *Facts) { r[CoreUndecided] = 1 },
			"state-undecided core page state-undecided data-corruption", "parley digest compare"},
		{"an invariant is broken", func(r Readings, _ *Facts) { r[CoreViolations] = 1 },
			"invariant-violated a1 page incorrect-algorithm incorrect-algorithm", "parley invariant list"},
		{"the state is fenced", func(r Readings, _ *Facts) { r[CoreFenced] = 1 },
			"state-fenced a1 warn state-fenced data-corruption", "parley events --kind state-fenced"},
		{"a voter is alive and silent", func(r Readings, f *Facts) {
			r[CoreQuorumMargin] = 0
			f.Core[1].Healthy = false
		}, "core-member-unhealthy a2 page quorum-margin server-down", "parley node status a2"},
		{"no quorum", func(r Readings, _ *Facts) { r[CoreQuorumMargin], r[CoreLeaderKnown], r[CoreUnhealthyVoters] = -1, 0, 2 },
			"no-quorum core page no-leader server-down", "parley core"},
		{"no leader", func(r Readings, _ *Facts) { r[CoreLeaderKnown] = 0 }, "no-leader core page no-leader server-down", "parley core"},
		{"no leader, and below 0 for want of it", func(r Readings, _ *Facts) { r[CoreLeaderKnown], r[CoreQuorumMargin] = 0, -1 },
			"no-leader core page no-leader server-down", "parley core"},
		{"no word of the core", func(r Readings, _ *Facts) {
			r[CoreLeaderKnown] = 0
			delete(r, CoreQuorumMargin)
		}, "no-leader core page no-leader server-down", "parley core"},
		{"digests differ", func(r Readings, _ *Facts) { r[DigestMinority] = 1 },
			"digest-mismatch core page digest-mismatch data-corruption", "parley digest compare"},
		{"damage on disk", func(r Readings, _ *Facts) { r[StorageScrubErrors] = 2 },
			"storage-damage a1 page storage-damage data-corruption", "parley storage scrub"},
		{"crash loop", func(r Readings, _ *Facts) { r[AgentCrashes] = 3 }, "crash-loop agents page crash-loop crash-loop", "parley runbook run crash-loop"},
		{"crash loop of one that is known", func(r Readings, f *Facts) { r[AgentCrashes], f.Crashing = 3, "a4" },
			"crash-loop a4 page crash-loop crash-loop", "parley runbook run crash-loop --var node=a4"},
		{"started on purpose", func(r Readings, _ *Facts) { r[AgentStarts] = 9 }, "", ""},
		{"disk full", func(r Readings, _ *Facts) { r[StorageFreeBytes] = 1 << 20 }, "disk-full a1 page  ", "df -h DATA_DIR"},
		{"certificate expired", func(r Readings, _ *Facts) { r[IdentityRemaining] = 0 }, "certificate-expired a1 page  ", "parley status"},
		{"certificate about to expire", func(r Readings, _ *Facts) { r[IdentityRemaining] = 0.1 }, "certificate-expiring a1 page  ", "parley status"},
		{"certificate not renewed", func(r Readings, _ *Facts) { r[IdentityRemaining] = 0.3 }, "certificate-expiring a1 warn  ", "parley status"},
		{"links down", func(r Readings, _ *Facts) { r[NetUnreachable] = 1 }, "links-down a1 page link-unreachable firewall", "parley net matrix"},
		{"links down, by name", func(r Readings, f *Facts) { r[NetUnreachable], f.Unreachable = 1, []string{"a2"} },
			"links-down a1 page link-unreachable firewall", "parley net matrix"},
		{"links down to one in doubt", func(r Readings, f *Facts) {
			r[NetUnreachable], f.Unreachable, f.Members = 1, []string{"a5"}, []MemberFact{{"a5", "suspect", base}}
		}, "", ""},
		{"udp blocked", func(r Readings, _ *Facts) { r[NetUDPFallback] = 0.5 }, "udp-fallback a1 warn udp-fallback firewall", "parley net matrix"},
		{"clock behind", func(r Readings, _ *Facts) { r[ClockAhead] = 3 }, "clock a1 warn  ", "date -u"},
		{"an agent outside the core is dead", func(_ Readings, f *Facts) { f.Members = []MemberFact{{"a5", "dead", base}} },
			"agent-dead a5 warn  server-down", "parley runbook run server-down --var node=a5"},
		{"an agent left", func(_ Readings, f *Facts) { f.Members = []MemberFact{{"a5", "left", base}} }, "", ""},
	} {
		r, f := healthyReadings(), healthyFacts()
		test.trouble(r, &f)
		e := Explain(r, nil, f)
		if test.want == "" {
			if !e.Healthy || e.Causes == nil || len(e.Causes) != 0 {
				t.Errorf("%s: %+v", test.name, e)
			}
			continue
		}
		if e.Healthy || len(e.Causes) != 1 {
			t.Errorf("%s: healthy %v, %d causes: %+v", test.name, e.Healthy, len(e.Causes), e.Causes)
			continue
		}
		c := e.Causes[0]
		got := strings.Join([]string{c.Cause, c.Subject, string(c.Severity), c.Alert, c.Runbook}, " ")
		if got != test.want || c.Command != test.command || c.Rank != 1 || len(c.Evidence) == 0 {
			t.Errorf("%s:\n got %s: %s, rank %d, evidence %q\nwant %s: %s", test.name, got, c.Command, c.Rank, c.Evidence, test.want, test.command)
		}
	}
}

// When everything is wrong at once, the order is fixed: that writes have stopped comes first, and the dead are named
// before what follows from them.
func TestExplainRanks(t *testing.T) {
	r, f := healthyReadings(), healthyFacts()
	r[CoreQuorumMargin], r[CoreLeaderKnown], r[IdentityRemaining], r[StorageFreeBytes] = -1, 0, 0, 0
	r[NetUnreachable], r[NetUDPFallback], r[ClockAhead], r[DigestMinority], r[StorageScrubErrors], r[AgentCrashes] = 2, 1, 9, 1, 1, 5
	r[CoreUnhealthyVoters] = 3
	f.Core[0] = CoreFact{"a1", false, false, "alive", base}
	f.Core[1] = CoreFact{"a2", false, false, "dead", base}
	f.Core[2] = CoreFact{"a3", false, false, "dead", base}
	f.Members = []MemberFact{{"a2", "dead", base}, {"a3", "dead", base}, {"a5", "dead", base}}
	var got []string
	for i, c := range Explain(r, nil, f).Causes {
		got = append(got, c.Cause+" "+c.Subject)
		if c.Rank != i+1 {
			t.Errorf("cause %d has rank %d", i, c.Rank)
		}
	}
	want := []string{
		"no-quorum core", "core-member-dead a2", "core-member-dead a3", "core-member-unhealthy a1", "digest-mismatch core", "storage-damage a1",
		"crash-loop agents", "disk-full a1", "certificate-expired a1", "links-down a1", "udp-fallback a1", "clock a1", "agent-dead a5",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// The evidence says where the alert stands, and an alert that nothing accounts for is a cause of its own.
func TestExplainAlerts(t *testing.T) {
	r, f := healthyReadings(), healthyFacts()
	alerts := []AlertStatus{
		{ID: "quorum-margin", State: StateFiring, Severity: Page, Since: base, Runbook: runbookServerDown},
		{ID: "slo-config-write-page", State: StateFiring, Severity: Page, Since: base, Runbook: runbookServerDown, Summary: "burns"},
		{ID: "no-leader", State: StateOK, Runbook: runbookServerDown},
	}
	r[CoreQuorumMargin] = 0
	f.Core[1] = CoreFact{"a2", false, false, "dead", base}
	causes := Explain(r, alerts, f).Causes
	if len(causes) != 2 || causes[1].Cause != CauseAlert || causes[1].Subject != "slo-config-write-page" || causes[1].Runbook != runbookServerDown {
		t.Fatalf("causes %+v", causes)
	}
	want := []string{"gossip holds voter a2 dead since 03:04:00Z", "0 of 3 voters may still fail", "alert quorum-margin is firing since 03:04:00Z"}
	if !slices.Equal(causes[0].Evidence, want) {
		t.Errorf("evidence %q, want %q", causes[0].Evidence, want)
	}
}

// An agent that has measured nothing does not call itself healthy.
func TestExplainWithoutData(t *testing.T) {
	e := (&Board{}).Snapshot().Explain()
	if e.Healthy || len(e.Causes) != 1 || e.Causes[0].Cause != CauseNoData {
		t.Errorf("got %+v", e)
	}
}

// Causes name alerts and runbooks that exist.
func TestCausesNameWhatExists(t *testing.T) {
	r, f := Readings{
		CoreLeaderKnown: 0, CoreQuorumMargin: 0, CoreVoters: 3, DigestMinority: 1, StorageScrubErrors: 1, AgentCrashes: 3, NetUnreachable: 1, NetUDPFallback: 1,
	}, healthyFacts()
	f.Core[1] = CoreFact{"a2", false, false, "dead", base}
	f.Core[2].Healthy = false
	for _, c := range Explain(r, nil, f).Causes {
		i := slices.IndexFunc(Alerts(), func(a Alert) bool { return a.ID == c.Alert })
		if i < 0 || Alerts()[i].Runbook != c.Runbook {
			t.Errorf("%s names alert %q and runbook %q", c.Cause, c.Alert, c.Runbook)
		}
	}
}

// Five seconds after a voter of three was killed: gossip only suspects it, quorum-margin pages, and the link to it is
// down. There is one cause then, with the severity of the alert that fires; it used to be a warning without a page,
// and the dead voter came a second time, as a fault of the network that pages. Once that alert fires it is one.
func TestExplainSoonAfterAKill(t *testing.T) {
	r, f := healthyReadings(), healthyFacts()
	r[CoreQuorumMargin], r[CoreUnhealthyVoters], r[NetUnreachable] = 0, 1, 1
	f.Core[2] = CoreFact{"a3", false, false, "suspect", base}
	f.Members, f.Unreachable = []MemberFact{{"a3", "suspect", base}}, []string{"a3"}
	link := AlertStatus{ID: "link-unreachable", State: StatePending, Severity: Page, Since: base, Runbook: runbookFirewall}
	explain := func(margin State) (lines []string) {
		alerts := []AlertStatus{{ID: "quorum-margin", State: margin, Severity: Page, Since: base, Runbook: runbookServerDown}, link}
		for _, c := range Explain(r, alerts, f).Causes {
			lines = append(lines, fmt.Sprintf("%s %s %s %s", c.Cause, c.Subject, c.Severity, c.Runbook))
		}
		return lines
	}
	for _, test := range []struct {
		margin, link State
		want         []string
	}{
		{StatePending, StatePending, []string{"core-member-unhealthy a3 warn server-down"}},
		{StateFiring, StatePending, []string{"core-member-unhealthy a3 page server-down"}},
		{StateFiring, StateFiring, []string{"core-member-unhealthy a3 page server-down", "links-down a1 page firewall"}},
	} {
		link.State = test.link
		if got := explain(test.margin); !slices.Equal(got, test.want) {
			t.Errorf("margin %s, link %s:\n got %q\nwant %q", test.margin, test.link, got, test.want)
		}
	}
}

// An objective's alert that outlives its trouble says until when that was, and sends nobody through a runbook that
// finds nothing. While it goes on it does not.
func TestExplainBurnedOut(t *testing.T) {
	alerts := []AlertStatus{{ID: "slo-config-write-page", State: StateFiring, Severity: Page, Since: base, Runbook: runbookServerDown, Summary: "burns"}}
	for quiet, want := range map[time.Duration]string{
		burnedOut - 1: "parley runbook run server-down",
		burnedOut:     "parley slo config-write",
	} {
		f := healthyFacts()
		f.Burns = []BurnFact{{"membership-accuracy", base, time.Hour}, {"config-write", base, quiet}}
		causes := Explain(healthyReadings(), alerts, f).Causes
		said := len(causes) == 1 && strings.Contains(strings.Join(causes[0].Evidence, "; "), "it burned until 03:04:00Z")
		if len(causes) != 1 || causes[0].Command != want || said != (quiet >= burnedOut) {
			t.Errorf("%v after the last bad event: %+v", quiet, causes)
		}
	}
}
