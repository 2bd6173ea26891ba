package security

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// MaxExternalRoots is how many roots an authority outside of the cluster may have at once for the trust domain.
const MaxExternalRoots = 16

// External is an agent's identity by an authority outside of the cluster, as its Workload API hands it out.
type External struct {
	Certs []*x509.Certificate // leaf first, without the root
	Key   crypto.Signer
	Roots []*x509.Certificate // of the trust domain
}

// externalProfile is agentProfile for a certificate that the cluster did not make. SPIRE's say more of their key than that it
// signs; what matters is that they cannot sign certificates.
var externalProfile = profile{
	uses: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, wants: "client and server", nameOf: NodeOf, external: true,
}

// agentTrust is what agents' certificates are verified by where the cluster does not make them. It is immutable.
type agentTrust struct {
	roots []*x509.Certificate
	pool  *x509.CertPool
}

func newAgentTrust(roots []*x509.Certificate) (*agentTrust, error) {
	if len(roots) == 0 || len(roots) > MaxExternalRoots {
		return nil, fmt.Errorf("%d roots, want 1 to %d", len(roots), MaxExternalRoots)
	}
	t := &agentTrust{roots: roots, pool: x509.NewCertPool()}
	for _, r := range roots {
		if !r.IsCA {
			return nil, fmt.Errorf("%s is not a signing certificate", r.Subject)
		}
		t.pool.AddCert(r)
	}
	return t, nil
}

// SetExternal puts an identity of the authority outside, and its roots, into use. It must be this agent's, and verify as a peer
// would verify it; otherwise the old one stays and the error says why. Nothing of it is written to disk. It panics on a source
// whose certificates the cluster makes: an agent has one of the two, for good.
func (s *Source) SetExternal(e External) error {
	if !s.external {
		panic("security: SetExternal on a source of the built-in authority")
	}
	trust, err := newAgentTrust(e.Roots)
	if err != nil {
		return fmt.Errorf("roots by the Workload API: %w", err)
	}
	cert, err := s.checkExternal(e, trust)
	if err != nil {
		return fmt.Errorf("certificate by the Workload API: %w", err)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	s.agents.Store(trust)
	s.leaf.Store(cert)
	s.signal()
	return nil
}

func (s *Source) checkExternal(e External, trust *agentTrust) (*tls.Certificate, error) {
	if len(e.Certs) == 0 || e.Key == nil {
		return nil, ErrNoCertificate
	}
	if key, ok := e.Key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(e.Certs[0].PublicKey) {
		return nil, errors.New("it is for another key")
	}
	voucher, err := newVoucher(s.host, s.id, e.Certs[0])
	if err != nil {
		return nil, err
	}
	certs := append(append([]*x509.Certificate{}, e.Certs...), voucher)
	v := s.verifier()
	v.agents = trust
	v.hostKeyOf = func(string) ([]byte, bool) { return s.host.HostKey(), true }
	if _, err := v.peer(certs, s.node); err != nil {
		return nil, err
	}
	out := &tls.Certificate{PrivateKey: e.Key, Leaf: certs[0]}
	for _, c := range certs {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out, nil
}

// newVoucher makes the certificate that follows a chain which the cluster did not make. The authority outside does not put the
// host's signature into the leaf, so the host shows it beside. Nobody builds a chain with it: it is there to carry the extension,
// which is verified by the host key that the applied state pins.
func newVoucher(host *Host, id spiffeid.ID, leaf *x509.Certificate) (*x509.Certificate, error) {
	sig, err := signLeafKey(host, id, leaf.RawSubjectPublicKeyInfo, leaf.NotAfter)
	if err != nil {
		return nil, err
	}
	ext, err := hostSignature{HostKeyHash: keyHash(host.HostKey()), Signature: sig}.extension()
	if err != nil {
		return nil, err
	}
	_, serial, err := certIDs(&host.Signer.PublicKey)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"Parley"}, CommonName: "parley host voucher"},
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true, ExtraExtensions: []pkix.Extension{ext},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, host.Signer.Public(), host.Signer)
	if err != nil {
		return nil, fmt.Errorf("make the host's voucher: %w", err)
	}
	return x509.ParseCertificate(der)
}

// ownExternal is the chain that an agent has from the authority outside, without its voucher.
func ownExternal(chain []*x509.Certificate) []*x509.Certificate { return chain[:len(chain)-1] }

// vouched finds the host's signature beside a chain: in the last certificate, and nowhere else.
func vouched(certs []*x509.Certificate) (hostSignature, error) {
	if len(certs) < 2 {
		return hostSignature{}, fmt.Errorf("missing: %w", ErrHostSignature)
	}
	return hostSignatureOf(certs[len(certs)-1])
}

// verifyExternal judges an agent before this host is a member and has a Source.
func verifyExternal(td spiffeid.TrustDomain, roots []*x509.Certificate, certs []*x509.Certificate, now time.Time) error {
	trust, err := newAgentTrust(roots)
	if err != nil {
		return err
	}
	_, err = verifier{td: td, agents: trust, now: now}.peer(certs, "")
	return err
}
