package membership

import (
	"bytes"
	"errors"
	"sync/atomic"

	"go.uber.org/zap"
)

// memberVersions is memberlist's version vector as every member of ours has it. It is never taken
// from the wire: one member that claimed another range would break every later state exchange.
var memberVersions = []uint8{1, 5, 2, 0, 0, 0}

// firewall holds a peer to what it may say. SWIM believes everyone about everything; here the
// transport knows who sent a message (P), so:
//
//  1. suspect and dead pass only up to the incarnation that we know, and become "P suspects", so
//     that confirmations count distinct peers. Only a node itself declares that it left: P is it,
//     or its newest record, signed by its host key, says so.
//  2. ack and nack pass only from those that we asked, and helpers only by a quorum.
//  3. ping and indirect ping pass only in P's own name, to addresses that we verified.
//  4. alive passes only with a record signed by the node's host key, not older than one of that
//     host seen before, at the address in the record, at an incarnation for which the record vouches (P
//     itself may say any).
//  5. A state exchange is held to the same rules, in both directions.
//  6. User messages are statements of members (told.go). Who made one proves itself in it, so it may come from any member;
//     memberlist sees none of it.
//  7. What a packet says about a node is limited by rate for each P, and so are statements and exchanges.
//
// What is said about ourselves can only make us refute it. Everything else is dropped. Messages
// are decoded and encoded again, so memberlist never parses a peer's bytes. Safe for concurrent
// use.
type firewall struct {
	self    string
	own     *own
	records *verifier
	known   *knowledge
	probes  *probes
	limits  *limiter
	log     *zap.Logger
	// unresolved is called, without locks, with P when its message named an unknown host key.
	unresolved func(from string)
	bare       bool
	// heard takes a statement of a peer, which it must not keep. Nil: there are none.
	heard func(from string, statement []byte)

	dropped atomic.Uint64
}

func newFirewall(o Options, self *own) *firewall {
	hostKeyOf := func(node string) ([]byte, bool) {
		if node == o.Name {
			return self.spki, true
		}
		return o.HostKeyOf(node)
	}
	return &firewall{
		self: o.Name, own: self, records: newVerifier(o.ClusterID, hostKeyOf),
		known: newKnowledge(), probes: newProbes(), limits: newLimiter(o.Now),
		log: o.Log, unresolved: func(string) {}, bare: o.bare,
	}
}

// inbound returns what of a packet from a peer may reach memberlist, or nil.
func (f *firewall) inbound(from string, packet []byte) []byte {
	if f.bare {
		return packet
	}
	var kept [][]byte
	err := splitPacket(packet, func(kind byte, body []byte) {
		if kind == msgUser && f.statement(from, body, MaxPacketStatement) {
			return
		}
		m := f.message(from, kind, body)
		if m == nil || len(kept) == 255 {
			f.dropped.Add(1)
			return
		}
		kept = append(kept, m)
	})
	if err != nil {
		f.dropped.Add(1)
	}
	return joinPacket(kept)
}

// message returns one message as memberlist may see it, or nil.
func (f *firewall) message(from string, kind byte, body []byte) []byte {
	switch kind {
	case msgPing:
		return f.ping(from, body)
	case msgIndirectPing:
		return f.indirectPing(from, body)
	case msgAck:
		var m wireAck
		if decodeMsg(body, &m) == nil && f.probes.answered(m.SeqNo, from) {
			return encodeMsg(msgAck, &wireAck{SeqNo: m.SeqNo})
		}
	case msgNack:
		var m wireNack
		if decodeMsg(body, &m) == nil && f.probes.declined(m.SeqNo, from) {
			return encodeMsg(msgNack, &m)
		}
	case msgSuspect, msgDead:
		return f.accusation(from, kind, body)
	case msgAlive:
		var m wireAliveMsg
		if decodeMsg(body, &m) != nil {
			return nil
		}
		if m.Node == f.self {
			return f.aboutSelf(from, m.Incarnation, m.Meta, true)
		}
		if _, ok := f.known.get(m.Node); ok && !f.limits.allow(claimRate, from, m.Node) {
			return nil
		}
		if r, ok := f.alive(from, m.Node, m.Incarnation, m.Meta); ok {
			return aliveMessage(r, m.Meta, m.Incarnation)
		}
	}
	return nil
}

// ping drops the source address: the answer goes back by the link that the ping came on.
func (f *firewall) ping(from string, body []byte) []byte {
	var m wirePing
	if decodeMsg(body, &m) != nil || m.SourceNode != from || m.Node != f.self {
		return nil
	}
	return encodeMsg(msgPing, &wirePing{SeqNo: m.SeqNo, Node: m.Node, SourceNode: from})
}

func (f *firewall) indirectPing(from string, body []byte) []byte {
	var m wireIndirectPing
	if decodeMsg(body, &m) != nil || m.SourceNode != from || m.Node == f.self {
		return nil
	}
	k, ok := f.known.get(m.Node)
	if !ok || !f.member(from) || !f.limits.allow(claimRate, from, m.Node) {
		return nil
	}
	return encodeMsg(msgIndirectPing, &wireIndirectPing{
		SeqNo: m.SeqNo, Node: m.Node, Nack: m.Nack, SourceNode: from,
		Target: k.Addr.Addr().AsSlice(), Port: k.Addr.Port(),
	})
}

func (f *firewall) accusation(from string, kind byte, body []byte) []byte {
	var m wireAccusation
	if decodeMsg(body, &m) != nil {
		return nil
	}
	if m.Node == f.self {
		return f.aboutSelf(from, m.Incarnation, nil, false)
	}
	if !f.member(from) || !f.mayAccuse(from, m.Node, m.Incarnation) || !f.limits.allow(claimRate, from, m.Node) {
		return nil
	}
	if kind == msgDead && m.From == m.Node && f.mayHaveLeft(from, m.Node) {
		return encodeMsg(msgDead, &wireAccusation{Incarnation: m.Incarnation, Node: m.Node, From: m.Node})
	}
	return encodeMsg(msgSuspect, &wireAccusation{Incarnation: m.Incarnation, Node: m.Node, From: from})
}

// member reports whether a peer is a member whose binding stands: only then does its word about
// others count.
func (f *firewall) member(name string) bool {
	k, ok := f.known.get(name)
	return ok && f.records.bound(k.record)
}

// expelled reports whether a peer was a member and lost its binding.
func (f *firewall) expelled(name string) bool {
	k, ok := f.known.get(name)
	return ok && !f.records.bound(k.record)
}

// mayAccuse is rule 1: nothing above the known incarnation, nothing about strangers.
func (f *firewall) mayAccuse(from, node string, incarnation uint32) bool {
	k, ok := f.known.get(node)
	return ok && (incarnation <= k.incarnation || node == from && uint64(incarnation) <= k.ceiling())
}

func (f *firewall) mayHaveLeft(from, node string) bool {
	k, ok := f.known.get(node)
	return node == from || ok && k.Leaving
}

// alive is rule 4. The record is the verified one.
func (f *firewall) alive(from, node string, incarnation uint32, meta []byte) (record, bool) {
	if _, ok := f.known.get(node); !ok && !f.limits.allow(unknownRate, from, "") {
		return record{}, false
	}
	r, err := f.records.verify(meta)
	if errors.Is(err, errUnknownBinding) {
		f.unresolved(from)
	}
	if err != nil || r.Name != node {
		return record{}, false
	}
	return r, f.known.accept(r, meta, incarnation, node == from, f.records.bound)
}

// aboutSelf turns any claim about us that is not simply our own word coming back into a suspicion,
// to which memberlist answers by raising our incarnation above it. An earlier record of ours lets
// the claim be as high as that record vouched for: after a restart this is how we learn what our
// former self had reached.
func (f *firewall) aboutSelf(from string, incarnation uint32, meta []byte, alive bool) []byte {
	r, current, reached := f.own.view()
	ceiling := max(uint64(reached), r.ceiling())
	if alive && bytes.Equal(meta, current) && incarnation <= reached {
		return nil
	}
	if incarnation < reached || !f.limits.allow(selfRate, from, f.self) {
		return nil
	}
	if meta != nil {
		said, err := f.records.verify(meta)
		if err == nil && said.Name == f.self {
			if r.older(said) {
				f.log.Warn("a newer record of this node is in use: is its identity running twice",
					zap.String("peer", from))
				return nil
			}
			ceiling = max(ceiling, said.ceiling())
		}
	}
	if uint64(incarnation) > ceiling {
		return nil
	}
	return encodeMsg(msgSuspect, &wireAccusation{Incarnation: incarnation, Node: f.self, From: from})
}

// aliveMessage builds memberlist's alive from a verified record.
func aliveMessage(r record, meta []byte, incarnation uint32) []byte {
	return encodeMsg(msgAlive, &wireAliveMsg{
		Incarnation: incarnation, Node: r.Name, Addr: r.Addr.Addr().AsSlice(), Port: r.Addr.Port(),
		Meta: meta, Vsn: memberVersions,
	})
}

// outbound notes what memberlist sends to a peer: the pings that may be answered, and the
// incarnation that it uses for us.
func (f *firewall) outbound(to string, packet []byte) {
	// A packet of memberlist's own making cannot be malformed.
	_ = splitPacket(packet, func(kind byte, body []byte) {
		switch kind {
		case msgPing:
			var m wirePing
			if decodeMsg(body, &m) == nil {
				f.probes.sent(m.SeqNo, to)
			}
		case msgIndirectPing:
			var m wireIndirectPing
			if decodeMsg(body, &m) == nil {
				f.probes.asked(m.SeqNo, to)
			}
		case msgAlive:
			var m wireAliveMsg
			if decodeMsg(body, &m) == nil && m.Node == f.self {
				f.own.reached(m.Incarnation)
			}
		}
	})
}
