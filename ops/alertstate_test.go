package ops

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

var base = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)

// at is a moment, in seconds.
func at(second int) Moment {
	return Moment{time.Hour + time.Duration(second)*time.Second, base.Add(time.Duration(second) * time.Second)}
}

// margin judges like the real alert of that name.
var margin = Alert{
	ID: "margin", Condition: Condition{"m", AtMost, 0}, Guard: &Condition{"voters", AtLeast, 3}, For: 2 * time.Second,
}

// Each row is a second: what was read, and where the alert stands afterwards.
func TestAlertStates(t *testing.T) {
	good, bad := Readings{"m": 1, "voters": 3}, Readings{"m": 0, "voters": 3}
	type second struct {
		readings Readings
		want     string // state, and since when in seconds
	}
	for _, test := range []struct {
		name    string
		seconds []second
	}{
		{"fires after its time and ends at once", []second{
			{good, "ok 0"}, {bad, "pending 1"}, {bad, "pending 1"}, {bad, "firing 3"}, {bad, "firing 3"}, {good, "ok 5"},
		}},
		{"a short dip does not fire", []second{
			{good, "ok 0"}, {bad, "pending 1"}, {bad, "pending 1"}, {good, "ok 3"}, {bad, "pending 4"}, {bad, "pending 4"}, {bad, "firing 6"},
		}},
		{"no data is not good", []second{
			{nil, "no_data -1"}, {good, "ok 1"}, {nil, "no_data 2"}, {Readings{"m": math.NaN(), "voters": 3}, "no_data 2"},
			{Readings{"m": math.Inf(-1), "voters": 3}, "no_data 2"}, {bad, "pending 5"}, {nil, "no_data 6"},
		}},
		{"what fires does not end for want of data", []second{
			{bad, "pending 0"}, {bad, "pending 0"}, {bad, "firing 2"}, {nil, "firing 2"}, {Readings{"voters": 3}, "firing 2"}, {good, "ok 5"},
		}},
		{"the guard keeps it quiet", []second{
			{Readings{"m": 0, "voters": 1}, "ok 0"}, {Readings{"m": 0, "voters": 1}, "ok 0"}, {Readings{"m": 0}, "no_data 2"}, {bad, "pending 3"},
		}},
	} {
		a := NewAlarms([]Alert{margin}, at(-1))
		for i, s := range test.seconds {
			a.Look(at(i), s.readings)
			status := a.Status()[0]
			if got := fmt.Sprintf("%s %.0f", status.State, status.Since.Sub(base).Seconds()); got != s.want {
				t.Errorf("%s, second %d: %s, want %s", test.name, i, got, s.want)
			}
			value, measured := s.readings["m"]
			if measured = measured && status.State != StateNoData && !math.IsNaN(value); (status.Value != nil) != measured && s.want != "firing 2" {
				t.Errorf("%s, second %d: value %v of %v", test.name, i, status.Value, s.readings)
			}
		}
	}
}

// Without data for five minutes nothing can be said any more, not even that it still fires.
func TestFiringIsHeldForFiveMinutes(t *testing.T) {
	a := NewAlarms([]Alert{margin}, at(0))
	for i := range 4 {
		a.Look(at(i), Readings{"m": -1, "voters": 3})
	}
	for i := 4; i < 302; i++ {
		a.Look(at(i), nil)
		if s := a.Status()[0].State; s != StateFiring {
			t.Fatalf("second %d: %s", i, s)
		}
	}
	a.Look(at(303), nil)
	if s := a.Status()[0].State; s != StateNoData {
		t.Errorf("five minutes after the last reading it is %s", s)
	}
}

// An alert without a time of its own fires at once; each begin and end is told exactly once.
func TestTransitions(t *testing.T) {
	a := NewAlarms([]Alert{margin, {ID: "now", Condition: Condition{"n", Above, 2}}}, at(0))
	var told []string
	for i, r := range []Readings{
		{"n": 2}, {"n": 3}, {"n": 4}, {"n": 1}, {"n": 9, "m": 0, "voters": 3}, {"n": 9, "m": 0, "voters": 3}, {"n": 9, "m": 0, "voters": 3}, {"n": 0, "m": 1, "voters": 3},
	} {
		for _, tr := range a.Look(at(i), r) {
			told = append(told, fmt.Sprintf("%d %s %v %g", i, tr.Alert.ID, tr.Firing, tr.Value))
		}
	}
	want := "1 now true 3, 3 now false 1, 4 now true 9, 6 margin true 0, 7 margin false 1, 7 now false 0"
	if got := strings.Join(told, ", "); got != want {
		t.Errorf("told %s\nwant %s", got, want)
	}
}

// Each comparison is on the right side of its threshold.
func TestConditions(t *testing.T) {
	for _, test := range []struct {
		compare          Comparison
		low, equal, high bool
	}{{Below, true, false, false}, {AtMost, true, true, false}, {Above, false, false, true}, {AtLeast, false, true, true}} {
		for value, want := range map[float64]bool{1: test.low, 2: test.equal, 3: test.high} {
			if held, known := (Condition{"m", test.compare, 2}).holds(Readings{"m": value}); held != want || !known {
				t.Errorf("%g %s 2: %v, %v", value, test.compare, held, known)
			}
		}
	}
}
