package api

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stallingCore commits what waits as one batch, as a core does by one sync of its disk: a batch takes a while and each write in it
// a little. Now and then its machine does something else, and it stands still.
type stallingCore struct {
	queue chan chan struct{}
	stall func(random *rand.Rand) time.Duration // before each batch
}

const (
	batchTakes = 5 * time.Millisecond
	batchEach  = 50 * time.Microsecond
	batchMost  = 1024
)

func (c *stallingCore) run(ctx context.Context) {
	random := rand.New(rand.NewPCG(7, 7)) //nolint:gosec // a test's
	for ctx.Err() == nil {
		var batch []chan struct{}
		select {
		case first := <-c.queue:
			batch = append(batch, first)
		case <-ctx.Done():
			return
		}
		time.Sleep(c.stall(random))
		for len(c.queue) > 0 && len(batch) < batchMost {
			batch = append(batch, <-c.queue)
		}
		time.Sleep(batchTakes + time.Duration(len(batch))*batchEach)
		for _, done := range batch {
			close(done)
		}
	}
}

// stallsAfter is when such a core begins to stall: the gate has seen by then how fast it can be.
const (
	stallsAfter = time.Second
	stallSpan   = 15 * time.Second
)

// write is one write by way of a gate, nil for none; it reports whether it was done.
func (c *stallingCore) write(ctx context.Context, g *gate) bool {
	if g != nil {
		began, failed := g.enter(ctx, "one")
		if failed != nil {
			return false
		}
		defer func() { g.leave(began, ctx.Err() == nil) }()
	}
	answer := make(chan struct{})
	c.queue <- answer
	select {
	case <-answer:
		return true
	case <-ctx.Done():
		return false
	}
}

// stalled has so many clients write at once again and again, and returns how many writes a second were done since the core
// stalled, and how long the slowest hundredth took at least.
func stalled(g *gate, stall func(*rand.Rand) time.Duration, clients int) (perSecond float64, p99 time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), stallsAfter+stallSpan)
	defer cancel()
	began := time.Now()
	core := &stallingCore{make(chan chan struct{}, 1<<16), func(r *rand.Rand) time.Duration {
		if time.Since(began) < stallsAfter {
			return 0
		}
		return stall(r)
	}}
	var all sync.WaitGroup
	all.Go(func() { core.run(ctx) })
	took := make([][]time.Duration, clients)
	for i := range clients {
		all.Go(func() {
			for ctx.Err() == nil {
				at := time.Now()
				if core.write(ctx, g) && at.Sub(began) > stallsAfter {
					took[i] = append(took[i], time.Since(at))
				}
			}
		})
	}
	all.Wait()
	sum := slices.Sorted(slices.Values(slices.Concat(took...)))
	return float64(len(sum)) / stallSpan.Seconds(), sum[len(sum)*99/100]
}

// A machine that does something else now and then lets writes wait, however few are under way: with fewer the core commits smaller
// batches, and they wait as long. Ten times as many clients as saturate it get as much done as at the peak, but for a fifth, and
// nearly each write within the bound that is promised, but for the stalls. The control goes by how long writes take alone, and ends with a handful under
// way. (A gate that went by it did a third of the peak for up to a minute.)
func TestGateOutlastsStalls(t *testing.T) {
	for name, c := range map[string]struct {
		stall   func(*rand.Rand) time.Duration
		longest time.Duration
	}{
		"0.4 s before each batch":     {func(*rand.Rand) time.Duration { return 400 * time.Millisecond }, 400 * time.Millisecond},
		"up to 1 s before each batch": {func(r *rand.Rand) time.Duration { return time.Duration(r.IntN(int(time.Second))) }, time.Second},
	} {
		measure := func(t *testing.T, what string, clients int, make func(now func() time.Duration) *gate) (perSecond float64, p99 time.Duration) {
			synctest.Test(t, func(*testing.T) {
				began := time.Now()
				perSecond, p99 = stalled(make(func() time.Duration { return time.Since(began) }), c.stall, clients)
			})
			t.Logf("%s, %d clients: %.0f a second, p99 %v", what, clients, perSecond, p99)
			return perSecond, p99
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peak, _ := measure(t, "no gate", 512, func(func() time.Duration) *gate { return nil })
			good, p99 := measure(t, "gate", 5120, newGate)
			if good < 0.8*peak {
				t.Errorf("%.0f a second are done, the peak is %.0f", good, peak)
			}
			if most := gatePatienceMax + gateSlowest + 2*c.longest; p99 > most { // it waits for a batch, and is in the next one
				t.Errorf("one in a hundred takes %v or longer, the bound is %v", p99, most)
			}
			bad, _ := measure(t, "control", 5120, func(now func() time.Duration) *gate {
				g := newGate(now)
				g.mu.blind = true
				return g
			})
			if bad > 0.75*peak {
				t.Errorf("control: %.0f of %.0f a second are done by a gate that goes by the time alone, the test proves nothing", bad, peak)
			}
		})
	}
}
