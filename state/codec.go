package state

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// The codec: unsigned varints in their shortest form, and strings and byte slices with their
// length before them. There is one encoding of each value, so equal rows have equal bytes.

// sizeUvarint is how many bytes a number takes, sizeBytes how many a slice or string of that length.
func sizeUvarint(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }
func sizeBytes(length int) int { return sizeUvarint(uint64(length)) + length } //nolint:gosec // not negative

func appendBytes(b, v []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func appendString(b []byte, v string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// appendOptional encodes a number that may be absent.
func appendOptional(b []byte, v *uint64) []byte {
	if v == nil {
		return append(b, 0)
	}
	return binary.AppendUvarint(append(b, 1), *v)
}

// A reader takes values off the front of b. After the first error every further read returns zero
// values, and done reports that error. Byte slices alias b.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	r.b = nil
}

// done returns the first error; bytes left over are one.
func (r *reader) done() error {
	if len(r.b) > 0 {
		r.fail("bytes after the end")
	}
	return r.err
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 {
		r.fail("number cut off, too large or not in its shortest form")
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads a number of elements, each at least one byte long.
func (r *reader) count(limit int, what string) int {
	v := r.uvarint()
	if v > uint64(limit) || v > uint64(len(r.b)) {
		r.fail(what + " over the limit")
		return 0
	}
	return int(v)
}

func (r *reader) take(n int, what string) []byte {
	if n > len(r.b) {
		r.fail(what + " cut off")
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// bytes returns nil for an empty slice.
func (r *reader) bytes(limit int, what string) []byte {
	n := r.uvarint()
	if n > uint64(limit) {
		r.fail(what + " over the limit")
		return nil
	}
	if n == 0 {
		return nil
	}
	return r.take(int(n), what)
}

func (r *reader) string(limit int, what string) string { return string(r.bytes(limit, what)) }

// stringLike is string, and returns other if it is that.
func (r *reader) stringLike(other string, limit int, what string) string {
	b := r.bytes(limit, what)
	if string(b) == other {
		return other
	}
	return string(b)
}

func (r *reader) byte(what string) byte {
	if v := r.take(1, what); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) bool(what string) bool {
	v := r.byte(what)
	if v > 1 {
		r.fail(what + " neither 0 nor 1")
	}
	return v == 1
}

func (r *reader) optional(what string) *uint64 {
	if !r.bool(what) || r.err != nil {
		return nil
	}
	v := r.uvarint()
	return &v
}

func (r *reader) fixed16(what string) (v [16]byte) {
	copy(v[:], r.take(len(v), what))
	return v
}

func (r *reader) fixed32(what string) (v [32]byte) {
	copy(v[:], r.take(len(v), what))
	return v
}
