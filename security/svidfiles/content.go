package svidfiles

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// The names of the files.
const (
	KeyName     = "key.pem"      // the private key, PKCS #8
	ChainName   = "svid.pem"     // the certificate and its issuer, leaf first
	BothName    = "svid-key.pem" // chain and key in one file, which changes in one step
	BundleName  = "bundle.pem"   // the roots of the identity's own trust domain
	BundlesName = "bundles.json" // a SPIFFE bundle map: the roots of each trust domain, for its own peers
)

// X509 is what belongs into the files of one X.509-SVID, in the order in which they are to be written: the roots first, since
// the certificate may need new ones, never the other way round. bundles has to have that of the identity's trust domain.
func X509(svid *x509svid.SVID, bundles *x509bundle.Set) ([]File, error) {
	own, err := bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
	if err != nil {
		return nil, fmt.Errorf("no bundle for the identity's own trust domain: %w", err)
	}
	roots, err := own.Marshal()
	if err != nil {
		return nil, err
	}
	var all []*spiffebundle.Bundle
	for _, b := range bundles.Bundles() {
		all = append(all, spiffebundle.FromX509Bundle(b))
	}
	set, err := Bundles(all...)
	if err != nil {
		return nil, err
	}
	chain, key, err := svid.Marshal()
	if err != nil {
		return nil, err
	}
	return []File{
		{Name: BundleName, Data: roots}, set,
		{Name: BothName, Data: append(bytes.Clone(chain), key...), Secret: true},
		{Name: KeyName, Data: key, Secret: true}, {Name: ChainName, Data: chain},
	}, nil
}

// Bundles is a SPIFFE bundle map: of each trust domain the SPIFFE bundle, by its name.
func Bundles(all ...*spiffebundle.Bundle) (File, error) {
	var document struct {
		TrustDomains map[string]json.RawMessage `json:"trust_domains"`
	}
	document.TrustDomains = make(map[string]json.RawMessage, len(all))
	for _, b := range all {
		text, err := b.Marshal()
		if err != nil {
			return File{}, fmt.Errorf("the bundle of %s: %w", b.TrustDomain(), err)
		}
		document.TrustDomains[b.TrustDomain().Name()] = text
	}
	text, err := json.MarshalIndent(document, "", "  ")
	return File{Name: BundlesName, Data: append(text, '\n')}, err
}
