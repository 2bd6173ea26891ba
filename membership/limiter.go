package membership

import (
	"sync"
	"time"
)

// maxBuckets bounds the limiter's memory (about 100 bytes each). When that many pairs are active
// at once, further pairs are refused until some are idle again.
const maxBuckets = 65536

// rate is a token bucket's shape.
type rate struct {
	burst     float64
	perSecond float64
}

var (
	// claimRate is for what one peer says about one node. Honest gossip repeats a message
	// 4 x log10(n) times to random members, so a burst of one change stays far below.
	claimRate = rate{burst: 32, perSecond: 8}
	// selfRate is for accusations of ourselves: each one makes us raise our incarnation.
	selfRate = rate{burst: 16, perSecond: 1}
	// unknownRate is for records of nodes that we do not know yet: each costs a signature check,
	// about 70 us. Joining a cluster of thousands brings that many at once.
	unknownRate = rate{burst: 8192, perSecond: 64}
	// exchangeRate is for full state exchanges that one peer starts.
	exchangeRate = rate{burst: 16, perSecond: 1}
)

type bucketKey struct {
	from, about string
	rate        rate
}

type bucket struct {
	tokens float64
	at     time.Time
}

// limiter holds a token bucket for each pair of (who says it, about whom). Safe for concurrent
// use.
type limiter struct {
	now func() time.Time
	mu  struct {
		sync.Mutex
		buckets map[bucketKey]bucket
		swept   time.Time
	}
}

func newLimiter(now func() time.Time) *limiter {
	l := &limiter{now: now}
	l.mu.buckets = make(map[bucketKey]bucket)
	return l
}

// allow takes a token, and reports whether there was one.
func (l *limiter) allow(r rate, from, about string) bool {
	now := l.now()
	key := bucketKey{from, about, r}
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.mu.buckets[key]
	if !ok {
		if len(l.mu.buckets) >= maxBuckets && !l.sweep(now) {
			return false
		}
		b = bucket{tokens: r.burst, at: now}
	}
	b.tokens = min(r.burst, b.tokens+now.Sub(b.at).Seconds()*r.perSecond)
	b.at = now
	granted := b.tokens >= 1
	if granted {
		b.tokens--
	}
	l.mu.buckets[key] = b
	return granted
}

// sweep drops the buckets that are full again, at most once a second, and reports whether there
// is room now.
func (l *limiter) sweep(now time.Time) bool {
	if now.Sub(l.mu.swept) < time.Second {
		return false
	}
	l.mu.swept = now
	for key, b := range l.mu.buckets {
		if b.tokens+now.Sub(b.at).Seconds()*key.rate.perSecond >= key.rate.burst {
			delete(l.mu.buckets, key)
		}
	}
	return len(l.mu.buckets) < maxBuckets
}
