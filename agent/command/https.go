package command

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
)

// agentTLS is the identity of the agent whose data directory this is, for its callers on the same host.
// It trusts any agent of the trust domain at the other end that speaks the protocol.
func agentTLS(dataDir, protocol string) (*tls.Config, error) {
	path := filepath.Join(dataDir, "identity", "leaf.pem")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New(path + " is not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	id, err := x509svid.IDFromCert(cert)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	node, err := security.NodeOf(id)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	source, err := security.NewSource(security.SourceOptions{
		Dir: dataDir, TrustDomain: id.TrustDomain(), Node: node, Now: clock.System,
	})
	if err != nil {
		return nil, err
	}
	return source.ClientTLS("", protocol), nil
}
