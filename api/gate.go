package api

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// gate bounds how many writes of callers are under way at once, by how long they take. The others wait, which costs a parked
// goroutine each; a refusal at once would cost more, for a caller in a loop is back with the same request before its place
// would have come.
//
// The bound follows Little's law: as many may be under way as are done in the time that a write should take. While writes
// are slower than that it falls; while they are faster it rises, if somebody waits. What a write should take is gateTarget,
// or a few times what the fastest took lately where the disk itself is slow: there more at once are not slower, and share
// its syncs. It is gateSlowest at most: a gate that began under an overload has never seen a fast one. A write whose caller
// gave up is not one that was done, or a core that only works for who has gone would look like a fast one.
//
// Writes may also be slow because the machine does something else, with few of them under way as with many. There each step down
// does less, what is done fits into an even lower bound, and so on down to gateMin. So a step down is taken back that does less
// than a larger bound did (see lower), while writes take no longer than gateSlowest.
//
// Who waits is served in turn by identity, so that one with thousands of requests does not keep another from its one. Of one
// identity the newest goes first: the oldest has the least time left, and whoever sent it may have given up. A request that
// waited for as long as its patience is refused as busy with nothing done. To be refused costs both ends about what a write does,
// and then its caller is back. So refusals are kept to a quarter of what is done: the more wait for each place, the longer is
// their patience, between gatePatience and gatePatienceMax.
//
// So an accepted write takes at most gatePatienceMax here and, once the bound has settled, about what one should take behind
// it; 99 of 100 take far less.
//
// The naive gate, a fixed number with refusals beyond it, was there before: on a machine that does a fifth of what the number
// was made for, each write took five times as long, and the refusals took half of the processor.
type gate struct {
	now    func() time.Duration                // never stepping
	waited func(d time.Duration, refused bool) // is told of each that found no place at once

	mu struct {
		sync.Mutex // nothing is called under it
		open       int
		limit      int
		waiting    int
		lines      map[string]*line
		turn       []string // identities of lines, the next first
		rate       float64  // writes a second in the window before
		window
	}
}

// line is who waits of one identity, the newest last.
type line struct {
	waiters []*waiter
	live    int // of waiters; the others have given up
}

type waiter struct {
	granted chan struct{} // closed
	gone    bool          // guarded by gate.mu, as is let
	let     bool
}

// window is what was done since the bound was set last.
type window struct {
	began   time.Duration
	left    int
	done    int           // of those, the others' callers gave up
	took    time.Duration // all of them together
	pressed bool          // somebody waited
	around  bool          // one that was let in since has come back: they show what the bound does
	fastest [2]time.Duration
	turned  time.Duration // when the older of fastest was forgotten
	best    best
	held    time.Duration // until then the bound stays, for a lower one was worse
	up      bool          // the next try is a larger one
	blind   bool          // for a test's control: best is not looked at
}

// best is the bound under which most was done lately, of those under which writes took no longer than gateSlowest.
type best struct {
	rate  float64
	limit int
	at    time.Duration
}

// lately is the rate as it counts now: it is forgotten little by little.
func (b best) lately(now time.Duration) float64 {
	return b.rate * max(0, 1-(now-b.at).Seconds()/gateRecall.Seconds())
}

const (
	gateFirst    = 1024 // until there is something to go by
	gateMin      = 64
	gateMax      = 8192
	gateTarget   = 250 * time.Millisecond
	gateSlowest  = time.Second // longest that a write should take where disks are slow
	gateWindow   = 100 * time.Millisecond
	gateMemory   = 30 * time.Second // of how fast writes can be
	gateRecall   = 10 * time.Second // of how many are done under another bound
	gateLoses    = 0.9              // of what was done under a larger bound: then the larger one was right
	gateHold     = time.Second      // with the larger one, before another is tried
	gateRefusals = 0.25             // of the writes that are done
	maxGateWaits = 16_384           // in all; one identity has maxConcurrent

	gatePatience    = 500 * time.Millisecond
	gatePatienceMax = 2 * time.Second
)

func newGate(now func() time.Duration) *gate {
	g := &gate{now: now, waited: func(time.Duration, bool) {}}
	g.mu.limit, g.mu.lines, g.mu.began, g.mu.turned = gateFirst, make(map[string]*line), now(), now()
	return g
}

// enter waits for a place, and refuses when that takes too long. Each success needs one leave with the moment that it
// returned.
func (g *gate) enter(ctx context.Context, who string) (began time.Duration, failed *Error) {
	w, longest, failed := g.take(who)
	if w == nil {
		if failed != nil {
			g.waited(0, true)
		}
		return g.now(), failed
	}
	came := g.now()
	defer func() { g.waited(g.now()-came, failed != nil) }()
	patience := time.NewTimer(longest - rand.N(longest/4)) //nolint:gosec // spreads load, guards nothing
	defer patience.Stop()
	select {
	case <-w.granted:
		return g.now(), nil
	case <-patience.C:
	case <-ctx.Done():
	}
	if g.giveUp(who, w) {
		return 0, Errorf(CodeBusy, "writes come faster than the core takes them, this one waited for a place in vain")
	}
	return g.now(), nil // it was let in at that moment
}

// enterAtOnce is enter for who does not wait: it reports whether there was a place.
func (g *gate) enterAtOnce() (began time.Duration, entered bool) {
	began = g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.waiting > 0 || g.mu.open >= g.mu.limit {
		return 0, false
	}
	g.mu.open++
	return began, true
}

// take takes a place, or a place to wait at and how long to wait there.
func (g *gate) take(who string) (*waiter, time.Duration, *Error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.waiting == 0 && g.mu.open < g.mu.limit {
		g.mu.open++
		return nil, 0, nil
	}
	g.mu.pressed = true
	if g.mu.waiting >= maxGateWaits {
		return nil, 0, Errorf(CodeBusy, "%d writes wait for a place already", g.mu.waiting)
	}
	l := g.mu.lines[who]
	if l == nil {
		l = &line{}
		g.mu.lines[who] = l
		g.mu.turn = append(g.mu.turn, who)
	}
	w := &waiter{granted: make(chan struct{})}
	l.add(w)
	g.mu.waiting++
	return w, patience(g.mu.waiting, g.mu.rate), nil
}

// patience is how long one of so many waits where so many writes are done a second: if all give up after that, as many do as
// gateRefusals allows.
func patience(waiting int, perSecond float64) time.Duration {
	allowed := max(1, gateRefusals*perSecond) // before the first window there is no rate
	longest := min(float64(waiting)/allowed, gatePatienceMax.Seconds())
	return max(gatePatience, time.Duration(longest*float64(time.Second)))
}

// giveUp takes a waiter out, or reports that it was let in.
func (g *gate) giveUp(who string, w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.let {
		return false
	}
	w.gone = true
	g.mu.waiting--
	l := g.mu.lines[who]
	if l.live--; l.live == 0 {
		delete(g.mu.lines, who)
		g.mu.turn = slices.DeleteFunc(g.mu.turn, func(other string) bool { return other == who })
	}
	return true
}

// leave gives a place back. done: the write was answered before its caller gave up.
func (g *gate) leave(began time.Duration, done bool) {
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.open--
	if g.mu.count(began, now, done); g.mu.over(now) {
		g.mu.rate = g.mu.perSecond(now)
		g.mu.limit = g.mu.judge(now, g.mu.limit)
	}
	for g.mu.open < g.mu.limit && g.mu.waiting > 0 {
		if w := g.next(); w != nil {
			w.let = true
			g.mu.waiting--
			g.mu.open++
			close(w.granted)
		}
	}
}

// next takes the newest waiter of the identity whose turn it is, nil if none of its waiters is left. The caller holds mu.
func (g *gate) next() *waiter {
	who := g.mu.turn[0]
	l := g.mu.lines[who]
	w := l.newest()
	if g.mu.turn = g.mu.turn[1:]; l.live > 0 {
		g.mu.turn = append(g.mu.turn, who)
	} else {
		delete(g.mu.lines, who)
	}
	return w
}

func (l *line) add(w *waiter) {
	if len(l.waiters) > 2*l.live+64 { // most have given up
		kept := l.waiters[:0]
		for _, old := range l.waiters {
			if !old.gone {
				kept = append(kept, old)
			}
		}
		clear(l.waiters[len(kept):])
		l.waiters = kept
	}
	l.waiters = append(l.waiters, w)
	l.live++
}

func (l *line) newest() *waiter {
	for n := len(l.waiters); n > 0; n = len(l.waiters) {
		w := l.waiters[n-1]
		l.waiters[n-1], l.waiters = nil, l.waiters[:n-1]
		if !w.gone {
			l.live--
			return w
		}
	}
	return nil
}

// count takes one in that began then and ends now.
func (w *window) count(began, now time.Duration, done bool) {
	w.left++
	w.took += now - began
	w.around = w.around || began >= w.began
	if done {
		w.done++
	}
}

// over says whether the window may be judged: somebody has come back who began under the bound as it is, or that takes long.
func (w *window) over(now time.Duration) bool {
	span := now - w.began
	return span >= gateWindow && (w.around || !w.pressed) || span >= gateTarget
}

func (w *window) perSecond(now time.Duration) float64 {
	return float64(w.done) / (now - w.began).Seconds()
}

// judge ends the window, and returns the bound from now on.
func (w *window) judge(now time.Duration, limit int) int {
	mean, rate := w.took/time.Duration(w.left), w.perSecond(now)
	if now-w.turned > gateMemory {
		w.fastest, w.turned = [2]time.Duration{w.fastest[1], 0}, now
	}
	for i, f := range w.fastest {
		if f == 0 || mean < f {
			w.fastest[i] = mean
		}
	}
	target := min(max(gateTarget, 3*min(w.fastest[0], w.fastest[1])), gateSlowest)
	fits := min(max(int(rate*target.Seconds()), gateMin), gateMax)
	switch {
	case mean > target && fits <= limit:
		limit = w.lower(now, mean, rate, limit, fits)
	case w.pressed:
		limit = (limit + fits) / 2
	}
	w.began, w.done, w.left, w.took, w.pressed, w.around = now, 0, 0, 0, false, false
	return limit
}

// lower is the bound while writes take longer than they should. If they wait for each other a lower one does as many, sooner. If it
// is the machine that lets them wait, however few they are, it does fewer and no sooner: then the bound goes back to where most was
// done, stays there for a while, and tries a larger one next.
func (w *window) lower(now, mean time.Duration, rate float64, limit, fits int) int {
	lower := max((limit+fits)/2, gateMin)
	if mean > gateSlowest || !w.pressed || w.blind {
		return lower
	}
	before := w.best
	if rate >= before.lately(now) {
		w.best = best{rate, limit, now}
	}
	switch {
	case now < w.held:
		return limit
	case limit < before.limit && rate < gateLoses*before.lately(now):
		w.held, w.up = now+gateHold, true
		return before.limit
	case w.up || lower == limit:
		w.up = false
		return min(limit+limit/2, gateMax)
	}
	return lower
}
