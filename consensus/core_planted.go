package consensus

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/parley-mesh/parley/mutant"
)

// This file holds the planted mistakes (package mutant) that stand for mistakes inside of raft or of the planner, where
// one line of ours would not do. Without the build tag nothing here does anything.

// planted is what they remember.
type planted struct {
	handed uint64 // applied before raft said so
}

// plantedVote is double-vote: whoever asks gets a vote.
func (c *core) plantedVote(m *raftpb.Message) {
	if mutant.On(mutant.DoubleVote) && m.GetType() == raftpb.MsgVote && m.GetTerm() == c.term && !c.leads() {
		c.send(&raftpb.Message{Type: raftpb.MsgVoteResp.Enum(), To: new(m.GetFrom()), From: new(c.cfg.id), Term: new(c.term)})
	}
}

// plantedHard is vote-not-persisted.
func plantedHard(h *raftpb.HardState) *raftpb.HardState {
	if h == nil || !mutant.On(mutant.VoteNotPersisted) {
		return h
	}
	return &raftpb.HardState{Term: new(h.GetTerm()), Vote: new(raft.None), Commit: new(h.GetCommit())}
}

// plantedAck is count-self-twice: what is on our own disk counts for another voter too.
func (c *core) plantedAck() {
	if !mutant.On(mutant.CountSelfTwice) || !c.leads() || c.termStart == 0 {
		return
	}
	own, other := uint64(0), raft.None
	c.visitProgress(func(id uint64, pr tracker.Progress) {
		switch {
		case id == c.cfg.id:
			own = pr.Match
		case other == raft.None && slices.Contains(c.conf.GetVoters(), id):
			other = id
		}
	})
	if other != raft.None && own >= c.termStart {
		_ = c.rn.Step(&raftpb.Message{Type: raftpb.MsgAppResp.Enum(), To: new(c.cfg.id), From: new(other), Term: new(c.term), Index: new(own)})
		c.drain()
	}
}

// plantedCommit is commit-prior-term: an entry of an earlier term that is on a majority counts as committed.
func (c *core) plantedCommit() {
	if !mutant.On(mutant.CommitPriorTerm) || !c.leads() || c.termStart == 0 || len(c.conf.GetVotersOutgoing()) > 0 {
		return
	}
	var matches []uint64
	c.visitProgress(func(id uint64, pr tracker.Progress) {
		if slices.Contains(c.conf.GetVoters(), id) {
			matches = append(matches, pr.Match)
		}
	})
	slices.Sort(matches)
	if len(matches) == 0 {
		return
	}
	index := min(matches[(len(matches)-1)/2], c.termStart-1)
	if index <= c.applying {
		return
	}
	entries, err := c.log.Entries(c.applying+1, index+1, 1<<30)
	if err != nil {
		return
	}
	term, _ := c.log.Term(index)
	t := &applyTask{entries: entries, batches: make([]*batch, len(entries)), index: index, term: term}
	for i, e := range entries {
		t.batches[i] = c.props.committed(c, e)
	}
	c.watchApply(entries[0].GetIndex(), index)
	c.applying, c.planted.handed, c.commit = index, index, max(c.commit, index)
	c.hand(t)
}

// notPlanted leaves out what plantedCommit has handed out already.
func (c *core) notPlanted(entries []*raftpb.Entry) []*raftpb.Entry {
	for len(entries) > 0 && entries[0].GetIndex() <= c.planted.handed {
		entries = entries[1:]
	}
	return entries
}

// plantedShrink is shrink-on-absence: who is not there is dropped.
func (p *planner) plantedShrink() (Action, bool) {
	if !mutant.On(mutant.ShrinkOnAbsence) {
		return Action{}, false
	}
	for _, v := range p.voters {
		if !v.active && v.id != p.in.Self && len(p.voters) > 1 {
			return Action{Kind: ActionChange, DropVoters: []uint64{v.id}, Reason: v.name() + " is absent"}, true
		}
	}
	return Action{}, false
}

// plantedChange is replace-two-at-once and skip-joint.
func (p *planner) plantedChange(a Action) Action {
	if a.Kind != ActionChange || len(a.AddVoters) != 1 || len(a.DropVoters) != 1 {
		return a
	}
	if mutant.On(mutant.SkipJoint) {
		a.AddVoters, a.plain = nil, true
	}
	if mutant.On(mutant.ReplaceTwoAtOnce) {
		for _, v := range p.voters {
			if v.id != p.in.Self && v.id != a.DropVoters[0] {
				a.DropVoters = append(a.DropVoters, v.id)
				break
			}
		}
	}
	return a
}

// misorderSeed and misorderOdds say when rare-misorder strikes: about once in so many times that entries become applicable together.
const (
	misorderSeed = 0x9e3779b97f4a7c15
	misorderOdds = 16
)

// plantedOrder is rare-misorder: seldom, under load, the last two of the entries that become applicable together change places.
func plantedOrder(entries []*raftpb.Entry) []*raftpb.Entry {
	n := len(entries)
	if !mutant.On(mutant.RareMisorder) || n < 2 || entries[n-1].GetIndex()*misorderSeed>>32%misorderOdds != 0 {
		return entries
	}
	wrong := slices.Clone(entries)
	wrong[n-2], wrong[n-1] = wrong[n-1], wrong[n-2]
	return wrong
}
