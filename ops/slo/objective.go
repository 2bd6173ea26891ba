package slo

import (
	"strings"
	"time"
)

// Window is the time over which a target is meant.
const Window = 30 * 24 * time.Hour

// The names of the objectives.
const (
	ConfigWrite        = "config-write"
	MembershipAccuracy = "membership-accuracy"

	CertificateFreshness = "certificate-freshness"
)

// Where an event came from.
const (
	SourceClient = "client" // somebody's request
	SourceProbe  = "probe"  // this agent's own, so that there is always data
	SourceGossip = "gossip" // seconds, by gossip's word
	SourceAgent  = "agent"  // minutes of an agent, by its own look
)

// An Objective is a promise about the ratio of good events.
type Objective struct {
	Name    string
	Target  float64 // of good events among all
	Good    string  // what counts as good, for people
	Sources []string
}

// Objectives returns all of them in a fixed order. The slice is the caller's own.
func Objectives() []Objective {
	return []Objective{
		{ConfigWrite, 0.999, "valid writes with a known result within 1 s", []string{SourceClient, SourceProbe}},
		{MembershipAccuracy, 0.9999, "seconds of live agents in which they were not held dead", []string{SourceGossip}},
		{CertificateFreshness, 0.9999, "minutes of an agent in which each certificate that it renews had a third of its life left", []string{SourceAgent}},
	}
}

// Budget is the ratio of events that may be bad.
func (o Objective) Budget() float64 { return 1 - o.Target }

// BurnMetric names the reading that says how far the worst rule of a severity is over its factor.
func (o Objective) BurnMetric(s Severity) string {
	return "parley_slo_" + strings.ReplaceAll(o.Name, "-", "_") + "_" + string(s) + "_ratio"
}

// A Severity is what a rule leads to.
type Severity string

// The severities.
const (
	Page   Severity = "page"
	Ticket Severity = "ticket"
)

// A Rule fires when the budget burns Factor times faster than it may over the long and the short window
// both: the long one says that it matters, the short one that it still goes on.
type Rule struct {
	Severity    Severity
	Long, Short time.Duration
	Factor      float64
}

// Rules returns the rules, which are the same for each objective. The slice is the caller's own.
func Rules() []Rule {
	return []Rule{
		{Page, time.Hour, 5 * time.Minute, 14.4},
		{Page, 6 * time.Hour, 30 * time.Minute, 6},
		{Ticket, 24 * time.Hour, 2 * time.Hour, 3},
		{Ticket, 72 * time.Hour, 6 * time.Hour, 1},
	}
}

// minEvents is how many events the short window is taken to have at least: with fewer, less than three bad
// ones would be enough for the rule to fire.
func (r Rule) minEvents(o Objective) float64 { return 3 / (r.Factor * o.Budget()) }
