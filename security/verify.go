package security

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/transport"
)

// maxPeerCerts bounds a chain: leaf, intermediate, and to joiners the roots of the bundle.
const maxPeerCerts = 2 + MaxRoots

// verifier judges what a peer presents, at one moment. It is the only judge in the program: TCP,
// QUIC, the https listener, the join client and an agent's own new certificate all come through it.
type verifier struct {
	td        spiffeid.TrustDomain
	roots     *x509.CertPool
	now       time.Time
	hostKeyOf func(node string) ([]byte, bool) // nil: no binding is known
	denied    func(spiffeid.ID) bool           // nil: nobody is
}

// peer returns who presented certs (leaf first), or why it is refused. want is the node that must
// have presented them, "" for any agent of the trust domain.
//
// The cheap questions that explain most come first; nothing of what they read is believed before the
// chain is verified.
func (v verifier) peer(certs []*x509.Certificate, want string) (transport.Peer, error) {
	if len(certs) == 0 {
		return transport.Peer{}, ErrNoCertificate
	}
	if len(certs) > maxPeerCerts {
		return transport.Peer{}, fmt.Errorf("the peer showed %d certificates, at most %d are read: %w", len(certs), maxPeerCerts, ErrNotLeaf)
	}
	leaf := certs[0]
	if err := checkLeafProfile(leaf); err != nil {
		return transport.Peer{}, err
	}
	id, err := idOf(leaf)
	if err != nil {
		return transport.Peer{}, err
	}
	if id.TrustDomain() != v.td {
		return transport.Peer{}, &TrustDomainError{Peer: id, Want: v.td}
	}
	node, err := NodeOf(id)
	if err != nil {
		return transport.Peer{}, err
	}
	if err := v.chain(certs); err != nil {
		return transport.Peer{}, fmt.Errorf("%s: %w", id, err)
	}
	if want != "" && node != want {
		return transport.Peer{}, &WrongNodeError{Got: node, Want: want}
	}
	if err := v.host(leaf, id, node); err != nil {
		return transport.Peer{}, err
	}
	if v.denied != nil && v.denied(id) {
		return transport.Peer{}, fmt.Errorf("%s: %w", id, ErrDenied)
	}
	return transport.Peer{ID: id, Node: node}, nil
}

// checkLeafProfile wants an X509-SVID for both ends of a connection. The verifier of the standard
// library would accept an issuer as a leaf.
func checkLeafProfile(leaf *x509.Certificate) error {
	switch {
	case leaf.IsCA:
		return fmt.Errorf("an issuer's certificate: %w", ErrNotLeaf)
	case leaf.KeyUsage != x509.KeyUsageDigitalSignature:
		return fmt.Errorf("key usage is not digitalSignature alone: %w", ErrNotLeaf)
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth),
		!slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth):
		return fmt.Errorf("extended key usage is not client and server: %w", ErrNotLeaf)
	}
	return nil
}

// idOf is the SPIFFE ID in the one URI of a leaf.
func idOf(leaf *x509.Certificate) (spiffeid.ID, error) {
	if len(leaf.URIs) != 1 {
		return spiffeid.ID{}, fmt.Errorf("%d URIs, want one SPIFFE ID: %w", len(leaf.URIs), ErrNotLeaf)
	}
	id, err := spiffeid.FromURI(leaf.URIs[0])
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %w", err, ErrNotLeaf)
	}
	return id, nil
}

// chain verifies certs up to a root of the bundle.
func (v verifier) chain(certs []*x509.Certificate) error {
	if err := v.validity("certificate", certs[0]); err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{
		Roots:         v.roots,
		Intermediates: between,
		CurrentTime:   v.now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // checkLeafProfile wants both
	})
	if err == nil {
		return nil
	}
	// An expired issuer looks to the library like an unknown one.
	for _, c := range certs[1:] {
		if err := v.validity("issuer", c); err != nil {
			return err
		}
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return ErrUnknownRoot
	}
	return fmt.Errorf("certificate chain: %w", err)
}

func (v verifier) validity(kind string, c *x509.Certificate) error {
	if v.now.After(c.NotAfter) || v.now.Before(c.NotBefore) {
		return &ValidityError{Kind: kind, NotBefore: c.NotBefore, NotAfter: c.NotAfter, Now: v.now}
	}
	return nil
}

// host checks the signature by the host key over the leaf key. A node whose binding has not reached
// this agent yet (it joined a moment ago) must show a signature, which is checked at later handshakes.
func (v verifier) host(leaf *x509.Certificate, id spiffeid.ID, node string) error {
	sig, err := hostSignatureOf(leaf)
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	if v.hostKeyOf == nil {
		return nil
	}
	key, known := v.hostKeyOf(node)
	if !known {
		return nil
	}
	return sig.verify(key, id, leaf.RawSubjectPublicKeyInfo, leaf.NotAfter)
}
