package consensus

import (
	"encoding/binary"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// behind is what a replica waits for that stopped at an entry which others have applied: a snapshot of one of those, at or
// behind that entry. Only when it is on the disk does the replica end, to begin again with it. Until then it votes and
// replicates like any that has stopped. If it ended at once, and a majority with it:
//
//  1. n1 and n2 stop at N. n3 has applied it, and saves a snapshot for them.
//  2. n1 and n2 end, and wait for it. Nobody leads.
//  3. n3 loses its power before the snapshot is written, and with it what it knew of having applied N. It applies nothing
//     behind what it knows before a leader has told it what is committed.
//  4. n1 and n2 wait for n3's snapshot, n3 for a leader, and a leader needs n1 or n2.
type behind struct {
	index    uint64   // of the entry; 0: it waits for nothing
	appliers []uint64 // who has applied it, by the leader's word
	asked    int      // counts the questions: they are asked in turn
	failed   int      // fetches, one after the other
	askAt    uint64   // tick before which nobody is asked, after such a failure
}

// sought is since when others ask for a snapshot of a replica that is on probation. As a rule it gives none: its state is not trusted
// yet. But where it is the only one that has applied what a majority stopped at, its probation cannot end: no checkpoint is compared
// as long as a majority applies none, and that majority waits for the snapshot. So it gives one once it has been asked for longer than
// its probation would have taken, if nobody contradicts: as with any snapshot that is needed more than its proof (core_prove.go).
type sought struct {
	since, last uint64 // ticks; 0: nobody asks
}

// behindPauses is the longest pause after a fetch that failed, in election timeouts. The first is one, and each further one twice as
// long as that before it.
const behindPauses = 32

const (
	noteBehindAsk noteKind = 9  // index 8: has it got a snapshot at or behind that entry?
	noteBehind    noteKind = 30 // index 8, then a raftpb.Snapshot; nothing: it is too large for a note
)

// outrun is told to a replica that stopped at an entry that others have applied.
func (c *core) outrun(index uint64, appliers []uint64) {
	g := &c.guard
	if g.stop == nil || g.stop.index != index || c.digests.fenced != nil || c.cfg.fenced {
		return
	}
	appliers = slices.DeleteFunc(slices.Clone(appliers), func(id uint64) bool { return id == raft.None || id == c.cfg.id })
	if len(appliers) == 0 {
		return // nobody could be asked: those that were named before are, and the leader looks into it again
	}
	if g.behind.index != index {
		g.behind = behind{index: index}
	}
	g.behind.appliers = appliers
	c.out.changed = true
	c.yieldTo(appliers)
	c.drain()
}

// yieldTo gives the lead to one of those that have applied what we stopped at, and to nobody else: another that has stopped
// would give it back.
func (c *core) yieldTo(appliers []uint64) {
	for _, id := range appliers {
		if c.leads() && c.transfer == nil && c.vain != id && slices.Contains(c.conf.GetVoters(), id) && c.heardLately(id) && !c.doubted(id) && !c.reportsStop(id) {
			c.beginTransfer(id, nil)
			return
		}
	}
}

// askBehind asks the next of those that have applied what we stopped at.
func (c *core) askBehind() {
	g := &c.guard
	b := &g.behind
	if b.index > 0 && (g.stop == nil || g.stop.index != b.index) {
		*b = behind{} // it went on
	}
	if b.index == 0 || c.snaps.installing || c.ticks < b.askAt {
		return
	}
	c.tell(b.appliers[b.asked%len(b.appliers)], noteBehindAsk, binary.BigEndian.AppendUint64(nil, b.index))
	b.asked++
}

// hearBehindAsk gives our newest snapshot away, or has one saved.
func (c *core) hearBehindAsk(from uint64, body []byte) error {
	if len(body) != 8 || !c.isMember(from) {
		return errNote
	}
	index := binary.BigEndian.Uint64(body)
	if c.cfg.guard == nil || c.applied < index || c.digests.fenced != nil || c.cfg.fenced {
		return nil
	}
	switch may, own := c.mayGive(), c.log.snap; {
	case own.Index < index:
		c.renewSnapshot()
	case may:
		content, err := proto.Marshal(&raftpb.Snapshot{Data: own.Manifest, Metadata: &raftpb.SnapshotMetadata{
			Index: new(own.Index), Term: new(own.Term), ConfState: own.ConfState,
		}})
		if err != nil {
			return fmt.Errorf("encode the snapshot of %d: %w", own.Index, err)
		}
		if len(body)+len(content) > maxNoteBytes {
			if c.unfit() != nil {
				return nil // its agent would not get it either, and could not vote meanwhile
			}
			content = nil
		}
		c.tell(from, noteBehind, append(slices.Clone(body), content...))
	}
	return nil
}

// mayGive reports whether others may begin again with a snapshot of ours that they ask for.
func (c *core) mayGive() bool {
	s, ticks := &c.guard.sought, uint64(c.cfg.electionTicks)
	if c.unfit() == nil {
		*s = sought{}
		return true
	}
	if s.since == 0 || c.ticks-s.last > 2*ticks {
		s.since = c.ticks
	}
	s.last = c.ticks
	return c.ticks-s.since >= max(proofTimeouts*ticks, c.probationTicks()) && !c.digests.noQuorum
}

// hearBehind has the snapshot fetched. One whose manifest is too large for a note is fetched by who begins again: then we do at once.
func (c *core) hearBehind(from uint64, body []byte) error {
	if len(body) < 8 {
		return errNote
	}
	b := &c.guard.behind
	if b.index == 0 || binary.BigEndian.Uint64(body) != b.index || !slices.Contains(b.appliers, from) || c.snaps.installing {
		return nil
	}
	if len(body) == 8 {
		c.beginBehind()
		return nil
	}
	s := &raftpb.Snapshot{}
	if err := proto.Unmarshal(body[8:], s); err != nil || s.GetMetadata().GetIndex() < b.index || s.GetMetadata().GetConfState() == nil {
		return errNote
	}
	c.snaps.installing, c.snaps.behind = true, true
	meta := s.GetMetadata()
	c.out.installs = append(c.out.installs, &installTask{from: from, behind: true, ref: SnapshotRef{
		Index: meta.GetIndex(), Term: meta.GetTerm(), ConfState: meta.GetConfState(), Manifest: s.GetData(),
	}, msg: &raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: new(from), To: new(c.cfg.id), Snapshot: s}})
	return nil
}

// installedBehind ends the fetch of such a snapshot. If it failed the next one is asked, after a pause: each try may read a whole
// snapshot from a peer that has its own work.
func (c *core) installedBehind(err error) {
	c.snaps.behind = false
	if err == nil {
		c.beginBehind()
		return
	}
	b := &c.guard.behind
	b.askAt = c.ticks + uint64(min(1<<min(b.failed, 16), behindPauses)*c.cfg.electionTicks)
	b.failed++
}

// beginBehind ends this life. The next one begins with a snapshot behind what this one stopped at.
func (c *core) beginBehind() {
	g := &c.guard
	if g.behind.index == 0 || g.stop == nil || g.stop.index != g.behind.index {
		return // it went on meanwhile
	}
	reason := fmt.Sprintf("it crashes on command %d of entry %d (%s), which other members have applied",
		g.stop.place, g.stop.index, causeName(g.stop.cause))
	c.fence(&RebuildNeed{Index: g.stop.index, Reason: reason, From: g.behind.appliers, Beyond: g.stop.index})
	g.behind = behind{}
	c.drain()
}
