package consensus

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// simJournal is what a node's journal keeps over a restart.
type simJournal struct {
	applied    uint64
	hold, term uint64
	lost       bool // the machine went down
}

// applies reports whether the applier has something to do.
func (n *simNode) applies() bool {
	if n.stopped { // what is applied may be captured still
		if i := slices.IndexFunc(n.applyQ, (*applyTask).onlyCaptures); i > 0 && n.applyQ[i].index < n.applyQ[0].entries[0].GetIndex() {
			t := n.applyQ[i]
			n.applyQ = slices.Insert(slices.Delete(n.applyQ, i, i+1), 0, t)
		}
	}
	return len(n.applyQ) > 0 && (!n.stopped || n.applyQ[0].onlyCaptures())
}

// takeGuard performs what the guard asked for.
func (n *simNode) takeGuard(out effects) {
	for _, h := range out.holds {
		n.journal.hold, n.journal.term = h.index, h.term
	}
	for _, r := range out.resumes {
		t := n.applyQ[0]
		if !n.stopped || t.entries[0].GetIndex() != r.index {
			n.s.fail("node %d goes on at %d", n.id, r.index)
			continue
		}
		if t.skips == nil {
			t.skips = make([][]int, len(t.entries))
		}
		t.skips[0], n.stopped = r.skip, false
	}
}

// stops reports whether the machine crashes on entry i of a task, and parks the rest.
func (n *simNode) stops(t *applyTask, i int) bool {
	e := t.entries[i]
	kind, _ := control(e)
	if e.GetType() != raftpb.EntryNormal || len(e.GetData()) == 0 || kind != 0 || n.core.cfg.guard == nil {
		if q, ok := quarantineOf(e); ok && n.machine.get(leftOutKey(q.index, int(q.place))) == "" {
			n.do(func() { n.core.early(q.index) })
			n.stopped = true
			return true
		}
		return false
	}
	_, commands, _ := decodeBatch(e.GetData())
	for k, c := range commands {
		key, _, _ := strings.Cut(string(c), "=")
		if !n.crashes[key] || slices.Contains(t.skip(i), k) {
			continue
		}
		head, rest := t.split(i)
		n.applyQ, n.stopped = append([]*applyTask{rest}, n.applyQ...), true
		if head != nil {
			n.do(func() { n.core.appliedTask(head, 0) })
		}
		s := applyStop{index: e.GetIndex(), term: e.GetTerm(), place: uint32(k), cause: StopPanic, entry: sha256.Sum256(e.GetData()), before: n.machine.view().Digest}
		n.do(func() { n.core.stopped(s) })
		return true
	}
	return false
}

func leftOutKey(index uint64, place int) string { return fmt.Sprintf("left out %d/%d", index, place) }

// leaveOut replaces what is quarantined.
func (n *simNode) leaveOut(index uint64, commands [][]byte, skip []int) [][]byte {
	for _, k := range skip {
		commands = slices.Clone(commands)
		commands[k] = []byte(leftOutKey(index, k) + "=1")
	}
	return commands
}

// guardSim is voters of which some crash on "bad".
func guardSim(t *testing.T, voters int, crash ...uint64) *sim {
	s := newSim(t, 7)
	s.tune = func(c *coreConfig) {
		n := s.nodes[c.id]
		c.guard = &Guard{Quarantinable: func(b []byte) bool { return !strings.HasPrefix(string(b), "core") },
			Known: !n.journal.lost, Applied: n.journal.applied, Held: n.journal.hold, HeldTerm: n.journal.term}
	}
	var ids []uint64
	for id := range uint64(voters) {
		ids = append(ids, id+1)
	}
	for _, id := range ids {
		s.add(id, ids...)
	}
	s.lead(1)
	s.nodes[1].propose("early", "1")
	s.settle()
	for _, id := range crash {
		s.nodes[id].crashes = map[string]bool{"bad": true, "core": true}
	}
	return s
}

// leftOut counts the nodes that left something out, and those that did it.
func (s *sim) leftOut() (left, did int) {
	for _, n := range s.nodes {
		v := n.machine.view()
		for key := range v.Values {
			if strings.HasPrefix(key, "left out") {
				left++
			}
		}
		if v.Values["bad"] != "" {
			did++
		}
	}
	return left, did
}

func (s *sim) sameStates(t *testing.T) {
	t.Helper()
	for _, n := range s.nodes {
		if a, b := n.machine.view(), s.nodes[1].machine.view(); a.Digest != b.Digest || a.Index != b.Index {
			t.Errorf("node %d is at %d with another state than node 1 at %d", n.id, a.Index, b.Index)
		}
	}
}

// TestPoisonIsQuarantined: a command on which all replicas crash, or a majority while the rest has not come to it, is left
// out on all of them; what stands around it is done, the caller has its answer, and the core goes on. The control has no
// guard.
func TestPoisonIsQuarantined(t *testing.T) {
	for voters := 1; voters <= 5; voters += 2 {
		var all []uint64
		for id := range uint64(voters) {
			all = append(all, id+1)
		}
		s := guardSim(t, voters, all...)
		bad, after := s.nodes[1].propose("bad", "1"), s.nodes[1].propose("after", "1")
		s.tick(20)
		if left, did := s.leftOut(); left != voters || did != 0 {
			t.Errorf("%d voters: %d left it out, %d did it:\n%s", voters, left, did, s.describe())
		}
		for _, out := range []**outcome{bad, after} {
			if *out == nil || (*out).err != nil {
				t.Errorf("%d voters: a caller has %+v", voters, *out)
			}
		}
		if out := *s.nodes[1].propose("more", "1"); out != nil && out.err != nil {
			t.Errorf("%d voters: the core does not go on: %v", voters, out.err)
		}
		s.tick(5)
		s.sameStates(t)
		s.sound(t)
	}
}

// TestTwoPoisonsInOneEntry: one after the other.
func TestTwoPoisonsInOneEntry(t *testing.T) {
	s := guardSim(t, 3, 1, 2, 3)
	n := s.nodes[1]
	n.core.submit(&request{command: []byte("bad=1"), reply: func(outcome) {}})
	n.core.submit(&request{command: []byte("good=1"), reply: func(outcome) {}})
	n.core.submit(&request{command: []byte("bad=2"), reply: func(outcome) {}})
	n.do(func() {})
	s.tick(60)
	if left, did := s.leftOut(); left != 6 || did != 0 || n.machine.get("good") != "1" {
		t.Errorf("%d left out, %d did it, good=%q: %+v\n%s", left, did, n.machine.get("good"), s.nodes[s.current()].core.status(), s.describe())
	}
	s.sameStates(t)
	s.sound(t)
}

// afterApplied lets two of three crash on what the third, which led, has done and answered. It reports whether that was
// left out all the same.
func afterApplied(t *testing.T) (s *sim, undone bool) {
	s = guardSim(t, 3, 2, 3)
	out := s.nodes[1].propose("bad", "1")
	s.tick(30)
	if *out == nil || (*out).err != nil {
		t.Fatalf("the leader has not done it: %+v", *out)
	}
	left, _ := s.leftOut()
	return s, left > 0
}

// TestWhatWasAppliedIsNotQuarantined: a majority crashes on what one voter has applied, and told its client. They are
// fenced, and are to begin with its snapshot.
func TestWhatWasAppliedIsNotQuarantined(t *testing.T) {
	s, undone := afterApplied(t)
	if undone {
		t.Fatalf("what a client was told is undone:\n%s", s.describe())
	}
	for _, id := range []uint64{2, 3} {
		if need := s.nodes[id].core.rebuild(); need == nil || need.Beyond == 0 || !slices.Equal(need.From, []uint64{1}) {
			t.Errorf("node %d needs %+v", id, need)
		}
	}
	s.sound(t)
}

// TestMinorityIsFencedAndNeverSkips: one of three crashes, follower or leader.
func TestMinorityIsFencedAndNeverSkips(t *testing.T) {
	for _, id := range []uint64{1, 2} {
		s := guardSim(t, 3, id)
		s.nodes[1].propose("bad", "1")
		s.tick(60)
		need := s.nodes[id].core.rebuild()
		if left, did := s.leftOut(); left != 0 || did != 2 || need == nil || need.Beyond == 0 || len(need.From) == 0 || slices.Contains(need.From, id) {
			t.Errorf("node %d: %d left it out, %d did it, it needs %+v:\n%s", id, left, did, need, s.describe())
		}
		if now := s.current(); now == id {
			t.Errorf("node %d still leads", id)
		}
		s.sound(t)
	}
}

// TestSilentVoterKeepsItOpen: a voter that cannot be asked may have applied it. Nothing is left out before it has answered,
// or an operator has decided.
func TestSilentVoterKeepsItOpen(t *testing.T) {
	for _, name := range []string{"it answers", "an operator"} {
		s := guardSim(t, 3, 1, 2, 3)
		s.partition(3)
		s.nodes[1].propose("bad", "1")
		s.tick(30)
		if left, _ := s.leftOut(); left != 0 {
			t.Fatalf("it was left out without node 3:\n%s", s.describe())
		}
		st := s.nodes[1].core.status()
		if len(st.Cases) != 1 || st.Cases[0].Answers[3] != "none" || !slices.Equal(st.Cases[0].Stopped, []uint64{1, 2}) || st.StoppedAt == nil {
			t.Errorf("the leader says %+v, %+v", st.Cases, st.StoppedAt)
		}
		var stopped *ApplyStoppedError
		if out := *s.nodes[1].propose("k", "v"); out == nil || !errors.As(out.err, &stopped) {
			t.Errorf("a write while it is open: %+v", out)
		}
		if name == "it answers" {
			clear(s.cut)
			s.tick(40)
		} else {
			for _, wrong := range []quarantine{{index: st.Cases[0].Index + 1}, {index: st.Cases[0].Index, place: 1}} {
				if out := *s.nodes[1].ask(&request{leaveOut: &wrong}, (*core).forceQuarantine); out == nil || !errors.Is(out.err, ErrQuarantine) {
					t.Errorf("%+v is left out: %+v", wrong, out)
				}
			}
			out := *s.nodes[1].ask(&request{leaveOut: &quarantine{index: st.Cases[0].Index}}, (*core).forceQuarantine)
			if out == nil || out.err != nil {
				t.Errorf("the operator got %+v", out)
			}
			s.tick(5)
			clear(s.cut)
			s.tick(40)
		}
		if left, did := s.leftOut(); left != 3 || did != 0 {
			t.Errorf("%s: %d left it out, %d did it:\n%s", name, left, did, s.describe())
		}
		s.sameStates(t)
		s.sound(t)
	}
}

// TestHealthyVoterWaits: a voter that could apply the command, and was asked before it came to that, keeps its promise over
// a restart, and leaves it out with the others.
func TestHealthyVoterWaits(t *testing.T) {
	s := guardSim(t, 3, 1, 2)
	n := s.nodes[3]
	n.stopped = true // its applier is slow
	s.nodes[1].propose("bad", "1")
	s.settle()
	at := n.core.log.last()
	n.crash(false)
	n.log.now.hard.Commit = new(at - 1) // nor has it heard that it is committed
	n.start()
	n.do(func() {
		if got := n.core.hasApplied(at, true); got != answerNo {
			t.Errorf("it says %d", got)
		}
	})
	if n.journal.hold == 0 {
		t.Fatal("it has promised nothing")
	}
	n.crash(false)
	n.start()
	s.tick(60)
	if left, did := s.leftOut(); left != 3 || did != 0 {
		t.Errorf("%d left it out, %d did it:\n%s", left, did, s.describe())
	}
	if n.journal.hold != 0 {
		t.Error("it waits for ever")
	}
	s.sound(t)
}

// TestLostJournalRefuses: who does not know whether it has applied the command cannot agree that it is left out.
func TestLostJournalRefuses(t *testing.T) {
	s := guardSim(t, 3, 1, 2, 3)
	s.nodes[2].stopped = true // its applier is slow: nobody knows that it crashes
	s.nodes[1].propose("bad", "1")
	s.settle()
	s.nodes[2].crash(false)
	s.nodes[2].journal.lost = true
	s.nodes[2].start()
	s.tick(80)
	if left, _ := s.leftOut(); left != 0 {
		t.Errorf("it was left out:\n%s", s.describe())
	}
	cases := s.nodes[s.current()].core.status().Cases
	if len(cases) != 1 || cases[0].Answers[2] != "unknown" || !strings.Contains(cases[0].Verdict, "operator") {
		t.Errorf("the leader says %+v", cases)
	}
	s.sound(t)
}

// TestCoreCommandsAreNeverQuarantined: all crash on it, and all wait for another program.
func TestCoreCommandsAreNeverQuarantined(t *testing.T) {
	s := guardSim(t, 3, 1, 2, 3)
	s.nodes[1].propose("core", "1")
	s.tick(60)
	id := s.current()
	cases := s.nodes[id].core.status().Cases
	if left, did := s.leftOut(); left+did != 0 || len(cases) != 1 || !strings.Contains(cases[0].Verdict, "never") {
		t.Fatalf("%d left it out, %d did it, the leader says %+v", left, did, cases)
	}
	out := *s.nodes[id].ask(&request{leaveOut: &quarantine{index: cases[0].Index}}, (*core).forceQuarantine)
	if out == nil || !errors.Is(out.err, ErrQuarantine) {
		t.Errorf("an operator could: %+v", out)
	}
	for _, n := range s.nodes { // another program
		n.crashes = nil
		n.crash(false)
		n.start()
	}
	s.tick(60)
	s.sameStates(t)
	if s.nodes[1].machine.get("core") != "1" {
		t.Error("the new program has not applied it")
	}
	s.sound(t)
}

// TestMarkerWaitsForTheLeader: who restarts with a crash in its journal reads the log up to the leader's commit index before
// it tries again, and so does not crash on what was left out meanwhile.
func TestMarkerWaitsForTheLeader(t *testing.T) {
	for _, gated := range []bool{false, true} {
		s := guardSim(t, 3, 1, 2, 3)
		s.nodes[1].propose("bad", "1")
		at := s.nodes[1].core.log.last()
		s.tick(20)
		n := s.nodes[3]
		n.crash(false)
		n.log.now.hard.Commit = new(at) // it has not heard of more
		tune := s.tune
		s.tune = func(c *coreConfig) {
			if tune(c); gated {
				c.guard.Crash = &GuardCrash{Index: at, Times: 1}
			}
		}
		crashed := false
		n.start()
		s.tune = tune
		for !crashed && n.applies() {
			n.applyNext()
			crashed = n.stopped
		}
		if crashed == gated {
			t.Errorf("gated %v: crashed %v", gated, crashed)
		}
		s.tick(60)
		s.sameStates(t)
		s.sound(t)
	}
}

// TestEarlyApplierIsRebuilt: who applied a command before an operator had it left out is to begin below it.
func TestEarlyApplierIsRebuilt(t *testing.T) {
	s := guardSim(t, 3, 1, 2)
	s.cut[[2]uint64{3, 1}], s.cut[[2]uint64{3, 2}] = true, true // its word does not get through
	s.nodes[1].propose("bad", "1")
	s.tick(6)
	cases := s.nodes[1].core.status().Cases
	if len(cases) != 1 || s.nodes[3].machine.get("bad") == "" {
		t.Fatalf("not prepared: %+v\n%s", cases, s.describe())
	}
	out := *s.nodes[1].ask(&request{leaveOut: &quarantine{index: cases[0].Index}}, (*core).forceQuarantine)
	if out == nil || out.err != nil {
		t.Fatalf("the operator got %+v", out)
	}
	s.tick(2)
	clear(s.cut)
	s.tick(10)
	if need := s.nodes[3].core.rebuild(); need == nil || need.Gate != cases[0].Index || need.Agreed != cases[0].Index-1 {
		t.Errorf("it needs %+v", need)
	}
	s.nodes[3].do(func() { s.nodes[3].core.halt(errors.New("the applier has ended")) })
	var rebuilt *RebuildNeededError
	if st := s.nodes[3].core.status(); !errors.As(st.Stopped, &rebuilt) {
		t.Errorf("it says %v", st.Stopped)
	}
	s.sound(t)
}

// TestGuardLimits: malformed notes are refused, a stranger's word does not count, and a leader looks into so many entries.
func TestGuardLimits(t *testing.T) {
	s := guardSim(t, 3)
	n := s.nodes[1]
	stop := applyStop{index: 5, term: 1}
	far := applyStop{index: 1 << 63}
	for name, bad := range map[string]note{
		"short":           {peer: 2, kind: noteStopped, body: stop.encode()[1:]},
		"far":             {peer: 2, kind: noteStopped, body: far.encode()},
		"a stranger":      {peer: 77, kind: noteStopped, body: stop.encode()},
		"no question":     {peer: 2, kind: noteAppliedAsk, body: make([]byte, questionBytes)},
		"no answer":       {peer: 2, kind: noteApplied, body: make([]byte, questionBytes+1)},
		"nobody went on":  {peer: 2, kind: noteOutrun, body: make([]byte, 8)},
		"a long release":  {peer: 2, kind: noteRelease, body: make([]byte, 17)},
		"held by nobody":  {peer: 77, kind: noteHeld, body: make([]byte, 16)},
		"asks with words": {peer: 2, kind: noteCommitAsk, body: []byte("x")},
		"commit of text":  {peer: 2, kind: noteCommit, body: []byte("x")},
	} {
		if err := n.core.hear(bad); err == nil {
			t.Errorf("%s: the note was taken", name)
		}
	}
	for i := range uint64(3 * maxInquiries) {
		stop.index = 10 + i
		_ = n.core.hear(note{peer: 2, kind: noteStopped, body: stop.encode()})
	}
	if got := len(n.core.guard.inquiries); got != maxInquiries {
		t.Errorf("%d entries are looked into", got)
	}
}

// TestSnapshotOvertakesWhatIsWithheld: a member that applies nothing from an entry on, because it was killed there or has
// promised it, was away for so long that the others' logs go on behind a snapshot. It begins there: what would end the wait is in
// the part of the log that it never gets.
func TestSnapshotOvertakesWhatIsWithheld(t *testing.T) {
	for _, why := range []string{"killed", "promised"} {
		s := guardSim(t, 3)
		s.nodes[1].propose("k", "v")
		s.tick(4)
		n := s.nodes[3]
		at := n.core.commit
		n.crash(false)
		for _, id := range []uint64{1, 2} {
			s.nodes[id].core.cfg.snapshotEntries, s.nodes[id].core.cfg.trailingEntries = 5, 1
		}
		for range 30 {
			s.nodes[1].propose("k", "v")
			s.tick(1)
		}
		if got := s.nodes[1].core.log.offset; got <= n.log.now.last() {
			t.Fatalf("not prepared: the leader's log goes on behind %d, the other ends at %d", got, n.log.now.last())
		}
		tune := s.tune
		if why == "killed" {
			s.tune = func(c *coreConfig) { tune(c); c.guard.Crash = &GuardCrash{Index: at, Times: 1} }
		} else {
			n.journal = simJournal{applied: at - 1, hold: at, term: s.nodes[1].core.term}
		}
		n.start()
		if n.core.guard.withheld() != at {
			t.Fatalf("%s: it withholds %d, want %d", why, n.core.guard.withheld(), at)
		}
		s.tune = tune
		s.tick(60)
		s.nodes[1].propose("k", "more")
		s.tick(5)
		s.sameStates(t)
		if st := n.core.status(); st.Withheld != 0 || n.journal.hold != 0 {
			t.Errorf("%s: it still withholds %d, promised %d", why, st.Withheld, n.journal.hold)
		}
		s.sound(t)
	}
}

// TestOldCasesMakeRoom: an entry at which nobody is stopped any more is not looked into for the rest of the term, or after
// maxInquiries of them the next would wait for ever.
func TestOldCasesMakeRoom(t *testing.T) {
	s := guardSim(t, 3)
	n := s.nodes[1]
	stop := applyStop{index: 1, term: 1}
	for stop.index = 10; stop.index < 10+maxInquiries; stop.index++ {
		_ = n.core.hear(note{peer: 2, kind: noteStopped, body: stop.encode()})
	}
	s.tick(6 * defaultElectionTicks)
	_ = n.core.hear(note{peer: 2, kind: noteStopped, body: stop.encode()})
	if n.core.guard.inquiries[stop.index] == nil {
		t.Errorf("%d old cases are in the way", len(n.core.guard.inquiries))
	}
}
