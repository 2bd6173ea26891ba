package security

import (
	"bytes"
	"crypto/x509"
	"time"
)

// Trust says for a rotation which roots this agent's bundle holds, and to what its certificate chains: a root of the
// bundle, and the authorities below that which an authority above has signed.
func (s *Source) Trust() (holds, chains [][32]byte) {
	b := s.bundle.Load()
	for _, der := range b.ders {
		holds = append(holds, RootHash(der))
	}
	if s.external {
		return holds, nil // the chain is not of this cluster's making
	}
	chain := s.leaf.Load().Certificate
	if root, ok := s.rootOf(chain); ok {
		chains = append(chains, root)
	}
	return holds, append(chains, authoritiesOf(chain)...)
}

// rootOf is the root of the bundle that signed the last certificate of a chain (DER). A root that has left the bundle is
// found by no key id.
func (s *Source) rootOf(chain [][]byte) ([32]byte, bool) {
	last, err := x509.ParseCertificate(chain[len(chain)-1])
	if err != nil {
		return [32]byte{}, false
	}
	return signerOf(last, s.bundle.Load().ders)
}

// signerOf finds by its key id which of roots (DER) signed a certificate.
func signerOf(cert *x509.Certificate, roots [][]byte) ([32]byte, bool) {
	for _, der := range roots {
		root, err := x509.ParseCertificate(der)
		if err == nil && bytes.Equal(root.SubjectKeyId, cert.AuthorityKeyId) {
			return RootHash(der), true
		}
	}
	return [32]byte{}, false
}

// authoritiesOf are the hashes of what is above the issuer in a chain (DER, leaf first).
func authoritiesOf(chain [][]byte) (out [][32]byte) {
	for _, der := range chain[min(2, len(chain)):] {
		out = append(out, RootHash(der))
	}
	return out
}

// Chains is what this core member's intermediate chains to, as Source.Trust has it for a certificate.
func (a *Authority) Chains(roots [][]byte) (out [][32]byte) {
	by := a.current.Load()
	chain := by.chain(by.cert) // in place of a leaf
	if last, err := x509.ParseCertificate(chain[len(chain)-1]); err == nil {
		if root, ok := signerOf(last, roots); ok {
			out = append(out, root)
		}
	}
	return append(out, authoritiesOf(chain)...)
}

// SignedBy is the one of roots (DER) that signed this core member's intermediate, false if none did.
func (a *Authority) SignedBy(roots [][]byte) ([32]byte, bool) {
	return signerOf(a.current.Load().cert, roots)
}

// IssuedBy names the core member that signed the certificate in use, and when its intermediate was made.
func (s *Source) IssuedBy() (node string, issued time.Time) {
	chain := s.leaf.Load().Certificate
	if s.external || len(chain) < 2 {
		return "", time.Time{}
	}
	c, err := x509.ParseCertificate(chain[1])
	if err != nil || len(c.Subject.OrganizationalUnit) != 1 {
		return "", time.Time{}
	}
	return c.Subject.OrganizationalUnit[0], c.NotBefore.Add(Backdate)
}
