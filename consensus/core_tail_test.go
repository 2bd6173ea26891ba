package consensus

import (
	"bytes"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// tailSim is three nodes that make claims; node 3 has missed entry "lost", which 1 and 2 have acknowledged.
func tailSim(t *testing.T) (s *sim, lost uint64) {
	t.Helper()
	s = newSim(t, 11)
	s.tune = func(c *coreConfig) {
		c.asks.sign = asksOf(nil, []byte{byte(c.id)}).sign
		c.inDoubt = s.doubt[c.id]
	}
	for id := uint64(1); id <= 3; id++ {
		s.add(id, 1, 2, 3)
	}
	s.lead(1)
	s.nodes[1].propose("early", "1")
	s.settle()
	s.tick(3)
	s.partition(3)
	s.nodes[1].propose("lost", "1")
	s.settle()
	lost = s.nodes[1].core.log.last()
	if s.nodes[1].core.commit != lost || s.nodes[2].core.log.last() != lost || s.nodes[3].core.log.last() != lost-1 {
		t.Fatalf("not prepared:\n%s", s.describe())
	}
	return s, lost
}

// lead makes a node the leader.
func (s *sim) lead(id uint64) {
	s.elect()
	for _, n := range s.nodes {
		if n.core != nil && n.core.leads() && n.id != id {
			n.ask(&request{target: id}, (*core).transferTo)
			s.settle()
			s.tick(3)
		}
	}
	if !s.nodes[id].core.leads() {
		s.t.Fatalf("node %d does not lead:\n%s", id, s.describe())
	}
}

// loseTail makes a disk forget its last n entries, and what was voted since term.
func (l *fakeLog) loseTail(n int, term uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now.entries = l.now.entries[:len(l.now.entries)-n]
	l.now.chains = l.now.chains[:len(l.now.chains)-n]
	h := l.now.hard
	l.now.hard = &raftpb.HardState{Term: new(min(h.GetTerm(), term)), Vote: new(h.GetVote()), Commit: new(min(h.GetCommit(), l.now.last()))}
	l.synced = l.now.clone()
}

// restartLossy brings a node back with fewer entries than it acknowledged.
func (s *sim) restartLossy(id uint64, doubt string) {
	s.nodes[id].crash(false)
	s.nodes[id].log.loseTail(1, 1<<40)
	s.doubt[id] = doubt
	s.nodes[id].start()
	s.settle()
}

// anyLeads reports whether somebody leads a term after the one given.
func (s *sim) anyLeads(after uint64) bool {
	for _, n := range s.nodes {
		if n.core != nil && n.core.leads() && n.core.term > after {
			return true
		}
	}
	return false
}

// votesInDoubt lets a voter that lost an acknowledged entry meet the one that never had it, while the third is down. It
// reports whether the two elected a leader, and so lost the entry.
func votesInDoubt(t *testing.T, doubt string) (s *sim, elected bool) {
	s, _ = tailSim(t)
	term := s.nodes[1].core.term
	s.nodes[1].crash(false)
	s.restartLossy(2, doubt)
	clear(s.cut)
	s.tick(200)
	return s, s.anyLeads(term)
}

func TestVoterInDoubtWaitsForAllOthers(t *testing.T) {
	// A voter whose last frame was damaged has acknowledged it perhaps. It votes and counts only once it has heard
	// every other voter, however long that takes; the control loses an acknowledged entry.
	if _, elected := votesInDoubt(t, ""); !elected {
		t.Error("the control loses nothing, so the test proves nothing")
	}
	s, elected := votesInDoubt(t, "torn")
	if elected {
		t.Fatalf("a voter in doubt elected a leader without the third:\n%s", s.describe())
	}
	if st := s.nodes[2].core.status(); !strings.Contains(st.Suspended, "torn") || !strings.Contains(st.Suspended, "[1]") {
		t.Errorf("status says %q", st.Suspended)
	}
	s.nodes[1].start()
	s.settle()
	s.tick(100)
	s.nodes[1].mustHold(t, "lost")
	s.nodes[2].mustHold(t, "lost")
	s.nodes[3].mustHold(t, "lost")
	if st := s.nodes[2].core.status(); st.Suspended != "" || s.nodes[2].log.settled == 0 {
		t.Errorf("still suspended: %q", st.Suspended)
	}
	for _, b := range s.broken {
		t.Error(b)
	}
}

func (n *simNode) mustHold(t *testing.T, key string) {
	t.Helper()
	if n.machine.get(key) == "" {
		t.Errorf("node %d lost %s", n.id, key)
	}
}

func TestOperatorAcceptsTheTail(t *testing.T) {
	// The way out while a voter is down for good: with an operator's word the two go on.
	s, _ := votesInDoubt(t, "torn")
	term := s.nodes[3].core.term
	n := s.nodes[2]
	accepted := false
	n.do(func() { accepted = n.core.acceptTail() })
	s.settle()
	s.tick(100)
	if !accepted || !s.anyLeads(term) || n.core.acceptTail() {
		t.Errorf("accepted %v:\n%s", accepted, s.describe())
	}
}

func TestClaimStopsAVoterThatForgot(t *testing.T) {
	// A log that lost its end without a trace: the others have our word that we held more, so the id stops and says what
	// it needs, with the hash.
	s, lost := tailSim(t)
	s.tick(5) // the claim at the end of the burst
	want, _ := s.nodes[1].log.Chain(lost)
	s.restartLossy(2, "")
	s.tick(3)
	need := s.nodes[2].core.tails.need
	if need == nil || need.Index != lost || need.Chain != want {
		t.Fatalf("need %+v, want entry %d\n%s", need, lost, s.describe())
	}
	// Repaired, it goes on.
	s.nodes[2].crash(false)
	s.nodes[2].log.now = s.nodes[1].log.now.clone()
	s.nodes[2].log.now.hard = &raftpb.HardState{Term: new(s.nodes[1].core.term), Vote: new(uint64(1)), Commit: new(lost)}
	s.nodes[2].start()
	s.settle()
	s.tick(20)
	if s.nodes[2].core.tails.need != nil || s.nodes[2].core.mute() {
		t.Errorf("repaired, and mute: %s", s.nodes[2].core.suspended())
	}
	s.nodes[2].mustHold(t, "lost")
}

// forgedClaimStops lets a peer invent a claim of node 2, and reports whether node 2 believes it.
func forgedClaimStops(t *testing.T) bool {
	s, lost := tailSim(t)
	clear(s.cut)
	s.tick(5)
	for id := range uint64(3) {
		forged := claim{term: 1 << 30, index: lost + 100, chain: [32]byte{6, 6, 6}, mac: [32]byte{1}}
		if real, ok := s.nodes[id+1].core.claims[2]; ok {
			forged.mac = real.mac // a MAC of another claim is none
		}
		s.nodes[id+1].core.claims[2] = forged
	}
	s.nodes[2].crash(false)
	s.nodes[2].start()
	s.settle()
	s.tick(30)
	return s.nodes[2].core.tails.need != nil
}

func TestLyingPeerCannotStopUs(t *testing.T) {
	if forgedClaimStops(t) {
		t.Error("a claim without our MAC stopped a healthy voter")
	}
}

func TestClaimsAreSignedForOneMember(t *testing.T) {
	// Another cluster, another id, another key, or any changed bit: not our claim.
	s, _ := tailSim(t)
	c := s.nodes[2].core
	m := claim{term: c.term, index: c.log.last() + 7, chain: [32]byte{9}}
	m.mac = c.sign(m)
	if c.keeps(m) {
		t.Fatal("a claim of ours that we do not hold is believed to be held")
	}
	for i := range m.append(nil) {
		b := m.append(nil)
		b[i] ^= 1
		changed, err := decodeClaim(b)
		if err == nil && !c.keeps(changed) {
			t.Fatalf("byte %d is not covered", i)
		}
	}
	c.cfg.id++
	if !c.keeps(m) {
		t.Error("the id is not covered")
	}
	c.cfg.id--
	c.cfg.cluster[3]++
	if !c.keeps(m) {
		t.Error("the cluster is not covered")
	}
	c.cfg.cluster[3]--
	c.cfg.asks.sign = nil
	if !c.keeps(m) {
		t.Error("a member without a key believes claims")
	}
}

func TestForgottenVoteIsNotCastAgain(t *testing.T) {
	// Node 2 voted in a term and lost that with its last frame. Once it has heard the others it knows the term, and
	// writes a vote for itself, so that it votes for nobody else in it, after a restart either.
	s, _ := tailSim(t)
	clear(s.cut)
	s.tick(5)
	term := s.nodes[1].core.term
	clear(s.nodes[1].core.claims)
	clear(s.nodes[3].core.claims)
	n := s.nodes[2]
	n.crash(false)
	n.log.loseTail(1, term-1)
	n.log.now.hard = &raftpb.HardState{Term: new(term - 1), Vote: new(uint64(0)), Commit: new(uint64(1))}
	s.doubt[2] = "torn"
	tune := s.tune
	s.tune = func(c *coreConfig) {
		tune(c)
		c.ownWordOnly = true // else it would fetch the entry first
	}
	n.start()
	s.settle()
	s.tick(4)
	if n.core.mute() || n.core.term < term {
		t.Fatalf("term %d, mute %v: %s", n.core.term, n.core.mute(), n.core.suspended())
	}
	vote := &raftpb.Message{Type: raftpb.MsgVote.Enum(), From: new(uint64(3)), To: new(uint64(2)), Term: new(term), LogTerm: new(term), Index: new(uint64(99))}
	n.do(func() { _ = n.core.step(vote) })
	s.settle()
	if h := n.log.now.hard; h.GetTerm() != term || h.GetVote() != 2 {
		t.Errorf("the disk says %v, want a vote for itself in term %d", h, term)
	}
}

func TestFloorThatReplicationNeverReaches(t *testing.T) {
	// The leader counts what we acknowledged and lost, and never sends it again. In doubt, that ends with a need to be
	// repaired, up to what the leader holds.
	s, lost := tailSim(t)
	clear(s.cut)
	s.tick(1)
	s.cut[[2]uint64{1, 2}] = false
	s.restartLossy(2, "torn")
	s.tick(12 * 10)
	n := s.nodes[2].core
	if n.tails.need == nil && n.log.last() < lost {
		t.Fatalf("neither repaired nor level: last %d of %d, %q", n.log.last(), lost, n.suspended())
	}
	if n.tails.need != nil && n.tails.need.Index < lost {
		t.Errorf("need %d, want at least %d", n.tails.need.Index, lost)
	}
}

func TestLeaderRemembersWhatWeAcknowledged(t *testing.T) {
	// The last frames are lost without a trace, and no claim covers them yet. The leader that counted them knows it to the
	// entry; without that they would never be sent again. Nobody is stopped by it for good.
	for _, only := range []bool{false, true} {
		s, lost := tailSim(t)
		tune := s.tune
		s.tune = func(c *coreConfig) {
			tune(c)
			c.ownWordOnly = only
		}
		want, _ := s.nodes[1].log.Chain(lost)
		for _, n := range s.nodes {
			clear(n.core.claims)
		}
		s.restartLossy(2, "")
		s.tick(4)
		need := s.nodes[2].core.tails.need
		if only && need != nil || !only && (need == nil || need.Index != lost || need.Chain != want || !need.Unproven) {
			t.Errorf("own word only %v: need %+v, want entry %d", only, need, lost)
		}
	}
}

func TestTailNotesAreBounded(t *testing.T) {
	s, _ := tailSim(t)
	c := s.nodes[2].core
	for id := range uint64(2 * maxPeers) {
		m := claim{term: 5, index: id + 1}
		if err := c.hear(note{peer: id + 100, kind: noteClaim, body: m.append(nil)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.claims) > maxPeers {
		t.Errorf("%d claims are kept, limit %d", len(c.claims), maxPeers)
	}
	whole := (&tail{term: 4, lastTerm: 3, index: 9, voters: []uint64{1, 2, 3}, claim: &claim{term: 2}}).encode()
	if got, err := decodeTail(whole); err != nil || len(got.voters) != 3 || got.claim == nil || !bytes.Equal(got.encode(), whole) {
		t.Fatalf("%+v, %v", got, err)
	}
	for n := range len(whole) {
		if err := c.hear(note{peer: 1, kind: noteTail, body: whole[:n]}); err == nil && n != len(whole)-claimBytes {
			t.Errorf("%d bytes of a tail are taken", n)
		}
	}
	if err := c.hear(note{peer: 1, kind: noteTailAsk, body: []byte{1}}); err == nil {
		t.Error("a question with a body is taken")
	}
}

// A member whose question was lost, because the one that it asked was not up, asks again when that one asks it: after its start both
// have heard each other, without a tick.
func TestWhoAsksIsAskedBack(t *testing.T) {
	s, _ := tailSim(t)
	clear(s.cut)
	s.tick(5)
	for _, n := range s.nodes {
		n.crash(false)
	}
	s.nodes[1].start()
	s.settle()
	s.net = nil // nobody was there
	if len(s.nodes[1].core.tails.heard) != 0 {
		t.Fatalf("not prepared:\n%s", s.describe())
	}
	s.nodes[2].start()
	s.settle()
	for id, of := range map[uint64]uint64{1: 2, 2: 1} {
		if _, ok := s.nodes[id].core.tails.heard[of]; !ok {
			t.Errorf("%d has not heard %d:\n%s", id, of, s.describe())
		}
	}
}
