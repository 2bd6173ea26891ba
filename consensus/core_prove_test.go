package consensus

import (
	"errors"
	"strings"
	"testing"
)

// provingSim is three voters that compare their states, and take a snapshot every few entries.
func provingSim(t *testing.T) *sim {
	s := digestSim(t)
	tune := s.tune
	s.tune = func(c *coreConfig) { tune(c); c.snapshotEntries, c.trailingEntries, c.maxLogBytes = 5, 4, 4000 }
	for _, id := range []uint64{1, 2, 3} {
		s.add(id, 1, 2, 3)
	}
	return s
}

// busy writes a little before each of so many checkpoints.
func (s *sim) busy(t *testing.T, checkpoints int) {
	t.Helper()
	for range checkpoints {
		for range 6 {
			if id := s.current(); id != 0 && s.nodes[id].core.halted == nil {
				s.nodes[id].propose("k", "v")
			}
			s.tick(1)
		}
		s.tick(testCheckpoint)
	}
}

func (n *simNode) newest() SnapshotRef { ref, _ := n.snaps.latest(); return ref }

// TestSnapshotsAreProven: snapshots are of checkpoints at which a majority told the same; a replica that is wrong writes none
// of what it holds then, although it is due. As a control, one of a core that does not compare does.
func TestSnapshotsAreProven(t *testing.T) {
	for _, off := range []bool{true, false} {
		s := provingSim(t)
		for _, n := range s.nodes {
			n.core.cfg.noDigests = off
		}
		leader := s.elect()
		s.busy(t, 2)
		bad := s.nodes[leader%3+1]
		before := bad.newest().Index
		if before <= 1 {
			t.Fatalf("comparing %v: no snapshot so far", !off)
		}
		for id, n := range s.nodes {
			_, entries := n.core.log.upTo(0, n.newest().Index, 1<<20)
			if !off && len(entries) > 0 && !isCheckpoint(entries[len(entries)-1]) {
				t.Errorf("the snapshot of %d at %d is of no checkpoint", id, n.newest().Index)
			}
		}
		bad.spoil()
		s.busy(t, 2)
		if wrote := bad.newest().Index > before; wrote != off {
			t.Errorf("comparing %v: a wrong state was written: %v", !off, wrote)
		}
		if good := s.nodes[leader].newest().Index; good <= before {
			t.Errorf("comparing %v: the others write none any more: at %d", !off, good)
		}
		s.sound(t)
	}
}

// TestProofComesLate: marks that were lost are told again with later checkpoints, so that what waits for them is written;
// nothing is while no majority is heard.
func TestProofComesLate(t *testing.T) {
	s := provingSim(t)
	leader := s.nodes[s.elect()]
	s.busy(t, 2)
	before := leader.newest().Index
	s.dropped = func(p packet) bool { return p.note != nil && p.note.kind == noteCheckpoint }
	s.busy(t, 1)
	if got := leader.newest().Index; got != before || leader.core.snaps.pending == nil {
		t.Fatalf("a snapshot without proof, at %d, before at %d, pending %v", got, before, leader.core.snaps.pending)
	}
	waits := leader.core.snaps.pending.ref.Index
	s.dropped = nil
	for range 2 * testCheckpoint { // nothing is written meanwhile
		if s.tick(1); leader.newest().Index >= waits {
			break
		}
	}
	if got := leader.newest().Index; got != waits {
		t.Errorf("the newest snapshot is at %d, that of %d waited", got, waits)
	}
	s.sound(t)
}

// TestLogBeforeProof: when the log outgrows its memory and nobody contradicts, a snapshot is written without proof, so that
// writes go on.
func TestLogBeforeProof(t *testing.T) {
	s := provingSim(t)
	leader := s.nodes[s.elect()]
	s.dropped = func(p packet) bool { return p.note != nil && p.note.kind == noteCheckpoint }
	for range 30 {
		out := leader.propose("k", strings.Repeat("x", 400))
		s.tick(1)
		if *out == nil || (*out).err != nil {
			t.Fatalf("a write: %s", describeOutcome(*out))
		}
	}
	if leader.newest().Index <= 1 {
		t.Error("no snapshot was written")
	}
	s.sound(t)
}

// TestRenewedSnapshotIsProven: a follower whose snapshot is damaged gets a checkpoint to make a new one at, though nothing is
// written; who is no member gets none.
func TestRenewedSnapshotIsProven(t *testing.T) {
	s := provingSim(t)
	leader := s.elect()
	s.busy(t, 2)
	s.tick(10 * testCheckpoint) // all is quiet
	n := s.nodes[leader%3+1]
	before, saves := n.newest().Index, n.snaps.saves
	s.tick(10 * testCheckpoint)
	if n.snaps.saves != saves {
		t.Fatal("control: one was saved that nobody asked for")
	}
	n.do(func() { n.core.renewSnapshot() })
	s.tick(2 * testCheckpoint)
	if n.newest().Index <= before {
		t.Errorf("no new snapshot: at %d", n.newest().Index)
	}
	if err := n.core.hear(note{peer: 77, kind: noteWant}); err == nil {
		t.Error("a stranger asks for checkpoints")
	}
	s.sound(t)
}

// TestSnapshotThatNobodyCanProve: the only other voter that is left is too far behind to tell anything: it needs a snapshot,
// and gets one without proof, after a while.
func TestSnapshotThatNobodyCanProve(t *testing.T) {
	s := provingSim(t)
	leader := s.nodes[s.elect()]
	behind, gone := s.nodes[leader.id%3+1], s.nodes[(leader.id+1)%3+1]
	s.partition(behind.id)
	s.busy(t, 4)
	leader.propose("k", "last") // after the last checkpoint
	s.tick(2)
	s.cut = map[[2]uint64]bool{}
	s.partition(gone.id)
	leader.core.log.confIndex = leader.core.applied // as after a change of the core: no snapshot so far is of use
	s.tick(2 * proofTimeouts * defaultElectionTicks)
	if behind.core.applied < leader.core.log.snap.Index || leader.core.log.snap.Index < leader.core.log.confIndex {
		t.Errorf("it has applied %d, the snapshot is at %d, needed is %d", behind.core.applied, leader.core.log.snap.Index, leader.core.log.confIndex)
	}
	s.sound(t)
}

// TestSnapshotForThoseThatBeginAgain: two of three begin again with what the third holds, and run no Raft id until they have
// it: nothing commits, and nobody leads. The third has a snapshot of what it has applied after a while, when it is asked for
// one; as a control, none without being asked.
func TestSnapshotForThoseThatBeginAgain(t *testing.T) {
	for _, asked := range []bool{false, true} {
		s := provingSim(t)
		n := s.nodes[s.elect()]
		s.busy(t, 2)
		n.propose("k", "last") // after the last checkpoint
		s.tick(2)
		for _, other := range s.nodes {
			if other != n {
				other.crash(false)
			}
		}
		s.tick(3 * defaultElectionTicks)
		if n.newest().Index >= n.core.applied || n.core.leads() {
			t.Fatalf("not prepared: %s", s.describe())
		}
		if asked {
			n.do(func() { n.core.renewSnapshot() })
		}
		s.tick((proofTimeouts - 1) * defaultElectionTicks)
		if n.newest().Index >= n.core.applied {
			t.Error("it did not wait for a proof")
		}
		s.tick(2 * defaultElectionTicks)
		if has := n.newest().Index >= n.core.applied; has != asked {
			t.Errorf("asked %v: the snapshot is at %d, applied is %d", asked, n.newest().Index, n.core.applied)
		}
		s.sound(t)
	}
}

// TestStoppedMemberWantsNoCheckpoints: one that applies nothing can make no snapshot. It asks for no checkpoint to make it at,
// or the log would grow without end although nothing is written.
func TestStoppedMemberWantsNoCheckpoints(t *testing.T) {
	s := provingSim(t)
	leader := s.nodes[s.elect()]
	s.busy(t, 2)
	n := s.nodes[leader.id%3+1]
	n.do(func() { n.core.renewSnapshot() })
	n.do(func() { n.core.halt(errors.New("an unknown command")) })
	s.tick(2 * testCheckpoint)
	before := leader.core.commit
	s.tick(20 * testCheckpoint)
	if got := leader.core.commit; got != before {
		t.Errorf("%d entries for a member that has stopped", got-before)
	}
	s.sound(t)
}
