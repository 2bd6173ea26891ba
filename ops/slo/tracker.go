package slo

import (
	"fmt"
	"time"
)

// windows are those that Status shows and Rules name.
var windows = []struct {
	name string
	d    time.Duration
}{
	{"5m", 5 * time.Minute}, {"30m", 30 * time.Minute}, {"1h", time.Hour}, {"2h", 2 * time.Hour},
	{"6h", 6 * time.Hour}, {"1d", 24 * time.Hour}, {"3d", 72 * time.Hour},
}

// Windows returns the names of the burn rates in a Status, shortest first. The slice is the caller's own.
func Windows() []string {
	names := make([]string, len(windows))
	for i, w := range windows {
		names[i] = w.name
	}
	return names
}

// A Tracker counts the events of one objective over every window. It takes 1,312 buckets of 16 bytes,
// 21 KB, for the life of the agent, and forgets all when the agent stops.
type Tracker struct {
	objective Objective
	rings     []ring
	lastBad   time.Duration // when there was a bad event last
	everBad   bool
}

// NewTracker returns one that has seen nothing.
func NewTracker(o Objective) *Tracker {
	t := &Tracker{objective: o}
	for _, r := range resolutions {
		t.rings = append(t.rings, newRing(r))
	}
	return t
}

// Objective returns what the Tracker counts.
func (t *Tracker) Objective() Objective { return t.objective }

// Add counts events as of now (boottime).
func (t *Tracker) Add(now time.Duration, good, bad uint64) {
	for i := range t.rings {
		t.rings[i].advance(now)
		t.rings[i].add(counts{good, bad})
	}
	if bad > 0 {
		t.lastBad, t.everBad = now, true
	}
}

// LastBad returns when a bad event was counted last; ok is false when none was.
func (t *Tracker) LastBad() (at time.Duration, ok bool) { return t.lastBad, t.everBad }

// Status describes the objective as of now.
func (t *Tracker) Status(now time.Duration) Status {
	month := t.over(now, Window)
	s := Status{
		Name: t.objective.Name, Target: t.objective.Target, Window: "30d", Burn: make(map[string]*float64, len(windows)),
		Firing: []string{}, Good: month.good, Bad: month.bad,
	}
	if bad, ok := month.ratio(); ok {
		sli, left := 1-bad, 1-bad/t.objective.Budget()
		s.SLI, s.BudgetRemaining = &sli, &left
	}
	for _, w := range windows {
		s.Burn[w.name] = nil
		if burn, ok := t.burn(t.over(now, w.d)); ok {
			s.Burn[w.name] = &burn
		}
	}
	for _, severity := range []Severity{Page, Ticket} {
		if excess, ok := t.Excess(now, severity); ok && excess > 1 {
			s.Firing = append(s.Firing, "slo-"+t.objective.Name+"-"+string(severity))
		}
	}
	return s
}

// Excess is how far the worst rule of a severity is over its factor: the smaller of its two burn rates,
// divided by it. Where a window has too few events to judge, those that are missing count as good. So a few
// bad events wake nobody; an outage in which hardly anything is even tried still does, as soon as it would on
// an agent that has run for long; and a good event never makes it worse, so nobody is woken for what is over.
// Without any event in the short window of one of the rules there is no data, unless another rule fires.
func (t *Tracker) Excess(now time.Duration, s Severity) (excess float64, ok bool) {
	ok = true
	for _, r := range Rules() {
		if r.Severity != s {
			continue
		}
		short := t.over(now, r.Short)
		ok = ok && short.total() > 0
		enough := r.minEvents(t.objective)
		burn := min(t.atLeast(t.over(now, r.Long), enough*r.Long.Seconds()/r.Short.Seconds()), t.atLeast(short, enough))
		excess = max(excess, burn/r.Factor)
	}
	return excess, ok || excess > 1
}

// atLeast is the burn rate of c, filled up with good events.
func (t *Tracker) atLeast(c counts, events float64) float64 {
	return float64(c.bad) / max(float64(c.total()), events) / t.objective.Budget()
}

// burn is how many times faster than it may the budget is used up; ok is false without events.
func (t *Tracker) burn(c counts) (burn float64, ok bool) {
	bad, ok := c.ratio()
	return bad / t.objective.Budget(), ok
}

// over sums a window that ends now.
func (t *Tracker) over(now, window time.Duration) counts {
	for i := range t.rings {
		if r := &t.rings[i]; window <= r.span {
			r.advance(now)
			return r.sum(window)
		}
	}
	panic(fmt.Sprintf("slo: no ring holds %v", window))
}
