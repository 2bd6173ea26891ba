package sim

import (
	"fmt"

	"github.com/parley-mesh/parley/state"
)

const counters = 12

// countLoad counts: each put of a counter adds one to the version of its key, whatever else happens. So it sees whether
// a request was done once, more often, or not at all.
type countLoad struct {
	cl  *clients
	all [counters]counter
}

// counter is what the clients know of a key.
type counter struct {
	acknowledged int
	unknown      int
	revisions    map[uint64]bool // that a put was answered with
	twice        uint64          // a revision that two puts were answered with
	version      uint64          // in the end
}

func newCountLoad(cl *clients) *countLoad {
	w := &countLoad{cl: cl}
	for i := range w.all {
		w.all[i].revisions = map[uint64]bool{}
	}
	return w
}

// counterNames are their keys.
var counterNames = func() (names [counters]string) {
	for i := range names {
		names[i] = fmt.Sprintf("c/%d", i)
	}
	return names
}()

func (w *countLoad) next(client int) *call {
	i := w.cl.c.rnd.IntN(counters)
	return &call{
		command: state.Put{Key: counterNames[i], Value: encodeValue(uint64(client))}, patient: true, //nolint:gosec // not negative
		end: func(o outcome) { w.all[i].ended(o) },
	}
}

func (c *counter) ended(o outcome) {
	if o.unknown {
		c.unknown++
		return
	}
	c.acknowledged++
	if c.revisions[o.result.Revision] {
		c.twice = o.result.Revision
	}
	c.revisions[o.result.Revision] = true
}

func (w *countLoad) last(v *state.View) {
	for i := range w.all {
		kv, _ := v.Get(counterNames[i])
		w.all[i].version = kv.Version
	}
}

func (w *countLoad) check() error {
	for i := range w.all {
		if err := w.all[i].check(); err != nil {
			return fmt.Errorf("counter %d: %w", i, err)
		}
	}
	return nil
}

// check says whether every request was done at most once, and those that were acknowledged exactly once.
func (c *counter) check() error {
	low, high := uint64(c.acknowledged), uint64(c.acknowledged+c.unknown) //nolint:gosec // not negative
	switch {
	case c.twice != 0:
		return fmt.Errorf("two requests were answered with revision %d", c.twice)
	case c.version < low:
		return fmt.Errorf("%d requests were acknowledged, %d were done", low, c.version)
	case c.version > high:
		return fmt.Errorf("%d requests were sent, of which %d have an unknown outcome, and %d were done", high, c.unknown, c.version)
	}
	return nil
}
