package invocation

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// The parts of a message that are used here, as the D-Bus specification numbers them.
const (
	kindCall   = 1
	kindReturn = 2
	kindError  = 3

	fieldPath      = 1
	fieldInterface = 2
	fieldMember    = 3
	fieldErrorName = 4
	fieldReplyTo   = 5
	fieldTo        = 6
	fieldSignature = 8

	fixedBytes      = 16       // of a header, with the length of its fields
	maxFieldsBytes  = 16 << 10 // of what is read
	maxBodyBytes    = 64 << 10
	invocationBytes = 16
)

var errMalformed = errors.New("a malformed message of the bus")

// call is a method call whose arguments are texts.
type call struct {
	serial               uint32
	to, path, of, method string
	args                 []string
}

// encode returns the message in little endian.
func (c call) encode() []byte {
	var body []byte
	signature := ""
	for _, arg := range c.args {
		body, signature = appendText(body, arg), signature+"s"
	}
	var fields []byte
	text := func(code, kind byte, value string) {
		fields = append(pad(fields, 8), code, 1, kind, 0)
		if kind == 'g' {
			fields = append(append(fields, byte(len(value))), value...)
			fields = append(fields, 0)
			return
		}
		fields = appendText(fields, value)
	}
	text(fieldPath, 'o', c.path)
	text(fieldInterface, 's', c.of)
	text(fieldMember, 's', c.method)
	text(fieldTo, 's', c.to)
	if signature != "" {
		text(fieldSignature, 'g', signature)
	}
	m := []byte{'l', kindCall, 0, 1}
	m = binary.LittleEndian.AppendUint32(m, uint32(len(body))) //nolint:gosec // a few names
	m = binary.LittleEndian.AppendUint32(m, c.serial)
	m = binary.LittleEndian.AppendUint32(m, uint32(len(fields))) //nolint:gosec // a few names
	return append(pad(append(m, fields...), 8), body...)
}

// appendText appends a text with its length in front and a zero behind.
func appendText(b []byte, text string) []byte {
	b = binary.LittleEndian.AppendUint32(pad(b, 4), uint32(len(text))) //nolint:gosec // a name
	return append(append(b, text...), 0)
}

func pad(b []byte, to int) []byte {
	for len(b)%to != 0 {
		b = append(b, 0)
	}
	return b
}

// message is one that was read.
type message struct {
	kind      byte
	replyTo   uint32
	errorName string
	signature string
	body      reader
}

// readMessage reads one, in either byte order.
func readMessage(r io.Reader) (message, error) {
	head := make([]byte, fixedBytes)
	if _, err := io.ReadFull(r, head); err != nil {
		return message{}, err
	}
	order, known := map[byte]binary.ByteOrder{'l': binary.LittleEndian, 'B': binary.BigEndian}[head[0]]
	if !known || head[3] != 1 {
		return message{}, errMalformed
	}
	fields, body := order.Uint32(head[12:]), order.Uint32(head[4:])
	if fields > maxFieldsBytes || body > maxBodyBytes {
		return message{}, fmt.Errorf("a message of the bus has %d and %d bytes, at most %d and %d are read", fields, body, maxFieldsBytes, maxBodyBytes)
	}
	rest := make([]byte, (int(fields)+7)/8*8+int(body))
	if _, err := io.ReadFull(r, rest); err != nil {
		return message{}, err
	}
	m := message{kind: head[1], body: reader{order: order, rest: rest[len(rest)-int(body):]}}
	return m, m.readFields(reader{order: order, rest: rest[:fields]})
}

// readFields reads what stands in the header, and passes over what nobody here needs.
func (m *message) readFields(r reader) error {
	for len(r.rest) > 0 {
		r.align(8)
		code, signature := r.byte(), r.signature()
		switch {
		case code == fieldReplyTo && signature == "u":
			m.replyTo = r.uint32()
		case code == fieldErrorName && signature == "s":
			m.errorName = r.text()
		case code == fieldSignature && signature == "g":
			m.signature = r.signature()
		case signature == "s" || signature == "o":
			r.text()
		case signature == "g":
			r.signature()
		case signature == "u":
			r.uint32()
		default:
			return errMalformed // those that are defined are of no other type
		}
		if r.failed {
			return errMalformed
		}
	}
	return nil
}

// invocation is the answer to what was asked for: a variant with 16 bytes, or none for a unit that does not run.
func (m *message) invocation() (string, error) {
	r := m.body
	if m.signature != "v" || r.signature() != "ay" {
		return "", errMalformed
	}
	id := r.bytes(r.uint32())
	if r.failed || len(r.rest) > 0 || len(id) != 0 && len(id) != invocationBytes {
		return "", errMalformed
	}
	return hex.EncodeToString(id), nil
}

// reader takes values from the front, each at a multiple of its size. What is not there is zero, and failed.
type reader struct {
	order  binary.ByteOrder
	at     int
	rest   []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if r.failed || n < 0 || n > len(r.rest) {
		r.failed = true
		return nil
	}
	taken := r.rest[:n]
	r.at, r.rest = r.at+n, r.rest[n:]
	return taken
}

func (r *reader) align(to int) { r.take((to - r.at%to) % to) }

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	r.align(4)
	if b := r.take(4); b != nil {
		return r.order.Uint32(b)
	}
	return 0
}

func (r *reader) bytes(n uint32) []byte {
	if n > maxBodyBytes {
		r.failed = true
		return nil
	}
	return r.take(int(n))
}

func (r *reader) text() string { return r.ended(r.bytes(r.uint32())) }

func (r *reader) signature() string { return r.ended(r.take(int(r.byte()))) }

// ended is a text whose end has to be marked by a zero.
func (r *reader) ended(text []byte) string {
	if end := r.take(1); len(end) != 1 || end[0] != 0 {
		r.failed = true
		return ""
	}
	return string(text)
}
