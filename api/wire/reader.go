package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Version is the first byte of every message.
const Version = 1

// ErrShort is a message that ends before it should. It is found in the verdict of [Reader.End].
var ErrShort = errors.New("cut short")

var (
	errLong = errors.New("field over its limit")
	errKind = errors.New("neither an answer nor a failure")
)

// Reader takes fields off the front of a message; after the first error every read returns zero.
type Reader struct {
	b   []byte
	err error
}

// NewReader reads b, which must not change while it does.
func NewReader(b []byte) Reader { return Reader{b: b} }

// Left is how many bytes there are still; 0 after an error.
func (r *Reader) Left() int { return len(r.b) }

// Uint reads a uvarint.
func (r *Reader) Uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.Fail(ErrShort)
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Byte reads one.
func (r *Reader) Byte() byte {
	if len(r.b) == 0 {
		r.Fail(ErrShort)
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

// Bool reads a byte that is 0 or 1.
func (r *Reader) Bool() bool {
	switch r.Byte() {
	case 0:
		return false
	case 1:
		return true
	}
	r.Fail(errors.New("flag is neither 0 nor 1"))
	return false
}

// Bytes reads at most limit bytes with their length before them. It returns a part of the input, not a copy.
func (r *Reader) Bytes(limit uint64) []byte {
	n := r.Uint()
	if n > limit {
		r.Fail(errLong)
	}
	return r.take(n)
}

// Fixed reads n bytes without a length before them, as Bytes does.
func (r *Reader) Fixed(n int) []byte { return r.take(uint64(n)) } //nolint:gosec // a constant of the caller

func (r *Reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.Fail(ErrShort)
	}
	if r.err != nil {
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// Text reads a copy of at most limit bytes with their length before them.
func (r *Reader) Text(limit uint64) string { return string(r.Bytes(limit)) }

// Count reads how many things of at least size bytes each follow.
func (r *Reader) Count(size int) int {
	n := r.Uint()
	if n > uint64(len(r.b)/size) {
		r.Fail(ErrShort)
		return 0
	}
	return int(n) //nolint:gosec // at most the length of the input
}

// Fail is the first error.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

// Failed reports whether there was an error.
func (r *Reader) Failed() bool { return r.err != nil }

// Version reads and judges the first byte.
func (r *Reader) Version() {
	if v := r.Byte(); r.err == nil && v != Version {
		r.Fail(fmt.Errorf("version %d, this program reads %d", v, Version))
	}
}

// End is the decoder's verdict: nil when every byte was read and none was wrong. what names the message.
func (r *Reader) End(what string) error {
	if r.err == nil && len(r.b) != 0 {
		r.err = fmt.Errorf("%d bytes left over", len(r.b))
	}
	if r.err != nil {
		return fmt.Errorf("decode %s: %w", what, r.err)
	}
	return nil
}

// AppendText appends v with its length before it.
func AppendText[T ~string | ~[]byte](b []byte, v T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// AppendBool appends 0 or 1.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}
