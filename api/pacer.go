package api

import (
	"sync"
	"time"
)

// How often one other agent may send a probe through the leader: twice what a core member sends. A probe needs hardly
// any right, and must not become a way to fill the log.
const (
	probeRate  = 2.0
	probeBurst = 10.0
	maxPaced   = 8192 // agents that are remembered
)

// pacer bounds how often each identity may do something: burst times at once, then rate times a second.
type pacer struct {
	rate, burst float64
	elapsed     func() time.Duration
	mu          struct {
		sync.Mutex
		buckets map[string]bucket // by identity; nothing is called under mu
	}
}

// bucket is what an identity had left at a time.
type bucket struct {
	left float64
	at   time.Duration
}

func newPacer(rate, burst float64, elapsed func() time.Duration) *pacer {
	p := &pacer{rate: rate, burst: burst, elapsed: elapsed}
	p.mu.buckets = make(map[string]bucket)
	return p
}

// allow takes one from who's bucket, or reports that it is empty, or that too many others are busy.
func (p *pacer) allow(who string) bool {
	now := p.elapsed()
	p.mu.Lock()
	defer p.mu.Unlock()
	b, known := p.mu.buckets[who]
	if !known {
		if len(p.mu.buckets) >= maxPaced {
			p.forget(now)
		}
		if len(p.mu.buckets) >= maxPaced {
			return false
		}
		b = bucket{p.burst, now}
	}
	b = bucket{p.level(b, now), now}
	allowed := b.left >= 1
	if allowed {
		b.left--
	}
	p.mu.buckets[who] = b
	return allowed
}

func (p *pacer) level(b bucket, now time.Duration) float64 {
	return min(p.burst, b.left+p.rate*(now-b.at).Seconds())
}

// forget drops the buckets that are full again: they say nothing.
func (p *pacer) forget(now time.Duration) {
	for who, b := range p.mu.buckets {
		if p.level(b, now) >= p.burst {
			delete(p.mu.buckets, who)
		}
	}
}
