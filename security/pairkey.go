package security

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
)

// PairKeyBytes is the length of a key of PairKey.
const PairKeyBytes = 32

// PairKey is a secret that only this host and the one with the public seal key have: both derive the same from their own
// private and the other's public key. It is bound to a purpose and to context, which must be the same on both sides. It
// proves to each of the two that the other one made something, and to nobody else.
func (h *Host) PairKey(sealKey []byte, purpose string, context ...[]byte) ([]byte, error) {
	pub, err := ecdh.X25519().NewPublicKey(sealKey)
	if err != nil {
		return nil, fmt.Errorf("seal key of the other host: %w", err)
	}
	shared, err := h.Seal.ECDH(pub)
	if err != nil {
		return nil, fmt.Errorf("seal key of the other host: %w", err)
	}
	return hkdf.Key(sha256.New, shared, nil, string(canonical(purpose, context...)), PairKeyBytes)
}
