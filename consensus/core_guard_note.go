package consensus

import (
	"encoding/binary"

	"go.etcd.io/raft/v3/raftpb"
)

const (
	noteStopped    noteKind = 1 // to the leader: an applyStop
	noteAppliedAsk noteKind = 2 // a question: have you applied it?
	noteApplied    noteKind = 3 // the same question, answer 1
	noteOutrun     noteKind = 4 // index 8, then ids 8 each: these have applied what you stopped at; see behind
	noteRelease    noteKind = 5 // index 8, term 8: it will not be quarantined in that term
	noteHeld       noteKind = 6 // to the leader, index 8, term 8: I do not apply it because I promised
	noteCommitAsk  noteKind = 7 // to the leader: what is committed?
	noteCommit     noteKind = 8 // index 8

	stopBytes       = 8 + 8 + 4 + 3*32 + 1
	questionBytes   = 8 + 8 + 4 + 1
	quarantineBytes = 2 + 8 + 8 + 4 + 32

	controlQuarantine = 3 // an entry of the log, see control
)

func (s *applyStop) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, stopBytes), s.index)
	b = binary.BigEndian.AppendUint64(b, s.term)
	b = binary.BigEndian.AppendUint32(b, s.place)
	b = append(append(append(b, s.entry[:]...), s.before[:]...), s.signature[:]...)
	return append(b, s.cause)
}

func decodeStop(b []byte) (s applyStop, err error) {
	if len(b) != stopBytes {
		return s, errNote
	}
	s = applyStop{index: binary.BigEndian.Uint64(b), term: binary.BigEndian.Uint64(b[8:]), place: binary.BigEndian.Uint32(b[16:]),
		entry: [32]byte(b[20:52]), before: [32]byte(b[52:84]), signature: [32]byte(b[84:116]), cause: b[116]}
	if s.index == 0 || s.index > 1<<62 || s.place >= maxBatchCommands {
		return s, errNote
	}
	return s, nil
}

func encodePair(index, term uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, index), term)
}

// question is what a leader asks about an entry, because of the command at that place.
type question struct {
	index, term uint64
	place       uint32
	promise     bool // a no binds whoever says it
}

func (q question) encode() []byte {
	b := binary.BigEndian.AppendUint32(encodePair(q.index, q.term), q.place)
	if q.promise {
		return append(b, 1)
	}
	return append(b, 0)
}

func decodeQuestion(b []byte) (q question, err error) {
	if len(b) != questionBytes || b[20] > 1 {
		return q, errNote
	}
	q = question{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint32(b[16:]), b[20] == 1}
	if q.index == 0 || q.index > 1<<62 {
		return q, errNote
	}
	return q, nil
}

func encodeOutrun(index uint64, ids []uint64) []byte {
	b := binary.BigEndian.AppendUint64(nil, index)
	for _, id := range ids {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	return b
}

// encode makes the entry of the log.
func (q quarantine) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{controlVersion, controlQuarantine}, q.index)
	b = binary.BigEndian.AppendUint64(b, q.term)
	b = binary.BigEndian.AppendUint32(b, q.place)
	return append(b, q.entry[:]...)
}

// quarantineOf reads an entry that is a quarantine of an earlier one.
func quarantineOf(e *raftpb.Entry) (q quarantine, ok bool) {
	d := e.GetData()
	if e.GetType() != raftpb.EntryNormal || len(d) != quarantineBytes || d[0] != controlVersion || d[1] != controlQuarantine {
		return q, false
	}
	q = quarantine{index: binary.BigEndian.Uint64(d[2:]), term: binary.BigEndian.Uint64(d[10:]), place: binary.BigEndian.Uint32(d[18:]), entry: [32]byte(d[22:])}
	return q, q.index > 0 && q.index < e.GetIndex() && q.place < maxBatchCommands
}

// hearStopped takes, as leader, where a member stopped.
func (c *core) hearStopped(from uint64, body []byte) error {
	s, err := decodeStop(body)
	if err != nil || !c.isMember(from) {
		return errNote
	}
	if c.leads() && c.cfg.guard != nil {
		c.resetInquiries()
		c.noteStop(from, s)
	}
	return nil
}

// hearAppliedAsk answers the leader of our term. Nobody else gets a promise.
func (c *core) hearAppliedAsk(from uint64, body []byte) error {
	asked, err := decodeQuestion(body)
	if err != nil {
		return err
	}
	if c.cfg.guard == nil || asked.term != c.term || from != c.leader {
		return nil
	}
	answer := c.hasApplied(asked.index, asked.promise)
	c.tell(from, noteApplied, append(asked.encode(), answer))
	return nil
}

// hearApplied takes, as leader, an answer to the question as it stands.
func (c *core) hearApplied(from uint64, body []byte) error {
	if len(body) != questionBytes+1 || body[questionBytes] < answerNo || body[questionBytes] > answerApplied {
		return errNote
	}
	asked, err := decodeQuestion(body[:questionBytes])
	if err != nil || !c.isMember(from) {
		return errNote
	}
	q := c.guard.inquiries[asked.index]
	if !c.leads() || asked.term != c.term || c.guard.ledTerm != c.term || q == nil || asked.place != q.about.place {
		return nil
	}
	if answer := body[questionBytes]; answer != answerNo || asked.promise == (q.promise && !q.closed) {
		q.answers[from] = answer
	}
	c.judgeInquiry(asked.index, q)
	return nil
}

// hearOutrun has us begin again if we stopped where others went on. Only our leader says so.
func (c *core) hearOutrun(from uint64, body []byte) error {
	if len(body) < 16 || len(body)%8 != 0 || len(body) > 8+8*maxPeers {
		return errNote
	}
	var appliers []uint64
	for at := 8; at < len(body); at += 8 {
		appliers = append(appliers, binary.BigEndian.Uint64(body[at:]))
	}
	if from == c.leader {
		c.outrun(binary.BigEndian.Uint64(body), appliers)
	}
	return nil
}

// hearRelease ends a promise that the leader of its term does not need.
func (c *core) hearRelease(from uint64, body []byte) error {
	if len(body) != 16 {
		return errNote
	}
	g := &c.guard
	index, term := binary.BigEndian.Uint64(body), binary.BigEndian.Uint64(body[8:])
	if from == c.leader && term == c.term && g.hold == index && g.holdTerm == term {
		c.setHold(0, 0)
		c.releasePair()
	}
	return nil
}

// hearHeld releases, as leader, a member that waits for what will not come.
func (c *core) hearHeld(from uint64, body []byte) error {
	if len(body) != 16 || !c.isMember(from) {
		return errNote
	}
	index, term := binary.BigEndian.Uint64(body), binary.BigEndian.Uint64(body[8:])
	if q := c.guard.inquiries[index]; c.leads() && term == c.term && c.guard.ledTerm == c.term && q != nil && q.closed {
		c.tell(from, noteRelease, body)
	}
	return nil
}

// hearCommitAsk tells a member that begins again what is committed, once we know it ourselves. While a quarantine is being
// decided it waits, and what it answered before it began again counts no more: its promise may be lost.
func (c *core) hearCommitAsk(from uint64, body []byte) error {
	if len(body) != 0 {
		return errNote
	}
	if c.leads() && c.investigates() {
		for _, q := range c.guard.inquiries {
			delete(q.answers, from)
		}
		return nil
	}
	if c.leads() && c.termStart > 0 && c.commit >= c.termStart {
		c.tell(from, noteCommit, binary.BigEndian.AppendUint64(nil, c.commit))
	}
	return nil
}

// hearCommit notes up to where the log has to be read before we apply what may have been quarantined.
func (c *core) hearCommit(from uint64, body []byte) error {
	if len(body) != 8 {
		return errNote
	}
	if g := &c.guard; from == c.leader && g.gate > 0 && g.until == 0 {
		g.until = binary.BigEndian.Uint64(body)
		c.searchCommitted()
		c.releasePair()
	}
	return nil
}
