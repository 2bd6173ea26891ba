package security

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/transport"
)

const (
	// operatorPath is what the path of an operator's SPIFFE ID begins with; the name follows.
	operatorPath = "/parley/operator/"
	// OperatorTTL is how long an operator's certificate is valid.
	OperatorTTL = time.Hour
	// MaxOperatorRequest bounds a certificate request; one with a P-256 key has about 300 bytes.
	MaxOperatorRequest = 4 << 10
)

var (
	// ErrNotOperator is wrapped by what refuses a SPIFFE ID that is no operator's.
	ErrNotOperator = errors.New("not the identity of an operator")
	// ErrOperatorUnknown: the applied state has no operator of that name, or no longer.
	ErrOperatorUnknown error = &peerError{"peer is an operator that the cluster does not know", "it was removed, or was added a moment ago",
		"the cluster knows no operator of that name: it was removed, or has not reached this agent yet"}
	// ErrOperatorKey: the name is bound to another key than the certificate's.
	ErrOperatorKey error = &peerError{"peer is an operator with another key than the cluster's", "see the error: it was bound anew, or somebody has a stolen issuer",
		"the certificate is for another key than the one that the cluster has bound to this operator"}
)

// OperatorID is the SPIFFE ID of the operator with the given name in td. The rules for names are those of nodes.
func OperatorID(td spiffeid.TrustDomain, name string) (spiffeid.ID, error) {
	if err := CheckNodeName(name); err != nil {
		return spiffeid.ID{}, fmt.Errorf("operator: %w", err)
	}
	return spiffeid.FromPath(td, operatorPath+name)
}

// OperatorOf is the name in an operator's SPIFFE ID. Every other ID gives an error that wraps ErrNotOperator.
func OperatorOf(id spiffeid.ID) (string, error) {
	name, ok := strings.CutPrefix(id.Path(), operatorPath)
	if !ok || CheckNodeName(name) != nil {
		return "", fmt.Errorf("%s: %w", id, ErrNotOperator)
	}
	return name, nil
}

// OperatorRequest is a certificate request that proved to be made with the key that it names.
type OperatorRequest struct {
	Name    string
	KeyHash [32]byte // SHA-256 of the key's SPKI, which is what the applied state binds to the name
	key     *ecdsa.PublicKey
	id      spiffeid.ID
}

// ID is the SPIFFE ID that the request is for.
func (r OperatorRequest) ID() spiffeid.ID { return r.id }

// ParseOperatorRequest reads a PKCS #10 request (DER) for the certificate of an operator of td: a P-256 key, its
// signature, and the operator's SPIFFE ID as the one URI. So a request says for which name it was made, and is no use
// under another one. Whether the key is bound to the name is for the caller to know.
func ParseOperatorRequest(td spiffeid.TrustDomain, der []byte) (OperatorRequest, error) {
	r, err := parseOperatorRequest(td, der)
	if err != nil {
		return OperatorRequest{}, fmt.Errorf("certificate request: %w", err)
	}
	return r, nil
}

func parseOperatorRequest(td spiffeid.TrustDomain, der []byte) (r OperatorRequest, err error) {
	if len(der) > MaxOperatorRequest {
		return r, fmt.Errorf("it has %d bytes, at most %d are read", len(der), MaxOperatorRequest)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return r, err
	}
	if r.key, err = parsePublicKey(csr.RawSubjectPublicKeyInfo); err != nil {
		return r, err
	}
	if err := csr.CheckSignature(); err != nil {
		return r, err
	}
	if len(csr.URIs) != 1 {
		return r, fmt.Errorf("%d URIs, want the SPIFFE ID of the operator", len(csr.URIs))
	}
	if r.id, err = spiffeid.FromURI(csr.URIs[0]); err != nil {
		return r, err
	}
	if r.id.TrustDomain() != td {
		return r, fmt.Errorf("it is for trust domain %s, this cluster's is %s", r.id.TrustDomain(), td)
	}
	r.KeyHash = sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	r.Name, err = OperatorOf(r.id)
	return r, err
}

// SignOperator signs the certificate of an operator for OperatorTTL and returns it and its intermediate as DER, leaf
// first. Whether the key is bound to the name is for the caller to know, from a state that a majority has confirmed.
func (a *Authority) SignOperator(r OperatorRequest, now time.Time) ([][]byte, error) {
	if r.id.TrustDomain() != a.td {
		return nil, fmt.Errorf("sign certificate of %s: not of trust domain %s", r.id, a.td)
	}
	by := a.current.Load()
	notAfter := now.Add(OperatorTTL).UTC().Truncate(time.Second)
	if notAfter.After(by.cert.NotAfter) {
		return nil, fmt.Errorf("sign certificate of %s: %w", r.id, ErrIssuerExpired)
	}
	tmpl, err := operatorProfile.template(r.id, r.key, now, notAfter)
	if err != nil {
		return nil, err
	}
	leaf, err := sign(tmpl, by.cert, r.key, by.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", r.id, err)
	}
	return by.chain(leaf), nil
}

// client returns who presented certs at a port that is for operators as well as for agents.
func (v verifier) client(certs []*x509.Certificate) (transport.Peer, error) {
	if len(certs) > 0 {
		if id, err := idOf(certs[0]); err == nil && strings.HasPrefix(id.Path(), operatorPath) {
			return v.operator(certs)
		}
	}
	return v.peer(certs, "")
}

// operator is peer for operators. A chain alone proves nothing: an issuer's key may have been stolen, and the operator
// removed a minute ago. What counts is that the applied state binds the certificate's key to its name. So unlike an
// agent, an operator of whom this agent knows nothing is refused.
func (v verifier) operator(certs []*x509.Certificate) (transport.Peer, error) {
	leaf, id, name, err := v.leaf(certs, operatorProfile)
	if err != nil {
		return transport.Peer{}, err
	}
	if err := v.bound(leaf, name); err != nil {
		return transport.Peer{}, fmt.Errorf("%s: %w", id, err)
	}
	return transport.Peer{ID: id, Operator: name}, nil
}

func (v verifier) bound(leaf *x509.Certificate, name string) error {
	if v.operatorKey == nil {
		return ErrOperatorUnknown
	}
	switch hash, known := v.operatorKey(name); {
	case !known:
		return ErrOperatorUnknown
	case hash != sha256.Sum256(leaf.RawSubjectPublicKeyInfo):
		return ErrOperatorKey
	}
	return nil
}
