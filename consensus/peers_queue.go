package consensus

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

// Limits of what waits for one peer. Beyond them the oldest bulk message goes: raft sends it again
// when asked, and an old one is worth less than a new one.
const (
	maxPeerMessages = 4096
	maxPeerBytes    = 64 << 20
)

// peerQueue holds what waits for one peer in two lanes. Heartbeats, votes and acknowledgements
// overtake entries and snapshots: a heartbeat behind megabytes of entries is a false alarm of a
// dead leader. Raft allows any reordering; within a lane the order is kept for speed.
type peerQueue struct {
	bell *bell
	mu   struct {
		sync.Mutex // nothing is called under it
		urgent     []*raftpb.Message
		bulk       []*raftpb.Message
		bytes      int // in bulk
		reports    []peerReport
		notes      []sentNote
		straight   []sentNote // that go through nobody
		passing    []envelope // of others
		passBytes  int        // in passing
		hub        *bell      // of the queue of the hub that our peer is reached through, nil if none
	}
}

func newPeerQueue() *peerQueue { return &peerQueue{bell: newBell()} }

// put adds m and returns how many messages it displaced, and whether a snapshot was among them.
func (q *peerQueue) put(m *raftpb.Message) (dropped int, snapshot bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.wake()
	if !isBulk(m) {
		if len(q.mu.urgent) == maxPeerMessages {
			q.mu.urgent = q.mu.urgent[1:]
			dropped++
		}
		q.mu.urgent = append(q.mu.urgent, m)
		return dropped, false
	}
	q.mu.bulk = append(q.mu.bulk, m)
	q.mu.bytes += messageSize(m)
	for len(q.mu.bulk) > maxPeerMessages || q.mu.bytes > maxPeerBytes && len(q.mu.bulk) > 1 {
		old := q.mu.bulk[0]
		q.mu.bulk = q.mu.bulk[1:]
		q.mu.bytes -= messageSize(old)
		dropped++
		snapshot = snapshot || old.GetType() == raftpb.MsgSnap
	}
	return dropped, snapshot
}

// report adds a report on a snapshot; the newest few are enough.
func (q *peerQueue) report(r peerReport) {
	const keep = 4
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mu.reports = append(q.mu.reports, r)
	if n := len(q.mu.reports); n > keep {
		q.mu.reports = q.mu.reports[n-keep:]
	}
	q.wake()
}

// sentNote is a note on its way to a peer.
type sentNote struct {
	note
	from uint64
}

// maxPeerNotes is how many notes may wait for one peer; the oldest go first.
const maxPeerNotes = 64

// tell adds a note. Lines go straight, and a newer one takes the place of one that waits.
func (q *peerQueue) tell(n sentNote) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n.kind == noteLines {
		q.mu.straight = []sentNote{n}
		q.bell.raise()
		return
	}
	q.mu.notes = append(q.mu.notes, n)
	if over := len(q.mu.notes) - maxPeerNotes; over > 0 {
		q.mu.notes = q.mu.notes[over:]
	}
	q.wake()
}

// takeNotes takes all notes.
func (q *peerQueue) takeNotes() []sentNote {
	q.mu.Lock()
	defer q.mu.Unlock()
	notes := q.mu.notes
	q.mu.notes = nil
	return notes
}

// next takes what fits into one frame: everything urgent, then entries up to about target bytes.
func (q *peerQueue) next(target int) (messages []*raftpb.Message, reports []peerReport) {
	q.mu.Lock()
	defer q.mu.Unlock()
	messages, reports = q.mu.urgent, q.mu.reports
	q.mu.urgent, q.mu.reports = nil, nil
	size := 0
	for len(q.mu.bulk) > 0 && size < target && len(messages) < maxFrameItem/2+maxPeerMessages/2 {
		m := q.mu.bulk[0]
		q.mu.bulk = q.mu.bulk[1:]
		size += messageSize(m)
		q.mu.bytes -= messageSize(m)
		messages = append(messages, m)
	}
	if len(q.mu.bulk) > 0 {
		q.wake()
	}
	return messages, reports
}

// clear drops everything and returns as put does.
func (q *peerQueue) clear() (dropped int, snapshot bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	dropped = len(q.mu.urgent) + len(q.mu.bulk)
	snapshot = hasSnapshot(q.mu.bulk)
	q.mu.urgent, q.mu.bulk, q.mu.bytes, q.mu.reports, q.mu.notes = nil, nil, 0, nil, nil
	q.mu.straight, q.mu.passing, q.mu.passBytes = nil, nil, 0
	return dropped, snapshot
}

func hasSnapshot(messages []*raftpb.Message) bool {
	for _, m := range messages {
		if m.GetType() == raftpb.MsgSnap {
			return true
		}
	}
	return false
}

func isBulk(m *raftpb.Message) bool {
	return m.GetType() == raftpb.MsgApp && len(m.GetEntries()) > 0 || m.GetType() == raftpb.MsgSnap
}

// messageSize estimates the encoded size without reflection.
func messageSize(m *raftpb.Message) int {
	size := 64 + len(m.GetSnapshot().GetData())
	for _, e := range m.GetEntries() {
		size += int(entrySize(e))
	}
	return size
}
