package security

import (
	"bytes"
	"crypto/ecdh"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/parley-mesh/parley/security/tpm"
)

// The kinds of KeyStore, as the configuration spells them.
const (
	KeyStoreFile = "file"
	KeyStoreTPM  = "tpm"
)

// ErrTPMChanged is wrapped when the key in the TPM is gone: the TPM was cleared, or is another one.
var ErrTPMChanged = errors.New("the TPM was cleared or replaced, so this host cannot open the root: a core member that can has to seal it anew " +
	"for the key that the TPM has now, which happens by itself while one is reached; without any, the recovery key does it: `parley ca reseal --recovery-key FILE` on this host")

// A KeyStore holds the Wrappings of one host: the file key, which every host has, and the key in the TPM, for as long as
// anything may be sealed to it. Safe for concurrent use; a TPM is asked outside the lock.
type KeyStore struct {
	redacted
	dir, kind, device string
	file              *ecdh.PrivateKey

	making     sync.Mutex // orders Recipient; the TPM is asked, and a file written, under it, which is its purpose
	requesting sync.Mutex // orders NewUpstreamKey in the same way, and is taken before making
	mu         struct {
		sync.Mutex
		tpm, next *tpm.Key // in use; made to take its place, nil unless it does
	}
}

// KeyStoreOptions say where a host's Wrapping is.
type KeyStoreOptions struct {
	Kind   string // KeyStoreFile or KeyStoreTPM
	Device string // of the TPM: a device, or a Unix socket
}

// NewKeyStore reads the keys of the data directory dir. It asks no TPM, so it succeeds without one.
func NewKeyStore(dir string, host *Host, o KeyStoreOptions) (*KeyStore, error) {
	s := &KeyStore{dir: dir, kind: o.Kind, device: o.Device, file: host.Seal}
	for name, key := range map[string]**tpm.Key{tpmKeyFile: &s.mu.tpm, tpmNextKeyFile: &s.mu.next} {
		path := identityPath(dir, name)
		text, err := readKeyFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			*key, err = tpm.Parse(o.Device, text)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w: restore it from a backup, or remove it: then another core member has to seal the root for a new key", path, err)
		}
	}
	return s, nil
}

// OpenRootBy is OpenRoot by the key with the given public half alone.
func (s *KeyStore) OpenRootBy(recipient, sealed []byte, rootCert *x509.Certificate, info SealInfo) (*Root, error) {
	current, next := s.keys()
	for _, key := range []*tpm.Key{current, next} {
		if key != nil && bytes.Equal(key.PublicKey().Bytes(), recipient) {
			return OpenRoot(sealed, key, rootCert, info)
		}
	}
	if !bytes.Equal(s.file.PublicKey().Bytes(), recipient) {
		return nil, fmt.Errorf("this host does not have the key %s: %w", SealKeyName(recipient), ErrSeal)
	}
	return OpenRoot(sealed, s.file, rootCert, info)
}

// OpenRoot opens what is sealed for this host, by whichever key it is sealed to. Errors wrap ErrSeal, ErrTPMChanged or
// tpm.ErrUnavailable.
func (s *KeyStore) OpenRoot(sealed []byte, rootCert *x509.Certificate, info SealInfo) (root *Root, err error) {
	_, err = s.unwrap(sealed, func(sealed []byte, with Wrapping) ([]byte, error) {
		root, err = OpenRoot(sealed, with, rootCert, info)
		return nil, err
	})
	if err != nil {
		return nil, err
	}
	return root, nil
}

// unwrap tries the keys of the kind that something is sealed to.
func (s *KeyStore) unwrap(sealed []byte, by func(sealed []byte, with Wrapping) ([]byte, error)) ([]byte, error) {
	if len(sealed) == 0 || sealed[0] != sealP256 {
		return by(sealed, s.file)
	}
	current, next := s.keys()
	failure := fmt.Errorf("it is sealed to a key in a TPM, and this host has none: %w", ErrSeal)
	for _, key := range []*tpm.Key{current, next} {
		if key == nil {
			continue
		}
		plain, err := by(sealed, key)
		if err == nil {
			return plain, nil
		}
		switch {
		case errors.Is(err, tpm.ErrUnavailable):
			return nil, err // the other one is in the same TPM
		case errors.Is(err, tpm.ErrOther):
			failure = fmt.Errorf("%w: %w", err, ErrTPMChanged)
		case !errors.Is(failure, ErrTPMChanged):
			failure = err
		}
	}
	return nil, failure
}

func (s *KeyStore) keys() (current, next *tpm.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.tpm, s.mu.next
}

// Recipient is the public half of the key that the root is to be sealed to, and asks the TPM whether it has it. Where it
// does not, or there is no key yet, it makes one, which waits beside the old one for Adopt. Errors wrap
// tpm.ErrUnavailable.
func (s *KeyStore) Recipient() ([]byte, error) {
	s.making.Lock()
	defer s.making.Unlock()
	if s.kind != KeyStoreTPM {
		return s.file.PublicKey().Bytes(), nil
	}
	current, next := s.keys()
	for _, key := range []*tpm.Key{current, next} {
		if key == nil {
			continue
		}
		err := key.Check()
		if err == nil {
			return key.PublicKey().Bytes(), nil
		}
		if !errors.Is(err, tpm.ErrOther) {
			return nil, err
		}
	}
	made, err := tpm.Create(s.device)
	if err != nil {
		return nil, err
	}
	if err := s.keep(tpmNextKeyFile, made); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.next = made
	return made.PublicKey().Bytes(), nil
}

// Adopt is told that the cluster seals to this key from now on: a key that waited takes the place of the old one.
func (s *KeyStore) Adopt(recipient []byte) error {
	_, next := s.keys()
	if next == nil || !bytes.Equal(next.PublicKey().Bytes(), recipient) {
		return nil
	}
	if err := s.keep(tpmKeyFile, next); err != nil {
		return err
	}
	if err := os.Remove(identityPath(s.dir, tpmNextKeyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("adopt the key of the TPM: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.tpm, s.mu.next = next, nil
	return nil
}

func (s *KeyStore) keep(name string, key *tpm.Key) error {
	text, err := key.PEM()
	if err != nil {
		return err
	}
	if err := writeFile(identityPath(s.dir, name), text); err != nil {
		return fmt.Errorf("save the key of the TPM: %w", err)
	}
	return nil
}

// SealKeyName is a short name of a public seal key for people: its kind and the first bytes of its hash.
func SealKeyName(key []byte) string {
	kind := KeyStoreFile
	if len(key) == hardSealKeyBytes {
		kind = KeyStoreTPM
	}
	return kind + " " + hex.EncodeToString(keyHash(key)[:8])
}
