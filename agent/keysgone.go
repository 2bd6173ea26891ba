package agent

import (
	"sync"
	"time"
)

const (
	keysGoneWindow = 10 * time.Minute
	keysGoneEvery  = 10 * time.Second // between two counts that are kept
	keysGoneLeast  = 100              // of fewer keys a tenth says nothing
)

// keysGone is the tripwire of failure mode 10: it sees how many keys there are now, and how many there were at most within
// the last ten minutes. What comes and goes in between, such as locks, does not count. Safe for concurrent use.
type keysGone struct {
	now func() time.Duration // boottime

	mu     sync.Mutex
	counts []keyCount // oldest first
}

type keyCount struct {
	at   time.Duration
	keys int
}

// ratio takes a look at the number of keys, and returns the part of them that is gone.
func (g *keysGone) ratio(keys int) float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	for len(g.counts) > 0 && now-g.counts[0].at > keysGoneWindow {
		g.counts = g.counts[1:]
	}
	if n := len(g.counts); n == 0 || now-g.counts[n-1].at >= keysGoneEvery {
		g.counts = append(g.counts, keyCount{now, keys})
	}
	most := keys
	for _, c := range g.counts {
		most = max(most, c.keys)
	}
	if most < keysGoneLeast {
		return 0
	}
	return float64(most-keys) / float64(most)
}

// keysGoneReading is told by the leader alone, so that one agent pages; all members count, so that the next one knows.
func (a *Agent) keysGoneReading() (float64, bool) {
	if a.core.member() == nil {
		return 0, false
	}
	ratio := a.gone.ratio(a.hub.View().KeyCount())
	return ratio, a.core.leads()
}
