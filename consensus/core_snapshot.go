package consensus

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"
)

// snapshots decides when our own are taken and follows those that travel.
//
// A peer's snapshot is fetched and made durable before raft hears of it, because raft has no way
// to be told that restoring failed. Its sender pauses replication until it learns the end: from
// the append response, from a report of the receiver, or by the timeout here. Forgetting all three
// would leave the receiver behind for ever.
type snapshots struct {
	last       uint64 // index of the last one captured or installed
	bytes      int    // payload handed out for applying since
	rest       rest
	saving     bool
	pending    *saveTask         // captured at a checkpoint at which no majority has told the same yet
	renew      bool              // one is wanted although nothing calls for it: a damaged one is to be replaced
	asked      bool              // one is wanted from outside: for a member that begins again, or in place of a damaged one
	wantedAt   uint64            // tick since when one is needed that there is not, 0 if none is
	retryAt    uint64            // tick before which none is captured, after a failure
	compacted  uint64            // the log on disk was last told to drop what is up to here
	replay     uint64            // what a start applies again, when that is long; 0 once there is a snapshot behind it
	installing bool              // one at a time
	behind     bool              // what is installed is for the next life; see behind
	held       *installTask      // durable, waits until what is being applied is done
	ready      SnapshotRef       // the last one made durable
	unused     SnapshotRef       // one made durable that raft did not take, newer than our log
	sent       map[uint64]uint64 // receiver -> tick of sending
}

// captureDue decides at the end of an apply task whether the machine shall be captured after it.
func (c *core) captureDue() bool {
	s := &c.snaps
	if !c.mayCapture() || !c.calledFor() && !c.rarely(rareSnapshotNow) && !c.grown() {
		return false
	}
	s.saving, s.last, s.bytes, s.renew, s.replay = true, c.applying, 0, false, 0
	return true
}

// snapshotDue reports whether the next checkpoint is to be captured.
func (c *core) snapshotDue() bool { return c.mayCapture() && (c.calledFor() || c.grown()) }

// mayCapture reports whether another snapshot can be begun, and would hold more than the last one, or replace it.
func (c *core) mayCapture() bool {
	s := &c.snaps
	return !s.saving && c.ticks >= s.retryAt && (c.applying > s.last || c.applying == s.last && s.renew)
}

// calledFor reports whether a snapshot is wanted however little came since the last one.
func (c *core) calledFor() bool {
	s := &c.snaps
	return c.log.wanted || s.renew || s.replay > 0 && c.applying >= s.replay
}

// grown reports whether so much came since the last snapshot that another one is due: what a start would have to apply again
// has become more than a snapshot costs. Under load that is as much as the state itself, between snapshotBytes and twice as
// much. At rest nobody waits for the processor, and a start is to be quick: then it is an eighth of that.
func (c *core) grown() bool {
	least := uint64(c.cfg.snapshotBytes) //nolint:gosec // not negative
	bytes := min(max(c.log.snap.Size, least), 2*least)
	if c.snaps.rest.resting {
		bytes /= restShare
	}
	return c.applying-c.snaps.last >= c.cfg.snapshotEntries || uint64(c.snaps.bytes) >= bytes //nolint:gosec // not negative
}

// rest is whether little was written lately.
type rest struct {
	resting bool
	bytes   int    // snapshots.bytes at the last look
	look    uint64 // tick of the next
}

const (
	restShare    = 8       // of what calls for a snapshot under load is what calls for one at rest
	restTimeouts = 4       // election timeouts between two looks
	restBytes    = 1 << 16 // so little between two is rest
)

// lookAt sees how much was written since the last look, once it is time.
func (r *rest) lookAt(tick, every uint64, bytes int) {
	if tick < r.look {
		return
	}
	since := bytes - r.bytes
	if since < 0 { // a snapshot came between
		since = bytes
	}
	r.resting = r.look > 0 && since <= restBytes
	r.bytes, r.look = bytes, tick+every
}

// renewSnapshot has a snapshot saved as soon as may be, at the index of the last one if nothing came since.
func (c *core) renewSnapshot() {
	c.snaps.renew, c.snaps.asked = true, true
	c.drain()
}

// snapshotOnDemand asks for a capture when a peer, or the mending of a damaged one, needs a snapshot.
// It reports whether that made new effects.
func (c *core) snapshotOnDemand() bool {
	if !c.log.wanted && !c.snaps.renew || c.applying == 0 || c.proves() && !c.pressed() {
		return false
	}
	if stands, at := c.guard.stands(); stands {
		return c.captureBelow(at)
	}
	if len(c.pair.held) > 0 || !c.captureDue() {
		return false
	}
	return c.captureAt(c.applying)
}

// captureBelow captures what is applied while the applier has stopped, or the guard withholds what comes next. Others may wait
// for just that to begin again, and a majority may be among them, without whom nobody leads, who alone could end our own wait.
func (c *core) captureBelow(index uint64) bool {
	s := &c.snaps
	c.forgetCapture(c.pair.held)
	if s.last > index { // due in what the applier has, behind the command that it stopped at: it will be one more
		s.saving, s.last = false, c.log.snap.Index
	}
	if s.saving || c.ticks < s.retryAt || index <= c.log.snap.Index && !s.renew || !c.captureAt(index) {
		return false
	}
	s.saving, s.last, s.renew = true, index, false
	return true
}

// forgetCapture gives up a capture that is due behind tasks which the applier is not given: nobody knows when it is, or whether
// it ever is, and meanwhile no other one could be begun.
func (c *core) forgetCapture(withheld []*applyTask) {
	for _, t := range withheld {
		if t.capture {
			t.capture, c.snaps.saving, c.snaps.last = false, false, c.log.snap.Index
		}
	}
}

// captureAt has the applier capture what it has, once it is at that index.
func (c *core) captureAt(index uint64) bool {
	term, err := c.log.Term(index)
	if err != nil {
		return false
	}
	c.out.applies = append(c.out.applies, &applyTask{index: index, term: term, capture: true})
	return true
}

// captured turns the machine's captured state into a snapshot to be written. The configuration is
// the one at t.index: later changes are in later tasks, which are not reported yet. Where one took effect ahead all the same
// the configuration at t.index is not known any more, and another state is captured at the next checkpoint.
func (c *core) captured(t *applyTask) {
	if c.log.confIndex > t.index {
		c.snaps.saving, c.snaps.renew = false, true
		return
	}
	s := &saveTask{ref: SnapshotRef{Index: t.index, Term: t.term, ConfState: c.conf}, write: t.write}
	if c.proves() && t.proof {
		c.snaps.pending = s
		c.prove()
		return
	}
	c.out.saves = append(c.out.saves, s)
}

// saved ends the writing of a snapshot. The log then drops what it covers, except a tail for
// followers that are a little behind and whatever follows a snapshot on its way to a peer.
func (c *core) saved(ref SnapshotRef, err error) {
	c.snaps.saving = false
	if err != nil {
		c.snaps.retryAt = c.ticks + uint64(saveRetryTimeouts*c.cfg.electionTicks)
		c.snaps.last = c.log.snap.Index
		return
	}
	before := c.log.snap.Index
	c.snaps.asked = false
	c.log.saved(ref)
	if to := c.compactTo(); to > c.log.offset {
		c.log.compact(to)
		c.forgetSkips()
	}
	// The disk keeps what follows the snapshot before as well: should the new one turn out damaged at the
	// next start, the older one and the log behind it still make the whole state.
	if to := min(c.log.offset, before); to > c.snaps.compacted {
		c.snaps.compacted, c.out.compact = to, to
	}
	c.drain()
}

func (c *core) compactTo() uint64 {
	to := c.log.snap.Index - min(c.log.snap.Index, c.cfg.trailingEntries)
	if c.log.bytes > c.cfg.maxLogBytes/2 || c.rarely(rareCompactAll) {
		return c.log.snap.Index
	}
	c.visitProgress(func(_ uint64, pr tracker.Progress) {
		if c.leads() && pr.State == tracker.StateSnapshot && pr.RecentActive {
			to = min(to, pr.PendingSnapshot)
		}
	})
	return to
}

// offerSnapshot has a peer's snapshot fetched, one at a time; others are dropped with a report.
func (c *core) offerSnapshot(m *raftpb.Message) {
	meta := m.GetSnapshot().GetMetadata()
	if c.snaps.unused.Index >= meta.GetIndex() {
		c.offerUnused(m)
		return
	}
	if c.snaps.installing {
		return // the sender repeats it after its timeout or when we report the running one
	}
	c.snaps.installing = true
	c.out.installs = append(c.out.installs, &installTask{from: m.GetFrom(), msg: m, ref: SnapshotRef{
		Index: meta.GetIndex(), Term: meta.GetTerm(),
		ConfState: meta.GetConfState(), Manifest: m.GetSnapshot().GetData(),
	}})
}

// offerUnused answers the offer of a snapshot with a newer one that is on the disk already: what a leader of the term
// before sent, and raft ignored because that term had passed. It holds committed entries like any other, and the disk takes
// none that is older.
func (c *core) offerUnused(m *raftpb.Message) {
	ref := c.snaps.unused
	c.out.reports = append(c.out.reports, snapReport{to: m.GetFrom(), index: m.GetSnapshot().GetMetadata().GetIndex(), ok: true})
	newer := proto.CloneOf(m)
	newer.Snapshot = &raftpb.Snapshot{Data: ref.Manifest, Metadata: &raftpb.SnapshotMetadata{
		Index: new(ref.Index), Term: new(ref.Term), ConfState: proto.CloneOf(ref.ConfState),
	}}
	c.snaps.held = &installTask{from: m.GetFrom(), ref: ref, msg: newer}
	c.adopt()
}

// installed ends the fetch of a peer's snapshot. The sender hears how it ended in any case.
func (c *core) installed(t *installTask, err error) {
	c.snaps.installing = false
	if c.snaps.behind {
		c.installedBehind(err)
		return
	}
	c.out.reports = append(c.out.reports, snapReport{to: t.from, index: t.ref.Index, ok: err == nil})
	if err == nil {
		c.snaps.held = t
		c.adopt()
	}
}

// adopt steps a fetched snapshot. Raft ignores it if its term has passed or if we have caught up
// otherwise. It waits while entries are being applied: a change of the core among them would reach
// raft after the newer configuration of the snapshot, and undo it. It does not wait for what the guard withholds: what ends
// that may be in the part of the log that only the snapshot has.
func (c *core) adopt() {
	t := c.snaps.held
	waits := c.applying // for what is being applied, and what is about to be
	if c.guard.withheld() > 0 {
		waits = c.guard.given
	}
	if t == nil || c.applied < waits {
		return
	}
	c.snaps.held, c.snaps.ready = nil, t.ref
	_ = c.rn.Step(t.msg)
	c.drain()
	if c.log.snap.Index < t.ref.Index {
		c.snaps.unused = t.ref
	}
}

// restored is called when raft adopted a snapshot: the log restarts behind it, and the machine is
// restored before anything later is applied.
func (c *core) restored(s *raftpb.Snapshot) *SnapshotRef {
	ref := c.snaps.ready
	if ref.Index != s.GetMetadata().GetIndex() {
		panic("raft adopted a snapshot that was not made durable")
	}
	c.log.reset(ref)
	c.log.confIndex, c.snaps.unused = 0, SnapshotRef{}
	c.conf = raftpb.EnsureConfState(ref.ConfState)
	c.applying, c.snaps.last, c.snaps.bytes = ref.Index, ref.Index, 0
	c.dropPending()
	c.monitor.handed = ref.Index
	c.props.overtaken(c, ref.Index)
	c.releasePair() // nothing of an earlier leadership comes behind the restore
	c.overtake(ref.Index)
	c.give(&applyTask{restore: &ref, index: ref.Index, term: ref.Term})
	c.out.changed = true
	return &ref
}

// report tells raft how a snapshot that we sent ended.
func (c *core) report(id uint64, ok bool) {
	if _, sent := c.snaps.sent[id]; !sent {
		return
	}
	delete(c.snaps.sent, id)
	status := raft.SnapshotFinish
	if !ok {
		status = raft.SnapshotFailure
	}
	c.rn.ReportSnapshot(id, status)
	c.drain()
}

// tickSnapshots reports snapshots as failed whose receiver stays silent for too long.
func (c *core) tickSnapshots() {
	c.snaps.rest.lookAt(c.ticks, uint64(restTimeouts*c.cfg.electionTicks), c.snaps.bytes) //nolint:gosec // positive
	c.tickProof()
	var late []uint64
	for id, at := range c.snaps.sent {
		if c.ticks-at >= uint64(c.cfg.snapshotTimeout) {
			late = append(late, id)
		}
	}
	slices.Sort(late)
	for _, id := range late {
		c.report(id, false)
	}
}

func (s *snapshots) note(to, tick uint64) {
	if s.sent == nil {
		s.sent = make(map[uint64]uint64)
	}
	s.sent[to] = tick
}
