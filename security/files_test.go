package security

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Everything that an agent keeps about its identity is readable by its own user alone, after init,
// after a renewal of the leaf, the bundle and the issuer, and nothing temporary stays behind.
func TestIdentityFilesArePrivate(t *testing.T) {
	w := newWorld(t, testTD)
	src := w.first()
	key, chain := w.leaf(w.gen.Host, "a1", time.Hour)
	second, err := NewRoot(w.td, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(src.SetLeaf(chain, key), src.SetBundle(2, [][]byte{w.root.Cert.Raw, second.Cert.Raw}), w.gen.Authority.Renew(w.root, time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	err = filepath.WalkDir(filepath.Join(w.dir, identityDirName), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		} else {
			names = append(names, d.Name())
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %04o, want %04o", path, got, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(names, " "), "bundle.pem host.key issuer.key issuer.pem leaf.key leaf.pem seal.key"; got != want {
		t.Errorf("files are %s, want %s", got, want)
	}
}

// A key that others could read is refused, by name and with what to do.
func TestWideKeyFileIsRefused(t *testing.T) {
	w := newWorld(t, testTD)
	load := map[string]func() error{
		hostKeyFile: func() error { _, err := LoadHost(w.dir); return err },
		sealKeyFile: func() error { _, err := LoadHost(w.dir); return err },
		leafKeyFile: func() error {
			_, err := NewSource(SourceOptions{Dir: w.dir, TrustDomain: w.td, Node: "a1", Host: w.gen.Host, Now: time.Now})
			return err
		},
		issuerKeyFile: func() error { _, err := LoadAuthority(w.td, "a1", w.dir); return err },
	}
	for name, fn := range load {
		path := identityPath(w.dir, name)
		if err := fn(); err != nil {
			t.Fatalf("control: %s with mode 0600: %v", name, err)
		}
		for _, mode := range []fs.FileMode{0o640, 0o604, 0o644, 0o700} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			var wide *KeyModeError
			if err := fn(); !errors.As(err, &wide) || !strings.Contains(wide.Hint(), "chmod 0600 "+path) {
				t.Errorf("%s with mode %04o: %v", name, mode, err)
			}
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A crash after any of the writes of a renewal leaves a key and a certificate that belong together.
func TestCrashBetweenKeyAndCertificate(t *testing.T) {
	w := newWorld(t, testTD)
	oldKey, oldChain := w.leaf(w.gen.Host, "a1", time.Hour)
	newKey, newChain := w.leaf(w.gen.Host, "a1", time.Hour)
	steps := func(dir string) []func() error {
		p := leafFiles(dir)
		oldPEM, err1 := encodeKey(oldKey)
		newPEM, err2 := encodeKey(newKey)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return []func() error{
			func() error { return p.save(oldKey, nil, oldChain) },
			func() error { return writeFile(p.keyPath, append(bytes.Clone(newPEM), oldPEM...)) },
			func() error { return writeFile(p.certPath, encodeCerts(newChain)) },
			func() error { return writeFile(p.keyPath, newPEM) },
		}
	}
	for crashAfter := 1; crashAfter <= 4; crashAfter++ {
		dir := t.TempDir()
		for _, step := range steps(dir)[:crashAfter] {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		key, ders, _, err := leafFiles(dir).load()
		if err != nil {
			t.Fatalf("after step %d: %v", crashAfter, err)
		}
		want, wantChain := oldKey, oldChain
		if crashAfter >= 3 {
			want, wantChain = newKey, newChain
		}
		if !key.Equal(want) || !equalDERs(ders, wantChain) {
			t.Errorf("after step %d the wrong pair loads", crashAfter)
		}
	}

	// What save does is these steps: after it the old key is gone.
	dir := t.TempDir()
	p := leafFiles(dir)
	if err := errors.Join(p.save(oldKey, nil, oldChain), p.save(newKey, oldKey, newChain)); err != nil {
		t.Fatal(err)
	}
	if keys, err := readECKeys(p.keyPath); err != nil || len(keys) != 1 || !keys[0].Equal(newKey) {
		t.Errorf("after save: %d keys, %v", len(keys), err)
	}

	// Control: in the other order the crash loses the identity.
	dir = t.TempDir()
	p = leafFiles(dir)
	newPEM, err := encodeKey(newKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.save(oldKey, nil, oldChain), writeFile(p.keyPath, newPEM)); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := p.load(); err == nil {
		t.Error("control: a key without its certificate loads")
	}
}

// A left-over of a crash is not in the way, and a file that is no identity file is refused.
func TestFileLimits(t *testing.T) {
	dir := t.TempDir()
	path := identityPath(dir, leafFile)
	if err := writeFile(path, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".tmp", []byte("left over"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(path, []byte("two")); err != nil {
		t.Fatal(err)
	}
	if got, err := readKeyFile(path); err != nil || string(got) != "two" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := writeFile(path, make([]byte, maxFileBytes+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := readPublicFile(path); err == nil {
		t.Errorf("a file of %d bytes was read", maxFileBytes+1)
	}
	if _, err := readKeys(identityPath(dir, hostKeyFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

// Files that were cut or mixed up are refused without a word of what is in them.
func TestDamagedFiles(t *testing.T) {
	w := newWorld(t, testTD)
	load := func() error {
		_, err := NewSource(SourceOptions{Dir: w.dir, TrustDomain: w.td, Node: "a1", Host: w.gen.Host, Now: time.Now})
		return err
	}
	for _, name := range []string{leafKeyFile, leafFile, bundleFile} {
		path := identityPath(w.dir, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range [][]byte{nil, good[:len(good)/2], []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")} {
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := load(); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("%s with %d bytes: %v", name, len(bad), err)
			}
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := load(); err != nil {
		t.Errorf("control: %v", err)
	}
}
