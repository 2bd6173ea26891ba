package security

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxFileBytes bounds what is read of any identity file; the largest, the bundle, is a few KiB.
const maxFileBytes = 64 << 10

// The files of the identity directory.
const (
	identityDirName = "identity"
	hostKeyFile     = "host.key"
	sealKeyFile     = "seal.key"
	tpmKeyFile      = "tpm.key"
	tpmNextKeyFile  = "tpm-next.key"
	leafKeyFile     = "leaf.key"
	leafFile        = "leaf.pem"
	bundleFile      = "bundle.pem"
	issuerKeyFile   = "issuer.key"
	issuerFile      = "issuer.pem"
	generationFile  = "generation.secret"
)

// identityPath is the path of one identity file of the data directory dir.
func identityPath(dir, name string) string {
	return filepath.Join(dir, identityDirName, name)
}

// written is called after each step of a change of these files, with the file that it was about. A test ends the program there.
var written = func(string) {}

// writeFile replaces path with data in one step: a reader, or the next start after a crash, sees the
// old bytes or the new ones. The file has mode 0600 from its first moment on, its directory 0700.
// Two calls for one path must not overlap.
func writeFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove left-over: %w", err)
	}
	if err := writeSynced(tmp, data); err != nil {
		_ = os.Remove(tmp) // the write's error is the one to report
		return err
	}
	written(tmp)
	if err := os.Rename(tmp, path); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("replace: %w", err)
	}
	written(path)
	return syncDir(dir)
}

// writeSynced makes the file path, which must not exist, and returns once its bytes are on disk.
func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync %s: %w", path, err), f.Close())
	}
	return f.Close()
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync %s: %w", dir, err), d.Close())
	}
	return d.Close()
}

// KeyModeError refuses a file with a private key that others than its owner may read or write.
type KeyModeError struct {
	Path string
	Mode fs.FileMode
}

func (e *KeyModeError) Error() string {
	return fmt.Sprintf("%s has mode %04o, so other users may have read the key", e.Path, e.Mode)
}

// Hint says what to do.
func (e *KeyModeError) Hint() string {
	return fmt.Sprintf("if nobody else could: chmod 0600 %s; otherwise join again with an empty data directory and `parley token create --replace NODE`", e.Path)
}

// CheckKeyFiles refuses, with a *KeyModeError, a data directory in which others may have read a private
// key, the issuer's among them: a new issuer's key would not take back what the old one can sign.
func CheckKeyFiles(dir string) error {
	paths, err := generationFiles{dir}.putAsides()
	if err != nil {
		return err
	}
	for _, name := range []string{hostKeyFile, sealKeyFile, tpmKeyFile, tpmNextKeyFile, leafKeyFile, issuerKeyFile, jwtKeyFile, jwtNextKeyFile, generationFile} {
		paths = append(paths, identityPath(dir, name))
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			continue // who reads it says so
		}
		if err == nil {
			err = checkKeyMode(path, info)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func checkKeyMode(path string, info fs.FileInfo) error {
	if wider := info.Mode().Perm() &^ 0o600; wider != 0 {
		return &KeyModeError{Path: path, Mode: info.Mode().Perm()}
	}
	return nil
}

// readKeyFile reads a file that holds a private key, and refuses one that others may have read.
func readKeyFile(path string) ([]byte, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	return readPrivate(f)
}

// readPrivate reads what others may not have read, and closes it.
func readPrivate(f *os.File) ([]byte, error) {
	defer f.Close() //nolint:errcheck // only read
	path := f.Name()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := checkKeyMode(path, info); err != nil {
		return nil, err
	}
	return readBounded(f, path)
}

// openFile opens a file to read it, and nothing else: opening a pipe could wait for ever.
func openFile(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file but a %s", path, kindOfFile(info.Mode()))
	}
	return os.Open(path)
}

func kindOfFile(m fs.FileMode) string {
	if m.IsDir() {
		return "directory"
	}
	return "pipe, socket or device"
}

// readPublicFile reads a file that holds certificates only.
func readPublicFile(path string) ([]byte, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	return readBounded(f, path)
}

func readBounded(f io.Reader, path string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes, so it is not an identity file: restore it from a backup or join again", path, maxFileBytes)
	}
	return data, nil
}

// encodeKey is the PEM form (PKCS #8) of a private key.
func encodeKey(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// readKeys reads every private key of a key file; there is at least one.
func readKeys(path string) ([]any, error) {
	data, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	var keys []any
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		// The parser's own error is left out: it may describe bytes of the key.
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if block.Type != "PRIVATE KEY" || err != nil {
			return nil, fmt.Errorf("%s does not hold a readable private key: restore it from a backup or join again", path)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s holds no private key: restore it from a backup or join again", path)
	}
	return keys, nil
}

// readECKeys reads a key file of P-256 keys.
func readECKeys(path string) ([]*ecdsa.PrivateKey, error) {
	keys, err := readKeys(path)
	if err != nil {
		return nil, err
	}
	var out []*ecdsa.PrivateKey
	for _, k := range keys {
		ec, ok := k.(*ecdsa.PrivateKey)
		if !ok || ec.Curve != elliptic.P256() {
			return nil, fmt.Errorf("%s holds a key that is not P-256: restore it from a backup or join again", path)
		}
		out = append(out, ec)
	}
	return out, nil
}

// encodeCerts is the PEM form of DER certificates.
func encodeCerts(ders [][]byte) []byte {
	var b bytes.Buffer
	for _, der := range ders {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return b.Bytes()
}

// decodeCerts returns the certificates of PEM data as DER and parsed; path is for the error.
func decodeCerts(path string, data []byte) ([][]byte, []*x509.Certificate, error) {
	var ders [][]byte
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		ders = append(ders, block.Bytes)
	}
	certs, err := parseCerts(ders)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w: restore it from a backup or join again", path, err)
	}
	return ders, certs, nil
}

// parseCerts parses at least one and at most maxPeerCerts certificates.
func parseCerts(ders [][]byte) ([]*x509.Certificate, error) {
	if len(ders) == 0 || len(ders) > maxPeerCerts {
		return nil, fmt.Errorf("%d certificates, want 1 to %d", len(ders), maxPeerCerts)
	}
	certs := make([]*x509.Certificate, len(ders))
	for i, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i, err)
		}
		certs[i] = c
	}
	return certs, nil
}

// keyAndChain is a private key and the certificates for it, in two files that are replaced one after
// the other. The order makes every crash harmless:
//
//  1. the key file is replaced by {new key, old key};
//  2. the certificate file is replaced by the new chain;
//  3. the key file is replaced by {new key}.
//
// After a crash at any point the key file still holds the key that belongs to the certificate file,
// and load picks it.
type keyAndChain struct{ keyPath, certPath string }

// save makes key and chain the durable pair. old is the key of the pair on disk, nil if there is none.
func (p keyAndChain) save(key, old *ecdsa.PrivateKey, chain [][]byte) error {
	first, err := encodeKey(key)
	if err != nil {
		return err
	}
	both := first
	if old != nil && !old.Equal(key) {
		second, err := encodeKey(old)
		if err != nil {
			return err
		}
		both = append(bytes.Clone(first), second...)
	}
	if err := writeFile(p.keyPath, both); err != nil {
		return fmt.Errorf("save %s: %w", p.keyPath, err)
	}
	if err := writeFile(p.certPath, encodeCerts(chain)); err != nil {
		return fmt.Errorf("save %s: %w", p.certPath, err)
	}
	if len(both) == len(first) {
		return nil
	}
	if err := writeFile(p.keyPath, first); err != nil {
		return fmt.Errorf("save %s: %w", p.keyPath, err)
	}
	return nil
}

// load reads the pair. The error is fs.ErrNotExist when either file is missing.
func (p keyAndChain) load() (*ecdsa.PrivateKey, [][]byte, []*x509.Certificate, error) {
	keys, err := readECKeys(p.keyPath)
	if err != nil {
		return nil, nil, nil, err
	}
	data, err := readPublicFile(p.certPath)
	if err != nil {
		return nil, nil, nil, err
	}
	ders, certs, err := decodeCerts(p.certPath, data)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, k := range keys {
		if k.PublicKey.Equal(certs[0].PublicKey) {
			return k, ders, certs, nil
		}
	}
	return nil, nil, nil, fmt.Errorf("%s is not for a key of %s: restore both from one backup or join again", p.certPath, p.keyPath)
}
