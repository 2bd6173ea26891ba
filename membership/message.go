package membership

import (
	"bytes"
	"compress/lzw"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// memberlist's message types, by their number on the wire.
const (
	msgPing         = 0
	msgIndirectPing = 1
	msgAck          = 2
	msgSuspect      = 3
	msgAlive        = 4
	msgDead         = 5
	msgPushPull     = 6
	msgCompound     = 7
	msgUser         = 8
	msgCompress     = 9
	msgNack         = 11
	msgCRC          = 12
	msgErr          = 13
)

// memberlist's node states, by their number on the wire.
const (
	wireAlive = iota
	wireSuspect
	wireDead
	wireLeft
)

// Limits of what is decoded. A packet travels in a datagram of about 1,200 bytes, or alone on a
// stream; a state exchange of 5,000 members is about 1.7 MB.
const (
	maxPacketBytes   = 4096
	maxPacketDepth   = 3 // crc( compress( compound
	maxStateBytes    = 8 << 20
	maxStates        = 16384
	maxUserBytes     = MaxStatements * (2 + MaxStatementBytes)
	maxErrorBytes    = 1024
	maxDecodeNesting = 4
)

// The messages below are memberlist's, field for field (net.go of v0.7.0): the field names are
// the keys on the wire.
type (
	wirePing struct {
		SeqNo      uint32
		Node       string
		SourceAddr []byte `codec:",omitempty"`
		SourcePort uint16 `codec:",omitempty"`
		SourceNode string `codec:",omitempty"`
	}
	wireIndirectPing struct {
		SeqNo      uint32
		Target     []byte
		Port       uint16
		Node       string
		Nack       bool
		SourceAddr []byte `codec:",omitempty"`
		SourcePort uint16 `codec:",omitempty"`
		SourceNode string `codec:",omitempty"`
	}
	wireAck struct {
		SeqNo   uint32
		Payload []byte
	}
	wireNack struct {
		SeqNo uint32
	}
	wireErr struct {
		Error string
	}
	// wireAccusation is memberlist's suspect and its dead: both have these fields.
	wireAccusation struct {
		Incarnation uint32
		Node        string
		From        string
	}
	wireAliveMsg struct {
		Incarnation uint32
		Node        string
		Addr        []byte
		Port        uint16
		Meta        []byte
		Vsn         []uint8
	}
	wirePushPull struct {
		Nodes        int
		UserStateLen int
		Join         bool
	}
	wireState struct {
		Name        string
		Addr        []byte
		Port        uint16
		Meta        []byte
		Incarnation uint32
		State       int
		Vsn         []uint8
	}
	wireCompress struct {
		Algo uint8
		Buf  []byte
	}
)

// msgpackHandle is memberlist's own (its zero handle), with a bound on nesting.
func msgpackHandle() *codec.MsgpackHandle {
	h := &codec.MsgpackHandle{}
	h.MaxDepth = maxDecodeNesting
	return h
}

// decodeMsg decodes one message body; out may alias b.
func decodeMsg(b []byte, out any) error {
	return codec.NewDecoderBytes(b, msgpackHandle()).Decode(out)
}

// encodeMsg encodes one message behind its type byte.
func encodeMsg(kind byte, in any) []byte {
	var b bytes.Buffer
	b.WriteByte(kind)
	if err := codec.NewEncoder(&b, msgpackHandle()).Encode(in); err != nil {
		panic("membership: encode a plain struct: " + err.Error())
	}
	return b.Bytes()
}

var (
	errPacket   = errors.New("malformed gossip packet")
	errTooLarge = errors.New("gossip message over its limit")
)

// splitPacket calls each for every message in a packet, unwrapping crc, compress and compound.
// Truncated parts and malformed wrappings end the walk with errPacket.
func splitPacket(b []byte, each func(kind byte, body []byte)) error {
	if len(b) > maxPacketBytes {
		return errTooLarge
	}
	return splitMessage(b, maxPacketDepth, each)
}

func splitMessage(b []byte, depth int, each func(kind byte, body []byte)) error {
	if len(b) == 0 || depth < 0 {
		return errPacket
	}
	kind, body := b[0], b[1:]
	switch kind {
	case msgCRC:
		if len(body) < 4 || crc32.ChecksumIEEE(body[4:]) != binary.BigEndian.Uint32(body) {
			return errPacket
		}
		return splitMessage(body[4:], depth-1, each)
	case msgCompress:
		var c wireCompress
		if decodeMsg(body, &c) != nil {
			return errPacket
		}
		plain, err := decompress(c, maxPacketBytes)
		if err != nil {
			return err
		}
		return splitMessage(plain, depth-1, each)
	case msgCompound:
		return splitCompound(body, depth-1, each)
	}
	each(kind, body)
	return nil
}

func splitCompound(b []byte, depth int, each func(kind byte, body []byte)) error {
	if len(b) == 0 || len(b) < 1+2*int(b[0]) {
		return errPacket
	}
	n := int(b[0])
	lengths, parts := b[1:1+2*n], b[1+2*n:]
	for i := range n {
		size := int(binary.BigEndian.Uint16(lengths[2*i:]))
		if size > len(parts) {
			return errPacket
		}
		if err := splitMessage(parts[:size], depth, each); err != nil {
			return err
		}
		parts = parts[size:]
	}
	return nil
}

// joinPacket is the inverse of splitPacket: at most 255 messages in one plain packet, or nil.
func joinPacket(messages [][]byte) []byte {
	switch len(messages) {
	case 0:
		return nil
	case 1:
		return messages[0]
	}
	out := []byte{msgCompound, byte(len(messages))}
	for _, m := range messages {
		out = binary.BigEndian.AppendUint16(out, uint16(len(m)))
	}
	for _, m := range messages {
		out = append(out, m...)
	}
	return out
}

// decompress unpacks a compress message (LZW, memberlist's only algorithm).
func decompress(c wireCompress, limit int) ([]byte, error) {
	if c.Algo != 0 {
		return nil, errPacket
	}
	r := lzw.NewReader(bytes.NewReader(c.Buf), lzw.LSB, 8)
	plain, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, errPacket
	}
	if len(plain) > limit {
		return nil, errTooLarge
	}
	return plain, r.Close()
}
