package consensus

import (
	"encoding/binary"

	"go.etcd.io/raft/v3/raftpb"
)

// How much of an entry's data is kept.
const (
	dataNone  = iota
	dataWhole // what is Raft's or the core's own
	dataBatch // stamp, and how long each command is
	dataSize  // how much it is
)

// entry leaves out what the commands are: nobody is to find a secret in a recording.
func (t *tape) entry(v **raftpb.Entry) {
	if t.reading {
		*v = &raftpb.Entry{}
	}
	e := *v
	kind := byte(dataNone)
	if !t.reading {
		kind = dataKind(e)
	}
	bits := kind
	if e.Type != nil {
		bits |= byte(*e.Type+1) << 2 //nolint:gosec // three values
	}
	t.byte(&bits)
	if t.reading && bits>>2 > 0 {
		e.Type = raftpb.EntryType(bits>>2 - 1).Enum()
	}
	t.number(&e.Term)
	t.number(&e.Index)
	switch bits & 3 {
	case dataWhole:
		t.bytes(&e.Data)
	case dataBatch:
		t.batch(&e.Data)
	case dataSize:
		t.size(&e.Data)
	}
}

func dataKind(e *raftpb.Entry) byte {
	kind, _ := control(e)
	switch {
	case e.Data == nil:
		return dataNone
	case e.GetType() != raftpb.EntryNormal || kind != 0 || len(e.Data) == 0:
		return dataWhole
	case wellFormed(e.Data):
		return dataBatch
	}
	return dataSize
}

// wellFormed is decodeBatch without the commands.
func wellFormed(data []byte) bool {
	if len(data) < batchHeaderSize || data[0] != batchVersion {
		return false
	}
	count, rest := binary.BigEndian.Uint32(data[9:]), data[batchHeaderSize:]
	for ; count > 0 && len(rest) >= commandOverhead; count-- {
		size := uint64(binary.BigEndian.Uint32(rest)) + commandOverhead
		if size > uint64(len(rest)) {
			return false
		}
		rest = rest[size:]
	}
	return count == 0 && len(rest) == 0
}

// batch is a well formed one.
func (t *tape) batch(v *[]byte) {
	if t.reading {
		*v = t.readBatch()
		return
	}
	data := *v
	t.fixed(data[1:9])
	n := uint64(binary.BigEndian.Uint32(data[9:]))
	t.uint(&n)
	for rest := data[batchHeaderSize:]; len(rest) > 0; {
		size := uint64(binary.BigEndian.Uint32(rest))
		t.uint(&size)
		rest = rest[commandOverhead+size:]
	}
}

func (t *tape) readBatch() []byte {
	var stamp [8]byte
	t.fixed(stamp[:])
	sizes := make([]uint64, t.length(0))
	total := uint64(0)
	for i := range sizes {
		t.uint(&sizes[i])
		if total += commandOverhead + sizes[i]; sizes[i] > maxFilled || total > maxFilled {
			t.fail("a batch of more than %d bytes", maxFilled)
			return nil
		}
	}
	b := t.zeros(batchHeaderSize + total)
	if t.err != nil {
		return nil
	}
	b[0] = batchVersion
	copy(b[1:], stamp[:])
	binary.BigEndian.PutUint32(b[9:], uint32(len(sizes))) //nolint:gosec // a length
	at := uint64(batchHeaderSize)
	for _, size := range sizes {
		binary.BigEndian.PutUint32(b[at:], uint32(size)) //nolint:gosec // checked
		at += commandOverhead + size
	}
	return b
}

// Which fields a message has.
const (
	hasType = 1 << iota
	hasTo
	hasFrom
	hasTerm
	hasLogTerm
	hasIndex
	hasCommit
	hasVote
	hasHint
	hasReject
	rejects
	hasSnap
	hasEntries
	hasResponses
	hasContext
)

func fieldsOf(m *raftpb.Message) (bits uint64) {
	for i, has := range []bool{
		m.Type != nil, m.To != nil, m.From != nil, m.Term != nil, m.LogTerm != nil, m.Index != nil, m.Commit != nil, m.Vote != nil,
		m.RejectHint != nil, m.Reject != nil, m.GetReject(), m.Snapshot != nil, len(m.Entries) > 0, len(m.Responses) > 0, m.Context != nil,
	} {
		if has {
			bits |= 1 << i
		}
	}
	return bits
}

func (t *tape) message(v **raftpb.Message) { t.messageAt(v, 0) }

// messageAt: responses are messages, and have none themselves.
func (t *tape) messageAt(v **raftpb.Message, depth int) {
	if t.reading {
		*v = &raftpb.Message{}
	}
	m := *v
	bits := fieldsOf(m)
	t.uint(&bits)
	if bits&hasType != 0 {
		kind := uint64(m.GetType()) //nolint:gosec // not negative
		t.uint(&kind)
		if t.reading {
			m.Type = raftpb.MessageType(kind & 0xff).Enum() //nolint:gosec // masked
		}
	}
	for i, field := range [...]**uint64{&m.To, &m.From, &m.Term, &m.LogTerm, &m.Index, &m.Commit, &m.Vote, &m.RejectHint} {
		if bits&(hasTo<<i) == 0 {
			continue
		}
		if t.reading {
			*field = new(uint64)
		}
		t.uint(*field)
	}
	if t.reading && bits&hasReject != 0 {
		m.Reject = new(bits&rejects != 0)
	}
	if bits&hasContext != 0 {
		t.bytes(&m.Context)
	}
	if bits&hasSnap != 0 {
		t.snapshot(&m.Snapshot)
	}
	if bits&hasEntries != 0 {
		t.entries(&m.Entries)
		t.roundMark(m)
	}
	if bits&hasResponses != 0 {
		if depth > 0 {
			t.fail("responses of responses")
			return
		}
		t.messagesAt(&m.Responses, depth+1)
	}
}

// roundMark adds what stands in place of a command where raft is asked for a read round: a number of the core's own.
func (t *tape) roundMark(m *raftpb.Message) {
	if m.GetType() != raftpb.MsgReadIndex {
		return
	}
	for _, e := range m.GetEntries() {
		if len(e.GetData()) == readRoundContextLen {
			t.fixed(e.Data)
		}
	}
}

func (t *tape) entries(v *[]*raftpb.Entry) {
	n := t.length(len(*v))
	if t.reading {
		*v = make([]*raftpb.Entry, n)
	}
	for i := range *v {
		t.entry(&(*v)[i])
	}
}

func (t *tape) messages(v *[]*raftpb.Message) { t.messagesAt(v, 0) }

func (t *tape) messagesAt(v *[]*raftpb.Message, depth int) {
	n := t.length(len(*v))
	if t.reading {
		*v = make([]*raftpb.Message, n)
	}
	for i := range *v {
		t.messageAt(&(*v)[i], depth)
	}
}
