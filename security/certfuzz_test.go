package security

import (
	"bytes"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// FuzzPeerCertificates: whatever a peer shows, as an agent or an operator, is refused, or begins with a certificate that the cluster
// has signed, byte for byte.
func FuzzPeerCertificates(f *testing.F) {
	root, err := NewRoot(testTD, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	host, err := CreateHost(dir)
	if err != nil {
		f.Fatal(err)
	}
	authority, err := NewAuthority(root, testTD, "a1", dir, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	key, err := NewWorkloadKey()
	if err != nil {
		f.Fatal(err)
	}
	req, err := NewLeafRequest(host, "a1", testTD, &key.PublicKey, time.Now().Add(time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	agent, err := authority.SignAgent(req, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	workload, err := NewWorkloadRequest("a1", "web", key)
	if err != nil {
		f.Fatal(err)
	}
	program, err := authority.SignWorkload(workload, "a1", spiffeid.RequireFromPath(testTD, "/svc/web"), time.Hour, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root.Cert)
	judge := verifier{
		td: testTD, roots: roots, now: time.Now(),
		hostKeyOf:   func(string) ([]byte, bool) { return host.HostKey(), true },
		operatorKey: func(string) ([32]byte, bool) { return [32]byte{}, false },
	}
	parsed := func(ders ...[]byte) (certs []*x509.Certificate) {
		for _, der := range ders {
			if c, err := x509.ParseCertificate(der); err == nil {
				certs = append(certs, c)
			}
		}
		return certs
	}
	if _, err := judge.peer(parsed(agent...), ""); err != nil {
		f.Fatalf("control: %v", err)
	}
	chains := [][][]byte{agent, program, {agent[1], root.Cert.Raw}, {root.Cert.Raw}, {program[0], agent[0], agent[1]}}
	for kind := range chains {
		f.Add(uint8(kind), uint16(0), uint8(0), []byte(nil)) //nolint:gosec // five of them
		f.Add(uint8(kind), uint16(200), uint8(1), []byte{0x30, 0x03, 0x02, 0x01, 0x01})
	}
	f.Add(uint8(0), uint16(0), uint8(0), root.Cert.Raw)
	// The certificates are others in each process, so an input is what is done to them, not what they are.
	f.Fuzz(func(t *testing.T, kind uint8, at uint16, flip uint8, instead []byte) {
		ders := slices.Clone(chains[int(kind)%len(chains)])
		ders[0] = bytes.Clone(ders[0])
		ders[0][int(at)%len(ders[0])] ^= flip
		if kind >= 128 {
			ders[0] = instead
		} else if len(instead) > 0 {
			ders = append(ders, instead)
		}
		chain := parsed(ders...)
		peer, err := judge.peer(chain, "")
		if err == nil && (!bytes.Equal(chain[0].Raw, agent[0]) || peer.Node != "a1") {
			t.Errorf("%x is taken for %+v", chain[0].Raw, peer)
		}
		if peer, err := judge.client(chain); err == nil && !bytes.Equal(chain[0].Raw, agent[0]) {
			t.Errorf("as a client %x is taken for %+v", chain[0].Raw, peer)
		}
	})
}
