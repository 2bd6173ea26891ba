package security

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
)

// SignStatement signs what this host says to the cluster, for a purpose: bytes signed for one purpose are useless for
// another. VerifyStatement is the other side.
func (h *Host) SignStatement(purpose string, data []byte) ([]byte, error) {
	sig, err := h.Signer.Sign(rand.Reader, statementDigest(purpose, data), crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign with the host key: %w", err)
	}
	return sig, nil
}

// VerifyStatement reports whether the owner of a host key (SPKI DER) has signed data for that purpose.
func VerifyStatement(hostKey []byte, purpose string, data, signature []byte) bool {
	key, err := parsePublicKey(hostKey)
	return err == nil && ecdsa.VerifyASN1(key, statementDigest(purpose, data), signature)
}

func statementDigest(purpose string, data []byte) []byte {
	sum := sha256.Sum256(canonical("parley statement v1", []byte(purpose), data))
	return sum[:]
}
