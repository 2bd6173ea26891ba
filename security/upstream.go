package security

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// maxAbove is how many certificates there may be from an authority that another one has signed up to its root, without it.
	maxAbove = 3
	// MaxUpstreamText bounds the chain that CheckUpstream reads.
	MaxUpstreamText = 32 << 10
	// MinUpstreamLife is how long such an authority has to last when it is taken: three lives of an issuer.
	MinUpstreamLife = 3 * IssuerTTL
)

// ErrUpstream is wrapped by every refusal of CheckUpstream.
var ErrUpstream = errors.New("this chain cannot be the authority of the cluster")

var (
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
)

// NewUpstreamRequest is the certificate request (PEM) for an authority with this key: a CA with a path length of one, since
// core members have intermediates below it, named after the trust domain.
func NewUpstreamRequest(td spiffeid.TrustDomain, key *ecdsa.PrivateKey) ([]byte, error) {
	keyID, _, err := certIDs(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	constraints, err := asn1.Marshal(struct {
		IsCA bool
		Path int
	}{true, 1})
	if err != nil {
		return nil, err
	}
	usage, err := asn1.Marshal(asn1.BitString{Bytes: []byte{0x06}, BitLength: 7}) // keyCertSign, cRLSign
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{Organization: []string{"Parley"}, CommonName: "parley authority " + hex.EncodeToString(keyID[:8])},
		URIs:    []*url.URL{td.ID().URL()},
		ExtraExtensions: []pkix.Extension{
			{Id: oidBasicConstraints, Critical: true, Value: constraints}, {Id: oidKeyUsage, Critical: true, Value: usage},
		},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// CheckUpstream reads the chain (PEM) of an authority with this key: the authority first, those that signed it, the
// self-signed root last. It returns it as DER. Everything that would show only when certificates are issued below it is
// tried here, so that a chain that is taken works. Errors wrap ErrUpstream and say what to change.
func CheckUpstream(td spiffeid.TrustDomain, key *ecdsa.PrivateKey, text []byte, now time.Time) ([][]byte, error) {
	ders, err := checkUpstream(td, key, text, now)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUpstream, err)
	}
	return ders, nil
}

func checkUpstream(td spiffeid.TrustDomain, key *ecdsa.PrivateKey, text []byte, now time.Time) ([][]byte, error) {
	certs, err := parseUpstream(text)
	if err != nil {
		return nil, err
	}
	authority := certs[0]
	switch {
	case !key.PublicKey.Equal(authority.PublicKey):
		return nil, fmt.Errorf("the first certificate, %s, is not for the key of the request: put it first, or have the newest request signed", authority.Subject)
	case len(authority.URIs) > 1 || len(authority.URIs) == 1 && authority.URIs[0].String() != td.ID().String():
		return nil, fmt.Errorf("%s has the URI %s: it has to be %s alone, or none", authority.Subject, authority.URIs[0], td.ID())
	}
	for i, c := range certs {
		if err := checkAbove(c, i, now); err != nil {
			return nil, err
		}
		if err := checkSigner(c, certs[min(i+1, len(certs)-1)], i == len(certs)-1); err != nil {
			return nil, err
		}
	}
	ders := make([][]byte, len(certs))
	for i, c := range certs {
		ders[i] = c.Raw
	}
	if err := checkRoot(td, certs[len(certs)-1]); err != nil {
		return nil, err
	}
	return ders, tryUpstream(td, &Root{Cert: authority, Key: key, Above: ders[:len(ders)-1]}, ders[len(ders)-1], now)
}

func parseUpstream(text []byte) ([]*x509.Certificate, error) {
	certs, err := parsePEMCerts(text)
	if err != nil {
		return nil, err
	}
	if len(certs) < 2 || len(certs) > maxAbove+1 {
		return nil, fmt.Errorf("it has %d certificates, 2 to %d are wanted: the authority first, those that signed it, and the root last", len(certs), maxAbove+1)
	}
	return certs, nil
}

// parsePEMCerts reads certificates, and nothing else, from a text of at most MaxUpstreamText bytes.
func parsePEMCerts(text []byte) (certs []*x509.Certificate, err error) {
	if len(text) > MaxUpstreamText {
		return nil, fmt.Errorf("it has %d bytes, at most %d are read", len(text), MaxUpstreamText)
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return certs, nil
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it has a PEM block %.40q: certificates alone are wanted, and never a key", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
}

// checkAbove judges one certificate of the chain; i counts those below it.
func checkAbove(c *x509.Certificate, i int, now time.Time) error {
	switch {
	case !c.BasicConstraintsValid || !c.IsCA:
		return fmt.Errorf("%s is not a CA: have it signed with the basic constraint CA:TRUE", c.Subject)
	case c.KeyUsage&x509.KeyUsageCertSign == 0 && (i == 0 || c.KeyUsage != 0): // old roots name no usage, which means any
		return fmt.Errorf("%s may not sign certificates: have it signed with the key usage keyCertSign", c.Subject)
	case (c.MaxPathLen > 0 || c.MaxPathLenZero) && c.MaxPathLen < i+1:
		return fmt.Errorf("%s allows a path length of %d, and there are %d CAs below it: each core member has an intermediate of its own", c.Subject, c.MaxPathLen, i+1)
	case now.Before(c.NotBefore):
		return fmt.Errorf("%s is valid from %s, and it is %s", c.Subject, c.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case c.NotAfter.Before(now.Add(MinUpstreamLife)):
		return fmt.Errorf("%s ends at %s: it has to last at least %s", c.Subject, c.NotAfter.UTC().Format(time.RFC3339), MinUpstreamLife)
	case len(c.SubjectKeyId) == 0:
		return fmt.Errorf("%s has no subject key id, by which those below it are found: have it signed with one", c.Subject)
	}
	return nil
}

func checkSigner(c, signer *x509.Certificate, last bool) error {
	switch err := c.CheckSignatureFrom(signer); {
	case err != nil && last:
		return fmt.Errorf("the last certificate, %s, is not signed by itself: put the root last", c.Subject)
	case err != nil:
		return fmt.Errorf("%s is not signed by %s, which comes next: %w", c.Subject, signer.Subject, err)
	case !last && !bytes.Equal(c.AuthorityKeyId, signer.SubjectKeyId):
		return fmt.Errorf("%s does not name the key id of %s: have it signed with an authority key id", c.Subject, signer.Subject)
	}
	return nil
}

// tryUpstream issues what the cluster would, and verifies it as others do. It finds constraints on names and on uses.
func tryUpstream(td spiffeid.TrustDomain, root *Root, anchor []byte, now time.Time) error {
	by, err := newIssuer(root, td, "trial", now)
	if err != nil {
		return err
	}
	b, err := newBundle(td, 0, [][]byte{anchor})
	if err != nil {
		return err
	}
	for _, path := range []string{agentPath + "trial", operatorPath + "trial", "/svc/trial"} {
		id, err := spiffeid.FromPath(td, path)
		if err != nil {
			return err
		}
		tmpl, err := workloadProfile.template(id, &root.Key.PublicKey, now, now.Add(MinWorkloadTTL))
		if err != nil {
			return err
		}
		leaf, err := sign(tmpl, by.cert, &root.Key.PublicKey, by.key)
		if err != nil {
			return err
		}
		certs, err := parseCerts(by.chain(leaf))
		if err != nil {
			return err
		}
		between := x509.NewCertPool()
		for _, c := range certs[1:] {
			between.AddCert(c)
		}
		for _, use := range workloadProfile.uses { // each: third parties want the one or the other
			o := x509.VerifyOptions{Roots: b.pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{use}}
			if _, err := certs[0].Verify(o); err != nil {
				return fmt.Errorf("a certificate of %s below it does not verify, most likely because of constraints on names or uses: %w", id, err)
			}
		}
	}
	return nil
}
