package consensus

import (
	"strings"
	"testing"
)

// TestMayGo: a member that lost its log gives its id up only when that cannot cost the quorum, and one at a time.
func TestMayGo(t *testing.T) {
	whole := func() Status {
		return Status{ID: 1, Leader: 1, Commit: 9, Applied: 9, Confirmed: true, Voters: []uint64{1, 2, 3}, Learners: []uint64{4},
			Progress: map[uint64]Progress{2: {Active: true, Match: 9}, 3: {Match: 5}, 4: {}}}
	}
	nobody := func(uint64) bool { return false }
	for name, test := range map[string]struct {
		id      uint64
		change  func(*Status)
		retired func(uint64) bool
		want    string // "" = it may
	}{
		"a voter that is down":          {id: 3},
		"a learner":                     {id: 4},
		"not the leader":                {id: 3, change: func(s *Status) { s.Leader = 2 }, want: "does not lead"},
		"no leader":                     {id: 3, change: func(s *Status) { s.ID, s.Leader = 0, 0 }, want: "does not lead"},
		"the leader itself":             {id: 1, want: "own id"},
		"a core of one":                 {id: 1, change: func(s *Status) { s.Voters, s.Progress = []uint64{1}, nil }, want: "own id"},
		"not confirmed":                 {id: 3, change: func(s *Status) { s.Confirmed = false }, want: "not applied"},
		"not applied":                   {id: 3, change: func(s *Status) { s.Applied = 8 }, want: "not applied"},
		"a joint change":                {id: 3, change: func(s *Status) { s.Outgoing = []uint64{1, 2} }, want: "being changed"},
		"an id in use":                  {id: 2, want: "in use"},
		"another one was let go":        {id: 2, change: down(2), retired: func(id uint64) bool { return id == 3 }, want: "one at a time"},
		"two of three damaged":          {id: 3, change: down(2), want: "no quorum"},
		"two voters, each is needed":    {id: 3, change: func(s *Status) { s.Voters = []uint64{1, 3} }, want: "no quorum"},
		"an id that is no voter at all": {id: 77},
	} {
		t.Run(name, func(t *testing.T) {
			s := whole()
			if test.change != nil {
				test.change(&s)
			}
			retired := nobody
			if test.retired != nil {
				retired = test.retired
			}
			err := MayGo(s, test.id, retired)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func down(id uint64) func(*Status) {
	return func(s *Status) { s.Progress[id] = Progress{} }
}

// wipedIDVotes lets a voter that acknowledged an entry lose everything and come back, by the rule of MayRun. It reports
// whether the entry was lost: the empty log votes for a candidate that never had it.
func wipedIDVotes(t *testing.T) bool {
	s, _ := tailSim(t)
	term := s.nodes[1].core.term
	s.nodes[1].crash(false)
	s.nodes[2].crash(false)
	if !MayRun(2, 2) {
		return false // it comes back under an id that nobody counts
	}
	s.nodes[2].log, s.nodes[2].snaps = newFakeLog(), newFakeSnapshots()
	s.nodes[2].start()
	clear(s.cut)
	s.tick(200)
	return s.anyLeads(term)
}

func TestWipedIDIsNotReused(t *testing.T) {
	if wipedIDVotes(t) {
		t.Error("an id that was wiped voted again")
	}
}
