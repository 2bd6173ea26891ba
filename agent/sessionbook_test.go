package agent

import (
	"slices"
	"testing"
	"time"

	"github.com/parley-mesh/parley/state"
)

func bookSession(id byte, node string, lease time.Duration) state.Session {
	return state.Session{ID: state.SessionID{15: id}, Node: node, TTL: lease, Lease: lease}
}

func ids(over []ending) []byte {
	out := []byte{}
	for _, e := range over {
		out = append(out, e.id[15])
	}
	return out
}

// ledBook leads in term 5 since second 100 and has sessions 1 (10 s), 2 (20 s), both on a1, and 3, without a lease, on
// a2.
func ledBook() *sessionBook {
	b := &sessionBook{}
	b.lead(5, 100*time.Second)
	b.sync([]state.Session{bookSession(1, "a1", 10*time.Second), bookSession(2, "a1", 20*time.Second), bookSession(3, "a2", 0)}, 100*time.Second)
	return b
}

const testGrace = time.Minute

var everybodyAlive = func(string) nodeStanding { return nodeStanding{alive: true} }

// A lease ends exactly when it has passed since the last renewal, not a moment before, and next says when the nearest
// ends.
func TestLeaseEndsExactly(t *testing.T) {
	b := ledBook()
	for _, step := range []struct {
		at   time.Duration
		over []byte
		next time.Duration
	}{
		{100 * time.Second, []byte{}, 10 * time.Second},
		{110*time.Second - 1, []byte{}, 1},
		{110 * time.Second, []byte{1}, 10 * time.Second},
		{120*time.Second - 1, []byte{1}, 1}, // named until it is gone, because its end may not have reached the log
		{120 * time.Second, []byte{1, 2}, testGrace},
	} {
		over, next := b.due(step.at, testGrace, everybodyAlive)
		if !slices.Equal(ids(over), step.over) || next != step.next {
			t.Errorf("%s: over %v, next %s, want %v and %s", step.at, ids(over), next, step.over, step.next)
		}
	}
}

// A renewal counts from its own moment. What was decided to be over is not renewed: nobody may be told that a session
// lives while its end is on the way.
func TestRenewal(t *testing.T) {
	b := ledBook()
	one := bookSession(1, "a1", 10*time.Second)
	if !b.renew(one, 109*time.Second) {
		t.Fatal("a living session was not renewed")
	}
	if over, _ := b.due(119*time.Second-1, testGrace, everybodyAlive); len(over) != 0 {
		t.Errorf("over %v before its time", ids(over))
	}
	if over, _ := b.due(119*time.Second, testGrace, everybodyAlive); !slices.Equal(ids(over), []byte{1}) || over[0].reason != state.ReasonTTL {
		t.Errorf("over %v", over)
	}
	if b.renew(one, 119*time.Second) {
		t.Error("renewed a session that is over")
	}
	if !b.renew(bookSession(9, "a1", time.Second), 119*time.Second) {
		t.Error("a session that the book has not seen yet was not renewed")
	}
}

// A new leadership counts all from its beginning, whatever was over before; the same one goes on, and a message from
// an older term changes nothing. Without the first the session of a client that renewed in time would end.
func TestNewTermCountsAnew(t *testing.T) {
	sessions := []state.Session{bookSession(1, "a1", 10*time.Second)}
	b := ledBook()
	b.lead(7, 109*time.Second)
	b.sync(sessions, 109*time.Second)
	b.lead(7, 112*time.Second)
	b.lead(5, 112*time.Second)
	if over, next := b.due(112*time.Second, testGrace, everybodyAlive); len(over) != 0 || next != 7*time.Second {
		t.Errorf("over %v, next %s", ids(over), next)
	}
	b.stop()
	b.lead(7, 115*time.Second)
	b.sync(sessions, 115*time.Second)
	if over, next := b.due(116*time.Second, testGrace, everybodyAlive); len(over) != 0 || next != 9*time.Second {
		t.Errorf("led again: over %v, next %s", ids(over), next)
	}

	control := ledBook()
	control.term = 7 // the new term keeps the old count
	control.sync(sessions, 109*time.Second)
	if over, _ := control.due(112*time.Second, testGrace, everybodyAlive); !slices.Equal(ids(over), []byte{1}) {
		t.Error("the control does not fail without the new count")
	}
}

// Trap 8: a session without a TTL ends when the core has not heard of its node for the grace time and gossip does not
// hold the node alive; neither is enough alone.
func TestSessionWithoutTTLNeedsBothToEnd(t *testing.T) {
	const start, end = 100 * time.Second, 160 * time.Second
	for _, test := range []struct {
		name  string
		at    time.Duration
		heard time.Duration
		alive bool
		over  bool
	}{
		{"silent and dead, a moment early", end - 1, 0, false, false},
		{"silent and dead", end, 0, false, true},
		{"gossip alone is silent", 10 * time.Hour, 10*time.Hour - testGrace + 1, false, false},
		{"the core alone is cut off", 10 * time.Hour, 0, true, false},
		{"heard late", end + 30*time.Second, end - 20*time.Second, false, false},
		{"heard late, then dead", end + 40*time.Second, end - 20*time.Second, false, true},
		{"heard before this lead only", end - 1, start - time.Second, false, false},
	} {
		b := ledBook()
		b.sync([]state.Session{bookSession(3, "a2", 0)}, start)
		over, _ := b.due(test.at, testGrace, func(string) nodeStanding { return nodeStanding{heard: test.heard, alive: test.alive} })
		if (len(over) == 1) != test.over || test.over && over[0].reason != state.ReasonNode {
			t.Errorf("%s: over %v, want %v", test.name, over, test.over)
		}
	}
}
