package consensus

import (
	"errors"
	"testing"
	"time"
)

// TestPaceKeeper: a node measures its syncs, also one that does not end, and the gaps between the ticks that it saw.
func TestPaceKeeper(t *testing.T) {
	k, now := newPaceKeeper(50*ms, 10), time.Hour
	k.now = func() time.Duration { return now }
	broken := errors.New("broken")
	for i := range 3 {
		if err := k.timeSync(func() error { now += 300 * ms; return broken }); !errors.Is(err, broken) {
			t.Fatalf("sync %d: %v", i, err)
		}
	}
	if got := k.pace(); got.Fsync != 300*ms || got.Late != 0 {
		t.Errorf("after three syncs of 300 ms: %v", got)
	}
	now += time.Minute
	if got := k.pace(); got != (Pace{}) {
		t.Errorf("a minute later: %v", got)
	}
	_ = k.timeSync(func() error {
		now += time.Second
		if got := k.pace(); got.Fsync != time.Second {
			t.Errorf("while a sync hangs: %v", got)
		}
		return nil
	})
	for _, gap := range []time.Duration{50 * ms, 50 * ms, 120 * ms, 120 * ms, 20 * ms, 50 * ms} { // before the first tick there is nothing
		now += gap
		k.tick(50 * ms)
	}
	if got := k.pace().Late; got != 0 {
		t.Errorf("two ticks of five were late: %v", got)
	}
	now += 130 * ms
	k.tick(50 * ms)
	if got := k.pace().Late; got != 70*ms {
		t.Errorf("three of six were: %v", got)
	}
}
