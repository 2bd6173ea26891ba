package consensus

import (
	"errors"
	"fmt"
	"slices"

	"github.com/parley-mesh/parley/mutant"
)

// MayGo reports, on the leader, whether a member that lost its log may give its Raft id up now; why not, if it may not. One
// may at a time: until the voter that another one left behind is replaced nobody else may, so that what was acknowledged
// is never on fewer disks than a majority because of us. An id that is heard is not gone: somebody uses it. And without it
// the rest must have its quorum, as the commitment of the retirement proves afterwards; a core of one never agrees.
func MayGo(st Status, id uint64, retired func(id uint64) bool) error {
	switch {
	case st.Leader != st.ID || st.ID == 0:
		return errors.New("this agent does not lead")
	case id == st.ID:
		return errors.New("that is the leader's own id")
	case !st.Confirmed || st.Applied < st.Commit:
		return errors.New("the leader has not applied everything yet")
	case len(st.Outgoing) > 0:
		return errors.New("the core is being changed")
	case st.Progress[id].Active:
		return fmt.Errorf("raft id %x is heard: it is in use", id)
	}
	healthy := 0
	for _, voter := range st.Voters {
		if retired(voter) {
			return fmt.Errorf("raft id %x was given up before and is not replaced yet: one at a time", voter)
		}
		if voter == st.ID || voter != id && st.Progress[voter].Healthy() {
			healthy++
		}
	}
	if slices.Contains(st.Voters, id) && healthy < len(st.Voters)/2+1 {
		return errors.New("the others have no quorum without it")
	}
	return nil
}

// MayRun reports whether a directory that has given up all Raft ids up to past may run id. Under an old id it would vote
// with an empty log, as if it had never acknowledged anything.
func MayRun(id, past uint64) bool { return id > past || mutant.On(mutant.ReuseWipedID) }
