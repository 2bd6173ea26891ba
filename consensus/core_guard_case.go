package consensus

import (
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/raft/v3"
)

// heardStop is a report, and the tick at which it was heard last.
type heardStop struct {
	stop applyStop
	at   uint64
}

// inquiry is what a leader knows of who has applied an entry that somebody stopped at.
type inquiry struct {
	about   applyStop // what most have met; once a majority has, it stays
	many    bool      // a majority has, at present
	promise bool      // a majority has: who says no is bound
	closed  bool      // there will be no quarantine in this term
	forced  bool      // an operator has decided
	answers map[uint64]byte
	verdict string
}

// Limits of what a leader keeps: entries at which somebody stopped in one term.
const maxInquiries = 16

// ApplyCase is what the leader knows of an entry at which members stopped.
type ApplyCase struct {
	Index   uint64
	Place   int
	Stopped []uint64          // who stopped there
	Answers map[uint64]string // of the voters, to whether they have applied it
	Verdict string            // what will be done, or what is missing
}

// investigate takes the next step about each entry at which somebody stopped.
func (c *core) investigate() {
	g := &c.guard
	c.resetInquiries()
	if g.stop != nil {
		c.noteStop(c.cfg.id, *g.stop)
	}
	maps.DeleteFunc(g.reports, func(_ uint64, r heardStop) bool { return c.ticks-r.at > uint64(4*c.cfg.electionTicks) })
	maps.DeleteFunc(g.inquiries, func(index uint64, q *inquiry) bool { return !q.promise && !c.reported(index) })
	for _, index := range sortedKeys(g.inquiries) {
		c.inquire(index, g.inquiries[index])
	}
}

// reported reports whether somebody says at present that it stopped at an entry.
func (c *core) reported(index uint64) bool {
	for _, r := range c.guard.reports {
		if r.stop.index == index {
			return true
		}
	}
	return false
}

// reportsStop reports whether a member says at present that it stopped at some entry.
func (c *core) reportsStop(id uint64) bool {
	_, reports := c.guard.reports[id]
	return reports && c.guard.ledTerm == c.term
}

// undecided reports whether we look into an entry at which somebody stopped. Another leader would begin again, and release
// whoever has promised.
func (c *core) undecided() bool {
	for index, q := range c.guard.inquiries {
		if c.guard.ledTerm == c.term && !q.closed && (q.promise || c.reported(index)) {
			return true
		}
	}
	return false
}

// resetInquiries forgets what was found out in an earlier term.
func (c *core) resetInquiries() {
	g := &c.guard
	if g.ledTerm == c.term && g.reports != nil {
		return
	}
	g.ledTerm, g.reports, g.inquiries, g.proposed = c.term, make(map[uint64]heardStop), make(map[uint64]*inquiry), make(map[quarantine]bool)
}

// noteStop takes a report. One about a command that is quarantined was on its way for too long.
func (c *core) noteStop(id uint64, s applyStop) {
	g := &c.guard
	if slices.Contains(g.skips[s.index], int(s.place)) {
		return
	}
	g.reports[id] = heardStop{s, c.ticks}
	if g.inquiries[s.index] == nil && len(g.inquiries) < maxInquiries {
		g.inquiries[s.index] = &inquiry{answers: make(map[uint64]byte)}
	}
}

// inquire takes the next step about one entry.
func (c *core) inquire(index uint64, q *inquiry) {
	if !q.promise {
		var best applyStop
		if best, q.many = c.commonStop(index); best.place != q.about.place {
			clear(q.answers)
		}
		q.about = best
	}
	if q.many && !q.promise && c.mayLeaveOut(q.about) {
		q.promise = true
		clear(q.answers)
	}
	c.ask(index, q)
	c.judgeInquiry(index, q)
}

func (c *core) mayLeaveOut(s applyStop) bool {
	command, known := c.command(s)
	return known && c.cfg.guard.Quarantinable(command)
}

// judgeInquiry does what the answers say.
func (c *core) judgeInquiry(index uint64, q *inquiry) {
	may := q.many && c.mayLeaveOut(q.about)
	voters := c.allVoters()
	has := func(answer byte) bool {
		return slices.ContainsFunc(voters, func(id uint64) bool { return q.answers[id] == answer })
	}
	all := !slices.ContainsFunc(voters, func(id uint64) bool { return q.answers[id] != answerNo })
	switch {
	case may && (q.forced || q.promise && !q.closed && all):
		q.verdict = "it is left out on all members"
		c.proposeQuarantine(q.about)
	case has(answerApplied):
		q.verdict = "a voter has applied it: who stopped is fenced and rebuilt"
		c.closeInquiry(index, q)
		c.fenceStopped(index, q)
	case has(answerBefore) || has(answerUnknown):
		q.verdict = "a voter has applied it in an earlier life, or cannot know: only an operator can decide"
		c.closeInquiry(index, q)
	case q.many && !may:
		q.verdict = "commands of this kind are never left out: a program that can apply it is needed"
	case !q.many:
		q.verdict = "fewer than a majority of the voters have stopped there alike"
	default:
		q.verdict = "it is left out once every voter has said that it has not applied it"
	}
}

// ask repeats the question to all voters whose answer may change.
func (c *core) ask(index uint64, q *inquiry) {
	for _, id := range c.allVoters() {
		switch {
		case q.answers[id] == answerApplied, q.answers[id] == answerNo && q.promise && !q.closed:
		case id == c.cfg.id:
			q.answers[id] = c.hasApplied(index, q.promise && !q.closed)
		default:
			c.tell(id, noteAppliedAsk, question{index, c.term, q.about.place, q.promise && !q.closed}.encode())
		}
	}
}

// commonStop returns what most voters report about an entry, and whether they are a majority of the core, and of the one
// before where it is being changed.
func (c *core) commonStop(index uint64) (best applyStop, majority bool) {
	count := func(s applyStop, voters []uint64) (n int) {
		for _, id := range voters {
			if r, ok := c.guard.reports[id]; ok && r.stop.same() == s {
				n++
			}
		}
		return n
	}
	most := 0
	for _, id := range sortedKeys(c.guard.reports) {
		s := c.guard.reports[id].stop.same()
		if n := count(s, c.conf.GetVoters()); s.index == index && n > most {
			best, most = s, n
		}
	}
	old := c.conf.GetVotersOutgoing()
	return best, most > len(c.conf.GetVoters())/2 && (len(old) == 0 || count(best, old) > len(old)/2)
}

// allVoters are those of the present configuration, of the one before, and those that a change in the log makes voters; and
// those of before a change that took effect ahead of what is applied.
func (c *core) allVoters() []uint64 {
	ids := slices.Concat(c.conf.GetVoters(), c.conf.GetVotersOutgoing(), c.pendingVoters())
	if c.applied < c.log.confIndex {
		ids = append(ids, c.guard.former...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// closeInquiry gives a quarantine up for this term, and releases those that wait for it.
func (c *core) closeInquiry(index uint64, q *inquiry) {
	if !q.promise || q.closed {
		return
	}
	q.closed = true
	c.release(index)
}

// release ends promises about an entry that this leader will not quarantine.
func (c *core) release(index uint64) {
	for _, id := range c.allVoters() {
		if id != c.cfg.id {
			c.tell(id, noteRelease, encodePair(index, c.term))
		}
	}
	if c.guard.hold == index && c.guard.holdTerm == c.term {
		c.setHold(0, 0)
	}
}

// fenceStopped tells those that stopped at an entry that others have applied it, and by whom.
func (c *core) fenceStopped(index uint64, q *inquiry) {
	var appliers []uint64
	for _, id := range sortedKeys(q.answers) {
		if q.answers[id] == answerApplied {
			appliers = append(appliers, id)
		}
	}
	own := false
	for _, id := range sortedKeys(c.guard.reports) {
		switch {
		case c.guard.reports[id].stop.index != index:
		case id == c.cfg.id:
			own = true
		default:
			c.tell(id, noteOutrun, encodeOutrun(index, appliers))
		}
	}
	if own {
		c.outrun(index, appliers) // last: it may end the lead
	}
}

// proposeQuarantine writes the quarantine into the log, once a term.
func (c *core) proposeQuarantine(s applyStop) {
	q := quarantine{index: s.index, term: s.term, place: s.place, entry: s.entry}
	if c.guard.proposed[q] || c.transfer != nil {
		return
	}
	if c.rn.Propose(q.encode()) == nil {
		c.guard.proposed[q] = true
	}
	c.drain()
}

// investigates reports whether a quarantine is being decided: until then nobody can say what is to be read.
func (c *core) investigates() bool {
	for index, q := range c.guard.inquiries {
		if c.guard.ledTerm == c.term && q.promise && !q.closed && c.applied < index {
			return true
		}
	}
	return false
}

// forceQuarantine is an operator's decision about an entry at which a majority stopped: whoever has applied it is built
// again from below it, and what it told its clients is undone.
func (c *core) forceQuarantine(r *request) {
	at := *r.leaveOut
	best, many := applyStop{}, false
	if c.guard.ledTerm == c.term {
		best, many = c.commonStop(at.index)
	}
	switch {
	case c.cfg.guard == nil:
		c.fail(r, errNoGuard)
	case !c.leads():
		c.fail(r, c.notLeader())
	case !many || best.place != at.place || c.guard.inquiries[at.index] == nil:
		c.fail(r, fmt.Errorf("%w: no majority of the voters has stopped at command %d of entry %d", ErrQuarantine, at.place, at.index))
	case !c.mayLeaveOut(best):
		c.fail(r, fmt.Errorf("%w: a command of this kind is never left out: start a program that can apply it", ErrQuarantine))
	default:
		c.cfg.asks.take(r)
		c.guard.inquiries[at.index].forced = true
		c.inquire(at.index, c.guard.inquiries[at.index])
		c.answer(r, outcome{index: at.index})
	}
}

// applyCases describes what is being decided.
func (c *core) applyCases() (list []ApplyCase) {
	g := &c.guard
	if !c.leads() || g.ledTerm != c.term {
		return nil
	}
	for _, index := range sortedKeys(g.inquiries) {
		q := g.inquiries[index]
		best, _ := c.commonStop(index)
		if best.index == 0 {
			continue // those that stopped went on
		}
		one := ApplyCase{Index: index, Place: int(best.place), Verdict: q.verdict, Answers: make(map[uint64]string)}
		for _, id := range sortedKeys(g.reports) {
			if g.reports[id].stop.index == index {
				one.Stopped = append(one.Stopped, id)
			}
		}
		for _, id := range c.allVoters() {
			one.Answers[id] = [...]string{"none", "not applied", "applying", "unknown", "applied before", "applied"}[q.answers[id]]
		}
		list = append(list, one)
	}
	return list
}

func (c *core) isMember(id uint64) bool { return id != raft.None && slices.Contains(c.members(), id) }
