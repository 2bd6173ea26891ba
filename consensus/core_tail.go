package consensus

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/mutant"
)

// tails is how a restarted member finds out whether its disk has kept what it promised. A log can end too early and show
// nothing of it: the last frames before a crash, which the anchor does not cover yet, can be damaged, lost by a disk that
// lied, or rolled back with the whole directory. Such a member has acknowledged entries that it does not hold, and cast
// votes that it does not remember. If it went on as if nothing had happened, a candidate without those entries could win
// by its vote.
//
// So a restarted member asks every voter for its tail: the last entry on its disk, its term, and the newest claim of ours
// that it has heard. A claim is our own word of what we hold, under a MAC that only we can make (see claim), so that no
// peer can make us stop by inventing one. Until the answers are there the member is mute: it takes entries as ever and
// sends nothing, so that it counts for nobody.
//
//   - Without a reason for doubt it waits for one election timeout at most, and goes on without those that did not answer:
//     a voter that was killed must not wait for a host that is down. Only claims matter then.
//   - In doubt (Recovered.InDoubt: the disk says that something is missing at the end) it waits for all of them, however
//     long it takes, or for an operator (acceptTail). Whatever it has acknowledged and others have counted is on the disk
//     of one of them, and whoever got a vote of ours told one of them its term. So afterwards it votes in no term up to
//     the highest that it heard, and only for candidates whose log is at least as far as the furthest tail (the floor);
//     it stands for election only when its own log is there too. Then the doubt has ended.
//
// Claims are a little behind what was acknowledged. A leader that goes on knows it to the entry, without a proof: that is a
// reason to look for the entries, and no more (RepairNeed.Unproven).
//
// A member that misses what it claimed, or that does not reach the floor by replication (a leader that counted our lost
// entries never sends them again), stops with a need to be repaired: the entries have a known hash, and any peer that has
// them will do.
//
// Which voters have to be heard is decided by the newest configuration that anybody mentions: ours may be older than the
// entries that were lost.
type tails struct {
	asking bool
	doubt  string // why; "" if nothing speaks for a loss
	asked  uint64 // tick of the last question
	heard  map[uint64]tail

	startTerm uint64 // the term that was recovered
	started   uint64 // the last index that was recovered
	refuse    uint64 // no vote in terms up to it
	keepVote  bool   // write our own id as the vote of that term, so that it is refused after a restart too
	floor     *tail  // not reached yet
	since     uint64 // tick at which the floor was set, or the log moved towards it
	reached   uint64 // the last index then
	need      *RepairNeed
}

// RepairNeed says that this member does not hold what it has promised. Its log has to be repaired to end with that entry;
// until then the id takes no part.
type RepairNeed struct {
	Index  uint64
	Chain  [32]byte
	Reason string
	// Unproven means that a leader counts this, and that there is no word of ours for it. Whoever has such a need looks for
	// the entries; if nobody has them it goes on without, with Options.OwnWordOnly: a lying peer must not stop it.
	Unproven bool
}

// RepairNeededError is returned by Node.Run for a RepairNeed.
type RepairNeededError struct{ RepairNeed }

func (e *RepairNeededError) Error() string {
	return fmt.Sprintf("this member does not hold what it has acknowledged, up to entry %d: %s", e.Index, e.Reason)
}

const (
	neverAsked = ^uint64(0)

	// floorTimeouts is for how many election timeouts the log of a member in doubt may stand still below the floor.
	floorTimeouts = 3
	// asksPerTimeout is how many times in an election timeout the others are asked by a member that is mute;
	// afterwards those that are missing are asked once in askSlowTimeouts.
	asksPerTimeout  = 4
	askSlowTimeouts = 4
)

// beginTails decides at the start whether to ask. A blank node has promised nothing.
func (c *core) beginTails(inDoubt string) {
	t := &c.tails
	t.heard = make(map[uint64]tail)
	t.startTerm, t.started = c.log.hard.GetTerm(), c.log.last()
	c.durable = c.log.last()
	if c.cfg.chain == nil || len(c.conf.GetVoters()) == 0 || !c.restarted && inDoubt == "" {
		return
	}
	t.asking, t.doubt, t.asked = true, inDoubt, neverAsked
	if mutant.On(mutant.TornTailCounts) {
		t.doubt = ""
	}
}

// mute reports whether nothing of ours may count for anybody.
func (c *core) mute() bool {
	t := &c.tails
	if t.need != nil {
		return true
	}
	return t.asking && (t.doubt != "" || c.ticks < uint64(c.cfg.electionTicks))
}

// suspended says why this member does not take part fully, "" if it does.
func (c *core) suspended() string {
	switch t := &c.tails; {
	case t.need != nil:
		return t.need.Reason
	case t.asking && t.doubt != "":
		return t.doubt + "; it votes and counts once all voters were heard: " + fmt.Sprintf("%x", c.missingTails())
	case t.floor != nil:
		return fmt.Sprintf("it votes for no log that ends before entry %d of term %d", t.floor.index, t.floor.lastTerm)
	}
	return ""
}

// mayHear reports whether a message may reach raft.
func (c *core) mayHear(m *raftpb.Message) bool {
	t := &c.tails
	switch m.GetType() {
	case raftpb.MsgVote, raftpb.MsgPreVote:
		if c.mute() || t.refuse > 0 && m.GetTerm() <= t.refuse {
			return false
		}
		return t.floor == nil || !t.floor.beyond(m.GetLogTerm(), m.GetIndex())
	case raftpb.MsgTimeoutNow:
		return !c.mute() && t.floor == nil && !c.abstains()
	}
	return true
}

// abstains reports whether this member stands for no election; see Options.Abstain.
func (c *core) abstains() bool { return c.cfg.abstain != nil && c.cfg.abstain() }

// maySend reports whether a message may leave.
func (c *core) maySend(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgVote, raftpb.MsgPreVote:
		return !c.mute() && c.tails.floor == nil && !c.abstains()
	}
	return !c.mute()
}

// otherVoters are those of the newest configuration that was heard of.
func (c *core) otherVoters() []uint64 {
	newest := c.ownTail()
	for _, id := range sortedKeys(c.tails.heard) {
		if heard := c.tails.heard[id]; heard.applied > newest.applied {
			newest = heard
		}
	}
	return slices.DeleteFunc(slices.Clone(newest.voters), func(id uint64) bool { return id == c.cfg.id })
}

func (c *core) missingTails() (ids []uint64) {
	for _, id := range c.otherVoters() {
		if _, ok := c.tails.heard[id]; !ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// tickTails asks those that have not answered, and follows what came of it.
func (c *core) tickTails() {
	t := &c.tails
	if t.asking {
		c.judgeTails()
	}
	every := uint64(askSlowTimeouts * c.cfg.electionTicks)
	if c.mute() {
		every = uint64(max(1, c.cfg.electionTicks/asksPerTimeout))
	}
	if t.asking && (t.asked == neverAsked || c.ticks-t.asked >= every) {
		t.asked = c.ticks
		for _, id := range c.missingTails() {
			c.tell(id, noteTailAsk, nil)
		}
	}
	c.watchFloor()
	c.tickClaims()
}

// hearTail takes the answer of a peer, the first one only: what it says later is about this life of ours.
func (c *core) hearTail(from uint64, body []byte) error {
	heard, err := decodeTail(body)
	if err != nil {
		return err
	}
	t := &c.tails
	if _, again := t.heard[from]; !t.asking || again || len(t.heard) >= maxPeers {
		return nil
	}
	t.heard[from] = heard
	if heard.claim != nil && !c.keeps(*heard.claim) {
		c.needRepair(heard.claim.index, heard.claim.chain, fmt.Sprintf("%x has our word that we hold entry %d", from, heard.claim.index))
		return nil
	}
	if heard.acked > t.started && c.mute() && !c.cfg.ownWordOnly {
		c.needRepair(heard.acked, heard.ackedChain, fmt.Sprintf("%x leads, and has heard us acknowledge entry %d", from, heard.acked))
		t.need.Unproven = true
		return nil
	}
	c.judgeTails()
	c.tickAfresh()
	return nil
}

// judgeTails ends the questions when everybody was heard.
func (c *core) judgeTails() {
	t := &c.tails
	if t.need != nil || len(c.missingTails()) > 0 {
		return
	}
	t.asking = false
	c.out.changed = true
	if t.doubt == "" {
		return
	}
	term, last := c.term, c.ownTail()
	for _, id := range sortedKeys(t.heard) {
		heard := t.heard[id]
		term = max(term, heard.term)
		if heard.beyond(last.lastTerm, last.index) {
			last = heard
			t.floor = &last
		}
	}
	t.since = c.ticks
	c.refuseVotes(term)
	c.watchFloor()
}

// refuseVotes makes this the last term in which a vote of ours may be forgotten. Raft learns it, and the disk a vote for
// ourselves, which stands in the way of any other.
func (c *core) refuseVotes(term uint64) {
	if term > c.term {
		for _, id := range sortedKeys(c.tails.heard) {
			_ = c.rn.Step(&raftpb.Message{Type: raftpb.MsgAppResp.Enum(), To: new(c.cfg.id), From: new(id), Term: new(term), Reject: new(true)})
			if c.drain(); c.term >= term {
				break
			}
		}
	}
	if c.written.GetTerm() == c.term && c.written.GetVote() != raft.None {
		return // one vote a term, and we remember it
	}
	c.tails.refuse, c.tails.keepVote = max(c.term, term), true
	t := &appendTask{hard: c.kept(&raftpb.HardState{Term: new(c.term), Vote: new(raft.None), Commit: new(c.commit)}), sync: true}
	c.written = t.hard
	c.out.appends = append(c.out.appends, t)
}

// kept is a hard state to be written, with our own id where a vote may be forgotten.
func (c *core) kept(h *raftpb.HardState) *raftpb.HardState {
	if h != nil && c.tails.keepVote && h.GetVote() == raft.None && h.GetTerm() <= c.tails.refuse {
		return &raftpb.HardState{Term: new(h.GetTerm()), Vote: new(c.cfg.id), Commit: new(h.GetCommit())}
	}
	return h
}

// watchFloor ends the doubt when the log is at the floor, and gives up on replication when it takes too long.
func (c *core) watchFloor() {
	t := &c.tails
	if t.doubt == "" || t.asking || t.need != nil {
		return
	}
	own := c.ownTail()
	if own.index != t.reached {
		t.reached, t.since = own.index, c.ticks
	}
	switch {
	case t.floor == nil || !t.floor.beyond(own.lastTerm, own.index):
		t.floor, t.doubt = nil, ""
		c.out.settled, c.out.changed = true, true
	case c.ticks-t.since >= uint64(floorTimeouts*c.cfg.electionTicks):
		c.needRepair(t.floor.index, t.floor.chain, "its end is in doubt, and the others hold more than they send")
	}
}

func (c *core) needRepair(index uint64, chain [32]byte, reason string) {
	c.tails.need = &RepairNeed{Index: index, Chain: chain, Reason: reason}
	c.out.changed = true
}

// acceptTail is an operator's word that nothing was lost, or that it does not matter.
func (c *core) acceptTail() bool {
	t := &c.tails
	if t.doubt == "" || t.need != nil {
		return false
	}
	if t.asking {
		t.asking = false
		c.refuseVotes(c.term)
	}
	t.floor, t.doubt = nil, ""
	c.out.settled, c.out.changed = true, true
	c.drain()
	return true
}
