package security

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

// RecoveryName stands for the recovery key where a seal names its node. No node can have it.
const RecoveryName = "@recovery"

// maxRecoveryText bounds a recovery key or recipient; one in PEM has about 120 bytes.
const maxRecoveryText = 4 << 10

// ErrRecoveryKey is wrapped by what refuses a text that is no recovery key or recipient.
var ErrRecoveryKey = errors.New("a recovery key is an X25519 key in PEM")

// RecoveryKey opens the root when every host that could is gone. It belongs on paper or into a vault, never on a host of
// the cluster. It prints as [redacted].
type RecoveryKey struct {
	redacted
	key *ecdh.PrivateKey
}

// NewRecoveryKey makes one.
func NewRecoveryKey() (*RecoveryKey, error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make recovery key: %w", err)
	}
	return &RecoveryKey{key: key}, nil
}

// PEM is the key for whoever keeps it: PKCS #8, which other tools read too.
func (k *RecoveryKey) PEM() ([]byte, error) { return encodeKey(k.key) }

// Recipient is the public half, 32 bytes, to which the root is sealed.
func (k *RecoveryKey) Recipient() []byte { return k.key.PublicKey().Bytes() }

// OpenRoot opens what SealRoot made for the recipient and RecoveryName. Errors wrap ErrSeal.
func (k *RecoveryKey) OpenRoot(sealed []byte, rootCert *x509.Certificate, clusterID string) (*Root, error) {
	return OpenRoot(sealed, k.key, rootCert, SealInfo{ClusterID: clusterID, Node: RecoveryName})
}

// ParseRecoveryKey reads what PEM wrote, or `openssl genpkey -algorithm X25519`. Its errors show nothing of the text.
func ParseRecoveryKey(text []byte) (*RecoveryKey, error) {
	der, err := recoveryBlock(text, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	k, ok := key.(*ecdh.PrivateKey)
	if err != nil || !ok || k.Curve() != ecdh.X25519() {
		return nil, fmt.Errorf("the block PRIVATE KEY holds no X25519 key: %w", ErrRecoveryKey)
	}
	return &RecoveryKey{key: k}, nil
}

// ParseRecoveryRecipient reads the public half, as `openssl pkey -pubout` writes it.
func ParseRecoveryRecipient(text []byte) ([]byte, error) {
	der, err := recoveryBlock(text, "PUBLIC KEY")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(der)
	k, ok := key.(*ecdh.PublicKey)
	if err != nil || !ok || k.Curve() != ecdh.X25519() {
		return nil, fmt.Errorf("the block PUBLIC KEY holds no X25519 key: %w", ErrRecoveryKey)
	}
	return k.Bytes(), nil
}

func recoveryBlock(text []byte, kind string) ([]byte, error) {
	if len(text) > maxRecoveryText {
		return nil, fmt.Errorf("%d bytes, at most %d are read: %w", len(text), maxRecoveryText, ErrRecoveryKey)
	}
	block, _ := pem.Decode(text)
	switch {
	case block == nil:
		return nil, fmt.Errorf("there is no PEM block %s: %w", kind, ErrRecoveryKey)
	case block.Type != kind:
		return nil, fmt.Errorf("the PEM block is a %.40q, not a %s: %w", block.Type, kind, ErrRecoveryKey)
	}
	return block.Bytes, nil
}

// ReadRecoveryKey reads a key from a file that its owner alone may read, or from the pipe of a program that decrypts it.
func ReadRecoveryKey(path string) (*RecoveryKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	text, err := readPrivate(f)
	var wide *KeyModeError
	if errors.As(err, &wide) {
		return nil, fmt.Errorf("%s has mode %04o, others may read it: chmod 0600 %s", wide.Path, wide.Mode, wide.Path)
	}
	if err != nil {
		return nil, err
	}
	k, err := ParseRecoveryKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// SignStatement signs with the root for a purpose, as a host does with its key. VerifyRootStatement is the other side.
func (r *Root) SignStatement(purpose string, data []byte) ([]byte, error) {
	return signStatement(r.Key, purpose, data)
}
