package membership

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"
)

// Statements are what the cluster's members tell each other besides who is alive: signed by whom they are by, checked by who
// hears them (Options.Heard), and opaque here. One that is small goes along with packets, as often as news of a member does,
// so that all have it within a second or two; all go along with state exchanges, for whoever missed the packets.
const (
	// MaxPacketStatement is how large one may be that Tell takes, in bytes: with it a packet is still a datagram.
	MaxPacketStatement = 1000
	// MaxStatements and MaxStatementBytes bound what a state exchange carries; of more, the first go along.
	MaxStatements     = 4
	MaxStatementBytes = 16 << 10
)

// tellRate is for statements of one peer: each one may cost a signature check. Honest gossip repeats one as often as other news.
var tellRate = rate{burst: 64, perSecond: 8}

const (
	// tellerMisses is how many packets in a row may have no room for the statement: then it goes in packets of its own, for where many
	// join or go, packets are full of that for as long.
	tellerMisses = 3
	// tellAloneTo is to how many members it goes at once, as many as get a packet of news in one round.
	tellAloneTo = 3
)

// teller holds the statement that goes along with packets, the newest. Safe for concurrent use.
type teller struct {
	mu struct {
		sync.Mutex
		packet []byte
		left   int // how often it still goes along
		misses int // how many packets had no room for it since one had
	}
}

// Tell has a statement told to the other members by packets, in place of the one before. It panics for one that is larger than
// MaxPacketStatement. The caller does not change it afterwards.
func (m *Membership) Tell(statement []byte) {
	if len(statement) == 0 || len(statement) > MaxPacketStatement {
		panic("membership: a statement that fits into no packet")
	}
	m.told.set(statement, retransmits(len(m.view.members())))
}

// retransmits is how often each member passes on what is new among n, as memberlist counts.
func retransmits(n int) int { return retransmitMult * int(math.Ceil(math.Log10(float64(n+1)))) }

func (t *teller) set(statement []byte, times int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.packet, t.mu.left, t.mu.misses = statement, max(times, retransmitMult), 0
}

// take returns the statement if it is to go along with a packet that has room for so many bytes, else nil.
func (t *teller) take(room int) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.mu.left == 0:
		return nil
	case len(t.mu.packet) > room:
		t.mu.misses++
		return nil
	}
	t.mu.left--
	t.mu.misses = 0
	return t.mu.packet
}

// alone returns the statement if it waits for room in vain, and to how many of so many members it is to go by itself. That counts as
// going along.
func (t *teller) alone(members int) (packet []byte, to int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.misses < tellerMisses || members == 0 {
		return nil, 0
	}
	to = min(t.mu.left, members, tellAloneTo)
	t.mu.left -= to
	t.mu.misses = 0
	return t.mu.packet, to
}

// tellAlone sends the statement to some members if packets have no room for it. It is of the view loop.
func (m *Membership) tellAlone() {
	if !m.told.starved() {
		return // nearly always
	}
	peers := slices.DeleteFunc(m.list.Members(), func(n *memberlist.Node) bool { return n.Name == m.opts.Name })
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	packet, to := m.told.alone(len(peers))
	for _, peer := range peers[:to] {
		if err := m.list.SendBestEffort(peer, packet); err != nil {
			m.opts.Log.Debug("a statement is not sent", zap.String("peer", peer.Name), zap.Error(err))
		}
	}
}

func (t *teller) starved() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.misses >= tellerMisses
}

// statement lets a peer's statement through to who judges it, and reports whether it did. What that finds new is passed on.
func (f *firewall) statement(from string, b []byte, limit int) bool {
	if f.heard == nil || len(b) == 0 || len(b) > limit || !f.member(from) || !f.limits.allow(tellRate, from, "") {
		return false
	}
	f.heard(from, b)
	return true
}

// userState does that for the statements of a state exchange.
func (f *firewall) userState(from string, b []byte) {
	for range MaxStatements {
		if len(b) == 0 {
			return
		}
		if len(b) < 2 || int(binary.BigEndian.Uint16(b)) > len(b)-2 {
			break
		}
		n := int(binary.BigEndian.Uint16(b))
		if !f.statement(from, b[2:2+n], MaxStatementBytes) {
			f.dropped.Add(1)
		}
		b = b[2+n:]
	}
	if len(b) > 0 {
		f.dropped.Add(1)
	}
}

// encodeStatements is the user state of an exchange, nil if there is nothing to tell.
func encodeStatements(all [][]byte) (b []byte) {
	for _, s := range all[:min(len(all), MaxStatements)] {
		if len(s) > 0 && len(s) <= MaxStatementBytes {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...) //nolint:gosec // bounded
		}
	}
	return b
}
