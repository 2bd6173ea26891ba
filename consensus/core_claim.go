package consensus

import (
	"cmp"
	"crypto/hmac"
	"encoding/binary"
	"maps"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/parley-mesh/parley/mutant"
)

// claim is a member's own word of what was on its disk and acknowledged in a term. It gives it to the other voters, about
// once a second and at the end of each burst, and they give it back when it restarts. The MAC is made with a key that
// never leaves the member, so a claim that verifies is one that it made.
type claim struct {
	term, index uint64
	chain       [32]byte
	mac         [32]byte
}

const (
	claimBytes = 8 + 8 + 32 + 32

	// claimTimeouts is how many election timeouts there are between two claims while entries keep coming: one second
	// with the default settings.
	claimTimeouts = 2
)

func (m claim) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, m.term)
	b = binary.BigEndian.AppendUint64(b, m.index)
	b = append(b, m.chain[:]...)
	return append(b, m.mac[:]...)
}

func decodeClaim(b []byte) (m claim, err error) {
	if len(b) != claimBytes {
		return m, errNote
	}
	m = claim{
		term: binary.BigEndian.Uint64(b), index: binary.BigEndian.Uint64(b[8:]),
		chain: [32]byte(b[16:48]), mac: [32]byte(b[48:80]),
	}
	if m.term > 1<<62 || m.index > 1<<62 {
		return m, errNote
	}
	return m, nil
}

// claiming is what we have told, and when.
type claiming struct {
	acked    claim // the newest append that we acknowledged; no chain
	seen     claim // at the last tick
	told     claim
	toldTick uint64
}

// acknowledging notes an acknowledgement that is on its way to the disk and then to the leader.
func (c *core) acknowledging(m *raftpb.Message) {
	if m.GetType() != raftpb.MsgAppResp || m.GetReject() {
		return
	}
	if a := &c.claiming.acked; m.GetTerm() > a.term || m.GetIndex() > a.index {
		*a = claim{term: m.GetTerm(), index: m.GetIndex()}
	}
}

// stored notes how far the log is on the disk.
func (c *core) stored(m *raftpb.Message) {
	if m.GetType() != raftpb.MsgStorageAppendResp {
		return
	}
	if s := m.GetSnapshot().GetMetadata().GetIndex(); s > 0 {
		c.durable = s
	}
	if term, err := c.log.Term(m.GetIndex()); m.GetIndex() > 0 && err == nil && term == m.GetLogTerm() {
		c.durable = m.GetIndex()
	}
}

// tickClaims tells the other voters what we hold. As leader that is our log, which nobody replaces in our term.
func (c *core) tickClaims() {
	s := &c.claiming
	now := s.acked
	if c.leads() {
		now = claim{term: c.term, index: c.durable}
	}
	now.index = min(now.index, c.durable)
	idle := now == s.seen
	s.seen = now
	if c.cfg.asks.sign == nil || c.cfg.chain == nil || c.mute() || now.index == 0 || now.term != c.term ||
		now.term == s.told.term && now.index <= s.told.index {
		return
	}
	if !idle && c.ticks-s.toldTick < uint64(claimTimeouts*c.cfg.electionTicks) {
		return
	}
	m, known := now, false
	if m.chain, known = c.cfg.chain(m.index); !known {
		return
	}
	m.mac = c.sign(m)
	s.told, s.toldTick = now, c.ticks
	for _, id := range c.otherVoters() {
		c.tell(id, noteClaim, m.append(nil))
	}
}

// hearClaim keeps the newest claim of a peer, to give it back.
func (c *core) hearClaim(from uint64, body []byte) error {
	m, err := decodeClaim(body)
	if err != nil {
		return err
	}
	held, known := c.claims[from]
	if !known && len(c.claims) >= maxPeers {
		members := c.members() // ids that are gone never come back: they make room for those in their place
		maps.DeleteFunc(c.claims, func(id uint64, _ claim) bool { return len(members) > 0 && !slices.Contains(members, id) })
	}
	if !known && len(c.claims) >= maxPeers {
		return nil
	}
	if !known || cmp.Or(cmp.Compare(m.term, held.term), cmp.Compare(m.index, held.index)) > 0 {
		c.claims[from] = m
	}
	return nil
}

// keeps reports whether we hold what a peer says that we claimed. What does not bear our MAC was not claimed.
func (c *core) keeps(m claim) bool {
	if !c.signed(m) && !mutant.On(mutant.PeerClaimWithoutMAC) {
		return true
	}
	// A later term is written after everything that was acknowledged in an earlier one, so what came before it on the
	// disk is there, or was rightly replaced.
	if m.term < c.tails.startTerm || m.term < c.term && !c.mute() || m.index <= c.log.offset || m.index <= c.log.snap.Index {
		return true
	}
	chain, known := c.cfg.chain(m.index)
	return known && chain == m.chain
}

// sign returns the MAC of a claim of ours.
func (c *core) sign(m claim) [32]byte { return c.cfg.asks.sign(m, c.cfg.cluster, c.cfg.id) }

// signed reports whether a claim bears our MAC.
func (c *core) signed(m claim) bool {
	if c.cfg.asks.sign == nil {
		return false
	}
	want := c.sign(m)
	return hmac.Equal(want[:], m.mac[:])
}
