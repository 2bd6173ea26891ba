package api

import "sync"

// limiter counts what each identity has open and refuses beyond a bound, at once: a caller that leaks requests or
// watches finds out, and takes nothing from the others.
type limiter struct {
	each int // open at a time for one identity
	mu   struct {
		sync.Mutex
		open map[string]int // by identity; nothing is called under mu
	}
}

func newLimiter(each int) *limiter {
	l := &limiter{each: each}
	l.mu.open = make(map[string]int)
	return l
}

// acquire takes one place for who, or reports that all are taken. Each success needs one release.
func (l *limiter) acquire(who string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.open[who] >= l.each {
		return false
	}
	l.mu.open[who]++
	return true
}

func (l *limiter) release(who string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.open[who]--; l.mu.open[who] <= 0 {
		delete(l.mu.open, who)
	}
}
