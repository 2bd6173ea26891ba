package e2e

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// The first packets of a QUIC connection are encrypted with keys that follow from their header (RFC 9001,
// section 5.2): whoever sees them reads the ClientHello.

// initialSalt is that of QUIC version 1.
const initialSalt = "\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a"

// isInitial reports whether a datagram begins with an Initial packet of QUIC version 1.
func isInitial(b []byte) bool {
	return len(b) > 7 && b[0]&0xf0 == 0xc0 && binary.BigEndian.Uint32(b[1:]) == 1
}

// initialID is the destination connection id, from which the keys follow.
func initialID(b []byte) string { return string(b[6:min(len(b), 6+int(b[5]))]) }

// initialKeys are the connection ids of the packets that open with keys of their own: one for each
// connection that this side began.
func initialKeys(datagrams [][]byte) map[string]map[int][]byte {
	out := make(map[string]map[int][]byte)
	for _, b := range datagrams {
		frames, ok := openInitial(b)
		if !ok {
			continue // later ones have the server's id and the first one's keys
		}
		id := initialID(b)
		if out[id] == nil {
			out[id] = make(map[int][]byte)
		}
		cryptoFrames(frames, out[id])
	}
	return out
}

// openInitials is the handshake data that each connection began with.
func openInitials(datagrams [][]byte) [][]byte {
	var out [][]byte
	for _, parts := range initialKeys(datagrams) {
		var crypto []byte
		for _, offset := range slices.Sorted(maps.Keys(parts)) {
			crypto = append(crypto, parts[offset]...)
		}
		out = append(out, crypto)
	}
	return out
}

// openInitial decrypts a client's Initial packet.
func openInitial(b []byte) (frames []byte, ok bool) {
	defer func() {
		if recover() != nil { // a length beyond the datagram: not one that can be opened
			frames, ok = nil, false
		}
	}()
	at := 6 + int(b[5])
	at += 1 + int(b[at]) // source connection id
	token, n := varint(b[at:])
	at += n + token
	length, n := varint(b[at:])
	at += n
	key, iv, hp := clientKeys(initialID(b))
	header := append([]byte(nil), b[:at+4]...)
	mask := make([]byte, aes.BlockSize)
	hp.Encrypt(mask, b[at+4:at+4+aes.BlockSize])
	header[0] ^= mask[0] & 0x0f
	numberLen := int(header[0]&3) + 1
	header = header[:at+numberLen]
	for i := range numberLen {
		header[at+i] ^= mask[1+i]
		iv[len(iv)-numberLen+i] ^= header[at+i]
	}
	aead, err := cipher.NewGCM(key)
	if err != nil {
		panic(err)
	}
	frames, err = aead.Open(nil, iv, b[at+numberLen:at+length], header)
	return frames, err == nil
}

// clientKeys derives the packet key, its nonce and the header's key.
func clientKeys(id string) (key cipher.Block, iv []byte, hp cipher.Block) {
	secret, err := hkdf.Extract(sha256.New, []byte(id), []byte(initialSalt))
	if err != nil {
		panic(err)
	}
	client := expandLabel(secret, "client in", sha256.Size)
	return block(expandLabel(client, "quic key", 16)), expandLabel(client, "quic iv", 12), block(expandLabel(client, "quic hp", 16))
}

func block(key []byte) cipher.Block {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	return b
}

func expandLabel(secret []byte, label string, length int) []byte {
	label = "tls13 " + label
	info := fmt.Sprintf("\x00%c%c%s\x00", length, len(label), label)
	out, err := hkdf.Expand(sha256.New, secret, info, length)
	if err != nil {
		panic(err)
	}
	return out
}

// cryptoFrames collects the handshake data of a packet by its offset.
func cryptoFrames(b []byte, into map[int][]byte) {
	for len(b) > 0 {
		kind := b[0]
		b = b[1:]
		switch kind {
		case 0, 1: // padding, ping
		case 6:
			offset, n := varint(b)
			b = b[n:]
			length, n := varint(b)
			into[offset] = b[n : n+length]
			b = b[n+length:]
		default: // nothing else precedes a ClientHello
			return
		}
	}
}

func varint(b []byte) (value, size int) {
	size = 1 << (b[0] >> 6)
	value = int(b[0] & 0x3f)
	for _, next := range b[1:size] {
		value = value<<8 | int(next)
	}
	return value, size
}
