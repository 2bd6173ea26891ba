package sim

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/parley-mesh/parley/consensus"
)

// peerOptions lets the host's replica relay: with a key for each pair of hosts, which is as good as what production
// derives, since nobody here guesses keys.
func (h *host) peerOptions() consensus.PeerOptions {
	o := consensus.PeerOptions{NodeOf: h.c.nodeOf}
	if !h.c.noRelay {
		o.Seal, o.Verify = h.seal, h.verify
	}
	return o
}

func (h *host) seal(peer uint64, data []byte) (mac [32]byte, ok bool) {
	name, ok := h.c.nodeOf(peer)
	if !ok {
		return mac, false
	}
	return sha256.Sum256(append([]byte("key of "+min(h.name, name)+" and "+max(h.name, name)+": "), data...)), true
}

func (h *host) verify(peer uint64, data, mac []byte) bool {
	want, ok := h.seal(peer, data)
	return ok && bytes.Equal(want[:], mac)
}

// linked reports whether the two hear each other.
func (c *cluster) linked(a, b *host) bool { return !c.isCut(a, b) && !c.isCut(b, a) }

// overHub reports whether what a sends can get to b by way of a third.
func (c *cluster) overHub(a, b *host) bool {
	for _, hub := range c.hosts {
		if hub != a && hub != b && hub.up && !hub.paused && !c.isCut(a, hub) && !c.isCut(hub, b) {
			return !c.noRelay
		}
	}
	return false
}

// reach reports whether the two can talk with each other, straight or by way of others.
func (c *cluster) reach(a, b *host) bool {
	return (!c.isCut(a, b) || c.overHub(a, b)) && (!c.isCut(b, a) || c.overHub(b, a))
}

// watchRelayed counts how often there is a confirmed leader that reaches a majority by way of others only.
func (c *cluster) watchRelayed(h *host) {
	if s := h.rep.Status(); s.Confirmed && h.rep.Leads() && len(s.Relays) > 0 && !c.quorumOf(h, c.linked) {
		c.note("led by way of a hub")
	}
}

// errUnreachable is what a request meets that does not get through.
var errUnreachable = errors.New("the peer cannot be reached")

// chunkOf reads a chunk from the disk of a peer, asked straight or through the member that relays to it.
func (h *host) chunkOf(from *host, id uint64, name [32]byte) ([]byte, error) {
	if from == nil || !from.up {
		return nil, errUnreachable
	}
	if h.c.linked(h, from) {
		return from.snaps.Chunk(name)
	}
	hub := h.c.byID(h.rep.Status().Relays[id])
	if hub == nil || !hub.up || !h.c.linked(h, hub) || !h.c.linked(hub, from) {
		return nil, errUnreachable
	}
	h.c.note("chunk fetched by way of a hub")
	return from.snaps.Chunk(name)
}

// around is every direction between two hosts of which neither is the hub.
func (c *cluster) around(hub *host) (pairs [][2]*host) {
	for _, a := range c.hosts {
		for _, b := range c.hosts {
			if a != b && a != hub && b != hub {
				pairs = append(pairs, [2]*host{a, b})
			}
		}
	}
	return pairs
}

// constrain leaves the others of the core the hub alone, which lacks what was just written, and nobody the leader, for d.
func (c *cluster) constrain(l, hub *host, d time.Duration) {
	const behind = 300 * time.Millisecond // less than an election timeout
	var alone [][2]*host
	for _, h := range c.hosts {
		if h != hub {
			alone = append(alone, both(h, hub)...)
		}
	}
	c.cutFor(behind, alone...)
	c.later(behind, func() { c.cutFor(d, append(c.around(hub), both(l, hub)...)...) })
}

// attackLiar draws a hub that lies.
func (c *cluster) attackLiar() {
	if l, hub := c.leader(), c.anyHost(); l != nil && hub != nil && hub != l {
		c.lyingHub(hub)
	}
}

// lyingHub leaves a core in which all hear each other through one hub. As soon as somebody leads by way of it, the hub,
// whose disk takes nothing any more, begins to lie about the others: it loses what it is to pass on, changes it, brings it
// twice, and tells the leader of acknowledgements that were never given. Then the leader is cut off. What it answered for
// by forged word alone is on no other disk.
func (c *cluster) lyingHub(hub *host) {
	c.cutFor(6*time.Second, c.around(hub)...)
	end := c.now + 4*time.Second
	var wait func()
	wait = func() {
		l := c.leader()
		if l == nil || l == hub || len(l.rep.Status().Relays) == 0 {
			if c.now < end {
				c.later(50*time.Millisecond, wait)
			}
			return
		}
		hub.lies, hub.slow = true, 1000
		c.later(700*time.Millisecond, func() {
			hub.lies, hub.slow = false, 1
			c.cutFor(1200*time.Millisecond, both(l, hub)...)
		})
	}
	wait()
}

// The wire format of what a liar spoils: consensus/peers_frame.go and core_relay_envelope.go.
const (
	itemHeader     = 5
	itemMessage    = 1
	itemRelayed    = 5
	envelopeHeader = 40
	envelopeMAC    = 32
)

// lie spoils what the host brings to another for others, and leaves what it says itself.
func (h *host) lie(body []byte) (lies []byte) {
	for len(body) >= itemHeader {
		kind, size := body[0], itemHeader+int(binary.BigEndian.Uint32(body[1:]))
		if kind == itemRelayed {
			lies = append(lies, h.spoil(body[itemHeader:size])...)
		} else {
			lies = append(lies, body[:size]...)
		}
		body = body[size:]
	}
	return lies
}

// spoil returns items in the place of one envelope.
func (h *host) spoil(envelope []byte) []byte {
	origin, final := h.c.byID(binary.BigEndian.Uint64(envelope)), h.c.byID(binary.BigEndian.Uint64(envelope[8:]))
	if final != nil && final.up && final.rep.Leads() && origin != nil {
		h.c.note("lie: acknowledgement forged")
		return append(relayedItem(envelope), relayedItem(forge(envelope, final))...)
	}
	switch h.c.rnd.IntN(4) {
	case 0:
		h.c.note("lie: envelope changed")
		changed := bytes.Clone(envelope)
		changed[h.c.rnd.IntN(len(changed))] ^= byte(1 << h.c.rnd.IntN(8))
		return relayedItem(changed)
	case 1:
		h.c.note("lie: envelope brought twice")
		return append(relayedItem(envelope), relayedItem(envelope)...)
	}
	h.c.note("lie: envelope lost")
	return nil
}

func relayedItem(envelope []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{itemRelayed}, uint32(len(envelope))) //nolint:gosec // short
	return append(b, envelope...)
}

// forge makes of an envelope to a leader one in which its origin says that it has on its disk what the leader wrote last.
func forge(envelope []byte, leader *host) []byte {
	header := bytes.Clone(envelope[:envelopeHeader])
	const number = envelopeHeader - 8
	binary.BigEndian.PutUint64(header[number:], binary.BigEndian.Uint64(header[number:])+1<<20)
	ack, err := proto.Marshal(&raftpb.Message{Type: raftpb.MsgAppResp.Enum(), From: new(binary.BigEndian.Uint64(header)), To: new(leader.id),
		Term: new(leader.rep.Term()), Index: new(leader.rep.Status().Commit + 1)})
	if err != nil {
		panic(err) // a message of four numbers
	}
	b := binary.BigEndian.AppendUint32(append(header, itemMessage), uint32(len(ack))) //nolint:gosec // short
	return append(append(b, ack...), make([]byte, envelopeMAC)...)
}
