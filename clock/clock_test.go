package clock

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// manual is a wall clock that the test moves.
type manual struct{ now time.Time }

func (m *manual) read() time.Time { return m.now }

var base = time.UnixMilli(1_700_000_000_000)

func newClock(t *testing.T, options Options) *Clock {
	t.Helper()
	c, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func now(t *testing.T, c *Clock) Stamp {
	t.Helper()
	stamp, err := c.Now()
	if err != nil {
		t.Fatal(err)
	}
	return stamp
}

func TestStampText(t *testing.T) {
	stamp := Stamp(1_700_000_000_000<<16 | 5)
	if got, want := stamp.String(), "1700000000000.5"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	if !stamp.Wall().Equal(base) || stamp.Logical() != 5 {
		t.Errorf("parts = %v, %d; want %v, 5", stamp.Wall(), stamp.Logical(), base)
	}
	text, err := json.Marshal(stamp)
	if err != nil || string(text) != `"1700000000000.5"` {
		t.Errorf("json = %s, %v", text, err)
	}
	var back Stamp
	if err := json.Unmarshal(text, &back); err != nil || back != stamp {
		t.Errorf("json round trip = %v, %v; want %v", back, err, stamp)
	}
}

func TestParseStampRefusesOtherSpellings(t *testing.T) {
	for _, text := range []string{"", ".", "1", "1.", ".1", "-1.0", "+1.0", "01.0", "1.00", "1.65536", "281474976710656.0", "1.0.0", " 1.0", strings.Repeat("9", 1000)} {
		stamp := Stamp(7)
		if err := stamp.UnmarshalText([]byte(text)); err == nil || stamp != 7 {
			t.Errorf("UnmarshalText(%q) = %v, %v; want an error and no change", text, stamp, err)
		} else if len(err.Error()) > 200 {
			t.Errorf("error for a long text has %d bytes", len(err.Error()))
		}
	}
}

func TestLogicalOverflowCarries(t *testing.T) {
	// 65,537 stamps within one physical millisecond stay unique and ordered.
	c := newClock(t, Options{Physical: (&manual{base}).read})
	last := now(t, c)
	for range 1 << 16 {
		next := now(t, c)
		if next <= last {
			t.Fatalf("stamp %v after %v", next, last)
		}
		last = next
	}
	if got, want := last.String(), "1700000000001.0"; got != want {
		t.Errorf("stamp 65,537 = %s, want %s", got, want)
	}
}

func TestRestartAfterClockWentBack(t *testing.T) {
	// A restart with the wall clock an hour back must not reissue or precede an issued stamp.
	wall, mark := &manual{base}, Stamp(0)
	persist := func(s Stamp) error { mark = s; return nil }
	first := newClock(t, Options{Physical: wall.read, Persist: persist})
	issued := now(t, first)
	wall.now = wall.now.Add(900 * time.Millisecond)
	issued = max(issued, now(t, first))

	wall.now = base.Add(-time.Hour)
	second := newClock(t, Options{Physical: wall.read, Persist: persist, HighWater: mark})
	if got := now(t, second); got <= issued {
		t.Errorf("after restart %v, want after %v", got, issued)
	}
	if got := second.Ahead(); got < time.Hour || got > time.Hour+2*DefaultReserve {
		t.Errorf("Ahead() = %v, want an hour and up to two reserves", got)
	}

	// Control: without the mark the same restart goes back.
	careless := newClock(t, Options{Physical: wall.read})
	if got := now(t, careless); got > issued {
		t.Errorf("control: %v is after %v without a mark; the test proves nothing", got, issued)
	}
}

func TestPersistFailureHandsOutNothing(t *testing.T) {
	broken, saved := errors.New("disk gone"), Stamp(0)
	var fail error
	c := newClock(t, Options{Physical: (&manual{base}).read, Persist: func(s Stamp) error {
		if fail == nil {
			saved = s
		}
		return fail
	}})
	fail = broken
	if got, err := c.Now(); !errors.Is(err, broken) || got != 0 || c.Last() != 0 {
		t.Fatalf("Now() = %v, %v with Last %v; want nothing handed out", got, err, c.Last())
	}
	if got, err := c.Update(physical(base)); !errors.Is(err, broken) || got != 0 {
		t.Fatalf("Update() = %v, %v; want nothing handed out", got, err)
	}
	fail = nil
	if got := now(t, c); got > saved || got == 0 {
		t.Errorf("Now() = %v beyond the saved mark %v", got, saved)
	}
}

func TestPersistOncePerReserve(t *testing.T) {
	wall, writes := &manual{base}, 0
	c := newClock(t, Options{Physical: wall.read, Reserve: time.Second, Persist: func(Stamp) error { writes++; return nil }})
	for range 10_000 {
		now(t, c)
		wall.now = wall.now.Add(time.Millisecond)
	}
	if writes < 9 || writes > 11 {
		t.Errorf("%d marks in ten seconds, want about 10", writes)
	}
}

func TestUpdateTooFarAheadChangesNothing(t *testing.T) {
	c := newClock(t, Options{Physical: (&manual{base}).read, MaxForward: 500 * time.Millisecond})
	before := now(t, c)
	edge := physical(base.Add(500 * time.Millisecond))
	if _, err := c.Update(edge.plus(time.Millisecond)); !errors.Is(err, ErrTooFarAhead) {
		t.Fatalf("err = %v, want ErrTooFarAhead", err)
	}
	if c.Last() != before {
		t.Errorf("Last() = %v, want %v", c.Last(), before)
	}
	if got, err := c.Update(edge); err != nil || got != edge+1 {
		t.Errorf("Update(at the edge) = %v, %v; want %v", got, err, edge+1)
	}
}

func TestEndsOfTime(t *testing.T) {
	for _, wall := range []time.Time{{}, time.UnixMilli(-1), time.UnixMilli(maxMillis + 1)} {
		c := newClock(t, Options{Physical: (&manual{wall}).read, Persist: func(Stamp) error { return nil }})
		if a, b := now(t, c), now(t, c); b <= a {
			t.Errorf("at %v: %v then %v", wall, a, b)
		}
	}
	c := newClock(t, Options{Physical: (&manual{base}).read, HighWater: ^Stamp(0)})
	if _, err := c.Now(); !errors.Is(err, ErrExhausted) {
		t.Errorf("err = %v, want ErrExhausted", err)
	}
}

func TestNewRefusesBadOptions(t *testing.T) {
	for _, options := range []Options{{}, {Physical: System, MaxForward: -1}, {Physical: System, Reserve: -1}} {
		if _, err := New(options); err == nil {
			t.Errorf("New(%+v) succeeded", options)
		}
	}
}

func TestSystemClocks(t *testing.T) {
	a := Boottime()
	if b := Boottime(); a <= 0 || b < a {
		t.Errorf("Boottime() = %v then %v", a, b)
	}
	if System().Before(base) {
		t.Errorf("System() = %v", System())
	}
}
