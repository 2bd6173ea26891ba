package slo

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"
)

var write = Objectives()[0]

// event is what the naive reference remembers.
type event struct {
	at        time.Duration
	good, bad uint64
}

// naive sums the events of a window by looking at all of them: those of the step that has begun and of the
// whole steps of the window before it.
func naive(events []event, now, window, step time.Duration) (c counts) {
	for _, e := range events {
		if e.at/step >= now/step-window/step && e.at <= now {
			c.good += e.good
			c.bad += e.bad
		}
	}
	return c
}

// between sums the events of an exact span, end included.
func between(events []event, from, to time.Duration) (c counts) {
	for _, e := range events {
		if e.at > from && e.at <= to {
			c.good += e.good
			c.bad += e.bad
		}
	}
	return c
}

// A tracker over 40 days of bursts, pauses and failures says at every moment what a reference that keeps
// every event says, and never less than the exact window nor more than it and one thirtieth.
func TestTrackerAgainstNaiveReference(t *testing.T) {
	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(seed, 1))
		tracker := NewTracker(write)
		now := time.Duration(random.Int64N(int64(1000 * time.Hour)))
		end := now + 40*24*time.Hour
		var events []event
		for now < end {
			now += pauseOf(random)
			e := event{now, random.Uint64N(1000), random.Uint64N(20)}
			events = append(events, e)
			tracker.Add(e.at, e.good, e.bad)
			if random.IntN(20) == 0 {
				now += pauseOf(random)
				compare(t, tracker, events, now)
			}
		}
		if len(events) < 500 {
			t.Fatalf("seed %d: only %d events", seed, len(events))
		}
	}
}

// pauseOf is seconds mostly, minutes or hours at times, days rarely.
func pauseOf(random *rand.Rand) time.Duration {
	unit := []time.Duration{time.Second, time.Minute, time.Hour}[min(2, random.IntN(12)/5)]
	if random.IntN(400) == 0 {
		unit = 24 * time.Hour
	}
	return time.Duration(random.Int64N(int64(3 * unit)))
}

func compare(t *testing.T, tracker *Tracker, events []event, now time.Duration) {
	t.Helper()
	for _, w := range append(slices.Clone(windows), struct {
		name string
		d    time.Duration
	}{"30d", Window}) {
		i := slices.IndexFunc(resolutions, func(r resolution) bool { return w.d <= r.span })
		step := resolutions[i].step
		got := tracker.over(now, w.d)
		if want := naive(events, now, w.d, step); got != want {
			t.Fatalf("at %v: %s has %v, the reference %v", now, w.name, got, want)
		}
		if least, most := between(events, now-w.d, now), between(events, now-w.d-step, now); got.total() < least.total() || got.total() > most.total() {
			t.Fatalf("at %v: %s has %d events, exactly %d, and %d with one more step", now, w.name, got.total(), least.total(), most.total())
		}
		if step*30 > w.d {
			t.Fatalf("window %s is summed in steps of %v", w.name, step)
		}
	}
}

// load adds perSecond events in each second, a part of them bad, and returns the time afterwards.
func load(t *Tracker, now, d time.Duration, perSecond uint64, bad float64) time.Duration {
	var sent, failed uint64
	for end := now + d; now < end; now += time.Second {
		sent += perSecond
		due := uint64(float64(sent)*bad) - failed
		failed += due
		t.Add(now, perSecond-min(due, perSecond), due)
	}
	return now
}

// Each rule fires above its factor and not below, on steady load.
func TestRulesByErrorRatio(t *testing.T) {
	for _, test := range []struct {
		name   string
		run    time.Duration
		bad    float64
		firing []string
	}{
		{"all is well", 80 * time.Hour, 0, []string{}},
		{"half of the budget", 80 * time.Hour, 0.0005, []string{}},
		{"1.5 times the budget for three days", 80 * time.Hour, 0.0015, []string{"slo-config-write-ticket"}},
		{"4 times", 80 * time.Hour, 0.004, []string{"slo-config-write-ticket"}},
		{"7 times", 80 * time.Hour, 0.007, []string{"slo-config-write-page", "slo-config-write-ticket"}},
		{"20 times, for a minute", time.Minute, 0.02, []string{}},
		{"20 times, for the first ten minutes of an agent", 10 * time.Minute, 0.02, []string{}}, // as of an old one
		{"20 times, for the first half hour", 30 * time.Minute, 0.02, []string{"slo-config-write-page", "slo-config-write-ticket"}},
	} {
		tracker := NewTracker(write)
		now := load(tracker, 1000*time.Hour, test.run, 2, test.bad)
		if got := tracker.Status(now).Firing; !slices.Equal(got, test.firing) {
			t.Errorf("%s: firing %v, want %v", test.name, got, test.firing)
		}
	}
}

// A page needs both windows: after an hour of health one bad minute is no reason yet, five are; and it ends
// within the short window after the errors have, while the long one still burns.
func TestPageNeedsLongAndShortWindow(t *testing.T) {
	tracker := NewTracker(write)
	excess := func(now time.Duration) bool {
		e, ok := tracker.Excess(now, Page)
		if !ok {
			t.Fatalf("at %v: no data", now)
		}
		return e > 1
	}
	now := load(tracker, 0, 8*time.Hour, 2, 0)
	if now = load(tracker, now, 30*time.Second, 2, 1); excess(now) {
		t.Error("30 s of errors page: burn over 5 m is 100, over 1 h 8.3")
	}
	if now = load(tracker, now, time.Minute, 2, 1); !excess(now) {
		t.Error("90 s of errors do not page: burn over 5 m is 300, over 1 h 25")
	}
	if now = load(tracker, now, 6*time.Minute, 2, 0); excess(now) {
		t.Error("it pages 6 minutes after the last error")
	}
	if long, _ := tracker.burn(tracker.over(now, time.Hour)); long < 14.4 {
		t.Errorf("control: the long window burns at %v, so the short one has not ended the page", long)
	}
}

// An outage pages while it lasts, not when it is over: three minutes of health, then the majority is gone for 104
// seconds, with one event a second, or with one in two, as when each waits for its end. By the count of events alone
// it would page 38 seconds after the end, or not at all.
func TestOutagePagesWhileItLasts(t *testing.T) {
	for _, every := range []time.Duration{time.Second, 2 * time.Second} {
		tracker := NewTracker(write)
		now := load(tracker, 1000*time.Hour, 3*time.Minute, 1, 0)
		fired := time.Duration(0)
		for end, began := now+104*time.Second, now; now < end; now += every {
			tracker.Add(now, 0, 1)
			if e, _ := tracker.Excess(now, Page); e > 1 && fired == 0 {
				fired = now - began
			}
		}
		if fired == 0 || fired > 90*time.Second {
			t.Errorf("an event every %v: it pages after %v", every, fired)
		}
		if at, ok := tracker.LastBad(); !ok || now-at != every {
			t.Errorf("the last bad event was %v ago, %v", now-at, ok)
		}
	}
}

// What is good never makes it worse: six bad events among few page neither then nor by any number of good ones.
func TestGoodEventsNeverPage(t *testing.T) {
	tracker := NewTracker(write)
	tracker.Add(1000*time.Hour, 0, 6)
	for now := 1000 * time.Hour; now < 1001*time.Hour; now = load(tracker, now, time.Second, 1, 0) {
		if e, _ := tracker.Excess(now, Page); e > 1 {
			t.Fatalf("it pages after %v", now-1000*time.Hour)
		}
	}
}

// Without events nothing is good: SLI, budget and burn are null, and there is no excess.
func TestNoDataIsNotGood(t *testing.T) {
	tracker := NewTracker(write)
	check := func(now time.Duration, sli bool, burning ...string) {
		t.Helper()
		s := tracker.Status(now)
		if (s.SLI != nil) != sli || (s.BudgetRemaining != nil) != sli {
			t.Errorf("at %v: SLI %v, budget %v", now, s.SLI, s.BudgetRemaining)
		}
		var got []string
		for _, name := range Windows() {
			if burn, ok := s.Burn[name]; !ok {
				t.Errorf("window %s is missing", name)
			} else if burn != nil {
				got = append(got, name)
			}
		}
		if !slices.Equal(got, burning) {
			t.Errorf("at %v: data in %v, want %v", now, got, burning)
		}
	}
	check(time.Hour, false)
	if excess, ok := tracker.Excess(time.Hour, Page); ok || excess != 0 {
		t.Errorf("excess %v, %v", excess, ok)
	}
	tracker.Add(time.Hour, 1, 0)
	check(time.Hour, true, "5m", "30m", "1h", "2h", "6h", "1d", "3d")
	check(2*time.Hour, true, "1h", "2h", "6h", "1d", "3d")
	if _, ok := tracker.Excess(2*time.Hour, Page); ok {
		t.Error("nothing in 5 m and there is an excess")
	}
	check(200*time.Hour, true)
	check(900*time.Hour, false)
}

// One rule that fires is enough, though another has no data: errors do not get better by silence.
func TestOneFiringRuleIsEnough(t *testing.T) {
	tracker := NewTracker(write)
	now := load(tracker, 0, time.Hour, 2, 0.5) + 10*time.Minute
	if excess, ok := tracker.Excess(now, Page); !ok || excess <= 1 {
		t.Errorf("excess %v, %v: the 30 m window is full of errors", excess, ok)
	}
}

// With too few events to judge the missing ones count as good: on an agent that has just started the fast rule fires
// by the bad events that it would fire by on one with a probe a second for an hour, and not by fewer.
func TestLowTraffic(t *testing.T) {
	for bad, want := range map[uint64]bool{1: false, 35: false, 36: false, 37: true} {
		tracker := NewTracker(write)
		tracker.Add(time.Hour, 0, bad)
		excess, ok := tracker.Excess(time.Hour, Page)
		if !ok || excess > 1 != want {
			t.Errorf("%d bad events of %d: excess %v, %v, want a page: %v", bad, bad, excess, ok, want)
		}
	}
	if got := Rules()[0].minEvents(write); math.Abs(got-3/(14.4*0.001)) > 1e-9 {
		t.Errorf("the least number of events is %v", got)
	}
}

// The budget that is left is a part of what 30 days allow, and negative once it is overdrawn.
func TestBudget(t *testing.T) {
	for bad, want := range map[uint64]float64{0: 1, 5: 0.5, 10: 0, 20: -1} {
		tracker := NewTracker(write)
		tracker.Add(time.Hour, 10_000-bad, bad)
		s := tracker.Status(time.Hour + 29*24*time.Hour)
		if s.BudgetRemaining == nil || math.Abs(*s.BudgetRemaining-want) > 1e-9 {
			t.Errorf("%d bad of 10000: budget %v, want %v", bad, s.BudgetRemaining, want)
		}
	}
}

// A tracker's size is fixed: what its comment says.
func TestTrackerIsBounded(t *testing.T) {
	tracker := NewTracker(write)
	load(tracker, 0, 100*time.Hour, 1, 0)
	buckets := 0
	for _, r := range tracker.rings {
		buckets += len(r.buckets)
	}
	if size := buckets * int(unsafe.Sizeof(counts{})); buckets != 1312 || size > 21<<10 {
		t.Errorf("%d buckets of %d bytes altogether", buckets, size)
	}
}

// Boottime never goes back; if it did, the events would count as of the latest time seen.
func TestTimeThatGoesBack(t *testing.T) {
	tracker := NewTracker(write)
	tracker.Add(time.Hour, 1, 0)
	tracker.Add(time.Minute, 1, 0)
	if got := tracker.over(time.Hour, 5*time.Minute); got.good != 2 {
		t.Errorf("%d events, want 2", got.good)
	}
}

func BenchmarkStatus(b *testing.B) {
	tracker := NewTracker(write)
	now := load(tracker, 0, time.Hour, 2, 0.001)
	for b.Loop() {
		now += time.Second
		tracker.Add(now, 1, 0)
		tracker.Status(now)
	}
}
