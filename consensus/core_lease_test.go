package consensus

import (
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// leased returns a core of three in which node 1 leads and has just completed a read round.
func leased(t *testing.T) (*sim, *simNode) {
	t.Helper()
	s := newSim(t, 1)
	for id := uint64(1); id <= 3; id++ {
		s.add(id, 1, 2, 3)
	}
	s.now = s.now.Add(leaseLength)
	l := s.nodes[1]
	l.do(func() { _ = l.core.rn.Campaign(); l.core.drain() })
	s.settle()
	s.tick(2) // it confirms its term
	s.read(t, l)
	if l.core.leaseUntil() == 0 {
		t.Fatal("no lease after a read round")
	}
	return s, l
}

// read waits for a read of the node.
func (s *sim) read(t *testing.T, n *simNode) {
	t.Helper()
	got := n.read()
	s.settle()
	if *got == nil || (*got).err != nil {
		t.Fatalf("a read of %d was not answered: %v", n.id, *got)
	}
}

// pass lets time go on without a tick, and tells everybody.
func (s *sim) pass(d time.Duration) {
	s.now = s.now.Add(d)
	for _, id := range s.ids {
		s.nodes[id].do(func() {})
	}
}

// holds reports whether the node may answer by its lease now.
func (n *simNode) holds() bool { return n.s.now.Sub(simBegan) < n.core.leaseUntil() }

// The lease runs from when the round began, not from when it was answered, for nine tenths of what the voters promise.
func TestLeaseRunsFromTheBeginningOfItsRound(t *testing.T) {
	s, l := leased(t)
	s.pass(leaseGapTicks*defaultTick + 1) // void
	got := l.read()                       // the round begins
	began := s.now.Sub(simBegan)
	s.pass(80 * time.Millisecond)
	if l.core.leaseUntil() != 0 {
		t.Fatal("a lease while nobody answered")
	}
	s.settle()
	if *got == nil || l.core.leaseUntil() != began+270*time.Millisecond {
		t.Errorf("the lease of a round that began at %v ends at %v", began, l.core.leaseUntil())
	}
}

// A gap in the loop, an applied change of the core and a transfer void the lease; and after a transfer that came to
// nothing there is none in that term, because its order may still be on the way.
func TestLeaseIsVoid(t *testing.T) {
	for name, breaks := range map[string]func(*sim, *simNode){
		"gap": func(s *sim, _ *simNode) { s.pass(leaseGapTicks*defaultTick + 1) },
		"change": func(s *sim, l *simNode) {
			l.ask(&request{change: &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{
				{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: new(uint64(4))}}}}, (*core).changeCore)
			s.settle()
		},
		"void under a round": func(s *sim, l *simNode) {
			s.pass(leaseGapTicks*defaultTick + 1)
			l.read()
			l.do(l.core.voidLease)
			s.settle()
		},
		"transfer": func(_ *sim, l *simNode) {
			l.do(func() { l.core.beginTransfer(2, nil) })
		},
		"failed transfer": func(s *sim, l *simNode) {
			s.cut[[2]uint64{1, 2}] = true
			l.do(func() { l.core.beginTransfer(2, nil) })
			s.tick(2 * defaultElectionTicks)
			if !l.core.leads() || l.core.transfer != nil {
				s.t.Fatal("the transfer did not come to nothing")
			}
			s.read(s.t.(*testing.T), l)
			if l.core.leaseState() != LeaseBarred {
				s.t.Errorf("the lease is %q", l.core.leaseState())
			}
		},
		"lost lead": func(s *sim, l *simNode) {
			s.cut[[2]uint64{2, 1}], s.cut[[2]uint64{3, 1}] = true, true
			for range 3 * defaultElectionTicks {
				s.tick(1)
			}
			if l.core.leads() {
				s.t.Fatal("it leads without hearing anybody")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, l := leased(t)
			breaks(s, l)
			if until := l.core.leaseUntil(); until != 0 {
				t.Errorf("a lease until %v", until)
			}
		})
	}
}

// A lease that was voided comes back with the next round.
func TestLeaseComesBack(t *testing.T) {
	s, l := leased(t)
	s.pass(leaseGapTicks*defaultTick + 1)
	s.read(t, l)
	if !l.holds() {
		t.Error("no lease after the next round")
	}
}

// While reads use the lease the leader renews it, and while none do it lets it end.
func TestLeaseIsRenewedWhileItIsUsed(t *testing.T) {
	for _, used := range []bool{true, false} {
		s, l := leased(t)
		for range 20 {
			l.core.lease.wanted = used
			s.tick(1)
			if used && !l.holds() {
				t.Fatal("the lease ended while it was used")
			}
		}
		if l.holds() != used {
			t.Errorf("used %v, and the lease holds: %v", used, l.holds())
		}
	}
}

// vote asks a node for its vote, or its pre-vote, in a later term, and reports whether it got it.
func (s *sim) vote(n *simNode, kind raftpb.MessageType, context string) bool {
	m := &raftpb.Message{Type: kind.Enum(), To: new(n.id), From: new(uint64(3)), Term: new(n.core.term + 1),
		LogTerm: new(n.core.term), Index: new(n.core.log.last() + 1)}
	if context != "" {
		m.Context = []byte(context)
	}
	s.net = nil
	n.do(func() { _ = n.core.step(m) })
	for len(n.logQ) > 0 {
		n.writeLog()
	}
	for _, p := range s.net {
		if p.m != nil && (p.m.GetType() == raftpb.MsgVoteResp || p.m.GetType() == raftpb.MsgPreVoteResp) {
			return !p.m.GetReject()
		}
	}
	return false
}

// A voter that has heard its leader votes for nobody for 300 ms, whatever raft thinks of it: here it has forgotten the
// leader, as it does when it hears of a later term. The vote that a leader asks for by a transfer is given at once.
func TestPromise(t *testing.T) {
	for _, kind := range []raftpb.MessageType{raftpb.MsgPreVote, raftpb.MsgVote} {
		s, _ := leased(t)
		v := s.nodes[2]
		forget := func() { v.do(func() { _ = v.core.rn.ForgetLeader(); v.core.drain() }) }
		forget()
		s.pass(leaseLength - 1)
		if s.vote(v, kind, "") {
			t.Errorf("%v was given within the promise", kind)
		}
		s.pass(1)
		if !s.vote(v, kind, "") {
			t.Errorf("%v was not given after the promise", kind)
		}
	}
	s, _ := leased(t)
	if !s.vote(s.nodes[2], raftpb.MsgVote, transferContext) {
		t.Error("the vote for a transfer was not given")
	}
}

// The promise runs from a reading of the clock after the leader was heard: a voter that was stopped between the reading
// and the heartbeat promised no time that was over.
func TestPromiseOfAVoterThatWasStopped(t *testing.T) {
	s, l := leased(t)
	v := s.nodes[2]
	v.do(func() {})                  // it reads the clock, and is stopped
	s.now = s.now.Add(time.Second)   // meanwhile
	l.read()                         // the leader begins a round
	heartbeat := s.net[len(s.net)-1] // to 2 or 3
	for _, p := range s.net {
		if p.to == 2 && p.m != nil && p.m.GetType() == raftpb.MsgHeartbeat {
			heartbeat = p
		}
	}
	if err := v.core.step(heartbeat.m); err != nil || heartbeat.to != 2 { // with the old reading
		t.Fatal(heartbeat, err)
	}
	_ = v.core.rn.ForgetLeader()
	v.core.drain()
	s.pass(leaseLength - 1)
	if s.vote(v, raftpb.MsgVote, "") {
		t.Error("it voted within 300 ms of the heartbeat")
	}
}

// The promise of a life that is over counts from its end, however long the next one has taken to load: no vote is given before,
// also by a voter that was loaded at once, and no time is added. Without a reading it counts from the start. A reading that is
// later than the start is not believed.
func TestPromiseCountsFromTheEndOfALife(t *testing.T) {
	const loading = 200 * time.Millisecond
	for _, c := range []struct {
		name string
		tune func(end, start time.Duration) time.Duration
		wait time.Duration // from the start
	}{
		{"from the end", func(end, _ time.Duration) time.Duration { return end }, leaseLength - loading},
		{"unknown", func(time.Duration, time.Duration) time.Duration { return 0 }, leaseLength},
		{"in the future", func(_, start time.Duration) time.Duration { return start + time.Hour }, leaseLength},
	} {
		for _, kind := range []raftpb.MessageType{raftpb.MsgPreVote, raftpb.MsgVote} {
			s, _ := leased(t)
			v := s.nodes[2]
			end := s.now.Sub(simBegan)
			v.crash(false)
			s.now = s.now.Add(loading)
			s.tune = func(cc *coreConfig) { cc.ended = c.tune(end, s.now.Sub(simBegan)) }
			v.start()
			v.core.tails.asking = false // what is on its disk is not in question here
			s.pass(c.wait - 1)
			if s.vote(v, kind, "") {
				t.Errorf("%s: %v was given within the promise", c.name, kind)
			}
			s.pass(1)
			if !s.vote(v, kind, "") {
				t.Errorf("%s: %v was not given after the promise", c.name, kind)
			}
		}
	}
}

// A voter with a short election timeout does not stand within its promise.
func TestNobodyStandsWithinAPromise(t *testing.T) {
	s, _ := leased(t)
	v := s.nodes[2]
	term := v.core.term
	stood := func() bool {
		return v.core.term != term || v.core.roleName() == "candidate"
	}
	for range 10 * defaultElectionTicks { // ticks without time
		v.do(v.core.tick)
	}
	if stood() {
		t.Fatal("it stood within its promise")
	}
	s.pass(leaseLength)
	for range 3 * defaultElectionTicks {
		v.do(v.core.tick)
	}
	if !stood() {
		t.Error("it never stands")
	}
}

// The only voter is the only one that can hold a lease: it need not wait after a restart. One that others may have led
// waits.
func TestLoneVoterStandsAtOnce(t *testing.T) {
	s := newSim(t, 1)
	s.add(1, 1)
	n := s.nodes[1]
	for range 2 {
		s.settle()
		if !n.core.leads() {
			t.Fatal("it does not lead")
		}
		n.propose("a", "1")
		s.settle()
		n.crash(false)
		n.start()
	}
	s.settle()
	n.crash(false)
	n.log.now.hard = &raftpb.HardState{Term: new(n.log.now.hard.GetTerm() + 1), Commit: new(n.log.now.hard.GetCommit())}
	n.start()
	s.settle()
	if n.core.leads() {
		t.Fatal("it led at once, and another may have led since")
	}
	s.tick(int(leaseLength/defaultTick) + 1)
	if !n.core.leads() {
		t.Error("it does not lead after 300 ms")
	}
}
