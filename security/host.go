package security

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// ErrIdentityExists is returned by CreateHost and InitIdentity for a data directory that already has
// a host key.
var ErrIdentityExists = errors.New("this data directory already has an identity: use another one, or remove its directory identity if it never belonged to a cluster")

// Host is the identity of one machine for life: the cluster pins both public keys when it joins.
// It is immutable and safe for concurrent use. It prints as [redacted].
type Host struct {
	redacted
	Signer *ecdsa.PrivateKey // P-256; signs each new leaf key, gossip records and join requests
	Seal   *ecdh.PrivateKey  // X25519; opens what the cluster sealed for this host

	hostKey []byte // SPKI of Signer
}

// CreateHost makes the keys of a new host in the data directory dir and returns when they are
// durable. It refuses with ErrIdentityExists when there is a host key already.
func CreateHost(dir string) (*Host, error) {
	if err := refuseExisting(dir); err != nil {
		return nil, err
	}
	h, err := newHost()
	if err != nil {
		return nil, err
	}
	return h, h.save(dir)
}

func refuseExisting(dir string) error {
	path := identityPath(dir, hostKeyFile)
	_, err := os.Stat(path)
	switch {
	case err == nil:
		return fmt.Errorf("%s: %w", path, ErrIdentityExists)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}

// NewHost makes the keys of a host in memory alone, for AdoptIdentity to write.
func NewHost() (*Host, error) { return newHost() }

func newHost() (*Host, error) {
	signer, err := newKey()
	if err != nil {
		return nil, err
	}
	seal, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make seal key: %w", err)
	}
	return hostOf(signer, seal)
}

func hostOf(signer *ecdsa.PrivateKey, seal *ecdh.PrivateKey) (*Host, error) {
	spki, err := publicKeyBytes(&signer.PublicKey)
	if err != nil {
		return nil, err
	}
	return &Host{Signer: signer, Seal: seal, hostKey: spki}, nil
}

// save writes the host key last: a directory without it has no identity, so a crash in between is
// repaired by making new keys, which nobody has seen yet.
func (h *Host) save(dir string) error {
	seal, err := encodeKey(h.Seal)
	if err != nil {
		return err
	}
	host, err := encodeKey(h.Signer)
	if err != nil {
		return err
	}
	if err := writeFile(identityPath(dir, sealKeyFile), seal); err != nil {
		return fmt.Errorf("save seal key: %w", err)
	}
	if err := writeFile(identityPath(dir, hostKeyFile), host); err != nil {
		return fmt.Errorf("save host key: %w", err)
	}
	return nil
}

// LoadHost reads the keys of the data directory dir. The error is fs.ErrNotExist when there are none.
func LoadHost(dir string) (*Host, error) {
	signers, err := readECKeys(identityPath(dir, hostKeyFile))
	if err != nil {
		return nil, err
	}
	path := identityPath(dir, sealKeyFile)
	keys, err := readKeys(path)
	if err != nil {
		return nil, err
	}
	seal, ok := keys[0].(*ecdh.PrivateKey)
	if !ok || seal.Curve() != ecdh.X25519() {
		return nil, fmt.Errorf("%s is not an X25519 key: restore it from a backup or join again", path)
	}
	return hostOf(signers[0], seal)
}

// HostKey is the public host key as SPKI DER. The slice must not be changed.
func (h *Host) HostKey() []byte { return h.hostKey }

// SealKey is the public seal key, 32 bytes.
func (h *Host) SealKey() []byte { return h.Seal.PublicKey().Bytes() }

// UID identifies the host independently of its name. It is derived from the host key, so there is no
// file in which the two could disagree.
func (h *Host) UID() [16]byte { return HostUID(h.hostKey) }

// HostUID is the UID of the host whose public host key (SPKI DER) is spki.
func HostUID(spki []byte) [16]byte {
	sum := sha256.Sum256(spki)
	return [16]byte(sum[:16])
}

// newKey makes a P-256 key, the only kind that certificates here are for.
func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

// publicKeyBytes is the SPKI DER form of a public key.
func publicKeyBytes(key *ecdsa.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	return der, nil
}

// parsePublicKey accepts the SPKI DER form of a P-256 key and nothing else.
func parsePublicKey(spki []byte) (*ecdsa.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("public key is not P-256")
	}
	return ec, nil
}
