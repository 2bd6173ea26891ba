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

// The first byte of a sealed root fixes the algorithms: HPKE with HKDF-SHA256 and AES-256-GCM, by a key on X25519 or on
// P-256, which is what TPMs have.
const (
	sealX25519 = 1
	sealP256   = 2
)

// hardSealKeyBytes is the length of a public seal key on P-256, uncompressed.
const hardSealKeyBytes = 65

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

// A Wrapping is the private half of a key that the root is sealed to, wherever it is: in the file seal.key, where it is
// an *ecdh.PrivateKey, or in a TPM, where it is a *tpm.Key.
type Wrapping interface{ ecdh.KeyExchanger }

// SealRoot encrypts the key of root to the public half of the Wrapping of one core member: 32 bytes on X25519, 65 on
// P-256. The recovery key, when there is one, is one more, with the name RecoveryName.
func SealRoot(root *Root, sealKey []byte, info SealInfo) ([]byte, error) {
	plain, err := x509.MarshalPKCS8PrivateKey(root.Key)
	if err != nil {
		return nil, fmt.Errorf("seal root for %s: %w", info.Node, err)
	}
	sealed, err := wrap(plain, sealKey, info.bytes(root.Cert))
	if err != nil {
		return nil, fmt.Errorf("seal root for %s: %w", info.Node, err)
	}
	return sealed, nil
}

func wrap(plain, sealKey, info []byte) ([]byte, error) {
	version, pub, err := parseSealKey(sealKey)
	if err != nil {
		return nil, err
	}
	to, err := hpke.NewDHKEMPublicKey(pub)
	if err != nil {
		return nil, err
	}
	box, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), info, plain)
	if err != nil {
		return nil, err
	}
	return append([]byte{version}, box...), nil
}

// CheckSealKey reports whether something can be sealed to a key: a point that is not on the curve looks like a key until then.
func CheckSealKey(key []byte) error {
	if _, err := wrap(nil, key, nil); err != nil {
		return fmt.Errorf("nothing can be sealed to this key: %w", err)
	}
	return nil
}

// parseSealKey tells the two kinds of keys by their length.
func parseSealKey(key []byte) (version byte, pub *ecdh.PublicKey, err error) {
	if len(key) == hardSealKeyBytes {
		pub, err = ecdh.P256().NewPublicKey(key)
		return sealP256, pub, err
	}
	pub, err = ecdh.X25519().NewPublicKey(key)
	return sealX25519, pub, err
}

// OpenRoot decrypts what SealRoot made for this host, and checks that the key is the one of rootCert.
// Errors wrap ErrSeal, or are those of the Wrapping, which may have no TPM to ask.
func OpenRoot(sealed []byte, with Wrapping, rootCert *x509.Certificate, info SealInfo) (*Root, error) {
	plain, err := unwrap(sealed, with, info.bytes(rootCert))
	if err != nil {
		return nil, err
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

func unwrap(sealed []byte, with Wrapping, info []byte) ([]byte, error) {
	if len(sealed) < 2 || len(sealed) > maxSealedBytes {
		return nil, fmt.Errorf("%d bytes: %w", len(sealed), ErrSeal)
	}
	switch version := sealed[0]; {
	case version != sealX25519 && version != sealP256:
		return nil, fmt.Errorf("format %d is newer than this version of parley: %w", version, ErrSeal)
	case (version == sealP256) != (with.Curve() == ecdh.P256()):
		return nil, fmt.Errorf("a key of another kind: %w", ErrSeal)
	}
	asked := &askedWrapping{Wrapping: with}
	private, err := hpke.NewDHKEMPrivateKey(asked)
	if err != nil {
		return nil, fmt.Errorf("open root: %w", err)
	}
	plain, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), info, sealed[1:])
	switch {
	case asked.err != nil && with.Curve() == ecdh.P256():
		return nil, fmt.Errorf("open root: %w", asked.err)
	case err != nil:
		return nil, ErrSeal
	}
	return plain, nil
}

// askedWrapping keeps why a Wrapping had no secret: that is no fault of what is sealed.
type askedWrapping struct {
	Wrapping
	err error
}

func (w *askedWrapping) ECDH(remote *ecdh.PublicKey) ([]byte, error) {
	secret, err := w.Wrapping.ECDH(remote)
	w.err = err
	return secret, err
}
