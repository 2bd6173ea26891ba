package federation

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
)

const (
	maxBundleBytes = 1 << 20
	maxAuthorities = 256 // of one bundle, of each kind
	fetchWithin    = 10 * time.Second
)

// fetch gets a bundle once. It does not follow redirects: the address was configured, and what it proves itself by with it.
func fetch(ctx context.Context, p Peer, trusted x509bundle.Source, within time.Duration) (*spiffebundle.Bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, within) // of all of it, the body included
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: maxEndpointHeader}
	switch p.Profile {
	case Web:
		transport.Proxy = http.ProxyFromEnvironment
		transport.TLSClientConfig = &tls.Config{RootCAs: p.Roots, MinVersion: tls.VersionTLS12}
	case SPIFFE:
		transport.TLSClientConfig = tlsconfig.TLSClientConfig(trusted, tlsconfig.AuthorizeID(p.EndpointID))
	default:
		return nil, fmt.Errorf("%q is no profile of bundle endpoints", p.Profile)
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("it redirects, which is not followed: configure the address that it redirects to")
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close() //nolint:errcheck // read only
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", response.Status)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxBundleBytes+1))
	if err != nil {
		return nil, err
	}
	return parseBundle(p.TrustDomain, text)
}

// parseBundle reads a bundle that another trust domain made.
func parseBundle(td spiffeid.TrustDomain, text []byte) (*spiffebundle.Bundle, error) {
	if len(text) > maxBundleBytes {
		return nil, fmt.Errorf("the bundle has more than %d bytes", maxBundleBytes)
	}
	b, err := spiffebundle.Parse(td, text)
	if err != nil {
		return nil, err
	}
	x509s, jwts := len(b.X509Authorities()), len(b.JWTAuthorities())
	switch {
	case x509s == 0:
		return nil, errors.New("the bundle has no certificate authority")
	case x509s > maxAuthorities || jwts > maxAuthorities:
		return nil, fmt.Errorf("the bundle has %d certificate authorities and %d keys, at most %d of each are taken", x509s, jwts, maxAuthorities)
	}
	return b, nil
}
