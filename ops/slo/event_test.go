package slo

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// The caller's own mistakes do not count; what we refuse, lose or take too long for is bad.
func TestJudgeWrite(t *testing.T) {
	for _, test := range []struct {
		write        Write
		good, counts bool
	}{
		{Write{Status: 200, Took: time.Millisecond}, true, true},
		{Write{Status: 200, Took: time.Second}, true, true},
		{Write{Status: 200, Took: time.Second + 1}, false, true},
		{Write{Status: 400}, false, false},
		{Write{Status: 403}, false, false},
		{Write{Status: 409}, false, false},
		{Write{Status: 422}, false, false},
		{Write{Status: 429}, false, true},
		{Write{Status: 500}, false, true},
		{Write{Status: 501}, false, false},
		{Write{Status: 503}, false, true},
		{Write{Status: 504}, false, true},
		{Write{Status: 507}, false, true},
		{Write{Status: 504, Abandoned: true, Took: 100 * time.Millisecond}, false, false},
		{Write{Status: 504, Abandoned: true, Took: 2 * time.Second}, false, true},
	} {
		if good, counts := test.write.Judge(); good != test.good || counts != test.counts {
			t.Errorf("%+v: good %v, counts %v, want %v, %v", test.write, good, counts, test.good, test.counts)
		}
	}
}

// sight is what gossip holds of two nodes in the seconds from..to.
type sight struct {
	from, to int
	a2       Sighting
}

var host = [16]byte{1}

// A node that is heard again in the same epoch was never dead; in a later one, on another host, or after ten
// minutes, it was.
func TestAccuracy(t *testing.T) {
	alive, dead := Sighting{"a2", false, 7, host}, Sighting{"a2", true, 7, host}
	again, deadAgain := Sighting{"a2", false, 8, host}, Sighting{"a2", true, 8, host}
	heir := Sighting{"a2", false, 7, [16]byte{2}}
	for _, test := range []struct {
		name      string
		sights    []sight
		good, bad uint64
	}{
		{"always alive", []sight{{0, 60, alive}}, 60, 0},
		{"falsely dead for 30 s", []sight{{0, 10, alive}, {11, 40, dead}, {41, 60, alive}}, 30, 29},
		{"died and started again", []sight{{0, 10, alive}, {11, 40, dead}, {41, 60, again}}, 30, 0},
		{"died and was replaced by a host that started as often", []sight{{0, 10, alive}, {11, 40, dead}, {41, 60, heir}}, 30, 0},
		{"never heard again", []sight{{0, 10, alive}, {11, 2000, dead}}, 10, 0},
		{"heard again after ten minutes", []sight{{0, 10, alive}, {11, 700, dead}, {701, 710, alive}}, 20, 0},
		{"heard again just before ten minutes", []sight{{0, 10, alive}, {11, 609, dead}, {610, 620, alive}}, 21, 598},
		{"started again while held dead, then falsely dead", []sight{{0, 10, alive}, {11, 20, dead}, {21, 30, deadAgain}, {31, 40, again}}, 20, 9},
	} {
		accuracy := NewAccuracy()
		var good, bad uint64
		for _, s := range test.sights {
			for second := s.from; second <= s.to; second++ {
				g, b := accuracy.Observe(time.Hour+time.Duration(second)*time.Second, []Sighting{s.a2})
				good, bad = good+g, bad+b
			}
		}
		if good != test.good || bad != test.bad {
			t.Errorf("%s: %d good and %d bad seconds, want %d and %d", test.name, good, bad, test.good, test.bad)
		}
	}
}

// Seconds are counted whole whatever the pace of the looks, and not while this agent itself stood still.
func TestAccuracyCountsWhatItSaw(t *testing.T) {
	accuracy := NewAccuracy()
	var good uint64
	for ms := 0; ms <= 60_000; ms += 700 {
		g, _ := accuracy.Observe(time.Duration(ms)*time.Millisecond, []Sighting{{Name: "a2"}})
		good += g
	}
	if good != 59 {
		t.Errorf("%d seconds in looks every 700 ms up to 59.5 s", good)
	}
	if g, _ := accuracy.Observe(10*time.Minute, []Sighting{{Name: "a2"}}); g != 0 {
		t.Errorf("%d seconds of a standstill were counted", g)
	}
}

// What left while it was held dead is judged no more, and deaths under judgement are bounded.
func TestAccuracyForgets(t *testing.T) {
	accuracy := NewAccuracy()
	accuracy.Observe(0, []Sighting{{"a2", true, 1, host}})
	accuracy.Observe(time.Second, []Sighting{{"a2", true, 1, host}})
	accuracy.Observe(2*time.Second, nil)
	if _, bad := accuracy.Observe(3*time.Second, []Sighting{{"a2", false, 1, host}}); bad != 0 || len(accuracy.dead) != 0 {
		t.Errorf("%d bad seconds, %d deaths", bad, len(accuracy.dead))
	}
	var many []Sighting
	for i := range maxDead + 10 {
		many = append(many, Sighting{fmt.Sprint(i), true, 1, host})
	}
	accuracy.Observe(4*time.Second, many)
	if len(accuracy.dead) != maxDead {
		t.Errorf("%d deaths are under judgement, the limit is %d", len(accuracy.dead), maxDead)
	}
}

// Every source and result is there from the start, at 0, and a source that nobody declared panics.
func TestCounter(t *testing.T) {
	c := NewCounter(write)
	list := func() (out []string) {
		c.Each(func(source, result string, n uint64) { out = append(out, fmt.Sprint(source, " ", result, " ", n)) })
		return out
	}
	if got, want := list(), []string{"client good 0", "client bad 0", "probe good 0", "probe bad 0"}; !slices.Equal(got, want) {
		t.Errorf("at the start %q, want %q", got, want)
	}
	c.Add(SourceProbe, 2, 1)
	c.Add(SourceClient, 0, 4)
	if got, want := list(), []string{"client good 0", "client bad 4", "probe good 2", "probe bad 1"}; !slices.Equal(got, want) {
		t.Errorf("then %q, want %q", got, want)
	}
	if good, bad := c.Totals(); good != 2 || bad != 5 {
		t.Errorf("totals %d, %d", good, bad)
	}
	defer func() {
		if recover() == nil {
			t.Error("an unknown source was counted")
		}
	}()
	c.Add("rumour", 1, 0)
}
