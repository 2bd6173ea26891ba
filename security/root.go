package security

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// RootTTL is how long a root is valid.
	RootTTL = 10 * 365 * 24 * time.Hour
	// Backdate is how long before its making a certificate is valid from, for hosts whose clock is
	// a little behind.
	Backdate = 2 * time.Minute
	// rootBackdate is the same for roots, which agents get long before they sign: it covers a clock that is wrong by more.
	rootBackdate = time.Hour
)

// Root is the certificate authority of a trust domain with its private key. Hold it no longer than
// it takes to sign. It prints as [redacted].
type Root struct {
	redacted
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
	// Above is set where an authority above has signed Cert: what leads from it to the root of the bundle, DER, Cert first,
	// without that root. It is nil for a root.
	Above [][]byte
}

// NewRoot makes the root of trust domain td.
func NewRoot(td spiffeid.TrustDomain, now time.Time) (*Root, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	tmpl, err := caTemplate(td, "parley root", &key.PublicKey, now, RootTTL)
	if err != nil {
		return nil, err
	}
	tmpl.MaxPathLen, tmpl.NotBefore = 1, now.Add(-rootBackdate)
	cert, err := sign(tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("sign root: %w", err)
	}
	return &Root{Cert: cert, Key: key}, nil
}

// RootHash is what a token carries of a root: the SHA-256 of the certificate.
func RootHash(der []byte) [32]byte { return sha256.Sum256(der) }

// caTemplate is a SPIFFE signing certificate: the trust domain without a path as its one URI, cA and
// keyCertSign, both critical. Subject and key id hold the hash of the key: without that Go's verifier
// tries every issuer of the same subject and runs into its limit of signature checks.
func caTemplate(td spiffeid.TrustDomain, kind string, key *ecdsa.PublicKey, now time.Time, ttl time.Duration) (*x509.Certificate, error) {
	keyID, serial, err := certIDs(key)
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Parley"}, CommonName: kind + " " + hex.EncodeToString(keyID[:8])},
		SubjectKeyId:          keyID,
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(ttl),
		URIs:                  []*url.URL{td.ID().URL()},
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}, nil
}

// certIDs returns the key id (RFC 7093, method 1) of a certificate for key, and a random serial number.
func certIDs(key *ecdsa.PublicKey) (keyID []byte, serial *big.Int, err error) {
	spki, err := publicKeyBytes(key)
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(spki)
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, nil, fmt.Errorf("make serial number: %w", err)
	}
	b[0] = b[0]&0x3f | 0x40 // positive and never short, so never zero
	return sum[:20], new(big.Int).SetBytes(b[:]), nil
}

// sign makes a certificate and parses it back, so that what is handed out is what peers will read.
func sign(tmpl, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
