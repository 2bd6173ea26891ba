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
// are slower than that it falls, while they are faster it rises, and only while somebody waits: a gate that nobody waits at
// has nothing to learn. What a write should take is gateTarget, or a few times what the fastest took lately where the disk
// itself is slow: there more at once are not slower, and share its syncs.
//
// Who waits is served in turn by identity, so that one with thousands of requests does not keep another from its one. Of one
// identity the newest goes first: the oldest has the least time left, and whoever sent it may have given up. A request that
// waited for gatePatience is refused as busy with nothing done.
//
// The naive gate, a fixed number with refusals beyond it, was there before: on a machine that does a fifth of what the number
// was made for, each write took five times as long, and the refusals took half of the processor.
type gate struct {
	now func() time.Duration // never stepping

	mu struct {
		sync.Mutex // nothing is called under it
		open       int
		limit      int
		waiting    int
		lines      map[string]*line
		turn       []string // identities of lines, the next first
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
	done    int
	took    time.Duration // all of them together
	pressed bool          // somebody waited
	fastest [2]time.Duration
	turned  time.Duration // when the older of fastest was forgotten
}

const (
	gateFirst    = 1024 // until there is something to go by
	gateMin      = 64
	gateMax      = 8192
	gateTarget   = 250 * time.Millisecond
	gateWindow   = 100 * time.Millisecond
	gateMemory   = 30 * time.Second // of how fast writes can be
	gatePatience = 500 * time.Millisecond
	maxGateWaits = 16_384 // in all; one identity has maxConcurrent
)

func newGate(now func() time.Duration) *gate {
	g := &gate{now: now}
	g.mu.limit, g.mu.lines, g.mu.began, g.mu.turned = gateFirst, make(map[string]*line), now(), now()
	return g
}

// enter waits for a place, and refuses when that takes too long. Each success needs one leave with the moment that it
// returned.
func (g *gate) enter(ctx context.Context, who string) (began time.Duration, failed *Error) {
	w, failed := g.take(who)
	if w == nil {
		return g.now(), failed
	}
	patience := time.NewTimer(gatePatience - rand.N(gatePatience/4)) //nolint:gosec // spreads load, guards nothing
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

// take takes a place, or a place to wait at.
func (g *gate) take(who string) (*waiter, *Error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.waiting == 0 && g.mu.open < g.mu.limit {
		g.mu.open++
		return nil, nil
	}
	g.mu.pressed = true
	if g.mu.waiting >= maxGateWaits {
		return nil, Errorf(CodeBusy, "%d writes wait for a place already", g.mu.waiting)
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
	return w, nil
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

// leave gives a place back.
func (g *gate) leave(began time.Duration) {
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.open--
	g.mu.limit = g.mu.judge(now, now-began, g.mu.limit)
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

// judge counts one that took so long, and returns the bound from now on.
func (w *window) judge(now, took time.Duration, limit int) int {
	w.done++
	w.took += took
	span := now - w.began
	if span < gateWindow {
		return limit
	}
	mean := w.took / time.Duration(w.done)
	if now-w.turned > gateMemory {
		w.fastest, w.turned = [2]time.Duration{w.fastest[1], 0}, now
	}
	for i, f := range w.fastest {
		if f == 0 || mean < f {
			w.fastest[i] = mean
		}
	}
	if w.pressed {
		target := max(gateTarget, 3*min(w.fastest[0], w.fastest[1]))
		fits := int(float64(w.done) * float64(target) / float64(span))
		limit = min(max((limit+fits)/2, gateMin), gateMax)
	}
	w.began, w.done, w.took, w.pressed = now, 0, 0, false
	return limit
}
