package slo

import "time"

// resolutions are the rings of a Tracker, finest first. A window is summed from the finest ring that
// reaches back far enough, so that it is at most one thirtieth longer than its name says.
var resolutions = []resolution{
	{10 * time.Second, 30 * time.Minute},
	{time.Minute, 2 * time.Hour},
	{5 * time.Minute, 24 * time.Hour},
	{time.Hour, Window},
}

type resolution struct{ step, span time.Duration }

// counts are events.
type counts struct{ good, bad uint64 }

func (c counts) total() uint64 { return c.good + c.bad }

// ratio is the bad part; ok is false without events.
func (c counts) ratio() (bad float64, ok bool) {
	if c.total() == 0 {
		return 0, false
	}
	return float64(c.bad) / float64(c.total()), true
}

// ring holds the events of the last span in buckets of one step, and of the step that has begun.
type ring struct {
	resolution
	buckets []counts // by step, modulo their number
	head    int64    // the step that the newest bucket is of
}

func newRing(r resolution) ring {
	return ring{resolution: r, buckets: make([]counts, r.span/r.step+1)}
}

// advance empties the buckets of the steps since the last call. Time that goes back, which boottime never
// does, counts as no time.
func (r *ring) advance(now time.Duration) {
	to := int64(now / r.step)
	for passed := min(to-r.head, int64(len(r.buckets))); passed > 0; passed-- {
		*r.at(to - passed + 1) = counts{}
	}
	r.head = max(r.head, to)
}

func (r *ring) add(c counts) {
	b := r.at(r.head)
	b.good += c.good
	b.bad += c.bad
}

func (r *ring) at(step int64) *counts { return &r.buckets[step%int64(len(r.buckets))] }

// sum adds up the step that has begun and the whole ones of a window before it.
func (r *ring) sum(window time.Duration) counts {
	var out counts
	for i := range int64(window/r.step) + 1 {
		if step := r.head - i; step >= 0 {
			b := r.at(step)
			out.good += b.good
			out.bad += b.bad
		}
	}
	return out
}
