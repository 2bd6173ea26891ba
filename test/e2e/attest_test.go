package e2e

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/parley-mesh/parley/ops/lab"
)

// sshHost writes the files of a host that an SSH authority has certified for a name.
func sshHost(t *testing.T, ca ssh.Signer, name string, kind uint32) (certFile, keyFile string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := &ssh.Certificate{
		Key: signer.PublicKey(), CertType: kind, KeyId: name, ValidPrincipals: []string{name},
		ValidAfter: uint64(time.Now().Add(-time.Minute).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()), //nolint:gosec // after 1970
	}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "ssh_host_ed25519_key-cert.pub"), filepath.Join(dir, "ssh_host_ed25519_key")
	for path, text := range map[string][]byte{certFile: ssh.MarshalAuthorizedKey(cert), keyFile: pem.EncodeToMemory(block)} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// TestJoinByCertificates: an operator says whose SSH host certificates admit which hosts, and a host with such a certificate
// joins by the name in it, and comes back without; a user's certificate and a name that is not admitted are refused with
// what to do.
func TestJoinByCertificates(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	c := clientOf(t, l.Agents[0])
	roots, err := c.CA(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if made := parley(t, "admission", "add", "ssh", "--kind", "ssh", "--names", "web-*", "--role", "local", "--addr", l.Agents[0].Addr(),
		"--authorities", inFile(t, string(ssh.MarshalAuthorizedKey(ca.PublicKey())))); made.code != 0 {
		t.Fatal(made.err)
	}

	host := func(dir, name string, kind uint32) []string {
		cert, key := sshHost(t, ca, name, kind)
		return freshAgent(t, dir, "", "--join", l.Agents[1].Mesh, "--set", "attest.kind=ssh", "--set", "attest.cert_file="+cert, "--set", "attest.key_file="+key,
			"--set", "attest.trust_domain=lab.parley.test", "--set", "attest.roots="+roots.Roots[0].Hash)
	}
	for _, refused := range []struct {
		name string
		kind uint32
		want string
	}{
		{"web-1", ssh.UserCert, "the certificate is for a user, and not for a host"},
		{"db-1", ssh.HostCert, `the admission is for nodes "web-*", and not for "db-1"`},
	} {
		dir := filepath.Join(shortDir(t), "d")
		parley(t, host(dir, refused.name, refused.kind)...).wants(t, 4, refused.want, "parley admission list")
		notJoined(t, dir)
	}
	startAgent(t, host(filepath.Join(shortDir(t), "d"), "web-1", ssh.HostCert)...)
	eventually(t, 30*time.Second, "web-1 is a member", func(ctx context.Context) error {
		members, err := c.Members(ctx)
		for _, m := range members {
			if m.Name == "web-1" && m.State == "alive" {
				return nil
			}
		}
		return fmt.Errorf("%+v, %w", members, err)
	})
}
