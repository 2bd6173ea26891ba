package security

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// upstreamKeyFile holds the key of the request that waits for a signature, sealed to this host as the root is.
const upstreamKeyFile = "authority-request.sealed"

// ErrNoRequest is returned by KeyStore.UpstreamKey when no request waits.
var ErrNoRequest = errors.New("no request of this host waits for a signature: parley ca csr makes one")

// NewUpstreamKey is the key of the request that waits for a signature, and makes one if none waits.
func (s *KeyStore) NewUpstreamKey(info SealInfo) (*ecdsa.PrivateKey, error) {
	s.requesting.Lock()
	defer s.requesting.Unlock()
	key, err := s.UpstreamKey(info)
	if err == nil || !errors.Is(err, ErrNoRequest) {
		return key, err
	}
	if key, err = newKey(); err != nil {
		return nil, err
	}
	to, err := s.Recipient()
	if err != nil {
		return nil, err
	}
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	sealed, err := wrap(plain, to, info.requestBytes())
	if err != nil {
		return nil, err
	}
	if err := writeFile(identityPath(s.dir, upstreamKeyFile), sealed); err != nil {
		return nil, fmt.Errorf("save the key of the request: %w", err)
	}
	return key, nil
}

// UpstreamKey is the key of the request that waits for a signature. The error is ErrNoRequest when none does.
func (s *KeyStore) UpstreamKey(info SealInfo) (*ecdsa.PrivateKey, error) {
	path := identityPath(s.dir, upstreamKeyFile)
	sealed, err := readKeyFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoRequest
	}
	if err != nil {
		return nil, err
	}
	plain, err := s.unwrap(sealed, func(sealed []byte, with Wrapping) ([]byte, error) { return unwrap(sealed, with, info.requestBytes()) })
	if err != nil {
		return nil, fmt.Errorf("%s: remove it, make another request and have that signed: %w", path, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(plain)
	ec, ok := key.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s holds no key: remove it, make another request and have that signed", path)
	}
	return ec, nil
}

// DropUpstreamKey forgets the request: its key is the cluster's now.
func (s *KeyStore) DropUpstreamKey() error {
	if err := os.Remove(identityPath(s.dir, upstreamKeyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the key of the request: %w", err)
	}
	return nil
}

func (i SealInfo) requestBytes() []byte {
	sum := sha256.Sum256(canonical("parley sealed request v1", []byte(i.ClusterID), []byte(i.Node)))
	return sum[:]
}
