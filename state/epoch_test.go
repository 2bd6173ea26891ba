package state

import "testing"

// TestEpochJudge: a lower counter is refused, the same one with another id is a split, and what is encoded comes back.
func TestEpochJudge(t *testing.T) {
	two := Epoch{Counter: 2, ID: [16]byte{2}}
	for _, test := range []struct {
		other Epoch
		want  EpochVerdict
	}{
		{two, EpochSame},
		{Epoch{Counter: 1, ID: [16]byte{1}}, EpochOlder},
		{Epoch{}, EpochOlder},
		{Epoch{Counter: 3, ID: [16]byte{3}}, EpochNewer},
		{Epoch{Counter: 2, ID: [16]byte{9}}, EpochSplit},
	} {
		if got := two.Judge(test.other); got != test.want {
			t.Errorf("%s judges %s: %s, want %s", two, test.other, got, test.want)
		}
		if e, rest, ok := CutEpoch(append(test.other.Append(nil), 7)); !ok || e != test.other || len(rest) != 1 {
			t.Errorf("%s comes back as %s, %d bytes more, %t", test.other, e, len(rest), ok)
		}
		if e, err := ParseEpoch(test.other.String()); err != nil || e != test.other {
			t.Errorf("%s comes back as %s, %v", test.other, e, err)
		}
	}
	for _, bad := range []string{"", "1", "1 00", "x 00000000000000000000000000000000"} {
		if _, err := ParseEpoch(bad); err == nil {
			t.Errorf("%q is taken for an epoch", bad)
		}
	}
	if _, _, ok := CutEpoch(make([]byte, EpochBytes-1)); ok {
		t.Error("a cut epoch is taken")
	}
}

// TestSurvivorOrder: the term of the last entry decides before the length does.
func TestSurvivorOrder(t *testing.T) {
	for _, test := range []struct {
		s, o Survivor
		want bool
	}{
		{Survivor{LastTerm: 3, LastIndex: 10}, Survivor{LastTerm: 3, LastIndex: 10}, false},
		{Survivor{LastTerm: 3, LastIndex: 10}, Survivor{LastTerm: 3, LastIndex: 11}, true},
		{Survivor{LastTerm: 3, LastIndex: 10}, Survivor{LastTerm: 2, LastIndex: 99}, false},
		{Survivor{LastTerm: 2, LastIndex: 99}, Survivor{LastTerm: 3, LastIndex: 10}, true},
	} {
		if got := test.s.Before(test.o); got != test.want {
			t.Errorf("%+v before %+v: %t", test.s, test.o, got)
		}
	}
}
