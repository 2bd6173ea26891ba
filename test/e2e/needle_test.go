package e2e

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// needle is a secret and the forms in which it might stand somewhere.
type needle struct {
	name  string
	forms [][]byte
}

// newNeedle looks for a secret as it is, in hex and in base64.
func newNeedle(name string, secret []byte) needle {
	n := needle{name: name, forms: [][]byte{secret, []byte(hex.EncodeToString(secret))}}
	for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 { // what stands before it decides which of three texts it becomes
			text := alphabet.EncodeToString(append(make([]byte, before), secret...))
			first, end := (before*8+5)/6, (before+len(secret))*8/6
			n.forms = append(n.forms, []byte(text[first:end]))
		}
	}
	return n
}

func (n needle) in(hay []byte) bool {
	for _, form := range n.forms {
		if bytes.Contains(hay, form) {
			return true
		}
	}
	return false
}

// mark is a random text that stands nowhere else.
func mark() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the process instead
	return hex.EncodeToString(b[:])
}

// keyNeedles are the private keys of an identity directory: the secret number of each, and the lines of
// its file. That each file holds what its needle looks for is checked here.
func keyNeedles(t testing.TB, owner, dir string) []needle {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.key"))
	if err != nil || len(files) == 0 {
		t.Fatalf("private keys in %s: %d, error %v", dir, len(files), err)
	}
	var out []needle
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		n := newNeedle(owner+" "+filepath.Base(path), secretNumber(t, path, text))
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); len(line) >= 32 && !strings.HasPrefix(line, "-") {
				n.forms = append(n.forms, []byte(line))
			}
		}
		if block, _ := pem.Decode(text); !n.in(text) || !n.in(block.Bytes) {
			t.Errorf("control: the key of %s is not found in the file itself", path)
		}
		out = append(out, n)
	}
	return out
}

func secretNumber(t testing.TB, path string, text []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s is not PEM", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		number, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return number
	case *ecdh.PrivateKey:
		return k.Bytes()
	}
	t.Fatalf("%s holds a %T, of which this test does not know the secret part", path, key)
	return nil
}

// searchFiles returns where under dir needles occur, as "needle in path", and how much was searched.
func searchFiles(dir string, needles []needle) (hits []string, files int, size int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		seen, read, err := searchFile(path, needles)
		for _, name := range seen {
			hits = append(hits, fmt.Sprintf("%s in %s", name, path))
		}
		files, size = files+1, size+read
		return err
	})
	return hits, files, size, err
}

// searchFile reads in overlapping pieces: a log segment has 64 MiB.
func searchFile(path string, needles []needle) (seen []string, size int64, err error) {
	const piece, overlap = 1 << 20, 1 << 10
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close() //nolint:errcheck // only read
	found := make(map[string]bool)
	buffer, kept := make([]byte, piece), 0
	for {
		n, err := io.ReadFull(f, buffer[kept:])
		size += int64(n)
		for _, needle := range needles {
			if !found[needle.name] && needle.in(buffer[:kept+n]) {
				found[needle.name] = true
				seen = append(seen, needle.name)
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return seen, size, nil
		}
		if err != nil {
			return seen, size, err
		}
		kept = copy(buffer, buffer[kept+n-overlap:kept+n])
	}
}
