package consensus

import (
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// TestUnusedSnapshot: a snapshot that is on the disk although raft did not take it, because its sender's term had passed,
// answers the next leader's offer of one that is no newer. The disk would refuse that one for ever.
func TestUnusedSnapshot(t *testing.T) {
	s := newSim(t, 3)
	s.tune = func(c *coreConfig) { c.snapshotEntries, c.trailingEntries = 10, 2 }
	for id := uint64(1); id <= 3; id++ {
		s.add(id, 1, 2, 3)
	}
	leader := s.elect()
	away := leader%3 + 1
	other := 6 - leader - away
	for _, id := range []uint64{leader, other} {
		s.cut[[2]uint64{id, away}], s.cut[[2]uint64{away, id}] = true, true
	}
	for range 40 {
		s.nodes[leader].propose("k", "v")
		s.settle()
	}
	clear(s.cut)
	offer := offered(s, away)
	if offer == nil {
		t.Fatal("no snapshot was offered")
	}

	// It is fetched, and meanwhile another leads the next term.
	n := s.nodes[away]
	task := &installTask{from: leader, msg: offer, ref: SnapshotRef{
		Index: offer.GetSnapshot().GetMetadata().GetIndex(), Term: offer.GetSnapshot().GetMetadata().GetTerm(),
		ConfState: offer.GetSnapshot().GetMetadata().GetConfState(), Manifest: offer.GetSnapshot().GetData(),
	}}
	if err := n.install(task); err != nil {
		t.Fatal(err)
	}
	next := offer.GetTerm() + 1
	n.do(func() {
		_ = n.core.step(&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: new(other), To: new(away), Term: new(next)})
	})
	n.do(func() { n.core.installed(task, nil) })
	if n.core.log.snap.Index >= task.ref.Index || n.core.snaps.unused.Index != task.ref.Index {
		t.Fatalf("the snapshot of a term that has passed was taken: %d", n.core.log.snap.Index)
	}

	again := proto.CloneOf(offer)
	again.From, again.Term = new(other), new(next)
	again.Snapshot.Metadata.Index = new(task.ref.Index - 1) // an older one than that on the disk
	n.do(func() { _ = n.core.step(again) })
	if n.core.log.snap.Index != task.ref.Index || len(n.instQ) > 0 || n.core.snaps.unused.Index != 0 {
		t.Errorf("the log begins behind %d, wanted %d; %d fetches are under way", n.core.log.snap.Index, task.ref.Index, len(n.instQ))
	}
}

// offered lets time pass until a snapshot is on its way to a node, and takes it off the net.
func offered(s *sim, to uint64) *raftpb.Message {
	for range 60 {
		for _, id := range s.ids {
			n := s.nodes[id]
			n.do(func() { n.core.tick() })
			for len(n.logQ) > 0 {
				n.writeLog()
			}
			for len(n.applyQ) > 0 {
				n.applyNext()
			}
			n.background()
		}
		for range len(s.net) {
			i := slices.IndexFunc(s.net, func(p packet) bool { return p.m != nil && p.m.GetType() == raftpb.MsgSnap && p.to == to })
			if i >= 0 {
				return s.net[i].m
			}
			s.deliver(0)
		}
	}
	return nil
}
