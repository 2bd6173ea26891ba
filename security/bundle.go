package security

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// MaxRoots is how many roots a bundle may have. Two are normal during a rotation.
const MaxRoots = 4

// ErrBundleOlder is returned by Source.SetBundle for a sequence number below the one in use.
var ErrBundleOlder = errors.New("the bundle in use is newer")

// bundle is a trust bundle: the roots of the trust domain and the number that grows with each change.
type bundle struct {
	sequence uint64
	ders     [][]byte
	pool     *x509.CertPool
}

// newBundle checks roots (DER): one to MaxRoots self-signed signing certificates of td, or of no trust domain: such
// is the root above an authority that somebody else has signed.
func newBundle(td spiffeid.TrustDomain, sequence uint64, ders [][]byte) (*bundle, error) {
	if len(ders) > MaxRoots {
		return nil, fmt.Errorf("%d roots, at most %d are allowed: retire old ones", len(ders), MaxRoots)
	}
	certs, err := parseCerts(ders)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		if err := checkRoot(td, c); err != nil {
			return nil, err
		}
		pool.AddCert(c)
	}
	return &bundle{sequence: sequence, ders: ders, pool: pool}, nil
}

func checkRoot(td spiffeid.TrustDomain, c *x509.Certificate) error {
	anyUse := len(c.URIs) == 0 && c.KeyUsage == 0 // one of your own, and old
	if !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 && !anyUse {
		return fmt.Errorf("%s is not a signing certificate", c.Subject)
	}
	if len(c.URIs) > 1 || len(c.URIs) == 1 && c.URIs[0].String() != td.ID().String() { // one of your own may name none
		return fmt.Errorf("%s is not a root of %s", c.Subject, td)
	}
	if err := c.CheckSignatureFrom(c); err != nil {
		return fmt.Errorf("%s is not signed by itself: %w", c.Subject, err)
	}
	return nil
}

func (b *bundle) same(other *bundle) bool { return equalDERs(b.ders, other.ders) }

// bundleHeader begins the bundle file; the sequence number follows. Readers of PEM skip it.
const bundleHeader = "# trust bundle, sequence "

func (b *bundle) save(dir string) error {
	path := identityPath(dir, bundleFile)
	head := bundleHeader + strconv.FormatUint(b.sequence, 10) + "\n"
	if err := writeFile(path, append([]byte(head), encodeCerts(b.ders)...)); err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	return nil
}

func loadBundle(dir string, td spiffeid.TrustDomain) (*bundle, error) {
	path := identityPath(dir, bundleFile)
	data, err := readPublicFile(path)
	if err != nil {
		return nil, err
	}
	line, rest, _ := bytes.Cut(data, []byte("\n"))
	digits, ok := bytes.CutPrefix(line, []byte(bundleHeader))
	sequence, err := strconv.ParseUint(string(digits), 10, 64)
	if !ok || err != nil {
		return nil, fmt.Errorf("%s does not begin with its sequence number: restore it from a backup or join again", path)
	}
	ders, _, err := decodeCerts(path, rest)
	if err != nil {
		return nil, err
	}
	b, err := newBundle(td, sequence, ders)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}
