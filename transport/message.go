package transport

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
	"unicode/utf8"
)

const (
	maxMethod      = 255       // bytes of a method name: its length is one byte
	requestFixed   = 1 + 4 + 4 // method length, deadline, window
	maxRequestHead = requestFixed + maxMethod

	errorFields   = 4    // code, message, hint, leader
	maxErrorField = 4096 // bytes; longer ones are cut when encoded
	maxErrorBytes = 1 + 16*(2+maxErrorField)
)

// request is the payload of a request frame: a method and what the caller allows it.
type request struct {
	method string
	// deadline is what was left of the caller's time when it sent, in milliseconds rounded up;
	// 0 is no deadline. Relative, so that the two clocks need not agree.
	deadline uint32
	// window is the credit in bytes that a stream starts with; 0 makes the call a unary one.
	window uint32
	body   []byte
}

func (r request) size() int { return requestFixed + len(r.method) + len(r.body) }

func appendRequest(b []byte, r request) []byte {
	b = append(b, byte(len(r.method)))
	b = append(b, r.method...)
	b = binary.BigEndian.AppendUint32(b, r.deadline)
	b = binary.BigEndian.AppendUint32(b, r.window)
	return append(b, r.body...)
}

// parseRequest reads a request payload. The body is a part of p, not a copy.
func parseRequest(p []byte) (request, error) {
	if len(p) < requestFixed || len(p) < requestFixed+int(p[0]) {
		return request{}, fmt.Errorf("%w: request of %d bytes is cut short", errProtocol, len(p))
	}
	method, rest := p[1:1+int(p[0])], p[1+int(p[0]):]
	r := request{
		method:   string(method),
		deadline: binary.BigEndian.Uint32(rest),
		window:   binary.BigEndian.Uint32(rest[4:]),
		body:     rest[8:],
	}
	if r.method == "" || r.window > math.MaxInt32 {
		return request{}, fmt.Errorf("%w: method %q, window %d", errProtocol, r.method, r.window)
	}
	return r, nil
}

// remaining encodes what is left of a caller's time. A positive rest never becomes 0, which would
// mean "no deadline"; more than 49 days is as good as none.
func remaining(left time.Duration) uint32 {
	ms := left / time.Millisecond
	if left%time.Millisecond > 0 {
		ms++
	}
	if ms > math.MaxUint32 {
		return 0
	}
	return uint32(max(ms, 1)) // checked above
}

// texts are what crosses the wire, each cut to maxErrorField.
func (e *Error) texts() [errorFields]string {
	return [errorFields]string{
		cut(e.Code, maxErrorField), cut(e.Message, maxErrorField),
		cut(e.Hint, maxErrorField), cut(e.Leader, maxErrorField),
	}
}

// size is the length of the encoded error in bytes.
func (e *Error) size() int {
	n := 1
	for _, field := range e.texts() {
		n += 2 + len(field)
	}
	return n
}

func appendError(b []byte, e *Error) []byte {
	b = append(b, errorFields)
	for _, field := range e.texts() {
		b = binary.BigEndian.AppendUint16(b, uint16(len(field))) // at most maxErrorField
		b = append(b, field...)
	}
	return b
}

// cut shortens s to at most n bytes without splitting a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// parseError reads an error payload. Fields after the fourth are of a later version and ignored.
func parseError(p []byte) (*Error, error) {
	if len(p) == 0 || p[0] < errorFields {
		return nil, fmt.Errorf("%w: error frame of %d bytes", errProtocol, len(p))
	}
	var fields [errorFields]string
	count, rest := int(p[0]), p[1:]
	for i := range count {
		if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
			return nil, fmt.Errorf("%w: error frame is cut short", errProtocol)
		}
		n := int(binary.BigEndian.Uint16(rest))
		if n > maxErrorField {
			return nil, fmt.Errorf("%w: error text of %d bytes", errProtocol, n)
		}
		if i < errorFields {
			fields[i] = string(rest[2 : 2+n])
		}
		rest = rest[2+n:]
	}
	if len(rest) != 0 || fields[0] == "" {
		return nil, fmt.Errorf("%w: error frame with %d bytes left, code %q", errProtocol, len(rest), fields[0])
	}
	return &Error{Code: fields[0], Message: fields[1], Hint: fields[2], Leader: fields[3]}, nil
}
