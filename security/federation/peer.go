package federation

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// The profiles by which an endpoint proves itself, as the standard names them.
const (
	Web    = "https_web"    // by the Web's certificate authorities
	SPIFFE = "https_spiffe" // by a SPIFFE ID
)

// Peer is another trust domain, and how to get its bundle.
type Peer struct {
	TrustDomain spiffeid.TrustDomain
	URL         string
	Profile     string
	Roots       *x509.CertPool       // Web: nil means the system's
	EndpointID  spiffeid.ID          // SPIFFE: who serves the bundle
	Initial     *spiffebundle.Bundle // SPIFFE: what is trusted before the first fetch
}

// maxInitialBytes is the largest file with an initial bundle or with roots.
const maxInitialBytes = maxBundleBytes

const peerForms = `write "TRUST_DOMAIN https_web URL [FILE with certificate authorities, PEM]" or ` +
	`"TRUST_DOMAIN https_spiffe URL SPIFFE_ID FILE with the trust domain's bundle"`

// ParsePeer reads a peer from its text in the configuration, and no file.
func ParsePeer(text string) (p Peer, file string, err error) {
	fields := strings.Fields(text)
	if len(fields) < 3 {
		return Peer{}, "", errors.New(peerForms)
	}
	if p.TrustDomain, err = spiffeid.TrustDomainFromString(fields[0]); err != nil {
		return Peer{}, "", err
	}
	p.Profile, p.URL = fields[1], fields[2]
	if err := checkURL(p.URL); err != nil {
		return Peer{}, "", err
	}
	rest := fields[3:]
	switch {
	case p.Profile == Web && len(rest) == 0:
		return p, "", nil
	case p.Profile == Web && len(rest) == 1:
		return p, rest[0], nil
	case p.Profile == SPIFFE && len(rest) == 2:
		if p.EndpointID, err = spiffeid.FromString(rest[0]); err != nil {
			return Peer{}, "", err
		}
		return p, rest[1], nil
	}
	return Peer{}, "", errors.New(peerForms)
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return err
	}
	if u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fmt.Errorf("%q is no https:// address without a user", text)
	}
	return nil
}

// LoadPeer reads a peer from its text in the configuration, with the file that it names.
func LoadPeer(text string) (Peer, error) {
	p, file, err := ParsePeer(text)
	if err != nil || file == "" {
		return p, err
	}
	content, err := readFile(file)
	if err != nil {
		return Peer{}, err
	}
	if p.Profile == Web {
		p.Roots = x509.NewCertPool()
		if !p.Roots.AppendCertsFromPEM(content) {
			return Peer{}, fmt.Errorf("%s has no certificate in it", file)
		}
		return p, nil
	}
	// What is trusted before the first fetch has to be of the endpoint's own trust domain.
	if p.Initial, err = parseBundle(p.EndpointID.TrustDomain(), content); err != nil {
		return Peer{}, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxInitialBytes {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", path, maxInitialBytes)
	}
	return os.ReadFile(path) //nolint:gosec // the operator names it
}
