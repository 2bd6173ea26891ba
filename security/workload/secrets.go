package workload

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// The names of secrets that are not SPIFFE IDs.
const (
	defaultSecret = "default" // the first identity of the process
	ownRoots      = "ROOTCA"  // the bundle of this agent's trust domain
	allRoots      = "ALL"     // that and the federated ones, each for the peers of its own trust domain
)

const (
	secretType    = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	spiffeChecker = "envoy.tls.cert_validator.spiffe"
	maxSecrets    = 256 // that one stream may ask for
)

// secret is one resource.
type secret struct {
	name    string
	version string // a hash of the content: the same on every stream, and after a reconnect
	body    *anypb.Any
}

// secretsFor returns the secrets of these names, all that there are if none is given, in order of names. A name that means
// nothing to this process is left out.
func (h held) secretsFor(names []string, all bool) ([]secret, error) {
	if all {
		names = h.secretNames()
	}
	var secrets []secret
	for _, name := range slices.Sorted(slices.Values(names)) {
		message, err := h.secret(name)
		if err != nil {
			return nil, err
		}
		if message == nil {
			continue
		}
		body := &anypb.Any{}
		if err := anypb.MarshalFrom(body, message, proto.MarshalOptions{Deterministic: true}); err != nil {
			return nil, fmt.Errorf("encode the secret %q: %w", name, err)
		}
		sum := sha256.Sum256(body.GetValue())
		secrets = append(secrets, secret{name: name, version: hex.EncodeToString(sum[:16]), body: body})
	}
	return slices.CompactFunc(secrets, func(a, b secret) bool { return a.name == b.name }), nil
}

// secretNames are those that a proxy gets which asks for everything.
func (h held) secretNames() []string {
	names := []string{defaultSecret, ownRoots, allRoots}
	for _, identity := range h.identities {
		names = append(names, identity.ID.String())
	}
	for _, bundle := range h.bundles.all() {
		names = append(names, bundle.TrustDomain().IDString())
	}
	return names
}

// secret returns the secret of a name, nil if there is none for this process.
func (h held) secret(name string) (*tls.Secret, error) {
	switch name {
	case ownRoots:
		return validation(name, h.bundles.Own)
	case allRoots:
		return validation(name, h.bundles.all()...)
	case defaultSecret:
		if len(h.identities) == 0 {
			return nil, nil
		}
		return certificate(name, h.identities[0])
	}
	for _, identity := range h.identities {
		if identity.ID.String() == name {
			return certificate(name, identity)
		}
	}
	for _, bundle := range h.bundles.all() {
		if bundle.TrustDomain().IDString() == name {
			return validation(name, bundle)
		}
	}
	return nil, nil
}

func certificate(name string, identity Identity) (*tls.Secret, error) {
	key, err := x509.MarshalPKCS8PrivateKey(identity.Key)
	if err != nil {
		return nil, fmt.Errorf("the key of %s cannot be encoded: %w", identity.ID, err)
	}
	return &tls.Secret{Name: name, Type: &tls.Secret_TlsCertificate{TlsCertificate: &tls.TlsCertificate{
		CertificateChain: inline(pems(identity.Chain)),
		PrivateKey:       inline(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
	}}}, nil
}

// validation is what the proxy is to check its peers by: each bundle vouches for the peers of its own trust domain only. A
// plain list of authorities would let one trust domain speak for another.
func validation(name string, bundles ...*spiffebundle.Bundle) (*tls.Secret, error) {
	config := &tls.SPIFFECertValidatorConfig{}
	for _, bundle := range bundles {
		config.TrustDomains = append(config.TrustDomains, &tls.SPIFFECertValidatorConfig_TrustDomain{
			Name: bundle.TrustDomain().Name(), TrustBundle: inline(pems(bundle.X509Authorities())),
		})
	}
	body := &anypb.Any{}
	if err := anypb.MarshalFrom(body, config, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, fmt.Errorf("encode the secret %q: %w", name, err)
	}
	return &tls.Secret{Name: name, Type: &tls.Secret_ValidationContext{ValidationContext: &tls.CertificateValidationContext{
		CustomValidatorConfig: &core.TypedExtensionConfig{Name: spiffeChecker, TypedConfig: body},
	}}}, nil
}

func inline(text []byte) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: text}}
}

func pems(certs []*x509.Certificate) (text []byte) {
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

// checkSecretNames refuses what can never be a secret's name.
func checkSecretNames(names []string) error {
	if len(names) > maxSecrets {
		return fmt.Errorf("%d names, at most %d secrets can be asked for on one stream", len(names), maxSecrets)
	}
	for _, name := range names {
		switch name {
		case defaultSecret, ownRoots, allRoots:
			continue
		}
		if _, err := parseID(name); err != nil {
			return fmt.Errorf("%s is neither a SPIFFE ID nor %s, %s or %s: %w", quoted(name), defaultSecret, ownRoots, allRoots, err)
		}
	}
	return nil
}

// quoted shows a name of others within bounds.
func quoted(name string) string {
	if len(name) > 100 {
		name = name[:100] + "..."
	}
	return fmt.Sprintf("%q", strings.ToValidUTF8(name, "?"))
}
