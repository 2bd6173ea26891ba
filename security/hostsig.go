package security

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ErrHostSignature is wrapped by what refuses a certificate because its host signature is missing,
// is not by the host key that the cluster pinned for the node, or does not cover the certificate.
var ErrHostSignature error = &peerError{"peer's certificate is not vouched for by its host", "see the error: a copied name, a stolen issuer, or a replaced host",
	"the certificate is not vouched for by the host key that this cluster knows for the node: a copied name, a stolen issuer, or a host that was replaced without `token create --replace`"}

// hostSignatureOID names the extension in leaf certificates. Under 2.25 everybody may use the integer
// of a UUID as an arc without asking. This one is 00000000-0000-0000-0000-000034cda788: Go's
// certificate parser refuses a whole certificate in which an arc has more than 31 bits.
var hostSignatureOID = asn1.ObjectIdentifier{2, 25, 885893000}

const hostSignatureVersion = 1

// maxHostSignature bounds the extension's value; a P-256 signature with its hash has about 115 bytes.
const maxHostSignature = 256

// hostSignature is the value of the extension. It is not critical, so that third parties accept the
// certificate; our peers insist on it.
type hostSignature struct {
	Version     int
	HostKeyHash []byte // SHA-256 of the SPKI
	Signature   []byte // ASN.1 ECDSA over hostSignedDigest
}

// hostSignedDigest is what the host key signs: this leaf key is mine until then, under this name.
func hostSignedDigest(id spiffeid.ID, spki []byte, notAfter time.Time) []byte {
	until := binary.BigEndian.AppendUint64(nil, uint64(notAfter.Unix()))
	sum := sha256.Sum256(canonical("parley host signature v1", []byte(id.String()), spki, until))
	return sum[:]
}

func signLeafKey(host *Host, id spiffeid.ID, spki []byte, notAfter time.Time) ([]byte, error) {
	sig, err := host.Signer.Sign(rand.Reader, hostSignedDigest(id, spki, notAfter), crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign leaf key with host key: %w", err)
	}
	return sig, nil
}

func keyHash(spki []byte) []byte {
	sum := sha256.Sum256(spki)
	return sum[:]
}

// verify checks the signature by the host key (SPKI DER) over the three facts.
func (s hostSignature) verify(hostKey []byte, id spiffeid.ID, spki []byte, notAfter time.Time) error {
	if !bytes.Equal(s.HostKeyHash, keyHash(hostKey)) {
		return fmt.Errorf("%s: another host key: %w", id, ErrHostSignature)
	}
	key, err := parsePublicKey(hostKey)
	if err != nil {
		return fmt.Errorf("%s: host %w: %w", id, err, ErrHostSignature)
	}
	if !ecdsa.VerifyASN1(key, hostSignedDigest(id, spki, notAfter), s.Signature) {
		return fmt.Errorf("%s: wrong signature: %w", id, ErrHostSignature)
	}
	return nil
}

func (s hostSignature) extension() (pkix.Extension, error) {
	s.Version = hostSignatureVersion
	value, err := asn1.Marshal(s)
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encode host signature: %w", err)
	}
	return pkix.Extension{Id: hostSignatureOID, Value: value}, nil
}

// hostSignatureOf finds the extension in a leaf.
func hostSignatureOf(leaf *x509.Certificate) (hostSignature, error) {
	for _, ext := range leaf.Extensions {
		if !ext.Id.Equal(hostSignatureOID) {
			continue
		}
		var s hostSignature
		if len(ext.Value) > maxHostSignature {
			return s, fmt.Errorf("%d bytes: %w", len(ext.Value), ErrHostSignature)
		}
		rest, err := asn1.Unmarshal(ext.Value, &s)
		if err != nil || len(rest) > 0 || s.Version != hostSignatureVersion {
			return s, fmt.Errorf("unreadable: %w", ErrHostSignature)
		}
		return s, nil
	}
	return hostSignature{}, fmt.Errorf("missing: %w", ErrHostSignature)
}
