package security

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
)

// SignStatement signs what this host says to the cluster, for a purpose: bytes signed for one purpose are useless for
// another. VerifyStatement is the other side.
func (h *Host) SignStatement(purpose string, data []byte) ([]byte, error) {
	return signStatement(h.Signer, purpose, data)
}

func signStatement(key crypto.Signer, purpose string, data []byte) ([]byte, error) {
	sig, err := key.Sign(rand.Reader, statementDigest(purpose, data), crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign a statement: %w", err)
	}
	return sig, nil
}

// VerifyStatement reports whether the owner of a host key (SPKI DER) has signed data for that purpose.
func VerifyStatement(hostKey []byte, purpose string, data, signature []byte) bool {
	key, err := parsePublicKey(hostKey)
	return err == nil && ecdsa.VerifyASN1(key, statementDigest(purpose, data), signature)
}

// VerifyRootStatement reports whether the key of a root (certificate DER) has signed data for that purpose.
func VerifyRootStatement(root []byte, purpose string, data, signature []byte) bool {
	cert, err := x509.ParseCertificate(root)
	if err != nil || !cert.IsCA {
		return false
	}
	return VerifyStatement(cert.RawSubjectPublicKeyInfo, purpose, data, signature)
}

func statementDigest(purpose string, data []byte) []byte {
	sum := sha256.Sum256(canonical("parley statement v1", []byte(purpose), data))
	return sum[:]
}
