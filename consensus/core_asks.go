package consensus

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/clock"
)

// asks is what the core asks while it handles an event: all that it decides by and that neither the event nor what it
// remembers tells. Together with coreConfig's chain, rare, held and abstain, and with the guard's Quarantinable, these are
// the only ways for something to come in beside the events, so that whoever keeps the events and the answers can have the
// core do the same again. They are also all that looks into a command: the core knows how long it is.
type asks struct {
	now    func() (clock.Stamp, error)                         // the next stamp
	follow func(clock.Stamp) error                             // lifts the clock over a stamp
	sign   func(m claim, cluster [16]byte, id uint64) [32]byte // the MAC of a claim; nil: no claims
	same   func(e *raftpb.Entry, hash [sha256.Size]byte) bool  // whether that is the hash of what the entry holds
	take   func(*request) bool                                 // see request.take
}

// asksOf answers by a clock and a member's own secret.
func asksOf(clk *clock.Clock, claimKey []byte) asks {
	a := asks{
		now:    func() (clock.Stamp, error) { return clk.Now() },
		follow: clk.Observe,
		same:   func(e *raftpb.Entry, hash [sha256.Size]byte) bool { return sha256.Sum256(e.GetData()) == hash },
		take:   (*request).take,
	}
	if len(claimKey) > 0 {
		a.sign = func(m claim, cluster [16]byte, id uint64) [32]byte { return m.sign(claimKey, cluster, id) }
	}
	return a
}

// sign returns the MAC of a claim of that member.
func (m claim) sign(key []byte, cluster [16]byte, id uint64) (mac [32]byte) {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("parley claim 1"))
	h.Write(cluster[:])
	b := binary.BigEndian.AppendUint64(nil, id)
	b = binary.BigEndian.AppendUint64(b, m.term)
	b = binary.BigEndian.AppendUint64(b, m.index)
	h.Write(append(b, m.chain[:]...))
	h.Sum(mac[:0])
	return mac
}
