package security

import (
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// profile is one kind of leaf: how it is made, and what a peer that shows one is checked for.
type profile struct {
	kind   string             // in the subject, for whoever reads a chain; empty: nothing of ours is in it
	uses   []x509.ExtKeyUsage // these and no others
	wants  string             // the same for an error
	nameOf func(spiffeid.ID) (string, error)

	external bool // somebody else makes them: other uses of the key are his business
}

var (
	// agentProfile is for both ends of a connection: an agent is a client and a server with the same certificate.
	agentProfile = profile{
		kind: "agent", uses: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		wants: "client and server", nameOf: NodeOf,
	}
	// operatorProfile is for clients alone: nobody may serve with it.
	operatorProfile = profile{
		kind: "operator", uses: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, wants: "client alone", nameOf: OperatorOf,
	}
)

// template is an X509-SVID: one URI, not a CA, critical digitalSignature alone.
func (p profile) template(id spiffeid.ID, key *ecdsa.PublicKey, now, notAfter time.Time, extra ...pkix.Extension) (*x509.Certificate, error) {
	keyID, serial, err := certIDs(key)
	if err != nil {
		return nil, err
	}
	subject := pkix.Name{Organization: []string{"Parley"}}
	if p.kind != "" {
		subject.CommonName = "parley " + p.kind + " " + hex.EncodeToString(keyID[:8])
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               subject,
		SubjectKeyId:          keyID,
		NotBefore:             now.Add(-Backdate),
		NotAfter:              notAfter,
		URIs:                  []*url.URL{id.URL()},
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           p.uses,
		BasicConstraintsValid: true,
		ExtraExtensions:       extra,
	}, nil
}

// check wants what template makes. The verifier of the standard library would accept an issuer as a leaf.
func (p profile) check(leaf *x509.Certificate) error {
	switch {
	case leaf.IsCA:
		return fmt.Errorf("an issuer's certificate: %w", ErrNotLeaf)
	case p.external && (leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0):
		return fmt.Errorf("key usage is not that of a leaf: %w", ErrNotLeaf)
	case !p.external && leaf.KeyUsage != x509.KeyUsageDigitalSignature:
		return fmt.Errorf("key usage is not digitalSignature alone: %w", ErrNotLeaf)
	case !p.hasUses(leaf.ExtKeyUsage):
		return fmt.Errorf("extended key usage is not %s: %w", p.wants, ErrNotLeaf)
	}
	return nil
}

func (p profile) hasUses(uses []x509.ExtKeyUsage) bool {
	for _, use := range p.uses {
		if !slices.Contains(uses, use) {
			return false
		}
	}
	return len(uses) == len(p.uses)
}
