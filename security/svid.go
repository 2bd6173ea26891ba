package security

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// MinWorkloadTTL and MaxWorkloadTTL bound the life of a program's certificate.
	MinWorkloadTTL = MinLeafTTL
	MaxWorkloadTTL = MaxLeafTTL
	// MaxWorkloadRequest bounds a request; one has about 350 bytes.
	MaxWorkloadRequest = 4 << 10
)

// ErrWorkloadProof is wrapped by what refuses a request that was not made with the key that it names, or was made by
// another agent or for another entry.
var ErrWorkloadProof = errors.New("the request was not made with the key that it names, for this entry and by this agent")

// WorkloadRequest asks an issuer for the certificate of a program, by the name of the registration entry. An agent makes
// the key on its own host, and the key signs the request: nobody gets a certificate for a key that another one holds.
// It crosses the wire as JSON.
type WorkloadRequest struct {
	Entry     string `json:"entry"`
	PublicKey []byte `json:"public_key"` // SPKI DER, P-256
	Proof     []byte `json:"proof"`
}

// NewWorkloadRequest makes the request of the agent of node for a new key.
func NewWorkloadRequest(node, entry string, key *ecdsa.PrivateKey) (WorkloadRequest, error) {
	spki, err := publicKeyBytes(&key.PublicKey)
	if err != nil {
		return WorkloadRequest{}, err
	}
	proof, err := ecdsa.SignASN1(rand.Reader, key, workloadDigest(node, entry, spki))
	if err != nil {
		return WorkloadRequest{}, fmt.Errorf("sign certificate request: %w", err)
	}
	return WorkloadRequest{Entry: entry, PublicKey: spki, Proof: proof}, nil
}

func workloadDigest(node, entry string, spki []byte) []byte {
	sum := sha256.Sum256(canonical("parley workload request v1", []byte(node), []byte(entry), spki))
	return sum[:]
}

// DecodeWorkloadRequest reads a request from the wire.
func DecodeWorkloadRequest(data []byte) (WorkloadRequest, error) {
	var r WorkloadRequest
	if len(data) > MaxWorkloadRequest {
		return r, fmt.Errorf("certificate request: it has %d bytes, at most %d are read", len(data), MaxWorkloadRequest)
	}
	if err := decodeJSON(data, &r); err != nil {
		return r, fmt.Errorf("certificate request: %w", err)
	}
	return r, nil
}

// NewWorkloadKey makes the key of a program's certificate. It is held in memory alone.
func NewWorkloadKey() (*ecdsa.PrivateKey, error) { return newKey() }

// SignWorkload signs the certificate of a program for the agent of node, and returns it and its intermediate as DER, leaf
// first. It ends after ttl, or with the intermediate if that is earlier. Whether the entry gives id, and whether that
// agent may have it, is for the caller to know.
func (a *Authority) SignWorkload(r WorkloadRequest, node string, id spiffeid.ID, ttl time.Duration, now time.Time) ([][]byte, error) {
	key, err := parsePublicKey(r.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", id, err)
	}
	if !ecdsa.VerifyASN1(key, workloadDigest(node, r.Entry, r.PublicKey), r.Proof) {
		return nil, fmt.Errorf("sign certificate of %s: %w", id, ErrWorkloadProof)
	}
	if id.TrustDomain() != a.td || id.Path() == "" {
		return nil, fmt.Errorf("sign certificate of %s: not the identity of a program of %s", id, a.td)
	}
	if ttl < MinWorkloadTTL || ttl > MaxWorkloadTTL {
		return nil, fmt.Errorf("sign certificate of %s: for %s, but %s to %s are granted", id, ttl, MinWorkloadTTL, MaxWorkloadTTL)
	}
	by := a.current.Load()
	notAfter := now.Add(ttl).UTC().Truncate(time.Second)
	if notAfter.After(by.cert.NotAfter) {
		notAfter = by.cert.NotAfter
	}
	if notAfter.Before(now.Add(MinWorkloadTTL - leafSlack)) {
		return nil, fmt.Errorf("sign certificate of %s: %w", id, ErrIssuerExpired)
	}
	tmpl, err := workloadProfile.template(id, key, now, notAfter)
	if err != nil {
		return nil, err
	}
	leaf, err := sign(tmpl, by.cert, key, by.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", id, err)
	}
	return by.chain(leaf), nil
}

// workloadProfile is for both ends of a connection: others verify it.
var workloadProfile = profile{
	uses: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, wants: "client and server",
}

// VerifyWorkload checks a program's chain (DER, leaf first) as other programs would: an X509-SVID of id, for key, up to one
// of the roots (DER). It returns the parsed chain.
func VerifyWorkload(chain [][]byte, id spiffeid.ID, key *ecdsa.PublicKey, roots [][]byte, now time.Time) ([]*x509.Certificate, error) {
	certs, err := parseCerts(chain)
	if err != nil {
		return nil, err
	}
	b, err := newBundle(id.TrustDomain(), 0, roots)
	if err != nil {
		return nil, err
	}
	if err := workloadProfile.check(certs[0]); err != nil {
		return nil, err
	}
	switch got, err := idOf(certs[0]); {
	case err != nil:
		return nil, err
	case got != id:
		return nil, fmt.Errorf("it is the certificate of %s, not of %s", got, id)
	case !key.Equal(certs[0].PublicKey):
		return nil, errors.New("it is for another key")
	}
	if err := (verifier{td: id.TrustDomain(), roots: b.pool, now: now}).chain(certs); err != nil {
		return nil, err
	}
	return certs, nil
}
