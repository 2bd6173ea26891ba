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

// maxPeerCerts bounds a chain: leaf, intermediate, what an authority above has signed, and to joiners the roots of the bundle.
const maxPeerCerts = 2 + maxAbove + MaxRoots

// verifier judges what a peer presents, at one moment. It is the only judge in the program: TCP,
// QUIC, the https listener, the join client and an agent's own new certificate all come through it.
type verifier struct {
	td        spiffeid.TrustDomain
	roots     *x509.CertPool
	now       time.Time
	hostKeyOf func(node string) ([]byte, bool) // nil: no binding is known
	denied    func(spiffeid.ID) bool           // nil: nobody is

	agents *agentTrust // nil: the roots are those of agents too

	issuerDenied func(node string, issued time.Time) bool // nil: no issuer is

	certDenied func(spiffeid.ID, *x509.Certificate) bool // nil: none is

	operatorKey func(name string) (hash [32]byte, ok bool) // nil: there are no operators
}

// peer returns who presented certs (leaf first), or why it is refused. want is the node that must
// have presented them, "" for any agent of the trust domain.
func (v verifier) peer(certs []*x509.Certificate, want string) (transport.Peer, error) {
	p := agentProfile
	if v.agents != nil { // which knows nothing of our issuers, and is not known to operators
		p, v.roots, v.issuerDenied = externalProfile, v.agents.pool, nil
	}
	_, id, node, err := v.leaf(certs, p)
	if err != nil {
		return transport.Peer{}, err
	}
	if want != "" && node != want {
		return transport.Peer{}, &WrongNodeError{Got: node, Want: want}
	}
	if err := v.host(certs, id, node); err != nil {
		return transport.Peer{}, err
	}
	if v.denied != nil && v.denied(id) {
		return transport.Peer{}, fmt.Errorf("%s: %w", id, ErrDenied)
	}
	return transport.Peer{ID: id, Node: node}, nil
}

// agentRoots is what the chains of agents are verified by. Another pointer is another set.
func (v verifier) agentRoots() *x509.CertPool {
	if v.agents != nil {
		return v.agents.pool
	}
	return v.roots
}

// leaf judges what agents and operators have in common, and returns the leaf, its ID and the name in that.
//
// The cheap questions that explain most come first; nothing of what they read is believed before the
// chain is verified.
func (v verifier) leaf(certs []*x509.Certificate, p profile) (leaf *x509.Certificate, id spiffeid.ID, name string, err error) {
	if len(certs) == 0 {
		return nil, id, "", ErrNoCertificate
	}
	if len(certs) > maxPeerCerts {
		return nil, id, "", fmt.Errorf("the peer showed %d certificates, at most %d are read: %w", len(certs), maxPeerCerts, ErrNotLeaf)
	}
	leaf = certs[0]
	if err := p.check(leaf); err != nil {
		return nil, id, "", err
	}
	if id, err = idOf(leaf); err != nil {
		return nil, id, "", err
	}
	if id.TrustDomain() != v.td {
		return nil, id, "", &TrustDomainError{Peer: id, Want: v.td}
	}
	if name, err = p.nameOf(id); err != nil {
		return nil, id, "", err
	}
	if err := v.chain(certs); err != nil {
		return nil, id, "", fmt.Errorf("%s: %w", id, err)
	}
	if v.isDenied(id, leaf) {
		return nil, id, "", fmt.Errorf("%s, serial %x: %w", id, leaf.SerialNumber, ErrCertDenied)
	}
	return leaf, id, name, nil
}

func (v verifier) isDenied(id spiffeid.ID, leaf *x509.Certificate) bool {
	return v.certDenied != nil && v.certDenied(id, leaf)
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
	chains, err := certs[0].Verify(x509.VerifyOptions{
		Roots:         v.roots,
		Intermediates: between,
		CurrentTime:   v.now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // profile.check wants them
	})
	if err == nil {
		return v.issuers(chains)
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

// issuers refuses a certificate that only evicted members of the core have signed. The name in an intermediate is what the
// root has signed, and the time at which it did so is the other half: a host that is given the name later has its own.
func (v verifier) issuers(chains [][]*x509.Certificate) error {
	if v.issuerDenied == nil {
		return nil
	}
	for _, chain := range chains {
		if len(chain) < 3 || !v.deniedIssuer(chain[1]) {
			return nil
		}
	}
	return ErrIssuerDenied
}

// deniedIssuer judges the intermediate of a core member. What is above it has units of its own.
func (v verifier) deniedIssuer(c *x509.Certificate) bool {
	return slices.ContainsFunc(c.Subject.OrganizationalUnit, func(node string) bool { return v.issuerDenied(node, c.NotBefore.Add(Backdate)) })
}

func (v verifier) validity(kind string, c *x509.Certificate) error {
	if v.now.After(c.NotAfter) || v.now.Before(c.NotBefore) {
		return &ValidityError{Kind: kind, NotBefore: c.NotBefore, NotAfter: c.NotAfter, Now: v.now}
	}
	return nil
}

// host checks the signature by the host key over the leaf key. A node whose binding has not reached
// this agent yet (it joined a moment ago) must show a signature, which is checked at later handshakes.
func (v verifier) host(certs []*x509.Certificate, id spiffeid.ID, node string) error {
	leaf := certs[0]
	sig, err := hostSignatureOf(leaf)
	if v.agents != nil {
		sig, err = vouched(certs)
	}
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
