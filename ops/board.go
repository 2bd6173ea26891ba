package ops

import (
	"sync/atomic"

	"github.com/parley-mesh/parley/ops/slo"
)

// A Snapshot is what an agent knew of itself at one moment. It is not changed after it was published.
type Snapshot struct {
	Readings Readings
	Alerts   []AlertStatus
	SLOs     []slo.Status
	Facts    Facts
}

// Explain ranks what is wrong.
func (s *Snapshot) Explain() Explanation { return Explain(s.Readings, s.Alerts, s.Facts) }

// A Board shows the newest Snapshot. The zero value shows an empty one.
type Board struct{ newest atomic.Pointer[Snapshot] }

// Publish shows s from now on.
func (b *Board) Publish(s *Snapshot) { b.newest.Store(s) }

// Snapshot returns the newest one, never nil.
func (b *Board) Snapshot() *Snapshot {
	if s := b.newest.Load(); s != nil {
		return s
	}
	return &Snapshot{}
}
