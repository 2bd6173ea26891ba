package agent

import (
	"testing"
	"time"

	"github.com/parley-mesh/parley/clock"
)

// TestBeatsFallTogether: whatever the moment at which two loops began, they wake at the same one, and a longer period at
// some of the moments of a shorter one.
func TestBeatsFallTogether(t *testing.T) {
	const short, long = 250 * time.Millisecond, time.Second
	for _, began := range []time.Duration{0, 1, 12345678, short - 1, short, 3 * short, 17*time.Second + 1} {
		at := began + untilBeat(began, short)
		if at%short != 0 || at <= began || at-began > short+short/10 {
			t.Errorf("began at %v: wakes at %v", began, at)
		}
		if at := began + untilBeat(began, long); at%short != 0 || at%long != 0 {
			t.Errorf("began at %v: the long one wakes at %v", began, at)
		}
	}
	// A timer that ends a moment early does not end twice.
	if d := untilBeat(4*short-time.Microsecond, short); d < short {
		t.Errorf("a microsecond before a beat the next one is in %v", d)
	}
}

// TestBeatTicks: it ticks once for each period, and not by itself.
func TestBeatTicks(t *testing.T) {
	const every = 20 * time.Millisecond
	b := newBeat(every)
	defer b.stop()
	began := clock.Boottime()
	for range 3 {
		<-b.C
		b.again()
	}
	if took := clock.Boottime() - began; took < 2*every {
		t.Errorf("three ticks within %v", took)
	}
}
