package security

import (
	"bytes"
	"crypto/ecdh"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/security/tpm"
	"github.com/parley-mesh/parley/security/tpm/tpmtest"
)

// TestOldSealOpens: what a version that knew no TPM has sealed, with its own key file, opens.
func TestOldSealOpens(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "sealed-root-v1.txt"))
	if err != nil {
		t.Fatal(err)
	}
	keyBlock, rest := pem.Decode(text)
	certBlock, rest := pem.Decode(rest)
	lines := strings.Fields(string(rest)) // the cluster's id, and the sealed root
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := hex.DecodeString(lines[1])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRoot(sealed, key.(*ecdh.PrivateKey), cert, SealInfo{ClusterID: lines[0], Node: "a1"}); err != nil {
		t.Error(err)
	}
}

// tpmWorld is a host with a TPM, and a root sealed to it.
type tpmWorld struct {
	dir    string
	host   *Host
	root   *Root
	info   SealInfo
	device *tpmtest.TPM
}

func newTPMWorld(t *testing.T) *tpmWorld {
	t.Helper()
	root, err := NewRoot(testTD, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w := &tpmWorld{dir: t.TempDir(), root: root, info: SealInfo{ClusterID: "c", Node: "a1"}, device: tpmtest.New(t)}
	if w.host, err = CreateHost(w.dir); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *tpmWorld) store(t *testing.T, device *tpmtest.TPM) *KeyStore {
	t.Helper()
	s, err := NewKeyStore(w.dir, w.host, KeyStoreOptions{Kind: KeyStoreTPM, Device: device.Path})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *tpmWorld) sealTo(t *testing.T, s *KeyStore) (sealed, key []byte) {
	t.Helper()
	key, err := s.Recipient()
	if err != nil {
		t.Fatal(err)
	}
	if sealed, err = SealRoot(w.root, key, w.info); err != nil {
		t.Fatal(err)
	}
	return sealed, key
}

// TestTPMKeyStore: the key is made once, waits until it is adopted, and opens after a restart with nothing but its file
// and the TPM. What was sealed to the file of the host goes on opening.
func TestTPMKeyStore(t *testing.T) {
	w := newTPMWorld(t)
	s := w.store(t, w.device)
	sealed, key := w.sealTo(t, s)
	if again, err := w.store(t, w.device).Recipient(); err != nil || !bytes.Equal(again, key) {
		t.Errorf("a start before the key was adopted made another one: %v", err)
	}
	if err := s.Adopt(key); err != nil {
		t.Fatal(err)
	}
	if err := s.Adopt(key); err != nil {
		t.Errorf("twice: %v", err)
	}
	s = w.store(t, w.device)
	if root, err := s.OpenRoot(sealed, w.root.Cert, w.info); err != nil || !root.Key.Equal(w.root.Key) {
		t.Errorf("after a restart: %v", err)
	}
	byFile, err := SealRoot(w.root, w.host.SealKey(), w.info)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenRoot(byFile, w.root.Cert, w.info); err != nil {
		t.Errorf("sealed to the file: %v", err)
	}
	if _, err := s.OpenRootBy(key, byFile, w.root.Cert, w.info); !errors.Is(err, ErrSeal) {
		t.Errorf("sealed to the file, opened by the TPM: %v", err)
	}
	file, err := NewKeyStore(t.TempDir(), w.host, KeyStoreOptions{Kind: KeyStoreFile})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.OpenRoot(sealed, w.root.Cert, w.info); !errors.Is(err, ErrSeal) || !strings.Contains(err.Error(), "TPM") {
		t.Errorf("without the key of the TPM: %v", err)
	}
	for what, bad := range map[string]SealInfo{"node": {"c", "a2"}, "cluster": {"d", "a1"}} {
		if _, err := s.OpenRoot(sealed, w.root.Cert, bad); !errors.Is(err, ErrSeal) || errors.Is(err, ErrTPMChanged) {
			t.Errorf("another %s: %v", what, err)
		}
	}
}

// TestTPMChanged: another TPM, and the same one after it was cleared, open nothing and say so. The key that was is kept
// until the cluster seals to the one that is made in its place: the old TPM may come back.
func TestTPMChanged(t *testing.T) {
	w := newTPMWorld(t)
	s := w.store(t, w.device)
	sealed, key := w.sealTo(t, s)
	if err := s.Adopt(key); err != nil {
		t.Fatal(err)
	}
	other := tpmtest.New(t)
	s = w.store(t, other)
	if _, err := s.OpenRoot(sealed, w.root.Cert, w.info); !errors.Is(err, ErrTPMChanged) || !errors.Is(err, tpm.ErrOther) {
		t.Errorf("another TPM: %v", err)
	}
	sealedAnew, keyAnew := w.sealTo(t, s)
	if bytes.Equal(keyAnew, key) {
		t.Error("the key of the TPM that is gone was named again")
	}
	if _, err := s.OpenRoot(sealed, w.root.Cert, w.info); !errors.Is(err, ErrTPMChanged) {
		t.Errorf("with a new key beside the old one: %v", err)
	}
	if _, err := w.store(t, w.device).OpenRoot(sealed, w.root.Cert, w.info); err != nil {
		t.Errorf("the old TPM is back, and the key was not given up: %v", err)
	}
	if err := s.Adopt(keyAnew); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store(t, other).OpenRoot(sealedAnew, w.root.Cert, w.info); err != nil {
		t.Errorf("sealed to the new key: %v", err)
	}
	other.Clear()
	if _, err := w.store(t, other).OpenRoot(sealedAnew, w.root.Cert, w.info); !errors.Is(err, ErrTPMChanged) {
		t.Errorf("cleared: %v", err)
	}
	other.Stop()
	if _, err := w.store(t, other).OpenRoot(sealedAnew, w.root.Cert, w.info); !errors.Is(err, tpm.ErrUnavailable) || errors.Is(err, ErrTPMChanged) {
		t.Errorf("no TPM: %v", err)
	}
}

// TestDamagedTPMKey: a key file that cannot be read is named, and others must not read it.
func TestDamagedTPMKey(t *testing.T) {
	w := newTPMWorld(t)
	path := identityPath(w.dir, tpmKeyFile)
	if err := writeFile(path, []byte("nothing")); err != nil {
		t.Fatal(err)
	}
	_, err := NewKeyStore(w.dir, w.host, KeyStoreOptions{Kind: KeyStoreTPM, Device: w.device.Path})
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a damaged file: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	var mode *KeyModeError
	if err := CheckKeyFiles(w.dir); !errors.As(err, &mode) {
		t.Errorf("a file for everybody: %v", err)
	}
}
