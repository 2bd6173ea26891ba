package tpm_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/security/tpm"
	"github.com/parley-mesh/parley/security/tpm/tpmtest"
)

func newKey(t *testing.T, device *tpmtest.TPM) *tpm.Key {
	t.Helper()
	k, err := tpm.Create(device.Path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func again(t *testing.T, device *tpmtest.TPM, k *tpm.Key) *tpm.Key {
	t.Helper()
	text, err := k.PEM()
	if err != nil {
		t.Fatal(err)
	}
	read, err := tpm.Parse(device.Path, text)
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// TestAgree: both sides derive the same secret, a hundred times, so that coordinates with leading zeros do not matter
// (one in 256 has one); also after the TPM was off, by the key's file alone.
func TestAgree(t *testing.T) {
	device := tpmtest.New(t)
	k := newKey(t, device)
	device.Stop()
	device.Start()
	k = again(t, device, k)
	for range 100 {
		other, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		want, err := other.ECDH(k.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		got, err := k.ECDH(other.PublicKey())
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("secret %x, want %x, error %v", got, want, err)
		}
	}
	x, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.ECDH(x.PublicKey()); err == nil {
		t.Error("a key on another curve was taken")
	}
}

// TestHPKE: what is encrypted to the public half opens through the TPM, by the standard library's own code.
func TestHPKE(t *testing.T) {
	device := tpmtest.New(t)
	k := newKey(t, device)
	to, err := hpke.NewDHKEMPublicKey(k.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	box, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte("info"), []byte("plain"))
	if err != nil {
		t.Fatal(err)
	}
	with, err := hpke.NewDHKEMPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := hpke.Open(with, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte("info"), box); err != nil || string(plain) != "plain" {
		t.Errorf("%q, %v", plain, err)
	}
}

// TestOtherTPM: the file opens nothing on another TPM, nor on its own after that was cleared.
func TestOtherTPM(t *testing.T) {
	device, other := tpmtest.New(t), tpmtest.New(t)
	k := newKey(t, device)
	if err := again(t, device, k).Check(); err != nil {
		t.Fatalf("control: %v", err)
	}
	if err := again(t, other, k).Check(); !errors.Is(err, tpm.ErrOther) {
		t.Errorf("another TPM took the key: %v", err)
	}
	device.Clear()
	if _, err := k.ECDH(newKey(t, other).PublicKey()); !errors.Is(err, tpm.ErrOther) {
		t.Errorf("a TPM that was cleared took the key: %v", err)
	}
	if err := newKey(t, device).Check(); err != nil {
		t.Errorf("a new key on the cleared TPM: %v", err)
	}
}

// TestUnavailable: every way to have no TPM says what to do.
func TestUnavailable(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "is there a TPM 2.0",
		plain:                      "neither a device nor a socket",
		"/dev/null":                "derive the storage key",
	} {
		if _, err := tpm.Create(path); !errors.Is(err, tpm.ErrUnavailable) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	device := tpmtest.New(t)
	k := newKey(t, device)
	device.Stop()
	if err := k.Check(); !errors.Is(err, tpm.ErrUnavailable) || errors.Is(err, tpm.ErrOther) {
		t.Errorf("a TPM that is off: %v", err)
	}
}

// TestPlacesAreFreed: a TPM has places for three keys. A hundred uses need no more.
func TestPlacesAreFreed(t *testing.T) {
	device := tpmtest.New(t)
	k := newKey(t, device)
	for i := range 100 {
		if err := k.Check(); err != nil {
			t.Fatalf("use %d: %v", i, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----\n"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := tpm.Parse("/nowhere", text)
		if err != nil {
			return
		}
		if _, err := k.PEM(); err != nil {
			t.Errorf("what was read cannot be written: %v", err)
		}
	})
}

// TestParseLimits: the limit is reached by the text alone.
func TestParseLimits(t *testing.T) {
	if _, err := tpm.Parse("/nowhere", make([]byte, 4<<10+1)); err == nil || !strings.Contains(err.Error(), "at most 4096") {
		t.Errorf("a text beyond the limit: %v", err)
	}
}
