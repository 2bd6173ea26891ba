package consensus

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// RoleNone is the role of a node that was never added, or is removed and knows it.
const RoleNone = "none"

// Status is a node's view of the core. A follower's is as old as what its leader told it.
type Status struct {
	ID         uint64
	Term       uint64
	Leader     uint64 // 0 = none known, or not heard for an election timeout
	Role       string // leader, follower, candidate, learner or RoleNone
	Commit     uint64
	Applied    uint64
	Voters     []uint64
	Outgoing   []uint64 // the old voters during a joint change, else empty
	Learners   []uint64
	Confirmed  bool                // this leader has committed in its own term
	Progress   map[uint64]Progress // on the leader only: every other member
	Diverged   []uint64            // members whose state differs from that of the majority, to which this one belongs
	ReadOnly   bool                // the voters' states differ and none has a majority: writes are refused
	Probation  int                 // checkpoints that have to agree before this rebuilt member answers again
	Cases      []ApplyCase         // on the leader only: entries at which members stopped
	StoppedAt  *ApplyStop          // where this node stopped applying, nil while it applies
	Withheld   uint64              // it applies nothing from this entry on, until others were heard; 0: nothing
	Stopped    error               // why this node no longer serves, nil while it does
	Violations []Violation         // invariants that did not hold since the start: none, ever
	Lease      string              // on the leader only: LeaseOn, LeaseOff or LeaseBarred
	Suspended  string              // why this node votes for nobody, or not for everybody, "" if it does
	Relays     map[uint64]uint64   // members that are reached through another, and through whom
	Relayed    RelayCounts
}

// Progress is what the leader knows of one member.
type Progress struct {
	Match   uint64 // its log agrees with the leader's up to here
	Active  bool   // it was heard within the last election timeout
	Stalled bool   // it is behind the commit index and has synced nothing new for stalledTimeouts
	Doubted bool   // its state is not to be relied on, or it has stopped at a command: it would lead and not serve
}

// Healthy says whether the member helps: it answers, and its disk takes what it is sent. One whose disk is
// full or hangs goes on answering heartbeats for ever, and no quorum can count on it.
func (p Progress) Healthy() bool { return p.Active && !p.Stalled }

// caughtUp says whether a learner may vote. In a young core everybody is near, also who is still to get the snapshot that says
// who the members are. As a voter it would count for a quorum and answer no question, and where applying stops (guard) it would
// never get that snapshot: there is none of behind the change that made it one.
func (p Progress) caughtUp(commit uint64) bool {
	return p.Active && p.Match > 0 && p.Match+caughtUpWithin >= commit
}

// stalledTimeouts is how many election timeouts a member may be behind without moving.
const stalledTimeouts = 4

// fetchTimeouts is for how many election timeouts a learner may do without the entries that only a snapshot has: ten minutes with
// the defaults. The leader first writes a snapshot that names the learner, which is then fetched and installed, and a large one
// takes a while. Who is taken for dead meanwhile is dropped and added again, which calls for a newer snapshot, for ever.
const fetchTimeouts = 1200

// advance is how far a member's log was when it last moved, or was complete, and when (tick) that was. A learner that needs
// a snapshot has not stood still since then, for so many ticks.
type advance struct {
	match, at, fetching uint64
}

// watchProgress notes, as leader, whose log moves. It is called at each tick.
func (c *core) watchProgress() {
	if !c.leads() {
		clear(c.moved)
		return
	}
	c.visitProgress(func(id uint64, pr tracker.Progress) {
		if last, ok := c.moved[id]; !ok || pr.Match > last.match || pr.Match >= c.commit {
			c.moved[id] = advance{match: pr.Match, at: c.ticks}
		} else if c.fetches(id, pr) && last.fetching < uint64(fetchTimeouts*c.cfg.electionTicks) {
			c.moved[id] = advance{pr.Match, c.ticks, last.fetching + 1}
		}
	})
}

// fetches reports whether only a snapshot helps a learner. No quorum counts on one, so patience costs no safety.
func (c *core) fetches(id uint64, pr tracker.Progress) bool {
	return pr.Match < c.log.offset && slices.Contains(c.conf.GetLearners(), id)
}

func (c *core) stalled(id uint64) bool {
	last, ok := c.moved[id]
	return ok && c.ticks-last.at > uint64(stalledTimeouts*c.cfg.electionTicks)
}

// status describes the core; Applied and Stopped are the shell's to fill in.
func (c *core) status() Status {
	s := Status{
		ID: c.cfg.id, Term: c.term, Leader: c.knownLeader(), Role: c.roleName(), Commit: c.commit, Applied: c.applied,
		Voters: sorted(c.conf.GetVoters()), Outgoing: sorted(c.conf.GetVotersOutgoing()),
		Learners:  sorted(slices.Concat(c.conf.GetLearners(), c.conf.GetLearnersNext())),
		Confirmed: c.leads() && c.termStart > 0 && c.commit >= c.termStart, Stopped: c.halted,
		Lease: c.leaseState(), Violations: c.violations(), Suspended: c.suspended(), Relayed: c.relay.counts,
	}
	for id, route := range c.relay.routes {
		if s.Relays == nil {
			s.Relays = make(map[uint64]uint64)
		}
		s.Relays[id] = route.Via
	}
	s.Diverged, s.ReadOnly, s.Probation = slices.Clone(c.digests.diverged), c.digests.noQuorum, c.digests.probation
	s.Cases, s.StoppedAt, s.Withheld = c.applyCases(), c.stoppedAt(), c.guard.withheld()
	if c.leads() {
		s.Progress = make(map[uint64]Progress)
		c.visitProgress(func(id uint64, pr tracker.Progress) {
			if id != c.cfg.id {
				s.Progress[id] = Progress{Match: pr.Match, Active: c.heardLately(id), Stalled: c.stalled(id), Doubted: c.doubted(id) || c.reportsStop(id)}
			}
		})
	}
	return s
}

func sorted(ids []uint64) []uint64 {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return ids
}

// knownLeader is the leader that others may be told of. Raft forgets a leader only to stand for election
// itself. A learner and a removed node never do, and would name one that is long dead, so a leader that
// was not heard for an election timeout does not count here.
func (c *core) knownLeader() uint64 {
	if c.leads() || c.leader == raft.None || c.heardLately(c.leader) {
		return c.leader
	}
	return raft.None
}

// tickLeader publishes that the leader fell silent, or is heard again.
func (c *core) tickLeader() {
	if known := c.knownLeader(); known != c.shownLeader {
		c.shownLeader = known
		c.out.changed = true
	}
}

// heardLately is steadier than raft's RecentActive, which is false for a moment after each check of
// the quorum.
func (c *core) heardLately(id uint64) bool {
	at, ok := c.heard[id]
	return ok && c.ticks-at <= uint64(c.cfg.electionTicks)
}

func (c *core) roleName() string {
	switch {
	case c.role == raft.StateLeader:
		return "leader"
	case c.role == raft.StateCandidate || c.role == raft.StatePreCandidate:
		return "candidate"
	case slices.Contains(c.conf.GetVoters(), c.cfg.id) || slices.Contains(c.conf.GetVotersOutgoing(), c.cfg.id):
		return "follower"
	case slices.Contains(c.conf.GetLearners(), c.cfg.id):
		return "learner"
	}
	return RoleNone
}

// members returns everybody in the configuration, none for a node that does not know it yet, and
// the leader, which may not be in the one that we know.
func (c *core) members() []uint64 {
	if len(c.conf.GetVoters()) == 0 {
		return nil
	}
	ids := slices.Concat(c.conf.GetVoters(), c.conf.GetVotersOutgoing(), c.conf.GetLearners(), c.conf.GetLearnersNext())
	ids = append(ids, c.leader)
	slices.Sort(ids)
	return slices.Compact(ids)
}
