package e2e

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"io"
	"maps"
	"regexp"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// maxUnpacked is how much of one compressed part is looked at.
const maxUnpacked = 64 << 20

// keysIn finds private keys of any owner: PEM, and DER (PKCS #8, SEC 1, PKCS #1) at any offset, in the clear or in base64. It
// returns the form and the hash of the public key of each.
func keysIn(data []byte) []string {
	found := make(map[string]bool)
	for rest := data; ; {
		begin := bytes.Index(rest, []byte("-----BEGIN "))
		if begin < 0 {
			break
		}
		rest = rest[begin:]
		if label, _, ok := bytes.Cut(rest[:min(len(rest), 80)], []byte("-----\n")); ok && bytes.Contains(label, []byte("PRIVATE")) {
			if block, _ := pem.Decode(rest); block != nil {
				found["PEM "+ownerOf(block.Bytes)] = true
			} else {
				found["PEM that is cut off"] = true
			}
		}
		rest = rest[10:]
	}
	derKeys(data, "DER ", found)
	for _, run := range base64Run.FindAll(data, -1) {
		for at := range 4 {
			for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				text := run[at:]
				if len(text)%4 == 1 { // of which no byte is whole
					text = text[:len(text)-1]
				}
				if der, err := alphabet.DecodeString(string(text)); err == nil {
					derKeys(der, "base64 ", found)
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

var base64Run = regexp.MustCompile(`[A-Za-z0-9+/_-]{60,}`)

// derKeys looks at every place where a sequence begins whose first element is a version of 0 or 1.
func derKeys(data []byte, form string, found map[string]bool) {
	for at := 0; ; at++ {
		next := bytes.IndexByte(data[at:], 0x30)
		if next < 0 {
			return
		}
		at += next
		header, length := derHeader(data[at:])
		if header == 0 || length < 30 || at+header+length > len(data) {
			continue
		}
		inside := data[at+header:]
		if inside[0] != 2 || inside[1] != 1 || inside[2] > 1 {
			continue
		}
		if owner := ownerOf(data[at : at+header+length]); owner != "" {
			found[form+owner] = true
		}
	}
}

// derHeader is the length of a sequence's header and of what is in it, 0 if it is none.
func derHeader(data []byte) (header, length int) {
	switch {
	case len(data) < 5:
	case data[1] < 0x80:
		return 2, int(data[1])
	case data[1] == 0x81:
		return 3, int(data[2])
	case data[1] == 0x82:
		return 4, int(data[2])<<8 | int(data[3])
	}
	return 0, 0
}

// ownerOf is the hash of the public key of a private one, "" if it is none.
func ownerOf(der []byte) string {
	var key any
	var err error
	if key, err = x509.ParsePKCS8PrivateKey(der); err != nil {
		if key, err = x509.ParseECPrivateKey(der); err != nil {
			if key, err = x509.ParsePKCS1PrivateKey(der); err != nil {
				return ""
			}
		}
	}
	if k, ok := key.(*ecdh.PrivateKey); ok {
		return hashOf(k.PublicKey())
	}
	if k, ok := key.(crypto.Signer); ok {
		return hashOf(k.Public())
	}
	return "of an unknown kind"
}

func hashOf(public any) string {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "of an unknown kind"
	}
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:8])
}

// layers are data and what is packed in it, by zstd or gzip at any offset, one level deep.
func layers(data []byte) [][]byte {
	data = bytes.TrimRight(data, "\x00") // of a log that has room
	all := [][]byte{data}
	for magic, open := range map[string]func(io.Reader) (io.Reader, error){
		"\x28\xb5\x2f\xfd": func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r, zstd.WithDecoderConcurrency(1)) },
		"\x1f\x8b\x08":     func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	} {
		for at := 0; ; at++ {
			next := bytes.Index(data[at:], []byte(magic))
			if next < 0 {
				break
			}
			at += next
			r, err := open(bytes.NewReader(data[at:]))
			if err != nil {
				continue
			}
			if unpacked, _ := io.ReadAll(io.LimitReader(r, maxUnpacked)); len(unpacked) > 0 { // what comes before an error counts
				all = append(all, unpacked)
			}
		}
	}
	return all
}

// newKey is one of nobody's.
func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// keyForms are a key in every form that keysIn finds.
func keyForms(t testing.TB, key *ecdsa.PrivateKey) map[string][]byte {
	t.Helper()
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), "sec1 pem": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}),
		"pkcs8": pkcs8, "sec1": sec1, "base64": []byte(base64.StdEncoding.EncodeToString(pkcs8)), "url": []byte(base64.RawURLEncoding.EncodeToString(sec1)),
	}
}

// TestKeyFinder: a key is found in every form, wherever it begins, and packed; certificates and noise are none.
func TestKeyFinder(t *testing.T) {
	key := newKey(t)
	owner := hashOf(key.Public())
	found := func(data []byte) bool {
		for _, layer := range layers(data) {
			for _, hit := range keysIn(layer) {
				if bytes.HasSuffix([]byte(hit), []byte(owner)) {
					return true
				}
			}
		}
		return false
	}
	for name, form := range keyForms(t, key) {
		for _, before := range []string{"", "\x30", "\x30\x82\x30", "log line \"key\":\""} {
			text := append([]byte(before), form...)
			var packed, zipped bytes.Buffer
			z, err := zstd.NewWriter(&packed)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = z.Write(text)
			g := gzip.NewWriter(&zipped)
			_, _ = g.Write(text)
			if z.Close() != nil || g.Close() != nil {
				t.Fatal("not packed")
			}
			for how, data := range map[string][]byte{"as it is": text, "zstd": append([]byte("chunk"), packed.Bytes()...), "gzip": zipped.Bytes(), "with room behind": append(text, make([]byte, 99)...)} {
				if !found(data) {
					t.Errorf("%s after %q, %s: not found", name, before, how)
				}
			}
		}
	}
	noise := make([]byte, 1<<20)
	_, _ = rand.Read(noise)
	cert := selfSigned(t, "lab.parley.test")
	if hits := append(keysIn(noise), keysIn(cert.Certificate[0])...); len(hits) > 0 {
		t.Errorf("found where none is: %v", hits)
	}
}
