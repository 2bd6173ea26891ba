package client

import (
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

// readKey refuses a key that others may read.
func readKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := readSmall(path, true)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s holds no PEM private key", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%s is not a P-256 key", path)
	}
	return key, nil
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	text, err := readSmall(path, false)
	if err != nil {
		return nil, err
	}
	var ders [][]byte
	for len(ders) <= maxChain {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s holds a %.40q, want certificates", path, block.Type)
		}
		ders, text = append(ders, block.Bytes), rest
	}
	certs, err := parseAll(ders)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return certs, nil
}

// readSmall looks at the mode of the file that it has opened, so that nobody swaps it in between.
func readSmall(path string, secret bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if secret && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, so that others may read the key: chmod 600 %s, and add the operator anew if somebody may have", path, info.Mode().Perm(), path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxIdentityFile+1))
	if err == nil && len(text) > maxIdentityFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxIdentityFile)
	}
	return text, err
}

func writePEM(path string, certs []*x509.Certificate) error {
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return replaceFile(path, text)
}

// replaceFile puts data under path in one step, readable for its owner alone (0600): whoever reads sees the old file or
// the new one, after a crash as well.
func replaceFile(path string, data []byte) error { return putFile(path, data, os.Rename) }

// makeFile is replaceFile for a file that there must not be yet: fs.ErrExist, of two at the same time for one.
func makeFile(path string, data []byte) error { return putFile(path, data, renameAnew) }

// renameAnew gives a file a second name, which fails if somebody has it, and takes the first away.
func renameAnew(from, to string) error {
	err := os.Link(from, to)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return errors.Join(err, os.Remove(from))
	}
	if _, there := os.Lstat(to); there == nil { // a file system on which a file has one name
		return errors.Join(fs.ErrExist, os.Remove(from))
	}
	return os.Rename(from, to)
}

func putFile(path string, data []byte, put func(from, to string) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			if left := os.Remove(f.Name()); !errors.Is(left, fs.ErrNotExist) {
				err = errors.Join(err, left)
			}
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := put(f.Name(), path); err != nil {
		return err
	}
	dir, openErr := os.Open(filepath.Dir(path))
	if openErr != nil {
		return nil //nolint:nilerr // it is in place; how durable, the directory would say
	}
	_ = dir.Sync() // not every file system can
	return dir.Close()
}
