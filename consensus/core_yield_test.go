package consensus

import (
	"testing"
	"time"
)

const ms = time.Millisecond

// TestPaceMeter: the 99th percentile of the last seconds. One or two slow syncs say nothing, three do; what is older
// than the window is forgotten; a sync that never ends counts while it lasts.
func TestPaceMeter(t *testing.T) {
	bound := 250 * ms
	fill := func(n int, took time.Duration) *paceMeter {
		m := &paceMeter{}
		for i := range n {
			m.add(time.Duration(i)*ms, took)
		}
		return m
	}
	with := func(m *paceMeter, took ...time.Duration) *paceMeter {
		for _, d := range took {
			m.add(time.Second, d)
		}
		return m
	}
	for _, c := range []struct {
		name          string
		m             *paceMeter
		now, underWay time.Duration
		want          time.Duration
	}{
		{"nothing", fill(0, 0), time.Second, 0, 0},
		{"two slow ones", fill(2, 900*ms), time.Second, 0, 0},
		{"three slow ones", fill(3, 900*ms), time.Second, 0, 900 * ms},
		{"two slow ones of many", with(fill(300, ms), 900*ms, 900*ms), time.Second, 0, ms},
		{"three slow ones of many", with(fill(300, ms), 900*ms, 800*ms, 700*ms), time.Second, 0, 700 * ms},
		{"of long ago", fill(3, 900*ms), 6 * time.Second, 0, 0},
		{"a short one under way", fill(0, 0), time.Second, 500 * ms, 0},
		{"one that hangs", fill(0, 0), time.Second, 750 * ms, 750 * ms},
		{"one that hangs after many fast ones", fill(300, ms), time.Second, 760 * ms, 760 * ms},
		{"one that hangs for ever", fill(300, ms), time.Hour, time.Hour, time.Hour},
	} {
		if got := c.m.p99(c.now, c.underWay, bound); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if m := fill(10*paceSamples, ms); len(m.samples) != paceSamples {
		t.Errorf("it keeps %d samples", len(m.samples))
	}
}

// TestSuccessor: the lead goes to a voter that answers, is not held, and is twice as fast; furthest in the log first.
func TestSuccessor(t *testing.T) {
	bounds := PaceBounds(50*ms, 10)
	if want := (Pace{Fsync: 250 * ms, Late: 125 * ms}); bounds != want {
		t.Fatalf("bounds %v, want %v", bounds, want)
	}
	self := Pace{Fsync: 500 * ms, Late: 10 * ms} // twice over its bound
	fast, worse := Pace{Fsync: 2 * ms, Late: 3 * ms}, Pace{Fsync: 400 * ms}
	heir := func(id, match uint64, p Pace) Heir {
		return Heir{ID: id, Healthy: true, Known: true, Match: match, Pace: p}
	}
	deaf, held, silent, doubted := heir(2, 9, fast), heir(2, 9, fast), heir(2, 9, fast), heir(2, 9, fast)
	deaf.Healthy, held.Held, silent.Known, doubted.Doubted = false, true, false, true
	for _, c := range []struct {
		name  string
		heirs []Heir
		want  uint64
	}{
		{"nobody", nil, 0},
		{"the furthest", []Heir{heir(2, 5, fast), heir(3, 9, Pace{Fsync: 100 * ms})}, 3},
		{"the faster of equals", []Heir{heir(2, 9, Pace{Fsync: 100 * ms}), heir(3, 9, fast)}, 3},
		{"not one as slow", []Heir{heir(2, 9, worse)}, 0},
		{"not one with a late loop", []Heir{heir(2, 9, Pace{Late: 126 * ms})}, 0},
		{"one with a loop that is not too late", []Heir{heir(2, 9, Pace{Fsync: 20 * ms, Late: 125 * ms})}, 2},
		{"the one that is fast", []Heir{heir(2, 9, worse), heir(3, 5, fast)}, 3},
		{"not one that is not heard", []Heir{deaf}, 0},
		{"not one that is held", []Heir{held}, 0},
		{"not one that says nothing", []Heir{silent}, 0},
		{"not one that is doubted", []Heir{doubted}, 0},
		{"on the edge", []Heir{heir(2, 9, Pace{Fsync: 250 * ms})}, 2},
		{"over the edge", []Heir{heir(2, 9, Pace{Fsync: 251 * ms})}, 0},
	} {
		if id, ok := Successor(self, bounds, c.heirs); id != c.want || ok != (c.want != 0) {
			t.Errorf("%s: %d, %v, want %d", c.name, id, ok, c.want)
		}
	}
}

// TestYields: what is too slow about the leader has to be much better about the other one; the rest has to be well, or
// all of it much better.
func TestYields(t *testing.T) {
	bounds := PaceBounds(50*ms, 10)
	for _, c := range []struct {
		self, other Pace
		want        bool
	}{
		{Pace{Fsync: 300 * ms}, Pace{Fsync: 150 * ms}, true},
		{Pace{Fsync: 300 * ms}, Pace{Fsync: 151 * ms}, false},
		{Pace{Late: 200 * ms}, Pace{Late: 100 * ms, Fsync: 250 * ms}, true},
		{Pace{Late: 200 * ms}, Pace{Late: 101 * ms}, false},
		{Pace{Late: 200 * ms}, Pace{Fsync: 251 * ms}, false},
		{Pace{Fsync: 300 * ms, Late: 200 * ms}, Pace{Fsync: 100 * ms, Late: 101 * ms}, false},
		{Pace{Fsync: 2 * time.Second}, Pace{Fsync: 900 * ms}, true}, // all disks are slow, and one is slower
		{Pace{Fsync: 2 * time.Second}, Pace{Fsync: 1100 * ms}, false},
	} {
		if got := c.self.yields(c.other, bounds); got != c.want {
			t.Errorf("%v to %v: %v", c.self, c.other, got)
		}
	}
}

// TestBestHeir: a leader that stops takes the one furthest in the log; one that is held, does not say that it would serve, or
// is doubted only when there is no other, and nobody who does not answer.
func TestBestHeir(t *testing.T) {
	for _, c := range []struct {
		heirs []Heir
		want  uint64
	}{
		{nil, 0},
		{[]Heir{{ID: 2, Match: 9}}, 0},
		{[]Heir{{ID: 2, Healthy: true, Match: 5}, {ID: 3, Healthy: true, Match: 9}}, 3},
		{[]Heir{{ID: 2, Healthy: true, Match: 5}, {ID: 3, Healthy: true, Match: 9, Held: true}}, 2},
		{[]Heir{{ID: 3, Healthy: true, Match: 9, Held: true}, {ID: 2, Healthy: true, Match: 5}}, 2},
		{[]Heir{{ID: 3, Healthy: true, Match: 9, Held: true}, {ID: 2, Match: 5}}, 3},
		{[]Heir{{ID: 2, Healthy: true, Match: 9, Doubted: true}, {ID: 3, Healthy: true, Match: 5}}, 3},
		{[]Heir{{ID: 3, Healthy: true, Match: 5, Held: true}, {ID: 2, Healthy: true, Match: 9, Doubted: true, Known: true}}, 3},
		{[]Heir{{ID: 2, Healthy: true, Match: 9}, {ID: 3, Healthy: true, Match: 5, Known: true}}, 3},
		{[]Heir{{ID: 2, Healthy: true, Match: 9, Known: true}, {ID: 3, Healthy: true, Match: 9, Known: true, Held: true}}, 2},
		{[]Heir{{ID: 2, Healthy: true, Match: 9, Doubted: true}}, 2},
	} {
		if id, ok := BestHeir(c.heirs); id != c.want || ok != (c.want != 0) {
			t.Errorf("of %+v: %d, %v", c.heirs, id, ok)
		}
	}
}

// TestYieldingWaits: a leader hands over only after it was slow for a while without a break, asks again when nobody was
// better, and less and less often once it did; after a quiet time it begins anew.
func TestYieldingWaits(t *testing.T) {
	bounds := PaceBounds(50*ms, 10)
	slow, well := Pace{Fsync: 300 * ms}, Pace{Fsync: 250 * ms, Late: 125 * ms}
	var y Yielding
	// firstDue looks every 250 ms from a time on, slow all the while, and returns when it is time.
	firstDue := func(from time.Duration) time.Duration {
		for now := from; now < from+time.Hour; now += 250 * ms {
			if y.Due(now, slow, bounds) {
				return now - from
			}
		}
		t.Fatal("never")
		return 0
	}
	if y.Due(0, well, bounds) || y.Due(time.Hour, well, bounds) {
		t.Fatal("on its bounds it is well")
	}
	if got := firstDue(time.Hour); got != yieldAfter {
		t.Fatalf("due after %v", got)
	}
	now := 2 * time.Hour
	y.Due(now, slow, bounds)
	y.Due(now+yieldAfter-ms, well, bounds)
	if y.Due(now+yieldAfter, slow, bounds) {
		t.Error("a break does not start the wait anew")
	}
	y.Follows()
	if got := firstDue(now + time.Minute); got != yieldAfter {
		t.Errorf("after it followed due after %v", got)
	}

	now = 3 * time.Hour
	y.Due(now, slow, bounds)
	y.Vain(now)
	if got := firstDue(now); got != yieldRetry {
		t.Errorf("in vain: again after %v", got)
	}
	for i, want := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 16 * time.Minute} {
		y.Yielded(now)
		if got := firstDue(now); got != want {
			t.Errorf("after hand-over %d due after %v, want %v", i+1, got, want)
		}
		now += want
	}
	now += 2 * yieldPauseMax
	y.Yielded(now)
	if got := firstDue(now); got != yieldPauseMin {
		t.Errorf("after a quiet time due after %v", got)
	}
}
