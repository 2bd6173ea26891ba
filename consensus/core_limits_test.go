package consensus

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/clock"
)

func alone(t *testing.T, tune func(*coreConfig)) (*sim, *simNode) {
	s := newSim(t, 1)
	s.tune = tune
	s.add(1, 1)
	s.settle()
	return s, s.nodes[1]
}

// TestOneVoterReadWaitsForItsTerm: raft answers the read of a core of one from its commit index at
// once. After a restart that index is from before the crash: the read must wait for the new term.
func TestOneVoterReadWaitsForItsTerm(t *testing.T) {
	s, n := alone(t, nil)
	for i := range 5 {
		n.propose(fmt.Sprint("k", i), "v")
		s.settle()
	}
	n.crash(true)
	n.start()
	for !n.core.leads() {
		n.writeLog() // its own vote
	}
	r := n.read()
	if *r != nil {
		t.Fatalf("read was answered with %+v before the term's first entry was committed", **r)
	}
	s.settle()
	if *r == nil || (*r).index <= s.acked || len(s.broken) > 0 {
		t.Errorf("read %s, acknowledged up to %d, %v", describeOutcome(*r), s.acked, s.broken)
	}
}

// TestBatching: while two batches are in flight the rest gathers in one, up to the limits.
func TestBatching(t *testing.T) {
	s, n := alone(t, func(c *coreConfig) { c.batchCommands = 10 })
	var all []**outcome
	for i := range 12 {
		all = append(all, n.propose(fmt.Sprint("k", i), "v"))
	}
	if got := len(n.core.props.flight); got != 2 {
		t.Errorf("%d batches in flight", got)
	}
	if queued, room := len(n.core.props.queue), n.core.room(); queued != 10 || room != 0 {
		t.Errorf("%d queued, room for %d", queued, room)
	}
	s.settle()
	indexes := map[uint64]int{}
	for _, r := range all {
		indexes[(*r).done.Index]++
	}
	if len(indexes) != 3 || indexes[(*all[11]).done.Index] != 10 {
		t.Errorf("entries: %v", indexes)
	}
}

// TestBatchBytes: a batch ends at its size limit, and room closes with it.
func TestBatchBytes(t *testing.T) {
	s, n := alone(t, func(c *coreConfig) { c.batchBytes = 1000 })
	n.propose("a", "1")
	n.propose("b", "1")
	value := strings.Repeat("x", 390)
	for i := range 3 {
		n.propose(fmt.Sprint("k", i), value)
	}
	if n.core.room() != 0 {
		t.Errorf("room for %d more at %d bytes", n.core.room(), n.core.props.bytes)
	}
	if r := n.propose("big", strings.Repeat("x", 1000)); *r == nil || !errors.Is((*r).err, ErrTooLarge) {
		t.Errorf("too large: %s", describeOutcome(*r))
	}
	s.settle()
	largest := 0
	for _, e := range n.log.now.entries {
		largest = max(largest, len(e.GetData()))
	}
	if largest > 1000 || largest < 800 {
		t.Errorf("largest entry has %d bytes", largest)
	}
}

// TestUncommittedLimit: a leader without followers refuses writes when too much is uncommitted, and
// says that nothing happened.
func TestUncommittedLimit(t *testing.T) {
	s := newSim(t, 1)
	s.tune = func(c *coreConfig) { c.inflightBatches, c.batchBytes = 1000, maxBatchBytes }
	for id := uint64(1); id <= 3; id++ {
		s.add(id, 1, 2, 3)
	}
	n := s.nodes[s.elect()]
	s.partition(n.id)
	busy := 0
	for i := range 12 {
		r := n.propose(fmt.Sprint("k", i), strings.Repeat("x", 7<<20))
		if *r != nil && errors.Is((*r).err, ErrBusy) {
			busy++
		}
	}
	if busy < 2 {
		t.Errorf("%d of 12 x 7 MiB refused, the limit is %d", busy, maxUncommittedSize)
	}
}

// TestLogLimit: when snapshots cannot be written the log in memory stops growing at its limit, and
// writes are taken again once one was.
func TestLogLimit(t *testing.T) {
	s, n := alone(t, func(c *coreConfig) { c.maxLogBytes, c.snapshotEntries, c.trailingEntries = 4000, 5, 1 })
	n.snaps.fail = errors.New("no space")
	refused := ""
	for i := range 20 {
		r := n.propose(fmt.Sprint("k", i), strings.Repeat("x", 500))
		s.settle()
		if (*r).err != nil {
			refused = describeOutcome(*r)
			break
		}
	}
	if !strings.Contains(refused, "at its limit") {
		t.Fatalf("got %q", refused)
	}
	n.snaps.fail = nil
	s.tick(saveRetryTimeouts*defaultElectionTicks + 1)
	n.core.log.wanted = true // what a peer in need of a snapshot causes
	s.tick(2)
	if r := n.propose("a", "1"); *r != nil {
		t.Errorf("still refused: %s", describeOutcome(*r))
	}
}

// TestClockBehind: a leader whose clock is behind the log's stamps says so, and writes go on: stamps count up
// from the log's, an hour ahead, until the clock has passed them. The clock itself is not dragged along.
func TestClockBehind(t *testing.T) {
	s, n := alone(t, nil)
	ahead := clock.Stamp(uint64(s.now.Add(time.Hour).UnixMilli()) << 16)
	n.core.seen(ahead)
	if out := n.core.take(); !errors.Is(out.clockErr, clock.ErrTooFarAhead) {
		t.Errorf("clock error: %v", out.clockErr)
	}
	write := func() clock.Stamp {
		r := n.propose("a", "1")
		s.settle()
		if *r == nil || (*r).err != nil {
			t.Fatalf("got %s", describeOutcome(*r))
		}
		return (*r).done.Stamp
	}
	first, second := write(), write()
	if first <= ahead || second <= first || second > ahead+100 {
		t.Errorf("stamps %s and %s after %s", first, second, ahead)
	}
	if got := n.clock.Last(); got > ahead {
		t.Errorf("the clock went along, to %s", got)
	}
	s.now = s.now.Add(61 * time.Minute)
	if third := write(); third.Wall().Before(s.now.Add(-time.Second)) {
		t.Errorf("with the clock right: %s", third)
	}
}

// TestSnapshotReport: a receiver that stays silent is reported to raft after the timeout.
func TestSnapshotReport(t *testing.T) {
	s := newSim(t, 1)
	s.tune = func(c *coreConfig) { c.snapshotTimeout, c.trailingEntries = 30, 1 }
	s.add(1, 1)
	s.settle()
	n := s.nodes[1]
	s.add(2)
	n.ask(&request{change: &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{
		{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: new(uint64(2))}}}}, (*core).changeCore)
	dropped := 0
	for range 60 {
		for i := range s.net {
			if s.net[i].m != nil && s.net[i].m.GetType() == raftpb.MsgSnap && dropped == 0 {
				s.net = append(s.net[:i:i], s.net[i+1:]...)
				dropped++
				break
			}
		}
		for _, id := range s.ids {
			for len(s.nodes[id].logQ) > 0 {
				s.nodes[id].writeLog()
			}
			for len(s.nodes[id].applyQ) > 0 {
				s.nodes[id].applyNext()
			}
			s.nodes[id].background()
			s.nodes[id].do(s.nodes[id].core.tick)
		}
		for range len(s.net) {
			if p := s.net[0]; p.m != nil && p.m.GetType() == raftpb.MsgSnap && dropped == 0 {
				dropped++
				s.net = s.net[1:]
				continue
			}
			s.deliver(0)
		}
	}
	s.settle()
	if dropped != 1 || s.nodes[2].core.applied != n.core.applied {
		t.Errorf("dropped %d snapshots; learner is at %d of %d", dropped, s.nodes[2].core.applied, n.core.applied)
	}
}

// TestRecover: what the disk may hold at start, and what must not be started from.
func TestRecover(t *testing.T) {
	entries := func(from, to, term uint64) (list []*raftpb.Entry) {
		for i := from; i <= to; i++ {
			list = append(list, &raftpb.Entry{Index: new(i), Term: new(term)})
		}
		return list
	}
	hard := func(term, commit uint64) *raftpb.HardState {
		return &raftpb.HardState{Term: new(term), Vote: new(uint64(1)), Commit: new(commit)}
	}
	snap := func(index, term uint64) *SnapshotRef {
		return &SnapshotRef{Index: index, Term: term, ConfState: &raftpb.ConfState{Voters: []uint64{1}}}
	}
	tests := []struct {
		name  string
		r     Recovered
		reset bool
		fails string
		last  uint64
		vote  uint64
	}{
		{name: "blank"},
		{name: "genesis", r: Recovered{FirstIndex: 2, PrevTerm: 1, HardState: hard(1, 1), Snapshot: snap(1, 1)}, last: 1, vote: 1},
		{name: "log behind the snapshot", r: Recovered{FirstIndex: 2, PrevTerm: 1, Entries: entries(2, 9, 2), HardState: hard(2, 9), Snapshot: snap(5, 2)}, last: 9, vote: 1},
		{name: "crash before the log was restarted", r: Recovered{FirstIndex: 1, HardState: hard(3, 0), Snapshot: snap(50, 7)}, reset: true, last: 50},
		{name: "log of another history", r: Recovered{FirstIndex: 2, PrevTerm: 1, Entries: entries(2, 9, 2), HardState: hard(4, 4), Snapshot: snap(5, 3)}, reset: true, last: 5, vote: 1},
		{name: "gap after the snapshot", r: Recovered{FirstIndex: 8, PrevTerm: 2, Entries: entries(8, 9, 2), HardState: hard(2, 9), Snapshot: snap(5, 2)}, fails: "missing"},
		{name: "gap in the log", r: Recovered{FirstIndex: 2, PrevTerm: 1, Entries: append(entries(2, 3, 1), entries(5, 5, 1)...), Snapshot: snap(1, 1)}, fails: "entry 5 where 4"},
		{name: "committed entries lost", r: Recovered{FirstIndex: 2, PrevTerm: 1, Entries: entries(2, 3, 1), HardState: hard(1, 9), Snapshot: snap(1, 1)}, fails: "lost"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l, reset, err := recoverLog(test.r)
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || reset != test.reset || l.last() != test.last || l.hard.GetVote() != test.vote {
				t.Errorf("reset %v, last %d, vote %d, %v", reset, l.last(), l.hard.GetVote(), err)
			}
		})
	}
}

// TestMemLog: raft.Storage's contract at the edges.
func TestMemLog(t *testing.T) {
	l := &memLog{offset: 4, term0: 2, snap: SnapshotRef{Index: 4, Term: 2}}
	for i := uint64(5); i <= 9; i++ {
		l.append([]*raftpb.Entry{{Index: new(i), Term: new(uint64(3)), Data: make([]byte, 100)}})
	}
	if _, err := l.Entries(4, 6, 1<<20); !errors.Is(err, raft.ErrCompacted) {
		t.Errorf("before the first: %v", err)
	}
	if _, err := l.Entries(5, 11, 1<<20); !errors.Is(err, raft.ErrUnavailable) {
		t.Errorf("after the last: %v", err)
	}
	if got, _ := l.Entries(5, 10, 1); len(got) != 1 {
		t.Errorf("at least one whatever its size: %d", len(got))
	}
	if got, _ := l.Entries(5, 10, 300); len(got) != 2 {
		t.Errorf("limited: %d", len(got))
	}
	held, _ := l.Entries(5, 10, 1<<20)
	l.append([]*raftpb.Entry{{Index: new(uint64(7)), Term: new(uint64(4))}})
	if l.last() != 7 || l.bytes != 200 || held[2].GetTerm() != 3 {
		t.Errorf("after overlap: last %d, %d bytes, the slice in flight has term %d", l.last(), l.bytes, held[2].GetTerm())
	}
	l.compact(6) // no snapshot covers it
	if l.first() != 5 {
		t.Errorf("compacted what no snapshot covers: first %d", l.first())
	}
	l.saved(SnapshotRef{Index: 6, Term: 3})
	l.compact(6)
	if term, err := l.Term(6); l.first() != 7 || term != 3 || err != nil || l.bytes != 0 {
		t.Errorf("first %d, term %d, %v, %d bytes", l.first(), term, err, l.bytes)
	}
	l.confIndex = 7
	if _, err := l.Snapshot(); !errors.Is(err, raft.ErrSnapshotTemporarilyUnavailable) || !l.wanted {
		t.Errorf("snapshot older than the last change of the core: %v, wanted %v", err, l.wanted)
	}
}

// TestSmallBatchWaits: while a batch is in flight a much smaller one waits for more, or for the one in flight; the
// first callers of many that come back would else take the free place alone.
func TestSmallBatchWaits(t *testing.T) {
	s, n := alone(t, nil)
	submit := func(count int) (all []**outcome) {
		n.do(func() {
			for i := range count {
				result := new(*outcome)
				n.core.submit(&request{command: fmt.Appendf(nil, "k%d=v", i), reply: func(o outcome) { *result = &o }})
				all = append(all, result)
			}
		})
		return all
	}
	submit(smallBatch * 2)
	few := submit(1)
	if flying, queued := len(n.core.props.flight), len(n.core.props.queue); flying != 1 || queued != 1 {
		t.Fatalf("%d batches in flight and %d commands queued, want 1 and 1", flying, queued)
	}
	submit(1)
	if flying, queued := len(n.core.props.flight), len(n.core.props.queue); flying != 2 || queued != 0 {
		t.Errorf("%d batches in flight and %d commands queued, want 2 and 0", flying, queued)
	}
	s.settle()
	submit(smallBatch * 2)
	few = append(few, submit(1)...)
	s.settle()
	for _, r := range few {
		if *r == nil || (*r).err != nil {
			t.Errorf("a command that waited: %s", describeOutcome(*r))
		}
	}
}
