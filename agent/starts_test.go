package agent

import (
	"fmt"
	"testing"
	"time"

	"github.com/parley-mesh/parley/membership"
)

func withEpoch(name string, epoch uint64) membership.Member {
	return membership.Member{Name: name, Epoch: epoch}
}

// Each step of a member's epoch is a start, also those that gossip was too slow to show one by one. What came
// before we looked does not count, and after ten minutes nothing does.
func TestStartTracker(t *testing.T) {
	var s startTracker
	now := time.Hour
	see := func(epochs ...uint64) {
		var members []membership.Member
		for i, e := range epochs {
			members = append(members, withEpoch(fmt.Sprintf("a%d", i+1), e))
		}
		s.observe(members, now)
	}
	want := func(what string, a1, a2, most int) {
		t.Helper()
		if g1, g2, m := s.of("a1", now), s.of("a2", now), s.most(now); g1 != a1 || g2 != a2 || m != most {
			t.Errorf("%s: got a1 %d, a2 %d, most %d, want %d, %d, %d", what, g1, g2, m, a1, a2, most)
		}
	}
	see(40, 1)
	want("at first sight", 0, 0, 0)
	see(40, 2)
	want("a2 started again", 0, 1, 1)
	now += 9 * time.Minute
	see(41, 4)
	want("a2 twice more", 1, 3, 3)
	now += time.Minute
	want("ten minutes after the first", 1, 2, 2)
	see(41, 1)
	want("a2 lost its count", 1, 2, 2)
	s.observe([]membership.Member{withEpoch("a1", 41), {Name: "a2", Epoch: 9, Host: membership.HostID{1}}}, now)
	want("another host has the name a2", 1, 0, 1)
	s.observe([]membership.Member{withEpoch("a1", 41), {Name: "a2", Epoch: 10, Host: membership.HostID{1}}}, now)
	want("and starts again", 1, 1, 1)
	now += time.Hour
	want("much later", 0, 0, 0)
	see(1<<60, 1)
	want("an absurd step counts as many as are kept", maxSeenStarts, 0, maxSeenStarts)
	see()
	want("forgotten by gossip", 0, 0, 0)
	if len(s.mu.nodes) != 0 {
		t.Errorf("%d members are remembered", len(s.mu.nodes))
	}
}

// A member that starts for ever costs no more than a fixed number of times.
func TestStartTrackerIsBounded(t *testing.T) {
	var s startTracker
	for i := range uint64(10_000) {
		s.observe([]membership.Member{withEpoch("a1", i)}, time.Hour)
	}
	if got := len(s.mu.nodes["a1"].at); got != maxSeenStarts {
		t.Errorf("%d times are kept, want %d", got, maxSeenStarts)
	}
}
