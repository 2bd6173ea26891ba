package consensus

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/parley-mesh/parley/mutant"
)

// guard keeps one command that crashes replicas from stopping the core for good. The rules, checked as a model in
// models/quarantine.pml:
//
//   - A replica that crashes on command k of entry N stops applying there, and goes on replicating and voting. A panic is
//     seen at once; what no program survives is found at the next start, in the journal (Guard.Crash). It reports where it
//     stopped, the entry's hash, the digest of the state before and a signature of the crash to the leader.
//   - When a majority of the voters reports the same, the leader asks every voter whether it has applied N, itself too.
//     Who says no promises not to apply N, until the quarantine is committed, an entry of a later term is, or the same
//     leader has given it up. The promise outlives the process.
//   - When all have said no, the leader proposes the quarantine of (N, k), by hash. It counts as soon as it is committed,
//     ahead of applying: everybody leaves the command out, and those that had stopped go on.
//   - One yes, or one "I cannot know" (a journal that was lost with the power), ends it. Then those that stopped are a
//     minority of what counts: they fetch a snapshot of one that has applied N, fence themselves once they have it, and
//     begin again with it (see behind). Nobody ever skips by itself.
//   - A voter that does not answer keeps it open, and everybody waits, or an operator decides (forceQuarantine).
//   - Who applied N before it heard of the quarantine finds that out when it applies the quarantine, and is built again
//     from below N.
//
// Commands of kinds that say who may do what are never left out: Guard.Quarantinable.
type guard struct {
	stop    *applyStop
	given   uint64           // last index that the applier was given
	scanned uint64           // last committed entry that was searched for quarantines
	skips   map[uint64][]int // quarantined places by entry, as far as the log has them

	surely uint64 // applied up to here in an earlier life
	maybe  uint64 // up to here nobody knows what was
	gate   uint64 // not applied from here on until the leader's commit index is reached; 0: none
	until  uint64 // that index, 0 until it was told

	ahead  uint64   // raft counts as applied what is up to here, so that changes of the core take effect; see changesAhead
	former []uint64 // voters of the configurations of before those changes

	behind behind // where it stopped, others have gone on
	sought sought

	hold, holdTerm uint64 // promised not to apply from here on, to the leader of that term; 0: nothing

	reports   map[uint64]heardStop // as leader: who stopped where
	inquiries map[uint64]*inquiry  // as leader: by entry
	proposed  map[quarantine]bool  // as leader, in this term
	ledTerm   uint64               // the term that the three are of
}

// applyStop is where a replica stopped applying, and why. Two replicas that agree in all but the cause have met the same
// mistake.
type applyStop struct {
	index, term              uint64
	place                    uint32   // of the command in the entry, from 0
	entry, before, signature [32]byte // hash of the entry, digest of the state before it, kind and place of the crash
	cause                    byte
}

func (s applyStop) same() applyStop {
	s.cause = 0
	return s
}

// quarantine is one command that is not to be run. It is an entry of the log.
type quarantine struct {
	index, term uint64
	place       uint32
	entry       [32]byte // hash
}

// ApplyStoppedError says where a replica has stopped applying. It goes on replicating.
type ApplyStoppedError struct {
	Index uint64
	Place int
	Cause string
}

func (e *ApplyStoppedError) Error() string {
	return fmt.Sprintf("this member crashes on command %d of entry %d (%s): it applies nothing until the others have been asked; "+
		"see 'parley apply status'", e.Place, e.Index, e.Cause)
}

// beginGuard takes what the journal knew. It is called before the first event.
func (c *core) beginGuard() {
	g, o := &c.guard, c.cfg.guard
	g.given, g.scanned, g.skips = c.applied, c.log.offset, make(map[uint64][]int)
	if o == nil {
		return
	}
	g.surely, g.hold, g.holdTerm = o.Applied, o.Held, o.HeldTerm
	if !o.Known {
		g.maybe = c.log.last()
		// A promise may have been lost with the rest of the journal. It was about an entry that had not been applied: from
		// there on we hear first what the leader has committed, and what it has not decided yet.
		if first := max(c.applied, g.surely) + 1; first <= g.maybe {
			g.gate = first
		}
	}
	if o.Crash != nil && (g.gate == 0 || o.Crash.Index < g.gate) {
		g.gate = o.Crash.Index
	}
	if o.Gate > 0 && (g.gate == 0 || o.Gate < g.gate) {
		g.gate = o.Gate
	}
	c.overtake(c.applied)
}

// stopped is told by the applier that it has stopped.
func (c *core) stopped(s applyStop) {
	g := &c.guard
	g.stop = &s
	if slices.Contains(g.skips[s.index], int(s.place)) {
		c.resume() // the quarantine came meanwhile
		return
	}
	c.halted = fmt.Errorf("%w: %w", ErrStopped, &ApplyStoppedError{Index: s.index, Place: int(s.place), Cause: causeName(s.cause)})
	c.props.dropQueue(c, c.halted)
	c.failReads(c.halted)
	c.out.changed = true
	c.drain()
	c.tickGuard()
}

// resume lets the applier go on at the entry where it stopped.
func (c *core) resume() {
	g := &c.guard
	c.out.resumes = append(c.out.resumes, resumption{index: g.stop.index, skip: slices.Clone(g.skips[g.stop.index])})
	g.stop = nil
	if c.digests.fenced == nil {
		c.halted = nil
	}
	c.out.changed = true
}

// searchCommitted looks for quarantines among what was committed, long before it is applied.
func (c *core) searchCommitted() {
	g := &c.guard
	if c.cfg.guard == nil {
		return
	}
	for i := max(g.scanned, c.log.offset) + 1; i <= min(c.commit, c.log.last()); i++ {
		e := c.log.entries[i-c.log.first()]
		g.scanned = i
		if q, ok := quarantineOf(e); ok {
			c.quarantined(q)
		}
		if g.hold > 0 && e.GetTerm() > g.holdTerm {
			c.setHold(0, 0)
		}
	}
	if g.gate > 0 && g.until > 0 && g.scanned >= g.until {
		g.gate, g.until = 0, 0
	}
}

// quarantined takes a quarantine that is committed. An entry that a snapshot covers is checked when this is applied.
func (c *core) quarantined(q quarantine) {
	g := &c.guard
	if q.index > c.log.offset {
		if e := c.log.entries[q.index-c.log.first()]; e.GetTerm() != q.term || !c.cfg.asks.same(e, q.entry) {
			c.contradicted(fmt.Sprintf("entry %d is not the one that is quarantined", q.index))
			return
		}
	}
	if !slices.Contains(g.skips[q.index], int(q.place)) {
		g.skips[q.index] = append(g.skips[q.index], int(q.place))
		slices.Sort(g.skips[q.index])
	}
	if g.hold == q.index {
		c.setHold(0, 0)
	}
	delete(g.inquiries, q.index) // there may be another command in it
	maps.DeleteFunc(g.reports, func(_ uint64, r heardStop) bool { return r.stop.index == q.index && r.stop.place == q.place })
	if g.stop != nil && g.stop.index == q.index && g.stop.place == q.place {
		c.resume()
	}
	c.out.changed = true
}

// early is told by the applier that it applied a command before it was quarantined.
func (c *core) early(index uint64) {
	need := &RebuildNeed{Index: index, Reason: "it applied a command that was quarantined", Gate: index, Agreed: index - 1}
	for _, id := range c.members() {
		if id != c.cfg.id && id != raft.None && !c.doubted(id) {
			need.From = append(need.From, id)
		}
	}
	c.fence(need)
	c.drain()
}

// withheld returns from which index on nothing may be given to the applier, 0 for none.
func (g *guard) withheld() uint64 {
	if g.gate == 0 || g.hold > 0 && g.hold < g.gate {
		return g.hold
	}
	return g.gate
}

// stands reports whether the applier goes on only when somebody else has decided something, and up to where it has applied.
func (g *guard) stands() (stands bool, at uint64) {
	if g.stop != nil {
		return true, g.stop.index - 1
	}
	return g.withheld() > 0, g.given
}

func (c *core) setHold(index, term uint64) {
	c.guard.hold, c.guard.holdTerm = index, term
	c.out.holds = append(c.out.holds, hold{index, term})
}

// allowed cuts a task that is to be given out where it reaches into what is withheld. The first part may be nil, and so
// may the rest.
func (c *core) allowed(t *applyTask) (now, later *applyTask) {
	from := c.guard.withheld()
	if from == 0 || t.restore != nil || t.index < from || len(t.entries) == 0 {
		return t, nil
	}
	n := 0
	for n < len(t.entries) && t.entries[n].GetIndex() < from {
		n++
	}
	return t.split(n)
}

// split cuts a task before its entry n. Raft hears of each part by itself: while it waits for a change of the core to be
// applied nobody can stand for election.
func (t *applyTask) split(n int) (head, tail *applyTask) {
	if n == 0 {
		return nil, t
	}
	last := t.entries[n-1]
	head = &applyTask{entries: t.entries[:n], batches: t.batches[:n], index: last.GetIndex(), term: last.GetTerm()}
	rest := *t
	rest.entries, rest.batches, rest.restore, rest.responses = t.entries[n:], t.batches[n:], nil, nil
	if t.skips != nil {
		head.skips, rest.skips = t.skips[:n], t.skips[n:]
	}
	head.responses, rest.responses = splitResponses(t.responses, last.GetIndex())
	return head, &rest
}

// splitResponses tells raft by itself of what is applied up to last, and of the rest by what is left. The log may be compacted
// up to what was applied, and raft must know of all that.
func splitResponses(all []*raftpb.Message, last uint64) (head, rest []*raftpb.Message) {
	for _, r := range all {
		n := 0
		for n < len(r.GetEntries()) && r.GetEntries()[n].GetIndex() <= last {
			n++
		}
		if r.GetType() == raftpb.MsgStorageApplyResp && n > 0 && n < len(r.GetEntries()) {
			first := proto.CloneOf(r)
			first.Entries = r.GetEntries()[:n]
			head = append(head, first)
			r = proto.CloneOf(r)
			r.Entries = r.GetEntries()[n:]
		}
		rest = append(rest, r)
	}
	return head, rest
}

// overtake drops what was withheld and is covered by a snapshot that is about to be restored: its members have decided.
func (c *core) overtake(index uint64) {
	g, withheld := &c.guard, c.pair.held
	c.pair.held, c.pair.batches = nil, 0
	c.forgetCapture(withheld)
	for _, t := range withheld {
		for _, b := range t.batches {
			if b != nil {
				c.failAll(b.requests, &OutcomeUnknownError{Cause: errOvertaken})
			}
		}
		for _, m := range t.responses { // raft counts what is out
			_ = c.rn.Step(m)
		}
	}
	if g.hold > 0 && g.hold <= index {
		c.setHold(0, 0)
	}
	if g.gate <= index {
		g.gate, g.until = 0, 0
	}
}

// give hands a task to the applier, with what it has to leave out.
func (c *core) give(t *applyTask) {
	g := &c.guard
	if len(g.skips) > 0 {
		for i, e := range t.entries {
			if skip := g.skips[e.GetIndex()]; skip != nil {
				if t.skips == nil {
					t.skips = make([][]int, len(t.entries))
				}
				t.skips[i] = slices.Clone(skip)
			}
		}
	}
	g.given = max(g.given, t.index)
	c.out.applies = append(c.out.applies, t)
}

// forgetSkips drops those that the log no longer has.
func (c *core) forgetSkips() {
	maps.DeleteFunc(c.guard.skips, func(index uint64, _ []int) bool { return index <= c.log.offset })
}

// Answers to whether an entry is applied.
const (
	answerNo      = 1
	answerBusy    = 2 // being applied, or not on the disk yet: ask again
	answerUnknown = 3
	answerBefore  = 4 // in an earlier life; not yet in this one
	answerApplied = 5
)

// hasApplied says what we know of an entry. With promise a no is one for good.
func (c *core) hasApplied(index uint64, promise bool) byte {
	g := &c.guard
	stoppedBelow := g.stop != nil && g.stop.index <= index
	switch {
	case mutant.On(mutant.QuarantineAfterApplied) && !stoppedBelow:
		return answerNo
	case c.applied >= index, g.stop != nil && g.stop.index > index:
		return answerApplied
	case g.surely >= index:
		return answerBefore
	case g.maybe >= index:
		return answerUnknown
	case index > c.durable, !stoppedBelow && g.given >= index:
		return answerBusy
	case !promise:
		return answerNo
	case g.hold > 0 && g.hold < index:
		return answerBusy // one at a time
	}
	if g.hold != index || g.holdTerm != c.term {
		c.setHold(index, c.term)
	}
	return answerNo
}

// tickGuard repeats what has to be said until it is heard.
func (c *core) tickGuard() {
	if c.cfg.guard == nil || c.digests.fenced != nil {
		return
	}
	g := &c.guard
	switch {
	case c.leads():
		c.investigate()
		if g.gate > 0 && c.termStart > 0 && c.commit >= c.termStart {
			g.until = c.commit
		}
	case c.leader != raft.None:
		if g.stop != nil {
			c.tell(c.leader, noteStopped, g.stop.encode())
		}
		if g.hold > 0 {
			c.tell(c.leader, noteHeld, encodePair(g.hold, g.holdTerm))
		}
		if g.gate > 0 {
			c.tell(c.leader, noteCommitAsk, nil)
		}
	}
	c.askBehind()
	c.searchCommitted()
	c.changesAhead()
	c.releasePair()
}

// guardDue is true at the ticks at which tickGuard is called.
func (c *core) guardDue() bool { return c.ticks%uint64(2*c.cfg.heartbeatTicks) == 0 }

// ApplyStop is where a member stopped applying, for people.
type ApplyStop struct {
	Index, Term uint64
	Place       int
	Cause       string
	Signature   [32]byte // of the crash: equal where the same mistake was met
	Before      [32]byte // digest of the state before
}

func (c *core) stoppedAt() *ApplyStop {
	s := c.guard.stop
	if s == nil {
		return nil
	}
	return &ApplyStop{Index: s.index, Term: s.term, Place: int(s.place), Cause: causeName(s.cause), Signature: s.signature, Before: s.before}
}

func causeName(cause byte) string {
	switch cause {
	case StopPanic:
		return "panic"
	case StopStalled:
		return "it does not end"
	case StopMemory:
		return "it takes too much memory"
	}
	return "the process ended"
}

// Causes of a stop, as storage's journal has them.
const (
	StopUnknown = 0
	StopPanic   = 1
	StopStalled = 2
	StopMemory  = 3
)

var errNoGuard = errors.New("consensus: this node has no apply guard")

// command returns the command at a place of an entry of our log, if it is the one that a stop names.
func (c *core) command(s applyStop) ([]byte, bool) {
	if s.index <= c.log.offset || s.index > c.log.last() {
		return nil, false
	}
	e := c.log.entries[s.index-c.log.first()]
	if e.GetTerm() != s.term || e.GetType() != raftpb.EntryNormal || !c.cfg.asks.same(e, s.entry) {
		return nil, false
	}
	if kind, _ := control(e); kind != 0 || len(e.GetData()) == 0 {
		return nil, false
	}
	_, commands, err := decodeBatch(e.GetData())
	if err != nil || int(s.place) >= len(commands) {
		return nil, false
	}
	return commands[s.place], true
}
