package security

import "encoding/binary"

// canonical joins parts so that no two different lists give the same bytes: each is preceded by its
// length. It is what signatures, proofs and sealing contexts are computed over; the first part names
// the purpose, so that bytes made for one are useless for another.
func canonical(purpose string, parts ...[]byte) []byte {
	b := lengthPrefixed(nil, []byte(purpose))
	for _, p := range parts {
		b = lengthPrefixed(b, p)
	}
	return b
}

func lengthPrefixed(b, part []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
	return append(b, part...)
}
