package storage

import (
	"hash/crc32"
	"testing"
)

// The checksum of a frame is the one that crc32 makes of the salt and what follows it: files that are there are read by it.
func TestSaltedCRC(t *testing.T) {
	for n := range 300 {
		b := make([]byte, n)
		salt := [8]byte{byte(n), 0xff, 7: byte(n / 2)}
		for i := range b {
			b[i] = byte(i * n)
		}
		if got, want := saltedCRC(salt, b), crc32.Checksum(append(salt[:], b...), castagnoli); got != want {
			t.Fatalf("%d bytes: %08x, want %08x", n, got, want)
		}
	}
}
