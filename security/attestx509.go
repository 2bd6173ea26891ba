package security

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// An RSA key in evidence has to be strong, and must not take long to verify by.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

func checkRSA(key *rsa.PublicKey) error {
	if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
		return fmt.Errorf("an RSA key of %d bits: %d to %d are wanted", bits, minRSABits, maxRSABits)
	}
	return nil
}

// x509Evidence is a certificate for a host (RFC 5280) and those between it and its authority.
type x509Evidence struct {
	leaf    *x509.Certificate
	between []*x509.Certificate
}

func readX509Evidence(ders [][]byte) (evidence, error) {
	certs, err := parseCerts(ders)
	if err != nil {
		return nil, err
	}
	return x509Evidence{certs[0], certs[1:]}, nil
}

func (e x509Evidence) possession(content, signature []byte) error {
	algorithm, err := signatureOf(e.leaf.PublicKey)
	if err != nil {
		return err
	}
	return e.leaf.CheckSignature(algorithm, content, signature)
}

// signatureOf is how a key signs evidence: one way for each kind.
func signatureOf(key crypto.PublicKey) (x509.SignatureAlgorithm, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return x509.ECDSAWithSHA256, nil
	case ed25519.PublicKey:
		return x509.PureEd25519, nil
	case *rsa.PublicKey:
		return x509.SHA256WithRSAPSS, checkRSA(k)
	}
	return 0, errors.New("the key is of a kind that is not used here: use ECDSA, Ed25519 or RSA")
}

// signX509 is the other side of possession.
func signX509(key crypto.Signer, content []byte) ([]byte, error) {
	switch _, err := signatureOf(key.Public()); key.Public().(type) {
	case ed25519.PublicKey:
		return key.Sign(rand.Reader, content, crypto.Hash(0))
	case *rsa.PublicKey:
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(content)
		return key.Sign(rand.Reader, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256})
	default:
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(content)
		return key.Sign(rand.Reader, sum[:], crypto.SHA256)
	}
}

// certifiedBy wants a leaf that may sign (RFC 5280, section 4.2.1.3) below one of the authorities, each valid now. The names are
// its DNS names, or its common name if it has none.
func (e x509Evidence) certifiedBy(authorities [][]byte, now time.Time) ([]string, error) {
	if e.leaf.IsCA || e.leaf.KeyUsage&x509.KeyUsageCertSign != 0 {
		return nil, errors.New("the certificate is that of an authority, and not of a host")
	}
	if e.leaf.KeyUsage != 0 && e.leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, errors.New("the certificate's key may not sign (digitalSignature is missing)")
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, der := range authorities {
		if cert, err := x509.ParseCertificate(der); err == nil { // it was parsed before it was brought in
			roots.AddCert(cert)
		}
	}
	for _, c := range e.between {
		between.AddCert(c)
	}
	_, err := e.leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, err
	}
	if len(e.leaf.DNSNames) > 0 {
		return slices.Clone(e.leaf.DNSNames), nil
	}
	if e.leaf.Subject.CommonName == "" {
		return nil, nil
	}
	return []string{e.leaf.Subject.CommonName}, nil
}

// ParseX509Authorities reads the certificates of authorities, PEM, at most most of them, and returns them as DER.
func ParseX509Authorities(text []byte, most int) ([][]byte, error) {
	certs, err := parsePEMCerts(text)
	if err != nil {
		return nil, err
	}
	if len(certs) == 0 || len(certs) > most {
		return nil, fmt.Errorf("it has %d certificates, 1 to %d are wanted", len(certs), most)
	}
	out := make([][]byte, len(certs))
	for i, c := range certs {
		if !c.IsCA {
			return nil, fmt.Errorf("%q is not the certificate of an authority: hosts show theirs, here goes the one that signed them", printable(c.Subject.String(), 120))
		}
		out[i] = c.Raw
	}
	return out, nil
}

// LoadX509Identity reads the certificate (PEM, with those between it and its authority) and the key (PEM) that a host shows.
func LoadX509Identity(certFile, keyFile string) (*HostIdentity, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: the key cannot sign", keyFile)
	}
	if _, err := signatureOf(key.Public()); err != nil {
		return nil, fmt.Errorf("%s: %w", certFile, err)
	}
	return &HostIdentity{kind: AttestX509, evidence: pair.Certificate, sign: func(content []byte) ([]byte, error) { return signX509(key, content) }}, nil
}
