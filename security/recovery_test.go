package security

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The recovery key opens what was sealed for it, for its cluster and root, and nothing else; it survives its text, and no
// verb prints it.
func TestRecoveryKey(t *testing.T) {
	key, err := NewRecoveryKey()
	if err != nil {
		t.Fatal(err)
	}
	g, err := InitIdentity(t.TempDir(), testTD, "a1", InitKeys{Recovery: key.Recipient()}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, testTD)
	text, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseRecoveryKey(text)
	if err != nil || !bytes.Equal(again.Recipient(), key.Recipient()) {
		t.Fatalf("after its text: %v", err)
	}
	certs, err := parseCerts(g.Roots)
	if err != nil {
		t.Fatal(err)
	}
	root, err := again.OpenRoot(g.Recovery, certs[0], g.ClusterID)
	if err != nil || !root.Key.PublicKey.Equal(certs[0].PublicKey) {
		t.Fatalf("control: %v", err)
	}
	other, err := NewRecoveryKey()
	if err != nil {
		t.Fatal(err)
	}
	for what, open := range map[string]func() (*Root, error){
		"another key":     func() (*Root, error) { return other.OpenRoot(g.Recovery, certs[0], g.ClusterID) },
		"another cluster": func() (*Root, error) { return key.OpenRoot(g.Recovery, certs[0], w.gen.ClusterID) },
		"another root":    func() (*Root, error) { return key.OpenRoot(g.Recovery, w.root.Cert, g.ClusterID) },
		"a host's seal":   func() (*Root, error) { return key.OpenRoot(g.Sealed, certs[0], g.ClusterID) },
		"on a host": func() (*Root, error) {
			return OpenRoot(g.Recovery, g.Host.Seal, certs[0], SealInfo{ClusterID: g.ClusterID, Node: RecoveryName})
		},
	} {
		if _, err := open(); !errors.Is(err, ErrSeal) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(verb, key); got != redactedText {
			t.Errorf("%s prints %.60s", verb, got)
		}
	}
	if CheckNodeName(RecoveryName) == nil {
		t.Error("a node can have the name that stands for the recovery key")
	}
	signed, err := root.SignStatement("p", []byte("data"))
	if err != nil || !VerifyRootStatement(g.Roots[0], "p", []byte("data"), signed) {
		t.Errorf("a root's statement: %v", err)
	}
	if VerifyRootStatement(g.Roots[0], "q", []byte("data"), signed) || VerifyRootStatement(w.root.Cert.Raw, "p", []byte("data"), signed) ||
		VerifyRootStatement(g.Host.HostKey(), "p", []byte("data"), signed) || VerifyRootStatement(nil, "p", []byte("data"), signed) {
		t.Error("a statement counts for another purpose or key")
	}
}

// What openssl writes is read; what is no X25519 key in PEM, or a file that others may read, is refused, and no error
// shows a byte of a key.
func TestRecoveryTexts(t *testing.T) {
	const private = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VuBCIEILCuHt0gRF/yVh9EIl2tGLTG3nivl8tJoL2txNjiYld4\n-----END PRIVATE KEY-----\n"
	const public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VuAyEA8NUs0dpdiV6hnGauKN35+flDOylRgNZOWSr5kHwQQnA=\n-----END PUBLIC KEY-----\n"
	key, err := ParseRecoveryKey([]byte(private))
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := ParseRecoveryRecipient([]byte(public))
	if err != nil || !bytes.Equal(recipient, key.Recipient()) {
		t.Errorf("the two halves do not belong together: %v", err)
	}
	ec, err := encodeKey(testKey(t))
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"nothing": "", "no PEM": "age1qqq", "the public half": public, "a P-256 key": string(ec), "junk inside": strings.Replace(private, "MC4C", "AAAA", 1),
		"too long": private + strings.Repeat("#", maxRecoveryText),
	} {
		if _, err := ParseRecoveryKey([]byte(text)); !errors.Is(err, ErrRecoveryKey) || strings.Contains(err.Error(), "MC4") {
			t.Errorf("key, %s: %v", what, err)
		}
	}
	for what, text := range map[string]string{"the private half": private, "nothing": "", "junk inside": strings.Replace(public, "MCow", "AAAA", 1)} {
		if _, err := ParseRecoveryRecipient([]byte(text)); !errors.Is(err, ErrRecoveryKey) || strings.Contains(err.Error(), "MC") {
			t.Errorf("recipient, %s: %v", what, err)
		}
	}
	path := filepath.Join(t.TempDir(), "k")
	for mode, fine := range map[os.FileMode]bool{0o600: true, 0o644: false} {
		if err := errors.Join(os.WriteFile(path, []byte(private), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadRecoveryKey(path); (err == nil) != fine {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(pipe, []byte(private), 0o600) }()
	if _, err := ReadRecoveryKey(pipe); err != nil {
		t.Errorf("by a pipe: %v", err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// A host that adopts a cluster has an issuer, a certificate and a bundle that the others accept, and overwrites nobody's.
func TestAdoptIdentity(t *testing.T) {
	w := newWorld(t, testTD)
	host, err := NewHost()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	o := FounderOptions{
		ClusterID: w.gen.ClusterID, TrustDomain: testTD, Node: "r1", Host: host, Root: w.root, BundleSequence: 3, Roots: w.gen.Roots, Now: time.Now(),
	}
	if err := AdoptIdentity(dir, o); err != nil {
		t.Fatal(err)
	}
	source, err := NewSource(SourceOptions{Dir: dir, TrustDomain: testTD, Node: "r1", Host: host, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	_, _, certs, err := leafFiles(dir).load()
	if err != nil {
		t.Fatal(err)
	}
	peer, err := source.verifier().peer(certs, "r1")
	if err != nil || peer.Node != "r1" {
		t.Errorf("its certificate: %+v, %v", peer, err)
	}
	if sequence, _ := source.Bundle(); sequence != 3 {
		t.Errorf("bundle %d", sequence)
	}
	if err := AdoptIdentity(dir, o); !errors.Is(err, ErrIdentityExists) {
		t.Errorf("a second time: %v", err)
	}
}
