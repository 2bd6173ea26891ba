package consensus

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

const (
	noteTailAsk noteKind = 10 // what is your tail, and what have you heard of mine?
	noteTail    noteKind = 11
	noteClaim   noteKind = 12 // this is on my disk, and I have acknowledged it
)

// tail is what a member says of itself: the last entry on its disk, the term that it is in, and who votes by the
// configuration that it has applied and by the changes behind that in its log.
type tail struct {
	term            uint64
	lastTerm, index uint64
	chain           [32]byte
	applied         uint64
	voters          []uint64
	acked           uint64   // as leader: up to where the asker has acknowledged our log; 0: nothing is known
	ackedChain      [32]byte // the chain there
	claim           *claim   // the asker's own, nil if none was heard
}

// beyond reports whether a log that ends with an entry of that term and index lacks something of this tail.
func (t *tail) beyond(lastTerm, index uint64) bool {
	return cmp.Or(cmp.Compare(t.lastTerm, lastTerm), cmp.Compare(t.index, index)) > 0
}

const tailFixedBytes = 8 + 8 + 8 + 32 + 8 + 8 + 32 + 1

var errNote = errors.New("the note is malformed")

func (t *tail) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, t.term)
	b = binary.BigEndian.AppendUint64(b, t.lastTerm)
	b = binary.BigEndian.AppendUint64(b, t.index)
	b = append(b, t.chain[:]...)
	b = binary.BigEndian.AppendUint64(b, t.applied)
	b = binary.BigEndian.AppendUint64(b, t.acked)
	b = append(b, t.ackedChain[:]...)
	b = append(b, byte(len(t.voters)))
	for _, id := range t.voters {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	if t.claim != nil {
		b = t.claim.append(b)
	}
	return b
}

func decodeTail(b []byte) (t tail, err error) {
	if len(b) < tailFixedBytes {
		return t, errNote
	}
	t.term, t.lastTerm, t.index = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])
	t.chain, t.applied = [32]byte(b[24:56]), binary.BigEndian.Uint64(b[56:])
	t.acked, t.ackedChain = binary.BigEndian.Uint64(b[64:]), [32]byte(b[72:104])
	n := int(b[104])
	b = b[tailFixedBytes:]
	if n > maxPeers || len(b) != 8*n && len(b) != 8*n+claimBytes || t.term > 1<<62 || t.index > 1<<62 || t.lastTerm > t.term {
		return t, errNote
	}
	for ; n > 0; n-- {
		t.voters, b = append(t.voters, binary.BigEndian.Uint64(b)), b[8:]
	}
	if len(b) > 0 {
		claimed, err := decodeClaim(b)
		if err != nil {
			return t, err
		}
		t.claim = &claimed
	}
	return t, nil
}

// ownTail is ours. Only what is on the disk counts.
func (c *core) ownTail() tail {
	t := tail{term: c.term, index: c.durable, applied: max(c.applied, c.log.confIndex)}
	t.lastTerm, _ = c.log.Term(t.index)
	if c.cfg.chain != nil {
		t.chain, _ = c.cfg.chain(t.index)
	}
	t.voters = slices.Concat(c.conf.GetVoters(), c.conf.GetVotersOutgoing(), c.pendingVoters())
	slices.Sort(t.voters)
	t.voters = slices.Compact(t.voters)
	return t
}

// pendingVoters are those whom changes in the log make voters that are not applied yet.
func (c *core) pendingVoters() (ids []uint64) {
	for i := max(c.applied, c.log.offset) + 1; i <= c.log.last(); i++ {
		cc, ok, err := decodeConfChange(c.log.entries[i-c.log.first()])
		if !ok || err != nil {
			continue
		}
		for _, change := range cc.GetChanges() {
			if change.GetType() == raftpb.ConfChangeAddNode {
				ids = append(ids, change.GetNodeId())
			}
		}
	}
	return ids
}

// hearTailAsk answers a member that has restarted.
func (c *core) hearTailAsk(from uint64, body []byte) error {
	if len(body) != 0 {
		return errNote
	}
	t := c.ownTail()
	if c.cfg.chain == nil || len(t.voters) > maxPeers {
		return nil
	}
	if _, known := c.cfg.chain(t.index); !known {
		return nil // it asks again
	}
	c.visitProgress(func(id uint64, pr tracker.Progress) {
		if chain, ok := c.cfg.chain(pr.Match); id == from && c.leads() && ok {
			t.acked, t.ackedChain = pr.Match, chain
		}
	})
	if held, ok := c.claims[from]; ok {
		t.claim = &held
	}
	c.tell(from, noteTail, t.encode())
	c.askBack(from)
	return nil
}

// askBack asks a voter that has just asked us: what we asked when we started was lost if it was not up yet. It does so once it has
// given its own tail, so that two which have both restarted are done with one answer each.
func (c *core) askBack(id uint64) {
	if t := &c.tails; t.asking && t.need == nil && slices.Contains(c.missingTails(), id) {
		c.tell(id, noteTailAsk, nil)
	}
}

func sortedKeys[V any](m map[uint64]V) []uint64 {
	if len(m) == 0 {
		return nil // most of what is asked at each tick
	}
	keys := make([]uint64, 0, len(m))
	for id := range m {
		keys = append(keys, id)
	}
	slices.Sort(keys)
	return keys
}
