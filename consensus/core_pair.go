package consensus

import (
	"slices"

	"go.etcd.io/raft/v3/tracker"
)

// pairPatienceTimeouts is how many election timeouts an acknowledgement waits for a learner that is
// heard and does not sync: its disk hangs or is full, and must not stop the writes for longer.
const pairPatienceTimeouts = 4

// pair is the rule for one voter with learners, as with two agents, or while a core of three forms: for Raft an entry is committed
// when the voter alone has it, so a voter that is lost with its disk would take acknowledged writes
// along. Therefore what is committed is handed to the applier, and so acknowledged and shown to
// reads, only once a learner has synced it too: of several the one that is furthest.
//
// A learner counts while three things hold. It is heard: an agent that is away must not stop the
// other one. It has caught up once since it was last heard: a new learner that still copies a large
// state must not either. And it does not let anything wait for longer than pairPatienceTimeouts.
// Whenever one ends, everything that is held goes on at once.
type pair struct {
	held     []*applyTask    // committed, in order, not handed out yet
	batches  int             // of our own in held
	since    uint64          // tick at which the first of held began to wait
	caughtUp map[uint64]bool // learners that count; never more than there are
}

// hand passes a committed task to the applier, now or when the learner has it.
func (c *core) hand(t *applyTask) {
	if len(c.pair.held) == 0 {
		c.pair.since = c.ticks
	}
	c.pair.held = append(c.pair.held, t)
	c.pair.batches += ownBatches(t)
	c.releasePair()
}

// releasePair hands out what no longer has to wait. It is called after every event.
func (c *core) releasePair() {
	synced, waits := c.learnerSynced()
	n := 0
	for n < len(c.pair.held) && (!waits || c.pair.held[n].index <= synced) {
		now, later := c.allowed(c.pair.held[n])
		if now != nil {
			c.pair.batches -= ownBatches(now)
			c.give(now)
		}
		if later != nil {
			c.pair.held[n] = later
			break
		}
		n++
	}
	if n == 0 {
		return
	}
	c.pair.held, c.pair.since = slices.Clone(c.pair.held[n:]), c.ticks
}

// learnerSynced returns up to where the furthest learner that counts beside a lone voter has synced the log, and whether
// one counts.
func (c *core) learnerSynced() (index uint64, counts bool) {
	cs := c.conf
	late := len(c.pair.held) > 0 && c.ticks-c.pair.since >= uint64(pairPatienceTimeouts*c.cfg.electionTicks)
	if len(cs.GetLearners()) == 0 || !c.cfg.pairSync || !c.leads() || late || len(cs.GetVoters()) != 1 || len(cs.GetVotersOutgoing()) > 0 || len(cs.GetLearnersNext()) > 0 {
		c.pair.caughtUp = nil
		return 0, false
	}
	was := c.pair.caughtUp
	c.pair.caughtUp = make(map[uint64]bool)
	c.visitProgress(func(id uint64, pr tracker.Progress) {
		if !slices.Contains(cs.GetLearners(), id) || !c.heardLately(id) || !was[id] && pr.Match < c.commit {
			return
		}
		c.pair.caughtUp[id] = true
		index, counts = max(index, pr.Match), true
	})
	return index, counts
}

func ownBatches(t *applyTask) (n int) {
	for _, b := range t.batches {
		if b != nil {
			n++
		}
	}
	return n
}
