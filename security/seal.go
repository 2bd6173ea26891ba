package security

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
)

// sealVersion is the first byte of a sealed root and fixes the algorithms: HPKE with X25519,
// HKDF-SHA256 and AES-256-GCM.
const sealVersion = 1

// maxSealedBytes bounds what OpenRoot reads; a sealed P-256 key has about 190 bytes.
const maxSealedBytes = 1024

// ErrSeal is returned by OpenRoot when the sealed bytes are not for this host, cluster, node or root,
// or were changed. It does not say which, because the cipher does not either.
var ErrSeal = errors.New("the sealed root does not open here: it was sealed for another host, node, cluster or root, or it was damaged; let another core member seal it again")

// SealInfo is what a sealed root is bound to besides the key that opens it. It must be the same when
// the root is opened: a row copied to another node or into another cluster does not open.
type SealInfo struct {
	ClusterID string
	Node      string
}

func (i SealInfo) bytes(rootCert *x509.Certificate) []byte {
	hash := sha256.Sum256(rootCert.Raw)
	return canonical("parley sealed root v1", []byte(i.ClusterID), []byte(i.Node), hash[:])
}

// SealRoot encrypts the key of root to the seal key (32 bytes) of one core member. The recovery key,
// when there is one, is one more seal key with a node name of its own.
func SealRoot(root *Root, sealKey []byte, info SealInfo) ([]byte, error) {
	pub, err := ecdh.X25519().NewPublicKey(sealKey)
	if err != nil {
		return nil, fmt.Errorf("seal root for %s: %w", info.Node, err)
	}
	to, err := hpke.NewDHKEMPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("seal root for %s: %w", info.Node, err)
	}
	plain, err := x509.MarshalPKCS8PrivateKey(root.Key)
	if err != nil {
		return nil, fmt.Errorf("seal root for %s: %w", info.Node, err)
	}
	box, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), info.bytes(root.Cert), plain)
	if err != nil {
		return nil, fmt.Errorf("seal root for %s: %w", info.Node, err)
	}
	return append([]byte{sealVersion}, box...), nil
}

// OpenRoot decrypts what SealRoot made for this host, and checks that the key is the one of rootCert.
// Errors wrap ErrSeal.
func OpenRoot(sealed []byte, host *Host, rootCert *x509.Certificate, info SealInfo) (*Root, error) {
	if len(sealed) < 2 || len(sealed) > maxSealedBytes {
		return nil, fmt.Errorf("%d bytes: %w", len(sealed), ErrSeal)
	}
	if sealed[0] != sealVersion {
		return nil, fmt.Errorf("format %d is newer than this version of parley: %w", sealed[0], ErrSeal)
	}
	with, err := hpke.NewDHKEMPrivateKey(host.Seal)
	if err != nil {
		return nil, fmt.Errorf("open root: %w", err)
	}
	plain, err := hpke.Open(with, hpke.HKDFSHA256(), hpke.AES256GCM(), info.bytes(rootCert), sealed[1:])
	if err != nil {
		return nil, ErrSeal
	}
	key, err := x509.ParsePKCS8PrivateKey(plain)
	if err != nil {
		return nil, ErrSeal
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || !ec.PublicKey.Equal(rootCert.PublicKey) {
		return nil, ErrSeal
	}
	return &Root{Cert: rootCert, Key: ec}, nil
}
