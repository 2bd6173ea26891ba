// Package report holds what a comparison measured, and the arithmetic on it: quantiles, medians, spreads and ratios, the
// goals that the ratios are held against, and the tables that people read.
//
// The common case is
//
//	text := report.Result{...}.Markdown()
//
// Everything is a plain value; nothing here touches a file, a clock or a process.
package report

import (
	"fmt"
	"slices"
	"time"
)

// Result is a whole comparison. Its JSON is what -o writes.
type Result struct {
	About About `json:"about"`
	Runs  []Run `json:"runs"`
}

// About says what was compared, where and how.
type About struct {
	At      time.Time `json:"at"`
	Machine string    `json:"machine"`
	Kernel  string    `json:"kernel"`
	Go      string    `json:"go"`
	Disk    string    `json:"disk"`
	Parley  string    `json:"parley"` // commit
	Etcd    string    `json:"etcd"`
	How     string    `json:"how"` // the command and its sizes
}

// Run is one pass over everything. Ratios are taken within a run only.
type Run struct {
	Measures []Measure `json:"measures"`
}

// Measure is one cell: what was done by how many clients to whom, and the figures. Each is for a metric that has a unit
// in its name, such as p99_ms.
type Measure struct {
	What    string             `json:"what"`
	Clients int                `json:"clients,omitempty"`
	Side    string             `json:"side"`
	Values  map[string]float64 `json:"values"`
	Each    []float64          `json:"each,omitempty"` // of something that was done several times
	Note    string             `json:"note,omitempty"`
}

// Cell names a measure.
type Cell struct {
	What    string
	Clients int
	Side    string
}

func (m Measure) cell() Cell { return Cell{m.What, m.Clients, m.Side} }

func (c Cell) String() string {
	if c.Clients == 0 {
		return c.What + ", " + c.Side
	}
	return fmt.Sprintf("%s, %d clients, %s", c.What, c.Clients, c.Side)
}

// value is a metric of a cell in one run.
func (r Run) value(c Cell, metric string) (float64, bool) {
	i := slices.IndexFunc(r.Measures, func(m Measure) bool { return m.cell() == c })
	if i < 0 {
		return 0, false
	}
	v, ok := r.Measures[i].Values[metric]
	return v, ok
}

// all are a metric of a cell in all runs that have it.
func (r Result) all(c Cell, metric string) []float64 {
	var values []float64
	for _, run := range r.Runs {
		if v, ok := run.value(c, metric); ok {
			values = append(values, v)
		}
	}
	return values
}

// each are the single figures of a cell over all runs.
func (r Result) each(c Cell) []float64 {
	var values []float64
	for _, run := range r.Runs {
		for _, m := range run.Measures {
			if m.cell() == c {
				values = append(values, m.Each...)
			}
		}
	}
	return values
}

// Milliseconds of a duration.
func Milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Quantile is the smallest of values in order below or at which are at least the share q of all, by the nearest rank; 0
// of none.
func Quantile(ordered []time.Duration, q float64) time.Duration {
	if len(ordered) == 0 {
		return 0
	}
	rank := int(q * float64(len(ordered)))
	if float64(rank) < q*float64(len(ordered)) {
		rank++
	}
	return ordered[min(max(rank, 1), len(ordered))-1]
}

// Median of values in any order, the mean of the middle two if they are even in number; 0 of none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	ordered := slices.Sorted(slices.Values(values))
	mid := len(ordered) / 2
	if len(ordered)%2 == 1 {
		return ordered[mid]
	}
	return (ordered[mid-1] + ordered[mid]) / 2
}
