package slo

import (
	"fmt"
	"sync/atomic"
)

// A Counter is the one place where the events of an objective are counted; every exporter and the Tracker
// read it. All sources and both results are there from the start, at 0.
type Counter struct {
	objective Objective
	counts    []sourceCounts // as the objective's Sources
}

type sourceCounts struct{ good, bad atomic.Uint64 }

// NewCounter returns one at 0.
func NewCounter(o Objective) *Counter {
	return &Counter{objective: o, counts: make([]sourceCounts, len(o.Sources))}
}

// Add counts events. A source that the objective does not name is a programmer error.
func (c *Counter) Add(source string, good, bad uint64) {
	for i, s := range c.objective.Sources {
		if s == source {
			c.counts[i].good.Add(good)
			c.counts[i].bad.Add(bad)
			return
		}
	}
	panic(fmt.Sprintf("slo: objective %s has no source %q", c.objective.Name, source))
}

// Totals are all events so far.
func (c *Counter) Totals() (good, bad uint64) {
	for i := range c.counts {
		good += c.counts[i].good.Load()
		bad += c.counts[i].bad.Load()
	}
	return good, bad
}

// Objective returns what is counted.
func (c *Counter) Objective() Objective { return c.objective }

// Each visits every source and result, in a fixed order.
func (c *Counter) Each(visit func(source, result string, events uint64)) {
	for i, s := range c.objective.Sources {
		visit(s, "good", c.counts[i].good.Load())
		visit(s, "bad", c.counts[i].bad.Load())
	}
}
