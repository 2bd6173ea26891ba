package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxBody is the largest body of a request, a response or a stream item, in bytes. Options may
// lower it, never raise it: the frame length on the wire is checked against it.
const MaxBody = 4 << 20

const (
	headerBytes = 14                       // length 4, kind 1, flags 1, call id 8
	lengthBytes = 4                        // the length field does not count itself
	maxPayload  = MaxBody + maxRequestHead // the largest that any kind may carry
)

// kind says what a frame is. The numbers are wire format.
type kind uint8

const (
	kindRequest  kind = 1
	kindResponse kind = 2
	kindError    kind = 3
	kindItem     kind = 4
	kindEnd      kind = 5
	kindCancel   kind = 6
	kindPing     kind = 7
	kindPong     kind = 8
	kindGoaway   kind = 9
	kindCredit   kind = 10
)

const creditBytes = 4 // payload of a credit frame

// errProtocol marks what no honest peer of this version sends. The connection ends.
var errProtocol = errors.New("peer breaks the rpc protocol")

// header is the fixed start of every frame. Flags are zero except on requests, where the low three
// bits are the [Priority].
type header struct {
	kind    kind
	flags   uint8
	id      uint64
	payload int // bytes that follow
}

func appendHeader(b []byte, h header) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(headerBytes-lengthBytes+h.payload)) // payload <= maxPayload
	b = append(b, byte(h.kind), h.flags)
	return binary.BigEndian.AppendUint64(b, h.id)
}

// parseHeader reads the first headerBytes of b and checks all that can be checked before the
// payload is read, above all its length.
func parseHeader(b []byte) (header, error) {
	length := binary.BigEndian.Uint32(b)
	h := header{kind: kind(b[4]), flags: b[5], id: binary.BigEndian.Uint64(b[6:])}
	if length < headerBytes-lengthBytes || length > headerBytes-lengthBytes+maxPayload {
		return header{}, fmt.Errorf("%w: frame length %d", errProtocol, length)
	}
	h.payload = int(length) - (headerBytes - lengthBytes)
	if limit, known := h.kind.maxPayload(); !known {
		return header{}, fmt.Errorf("%w: frame kind %d", errProtocol, h.kind)
	} else if h.payload > limit {
		return header{}, fmt.Errorf("%w: %d bytes in a frame of kind %d", errProtocol, h.payload, h.kind)
	}
	if h.kind == kindRequest && h.flags > uint8(PriorityBulk) || h.kind != kindRequest && h.flags != 0 {
		return header{}, fmt.Errorf("%w: flags %#x in a frame of kind %d", errProtocol, h.flags, h.kind)
	}
	return h, nil
}

// maxPayload is the limit for each kind; known is false for a kind that this version lacks.
func (k kind) maxPayload() (limit int, known bool) {
	switch k {
	case kindRequest:
		return maxPayload, true
	case kindResponse, kindItem:
		return MaxBody, true
	case kindError:
		return maxErrorBytes, true
	case kindCredit:
		return creditBytes, true
	case kindEnd, kindCancel, kindPing, kindPong, kindGoaway:
		return 0, true
	default:
		return 0, false
	}
}
