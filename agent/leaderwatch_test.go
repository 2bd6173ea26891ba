package agent

import (
	"testing"
	"time"

	"github.com/parley-mesh/parley/api"
)

// What counts is what was seen: neither the time before the first look, nor more than two seconds between two looks, in which the
// agent may have been stopped. A leader ends it.
func TestLeaderWatch(t *testing.T) {
	var l leaderWatch
	want := func(what string, since time.Duration, hopeless bool) {
		t.Helper()
		if got, without := l.get(); got != since || without != hopeless {
			t.Errorf("%s: %s and %t, want %s and %t", what, got, without, since, hopeless)
		}
	}
	want("before any look", 0, false)
	l.look(time.Hour, false, false)
	want("the first look", 0, false)
	l.look(time.Hour+500*time.Millisecond, false, true)
	want("the second", 500*time.Millisecond, true)
	l.look(2*time.Hour, false, false)
	want("after a stop", 500*time.Millisecond+longestLook, false)
	l.look(2*time.Hour+time.Second, true, true)
	want("with a leader", 0, false)
	l.look(2*time.Hour+2*time.Second, false, true)
	want("without one again", time.Second, true)
}

func TestFewerThanQuorum(t *testing.T) {
	voters := []api.CoreMember{{Name: "a1"}, {Name: "a2"}, {Name: "a3"}, {Name: "a4"}}
	for what, c := range map[string]struct {
		voters []api.CoreMember
		alive  []string
		want   bool
	}{
		"nothing is known":      {nil, []string{"a1"}, false},
		"one of three is dead":  {voters[:3], []string{"a1", "a2", "a9"}, false},
		"two of three are dead": {voters[:3], []string{"a1", "a8", "a9"}, true},
		"half of four":          {voters, []string{"a1", "a2"}, true},
		"the only one":          {voters[:1], []string{"a1"}, false},
	} {
		alive := make(map[string]bool)
		for _, node := range c.alive {
			alive[node] = true
		}
		if got := fewerThanQuorum(c.voters, alive); got != c.want {
			t.Errorf("%s: %t", what, got)
		}
	}
}
