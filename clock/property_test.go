package clock

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// site is one machine of the property test: a wall clock that the test steps, a saved mark that
// survives restarts, and every stamp that its clocks ever handed out.
type site struct {
	wall   manual
	mark   Stamp
	broken bool
	clock  *Clock
	last   Stamp
}

const (
	testForward = 2 * time.Second
	testReserve = time.Second
)

var errBroken = errors.New("disk is broken")

func (s *site) start(t *rapid.T) {
	c, err := New(Options{
		Physical:   s.wall.read,
		MaxForward: testForward,
		Reserve:    testReserve,
		HighWater:  s.mark,
		Persist: func(mark Stamp) error {
			if s.broken {
				return errBroken
			}
			s.mark = mark
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.clock = c
}

// TestClockProperties runs three sites that stamp, exchange stamps, step their wall clocks by up to
// an hour, lose their disks and restart, and checks the invariants listed on Clock at each step.
func TestClockProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sites := make([]*site, 3)
		for i := range sites {
			sites[i] = &site{wall: manual{base}}
			sites[i].start(t)
		}
		drawn, restarts, furthest := 0, 0, base
		check := func(s *site, stamp, after Stamp, err error) {
			if err != nil {
				if stamp != 0 || s.clock.Last() > max(s.last, s.mark) {
					t.Fatalf("%v handed out with error %v", stamp, err)
				}
				return
			}
			if stamp <= s.last || stamp <= after {
				t.Fatalf("stamp %v is not after own %v and cause %v", stamp, s.last, after)
			}
			if stamp > s.mark {
				t.Fatalf("stamp %v beyond the saved mark %v", stamp, s.mark)
			}
			bound := furthest.Add(testForward + time.Duration(restarts)*2*testReserve + time.Duration(drawn+1)*time.Millisecond)
			if stamp.Wall().After(bound) {
				t.Fatalf("stamp %v at %v diverged beyond %v", stamp, stamp.Wall(), bound)
			}
			s.last = stamp
			drawn++
		}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			s := rapid.SampledFrom(sites).Draw(t, "site")
			if s.wall.now.After(furthest) {
				furthest = s.wall.now
			}
			switch rapid.IntRange(0, 5).Draw(t, "action") {
			case 0, 1:
				stamp, err := s.clock.Now()
				check(s, stamp, 0, err)
			case 2:
				from := rapid.SampledFrom(sites).Draw(t, "from")
				before := s.clock.Last()
				stamp, err := s.clock.Update(from.last)
				if errors.Is(err, ErrTooFarAhead) && s.clock.Last() != before {
					t.Fatalf("refused update moved the clock from %v to %v", before, s.clock.Last())
				}
				check(s, stamp, from.last, err)
			case 3:
				step := rapid.Int64Range(-3600_000, 3600_000).Draw(t, "step")
				s.wall.now = s.wall.now.Add(time.Duration(step) * time.Millisecond)
			case 4:
				s.broken = !s.broken
			case 5:
				restarts++
				s.start(t)
			}
		}
	})
}

// TestStampRoundTrip: every stamp survives its text form.
func TestStampRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stamp := Stamp(rapid.Uint64().Draw(t, "stamp"))
		back, err := ParseStamp(stamp.String())
		if err != nil || back != stamp {
			t.Fatalf("ParseStamp(%q) = %v, %v", stamp.String(), back, err)
		}
	})
}

func FuzzParseStamp(f *testing.F) {
	f.Add("1700000000000.5")
	f.Add("0.0")
	f.Fuzz(func(t *testing.T, text string) {
		if stamp, err := ParseStamp(text); err == nil && stamp.String() != text {
			t.Errorf("ParseStamp(%q) accepted what String writes as %q", text, stamp)
		}
	})
}
