package consensus

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

// checkpoint tells the core what the machine holds.
func (n *simNode) checkpoint(index uint64) {
	chain, known := n.log.Chain(index)
	if !known {
		n.s.fail("node %d: no chain at checkpoint %d", n.id, index)
	}
	n.do(func() { n.core.checkpointed(index, mark{chain: chain, state: n.machine.view().Digest}) })
}

const testCheckpoint = 20 // ticks

// digestSim is three voters that compare their states.
func digestSim(t *testing.T, voters ...uint64) *sim {
	s := newSim(t, 1)
	s.tune = func(c *coreConfig) { c.noDigests, c.checkpointTicks = false, testCheckpoint }
	for _, id := range voters {
		s.add(id, voters...)
	}
	return s
}

// spoil makes what a node holds wrong, as memory that flips does.
func (n *simNode) spoil() { n.machine.state.Digest[0] ^= 1 }

// rebuild restarts a node that needs it, on probation. Its snapshot and log are right.
func (n *simNode) rebuild(t *testing.T) {
	t.Helper()
	if n.core.rebuild() == nil {
		t.Fatalf("node %d needs no rebuild: %+v", n.id, n.core.status())
	}
	n.crash(false)
	tune := n.s.tune
	n.s.tune = func(c *coreConfig) { tune(c); c.probation = true }
	n.start()
	n.s.tune = tune
}

// rest lets so many checkpoints pass, with a write before each if busy.
func (s *sim) rest(checkpoints int, busy bool) {
	for range checkpoints {
		if id := s.current(); busy && id != 0 && s.nodes[id].core.halted == nil {
			s.nodes[id].propose("k", "v")
		}
		s.tick(testCheckpoint + 1)
	}
}

func (s *sim) sound(t *testing.T) {
	t.Helper()
	if len(s.broken) > 0 {
		t.Error(s.broken)
	}
}

// TestMinorityIsFenced: the next checkpoint finds a follower whose state is wrong: it answers nothing more, the others name
// it, and go on. Rebuilt, it is back after three equal checkpoints, although nothing is written meanwhile.
func TestMinorityIsFenced(t *testing.T) {
	s := digestSim(t, 1, 2, 3)
	leader := s.elect()
	s.rest(2, true)
	bad := s.nodes[leader%3+1]
	if s.rest(1, true); bad.core.rebuild() != nil || bad.core.digests.agreed == 0 {
		t.Fatalf("fenced without a reason: %+v", bad.core.rebuild())
	}
	agreed := bad.core.digests.agreed
	bad.spoil()
	s.rest(1, true)
	need := bad.core.rebuild()
	if need == nil || need.Own || need.Again || need.Agreed != agreed || len(need.From) != 2 || slices.Contains(need.From, bad.id) {
		t.Fatalf("the wrong replica needs %+v, it agreed at %d", need, agreed)
	}
	if err := bad.core.status().Stopped; !errors.Is(err, ErrStopped) {
		t.Errorf("the wrong replica says %v", err)
	}
	if st := s.nodes[leader].core.status(); !slices.Equal(st.Diverged, []uint64{bad.id}) || st.ReadOnly {
		t.Errorf("the leader says %+v", st)
	}
	if out := *s.nodes[leader].propose("a", "b"); out != nil && out.err != nil {
		t.Error("the others do not go on:", out.err)
	}
	bad.rebuild(t)
	if out := *bad.read(); out == nil || !errors.Is(out.err, ErrProbation) {
		t.Errorf("a rebuilt replica answers: %+v", out)
	}
	if s.rest(1, false); bad.core.status().Probation == 0 {
		t.Error("trusted too early")
	}
	if s.rest(4, false); bad.core.status().Probation != 0 {
		t.Errorf("still on probation: %+v", bad.core.status())
	}
	if st := s.nodes[leader].core.status(); len(st.Diverged) != 0 {
		t.Errorf("the leader still says %+v", st)
	}
	s.sound(t)
}

// TestWrongLeaderIsFenced: a leader whose state is wrong finds it out like everyone else, and hands over. As a control a core
// that does not compare goes on under it.
func TestWrongLeaderIsFenced(t *testing.T) {
	for _, off := range []bool{true, false} {
		s := digestSim(t, 1, 2, 3)
		if tune := s.tune; off {
			s.tune = func(c *coreConfig) { tune(c); c.noDigests = true }
			for _, n := range s.nodes {
				n.core.cfg.noDigests = true
			}
		}
		old := s.elect()
		s.rest(2, true)
		s.nodes[old].spoil()
		s.rest(2, true)
		led, fenced := s.elect(), s.nodes[old].core.rebuild() != nil
		if off != (led == old) || off == fenced {
			t.Errorf("comparing %v: %x led, now %x does, fenced %v", !off, old, led, fenced)
		}
		s.sound(t)
	}
}

// TestOwnContradiction: a replica that finds by itself that its memory is wrong fences itself, without anybody's help. A lone
// voter has nobody to hand over to.
func TestOwnContradiction(t *testing.T) {
	s := digestSim(t, 1)
	n := s.nodes[s.elect()]
	n.do(func() { n.core.contradicted("a row is wrong") })
	if need := n.core.rebuild(); need == nil || !need.Own || len(need.From) != 0 {
		t.Fatalf("needs %+v", need)
	}
	n.rebuild(t)
	if s.rest(5, false); n.core.unfit() != nil || n.core.rebuild() != nil {
		t.Errorf("a lone voter is not trusted again: %v", n.core.unfit())
	}
	s.sound(t)
}

// TestNoMajority: with three different states, or two and a third voter that is silent, nobody can say who is right. Writes
// are refused, until an operator has chosen; then the others are fenced.
func TestNoMajority(t *testing.T) {
	for name, silent := range map[string]bool{"three states": false, "two states and a silent voter": true} {
		t.Run(name, func(t *testing.T) {
			s := digestSim(t, 1, 2, 3)
			leader := s.elect()
			s.rest(2, true)
			a, b, c := s.nodes[leader], s.nodes[leader%3+1], s.nodes[(leader+1)%3+1]
			if out := *a.ask(&request{accept: b.id}, (*core).accept); out == nil || !errors.Is(out.err, errAgreed) {
				t.Errorf("a choice that nobody has to make: %+v", out)
			}
			b.spoil()
			if silent {
				s.partition(c.id)
			} else {
				c.machine.state.Digest[1] ^= 1
			}
			s.rest(2, true)
			if !a.core.status().ReadOnly || a.core.rebuild() != nil || b.core.rebuild() != nil {
				t.Fatalf("the leader says %+v, the other %+v", a.core.status(), b.core.status())
			}
			var unavailable *UnavailableError
			if out := *a.propose("k", "w"); out == nil || !errors.As(out.err, &unavailable) {
				t.Errorf("a write: %+v", out)
			}
			if out := *a.ask(&request{accept: 99}, (*core).accept); out == nil || out.err == nil {
				t.Error("a member was chosen that does not exist")
			}
			if out := *a.ask(&request{accept: b.id}, (*core).accept); out == nil || out.err != nil {
				t.Fatalf("choosing %d: %+v", b.id, out)
			}
			s.settle()
			if a.core.rebuild() == nil || b.core.rebuild() != nil || b.core.status().ReadOnly {
				t.Errorf("after the choice: %+v, %+v", a.core.status(), b.core.status())
			}
			s.sound(t)
		})
	}
}

// TestWrongLogIsNamed: chains that differ at one index are a matter of the log, which no snapshot heals.
func TestWrongLogIsNamed(t *testing.T) {
	s := digestSim(t, 1, 2, 3)
	leader := s.elect()
	s.rest(2, true)
	bad := s.nodes[leader%3+1]
	i := len(bad.log.now.chains) - 1
	for ; i >= 0; i-- { // what it holds now, so that all later ones differ
		bad.log.now.chains[i][0] ^= 1
	}
	s.rest(1, true)
	if need := bad.core.rebuild(); need == nil || !need.Log || need.Chain == [32]byte{} {
		t.Errorf("needs %+v", need)
	}
	s.sound(t)
}

// TestFencedForGood: who was rebuilt often enough votes and replicates, and answers nothing.
func TestFencedForGood(t *testing.T) {
	s := digestSim(t, 1, 2, 3)
	leader := s.elect()
	bad := s.nodes[leader%3+1]
	bad.core.cfg.fenced = true
	bad.spoil()
	s.rest(3, true)
	if bad.core.rebuild() != nil || bad.core.unfit() == nil {
		t.Errorf("it is to be rebuilt once more: %+v", bad.core.rebuild())
	}
	s.crashAll(leader)
	for range 60 {
		s.tick(1)
	}
	if id := s.elect(); id == bad.id {
		s.tick(40)
		if s.current() == bad.id {
			t.Error("it leads")
		}
	}
	s.sound(t)
}

func (s *sim) crashAll(ids ...uint64) {
	for _, id := range ids {
		s.nodes[id].crash(false)
		s.nodes[id].start()
	}
}

// TestInventedCheckpoints: a member that tells of checkpoints far ahead of the log keeps nobody from comparing the real
// ones. Its marks once pushed all others out, and a voter whose state went bad was not found.
func TestInventedCheckpoints(t *testing.T) {
	s := digestSim(t, 1, 2, 3)
	s.elect()
	n := s.nodes[1]
	honest := mark{state: [32]byte{1}}
	n.core.noteMark(1, 500, honest)
	n.core.noteMark(2, 500, honest)
	for i := range uint64(3 * keptCheckpoints) {
		body := append(binary.BigEndian.AppendUint64(nil, 1<<61+i), make([]byte, markBytes-8)...)
		if err := n.core.hear(note{peer: 3, kind: noteCheckpoint, body: body}); err != nil {
			t.Fatal(err)
		}
	}
	n.core.noteMark(2, 600, honest)
	for index, ids := range map[uint64][]uint64{500: {1, 2}, 600: {2}} {
		for _, id := range ids {
			if n.core.digests.at[index][id] != honest {
				t.Errorf("the mark of %d at %d is gone", id, index)
			}
		}
	}
	if got := len(n.core.digests.at); got != 2+keptCheckpoints {
		t.Errorf("marks of %d checkpoints are kept", got)
	}
}

// TestCheckpointLimits: marks are kept of the newest few checkpoints, and notes that make no sense are refused.
func TestCheckpointLimits(t *testing.T) {
	s := digestSim(t, 1, 2, 3)
	s.elect()
	n := s.nodes[1]
	for i := range uint64(3 * keptCheckpoints) {
		n.core.noteMark(2, 100+i, mark{})
	}
	if got := len(n.core.digests.at); got != keptCheckpoints {
		t.Errorf("marks of %d checkpoints are kept", got)
	}
	for id := uint64(100); id < 110; id++ { // members that are gone leave nothing
		n.core.noteMark(id, 1, mark{})
	}
	n.core.forgetGone()
	if got := len(n.core.digests.at[1]); got != 0 {
		t.Errorf("%d marks of strangers are kept", got)
	}
	for name, n1 := range map[string]note{
		"short":             {peer: 2, kind: noteCheckpoint, body: make([]byte, markBytes-1)},
		"far ahead":         {peer: 2, kind: noteCheckpoint, body: append([]byte{0xff}, make([]byte, markBytes-1)...)},
		"probation of text": {peer: 2, kind: noteProbation, body: []byte("x")},
		"a stranger":        {peer: 77, kind: noteProbation},
	} {
		if err := n.core.hear(n1); err == nil {
			t.Errorf("%s: a note was taken", name)
		}
	}
}

// TestNoLeadForTheDoubted: the lead is given to nobody whose state was just rebuilt, whoever asks for it: it would take no
// writes and hand it back. Afterwards it is.
func TestNoLeadForTheDoubted(t *testing.T) {
	s := digestSim(t, 1, 2, 3)
	leader := s.nodes[s.elect()]
	s.rest(2, true)
	bad := s.nodes[leader.id%3+1]
	bad.spoil()
	s.rest(1, true)
	bad.rebuild(t)
	s.rest(1, true)
	if out := *leader.ask(&request{target: bad.id}, (*core).transferTo); out == nil || !errors.Is(out.err, ErrTransfer) || !leader.core.leads() {
		t.Errorf("on probation: %s", describeOutcome(out))
	}
	s.rest(8, true)
	out := leader.ask(&request{target: bad.id}, (*core).transferTo)
	if s.tick(5); *out == nil || (*out).err != nil || !bad.core.leads() {
		t.Errorf("afterwards: %s", describeOutcome(*out))
	}
	s.sound(t)
}
