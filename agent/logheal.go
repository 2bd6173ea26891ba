package agent

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/storage"
	"github.com/parley-mesh/parley/transport"
)

const (
	healPauseMin = 250 * time.Millisecond
	healPauseMax = 5 * time.Second

	// repairPatience is how long a member looks for the missing entries of its log before it gives its Raft id up. While
	// somebody who may have them does not answer it waits; when all have said that they do not, it does not.
	repairPatience = 30 * time.Second

	// unprovenPatience is for what a leader counts without our word for it.
	unprovenPatience = 10 * time.Second

	peerEntriesWait = 10 * time.Second // for one peer's answer
	fillTries       = 20
)

// logDamage is why the log of this member has to be healed.
type logDamage struct {
	err    error
	need   *consensus.RepairNeed // what the log has to hold, nil: what is left of it says so
	memory *heldEntries          // of the node that ran when the damage was found, nil without one
}

// heldEntries are entries that a running node has in memory: all behind its snapshot.
type heldEntries struct {
	prev    storage.Point
	entries []*raftpb.Entry
}

// damageFound ends a node whose log a scrub found damaged, so that it is healed.
type damageFound struct{ logDamage }

func (e *damageFound) Error() string { return e.err.Error() }

// damagedLog makes one of the error of build or of a running node; nil if err is about something else.
func damagedLog(err error) *logDamage {
	var damage *storage.DamageError
	var needed *consensus.RepairNeededError
	var found *damageFound
	switch {
	case errors.As(err, &found):
		return &found.logDamage
	case errors.As(err, &needed):
		return &logDamage{err: err, need: &needed.RepairNeed}
	case errors.Is(err, consensus.ErrNoSnapshot): // the log is whole: see mayRefetch
	case errors.As(err, &damage) && !damage.Snapshot, errors.Is(err, consensus.ErrLost), errors.Is(err, errLogGone):
		return &logDamage{err: err}
	}
	return nil
}

// errLogGone is the directory of a Raft id without a log.
var errLogGone = errors.New("the log is gone")

// hasOthers reports whether other agents are in the core. Without any there is nobody to heal from, and the only copy must
// not be touched.
func (c *coreRunner) hasOthers() bool {
	if len(c.others()) > 0 {
		return true
	}
	// The copy of the View may be from before the others came; whom gossip knew is newer.
	return c.book != nil && slices.ContainsFunc(c.book.known, func(k knownMember) bool { return k.Core && k.Node != c.self })
}

// others are the nodes of the other core members.
func (c *coreRunner) others() (nodes []string) {
	for _, m := range c.views.hub.View().Core() {
		if m.Node != c.self && !slices.Contains(nodes, m.Node) {
			nodes = append(nodes, m.Node)
		}
	}
	return nodes
}

// heal makes a damaged log whole, or gives up the Raft id that it belongs to. First the missing entries are looked for at
// all other members: under the same id, for their hashes are known. When nobody has them, or nothing says what they were,
// the core is asked to retire the id; only after it has does the log go, and a new id is given out. It returns nil without
// an error when the id was given up, or ctx has ended.
func (c *coreRunner) heal(ctx context.Context) (*bootedCore, error) {
	damage, id := c.damage, c.ids.RaftID
	c.log.Error("the log of this core member is damaged and has to be healed, it takes no part meanwhile", zap.Uint64("raft_id", id), zap.Error(damage.err))
	c.report(api.EventDamage, c.self, truncate(damage.err.Error()))
	c.views.toStream() // the own log feeds nothing now
	c.healing.Store(true)
	defer c.healing.Store(false)
	began := clock.Boottime()
	for wait := healPauseMin; ctx.Err() == nil; wait = min(2*wait, healPauseMax) {
		if c.isRetired(id) || c.othersSayRetired(ctx, id) {
			return nil, c.giveUp(ctx, id)
		}
		filled, err := c.repairLog(ctx, damage)
		if isFatal(err) {
			return nil, err
		}
		if err == nil {
			n, err := c.build(id)
			if again := damagedLog(err); again != nil {
				return nil, fmt.Errorf("the log is damaged again right after it was repaired: the disk cannot be trusted: %w", err)
			}
			if err == nil || c.mayRefetch(err) {
				c.repairs.Add(1)
				c.damage = nil
				c.report(api.EventHealed, c.self, fmt.Sprintf("the log was repaired under its Raft id %x, with %d entries of other core members", id, filled))
			}
			if c.mayRefetch(err) {
				c.lost = err
				return nil, nil
			}
			return n, err
		}
		c.log.Warn("the damaged log is not repaired yet", zap.Error(err))
		// What the core has applied is there, if only in snapshots: then the leader counts what is true.
		if need := damage.need; need != nil && need.Unproven && c.views.hub.View().Index() < need.Index &&
			(errors.Is(err, errNobodyHas) || clock.Boottime()-began > unprovenPatience) {
			c.log.Warn("nobody has what a leader counts of this member, going on without", zap.Uint64("index", need.Index))
			c.damage, c.ownWordOnly = nil, true
			return c.build(id)
		}
		hopeless := errors.Is(err, storage.ErrNotSalvaged) || errors.Is(err, errNobodyHas)
		if hopeless || clock.Boottime()-began > repairPatience {
			c.askToRetire(ctx, id, err)
		}
		pause(ctx, wait)
	}
	return nil, nil
}

// truncate keeps a message within what an event may hold.
func truncate(message string) string { return message[:min(len(message), 240)] }

// errNobodyHas means that all other members were asked and none can fill the gap.
var errNobodyHas = errors.New("no other core member has the missing entries any more")

// repairLog repairs the log under its id, with entries of any peer. It returns how many came from peers.
func (c *coreRunner) repairLog(ctx context.Context, damage *logDamage) (filled int, err error) {
	id := mustID(c.ids.ClusterID)
	log := c.log.Named("storage")
	snapshots, err := storage.OpenSnapshots(storage.SnapshotOptions{FS: c.dir.fs, Dir: c.dir.path, ClusterID: id, Unusable: c.unusable, Log: log})
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNobodyHas, err) // a log without a snapshot begins nowhere
	}
	meta, _, ok := snapshots.Latest()
	if !ok {
		return 0, fmt.Errorf("%w: there is no snapshot to begin with", errNobodyHas)
	}
	options := storage.LogOptions{FS: c.dir.fs, Dir: c.dir.path, ClusterID: id, RaftID: c.ids.RaftID, SegmentBytes: int64(c.cfg.SegmentMiB) << 20, Log: log}
	s, err := storage.Salvage(options, &meta)
	if err != nil {
		return 0, err
	}
	for _, p := range s.Damage {
		log.Error("damage in the log", zap.String("path", p.File), zap.Int64("offset", p.Offset), zap.String("reason", p.Message))
	}
	if need := damage.need; need != nil {
		s.Reach(storage.Point{Index: need.Index, Chain: need.Chain})
	}
	for gap, more := s.Missing(); more; gap, more = s.Missing() {
		if damage.memory.fill(s, gap) {
			continue
		}
		n, err := c.fill(ctx, s, gap)
		if err != nil {
			return filled, err
		}
		filled += n
	}
	return filled, s.Repair(options)
}

// fill fills a gap from memory, if it can. It is checked as a peer's answer is: memory can be wrong too.
func (h *heldEntries) fill(s *storage.Salvaged, gap storage.Gap) bool {
	if h == nil || gap.Last <= h.prev.Index || gap.Last > h.prev.Index+uint64(len(h.entries)) {
		return false
	}
	return s.Offer(h.prev, h.entries[:gap.Last-h.prev.Index]) == nil
}

// healRunning has the log of a running node healed: the node stops for as long as it takes to write the log anew, what is
// damaged on the disk is in its memory. A leader hands over first.
func (c *coreRunner) healRunning(ctx context.Context, n *coreNode, problem storage.ScrubProblem) error {
	held := &heldEntries{}
	last := n.node.Status().Commit
	var err error
	if held.prev.Term, held.entries, err = n.node.Entries(ctx, 0, last, math.MaxInt32); err != nil {
		return err
	}
	held.prev.Index = last - uint64(len(held.entries))
	chain, known := n.store.log.Chain(held.prev.Index)
	if !known {
		return fmt.Errorf("entry %d is not in the log any more", held.prev.Index)
	}
	held.prev.Chain = chain
	found := &damageFound{logDamage{err: fmt.Errorf("a scrub found damage in %s at offset %d: %s", problem.File, problem.Offset, problem.Message), memory: held}}
	select {
	case c.healNow <- found:
		return nil
	default:
		return errors.New("it is being healed already")
	}
}

// mayHeal reports whether there is anything to heal a log from. The only copy must not be touched.
func (c *coreRunner) mayHeal(damage *logDamage) bool {
	return damage != nil && (damage.memory != nil || c.hasOthers())
}

// fill has a gap filled by any of the other members. While one that may have the entries is busy or silent it asks again a
// few times: what was filled before need not be fetched again.
func (c *coreRunner) fill(ctx context.Context, s *storage.Salvaged, gap storage.Gap) (n int, err error) {
	for range fillTries {
		if n, err = c.fillOnce(ctx, s, gap); err == nil || errors.Is(err, errNobodyHas) || ctx.Err() != nil {
			return n, err
		}
		pause(ctx, healPauseMin)
	}
	return 0, err
}

func (c *coreRunner) fillOnce(ctx context.Context, s *storage.Salvaged, gap storage.Gap) (int, error) {
	failed := fmt.Errorf("entries up to %d are missing", gap.Last)
	others, none := c.others(), 0
	for _, node := range others {
		n, err := c.fillFrom(ctx, node, s, gap)
		if err == nil || ctx.Err() != nil {
			return n, err
		}
		var refused *transport.Error
		if errors.As(err, &refused) && refused.Code == api.CodeNotFound {
			none++
		}
		failed = fmt.Errorf("%w; %s: %w", failed, node, err)
	}
	if none > 0 && none == len(others) {
		return 0, fmt.Errorf("%w: %w", errNobodyHas, failed)
	}
	return 0, failed
}

func (c *coreRunner) fillFrom(ctx context.Context, node string, s *storage.Salvaged, gap storage.Gap) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, peerEntriesWait)
	defer cancel()
	answer, err := c.pool.Call(ctx, node, methodEntries, encodeGap(gap))
	if err != nil {
		return 0, err
	}
	prev, entries, err := storage.DecodeEntries(answer)
	if err != nil {
		return 0, err
	}
	return len(entries), s.Offer(prev, entries)
}

// askToRetire asks the leader to end an id whose log cannot be made whole. Nothing is removed here before it has.
func (c *coreRunner) askToRetire(ctx context.Context, id uint64, why error) {
	for _, node := range c.others() {
		asked, cancel := context.WithTimeout(ctx, peerEntriesWait)
		_, err := c.pool.Call(asked, node, methodGone, fmt.Appendf(nil, "%x", id))
		cancel()
		if err == nil {
			c.log.Warn("the core has retired the Raft id of the damaged log", zap.Uint64("raft_id", id), zap.NamedError("reason", why))
			c.retiredFor = truncate(why.Error())
			return
		}
		c.log.Info("the Raft id of the damaged log is not retired yet", zap.String("peer", node), zap.Error(err))
	}
}

// giveUp keeps what is worth a look of the damaged log, and discharges the id.
func (c *coreRunner) giveUp(ctx context.Context, id uint64) error {
	if c.overtaken() {
		return c.leaveEpoch()
	}
	c.damage = nil
	if err := c.dir.keepDamaged(); err != nil {
		c.log.Warn("the damaged log could not be kept aside", zap.Error(err))
	}
	why := c.retiredFor
	if why == "" {
		why = "the id was retired meanwhile"
	}
	c.report(api.EventRaftID, c.self, fmt.Sprintf("the damaged log is given up with its Raft id %x, this agent comes back under a new one: %s", id, why))
	c.replaced.Add(1)
	return c.discharge(ctx, id)
}
