package security

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// What an attestation shows; the same words as in the replicated state.
const (
	AttestX509 = "x509"
	AttestSSH  = "ssh"
)

const (
	// AttestTokenTTL is how long the token lasts that a host gets which has proved who it is.
	AttestTokenTTL = 2 * time.Minute
	// AttestClock is how far the clocks of a host and of the core may be apart.
	AttestClock = 5 * time.Minute

	attestVersion = 1
	// attestTag tells an attestation from a join, which has no tag, on transport.ALPNJoin.
	attestTag          = "attest"
	attestPurpose      = "attested token"
	maxEvidence        = 4 // certificates
	maxEvidenceBytes   = 8 << 10
	maxAttestSignature = 1 << 10
)

// AttestRequest is how a host proves who it is by a certificate of somebody else's authority. The signature, by the key in the
// certificate, covers all of it. The answer is a token for one join by the name in the certificate, and its secret is sealed
// to a key of this one request: an agent that relays it cannot use it, and a copy that is sent again gives its sender
// nothing but a token that he cannot read.
type AttestRequest struct {
	Request     string   `json:"request"` // attestTag
	Version     int      `json:"version"`
	TrustDomain string   `json:"trust_domain"`
	Root        []byte   `json:"root"` // the hash of a root of the cluster, see RootHash
	Kind        string   `json:"kind"`
	Evidence    [][]byte `json:"evidence"`  // x509: DER, the host's certificate first; ssh: the host certificate in SSH's wire format
	SealKey     []byte   `json:"seal_key"`  // X25519, 32 bytes, made for this request
	At          int64    `json:"at"`        // Unix seconds by the host's clock
	Signature   []byte   `json:"signature"` // over content
}

// content is what the host signs.
func (r *AttestRequest) content() []byte {
	at := binary.BigEndian.AppendUint64(nil, uint64(r.At)) //nolint:gosec // the bits
	return canonical("parley attest request v1",
		append([][]byte{[]byte(r.TrustDomain), r.Root, []byte(r.Kind), r.SealKey, at}, r.Evidence...)...)
}

// digest names one request in what is made for it.
func (r *AttestRequest) digest() []byte {
	sum := sha256.Sum256(canonical("parley attest request digest v1", r.content(), r.Signature))
	return sum[:]
}

// check says what is wrong with the form of r. What it means is for the cluster to judge.
func (r *AttestRequest) check() error {
	switch {
	case r.Request != attestTag:
		return fmt.Errorf("request %q is not %q", printable(r.Request, 32), attestTag)
	case r.Version != attestVersion:
		return fmt.Errorf("attestation protocol version %d, this agent speaks %d", r.Version, attestVersion)
	case r.Kind != AttestX509 && r.Kind != AttestSSH:
		return fmt.Errorf("kind %q is not one that this version knows: %s, %s", printable(r.Kind, 32), AttestX509, AttestSSH)
	case len(r.Root) != sha256.Size:
		return errors.New("the hash of a root has 32 bytes")
	case len(r.Evidence) == 0 || len(r.Evidence) > maxEvidence || r.Kind == AttestSSH && len(r.Evidence) > 1:
		return fmt.Errorf("%d certificates, at most %d are read, and one of SSH", len(r.Evidence), maxEvidence)
	case len(r.Signature) == 0 || len(r.Signature) > maxAttestSignature:
		return errors.New("signature is missing")
	}
	for _, e := range r.Evidence {
		if len(e) == 0 || len(e) > maxEvidenceBytes {
			return fmt.Errorf("a certificate of %d bytes, at most %d are read", len(e), maxEvidenceBytes)
		}
	}
	if _, err := ecdh.X25519().NewPublicKey(r.SealKey); err != nil {
		return errors.New("seal key is not an X25519 key")
	}
	return nil
}

// DecodeAttestRequest reads a request of at most MaxJoinBytes and checks its form. Fields that it does not know are ignored.
func DecodeAttestRequest(data []byte) (AttestRequest, error) {
	var r AttestRequest
	if err := decodeJSON(data, &r); err != nil {
		return r, fmt.Errorf("attestation: %w", err)
	}
	if err := r.check(); err != nil {
		return AttestRequest{}, fmt.Errorf("attestation: %w", err)
	}
	return r, nil
}

// AttestRule is whom a cluster believes.
type AttestRule struct {
	Name        string
	Kind        string
	Authorities [][]byte                               // certificates (DER), or public keys in SSH's wire format
	NodeOf      func(certified string) (string, error) // the node that a name in a certificate stands for
}

// CheckAttest says by which rule a host is admitted, and as which node: the first rule whose authority certified the host and
// that has a node for a name in the certificate. That the host has the certificate's key is checked first. Errors are
// *JoinError.
func CheckAttest(r AttestRequest, rules []AttestRule, now time.Time) (rule, node string, err error) {
	if off := now.Sub(time.Unix(r.At, 0)).Abs(); off > AttestClock {
		return "", "", NewJoinError(JoinClock, fmt.Sprintf("the clock of the host is %s off", off.Round(time.Second)))
	}
	evidence, err := readEvidence(r)
	if err != nil {
		return "", "", NewJoinError(JoinInvalid, err.Error())
	}
	if err := evidence.possession(r.content(), r.Signature); err != nil {
		return "", "", NewJoinError(JoinInvalid, "the request is not signed by the key in the certificate: "+err.Error())
	}
	told := errors.New("no admission of the cluster is for certificates of this kind")
	closer := false // an authority was right, so it is the name that was not
	for _, rule := range rules {
		if rule.Kind != r.Kind {
			continue
		}
		names, err := evidence.certifiedBy(rule.Authorities, now)
		if err == nil {
			closer = true
			var node string
			if node, err = nodeOfAny(rule, names); err == nil {
				return rule.Name, node, nil
			}
		} else if closer {
			continue
		}
		told = fmt.Errorf("admission %s: %w", rule.Name, err)
	}
	return "", "", NewJoinError(JoinUnattested, told.Error())
}

func nodeOfAny(rule AttestRule, names []string) (node string, err error) {
	err = errors.New("the certificate names no host")
	for _, name := range names {
		if node, err = rule.NodeOf(name); err == nil {
			return node, nil
		}
	}
	return "", err
}

// evidence is a certificate that a host has shown.
type evidence interface {
	// possession checks a signature by the certificate's key.
	possession(content, signature []byte) error
	// certifiedBy returns the names in the certificate if one of the authorities has signed it and it is for a host, now.
	certifiedBy(authorities [][]byte, now time.Time) ([]string, error)
}

func readEvidence(r AttestRequest) (evidence, error) {
	if r.Kind == AttestSSH {
		return readSSHEvidence(r.Evidence[0])
	}
	return readX509Evidence(r.Evidence)
}

// AttestResponse is a token for one join, for the host that asked and nobody else.
type AttestResponse struct {
	ClusterID string   `json:"cluster_id"`
	TokenID   string   `json:"token_id"`
	Node      string   `json:"node"`
	Sealed    []byte   `json:"sealed"`    // the token's secret, sealed to the request's key
	Chain     [][]byte `json:"chain"`     // DER: the issuer of the core member that answers, up to its root
	Signature []byte   `json:"signature"` // by that issuer: no other agent than a core member has one
}

func (a *AttestResponse) content(r AttestRequest) []byte {
	return canonical("parley attest answer v1", r.digest(), []byte(a.ClusterID), []byte(a.TokenID), []byte(a.Node), a.Sealed)
}

func attestInfo(r AttestRequest) []byte { return canonical("parley attest secret v1", r.digest()) }

// AnswerAttest seals the token to the host that made r, and signs the answer by this core member's issuer. roots are those of
// the bundle, DER.
func (a *Authority) AnswerAttest(r AttestRequest, t Token, roots [][]byte) (AttestResponse, error) {
	sealed, err := wrap(t.Secret[:], r.SealKey, attestInfo(r))
	if err != nil {
		return AttestResponse{}, fmt.Errorf("seal a token: %w", err)
	}
	by := a.current.Load()
	out := AttestResponse{ClusterID: t.ClusterID, TokenID: t.ID, Node: t.Node, Sealed: sealed}
	out.Chain = append(append([][]byte{by.cert.Raw}, by.above...), roots...)
	out.Signature, err = signStatement(by.key, attestPurpose, out.content(r))
	return out, err
}

// attestAnswer is what crosses the wire: one of the two.
type attestAnswer struct {
	Response *AttestResponse `json:"response,omitempty"`
	Error    *JoinError      `json:"error,omitempty"`
}

func decodeAttestAnswer(data []byte) (attestAnswer, error) {
	var a attestAnswer
	if err := decodeJSON(data, &a); err != nil {
		return attestAnswer{}, fmt.Errorf("answer to the attestation: %w", err)
	}
	if (a.Response == nil) == (a.Error == nil) {
		return attestAnswer{}, errors.New("answer to the attestation: neither a response nor an error alone")
	}
	return a, nil
}

// token checks that a core member of the cluster made the answer for r, and opens it. The token names those roots alone that
// the host knew before.
func (a *AttestResponse) token(r AttestRequest, td spiffeid.TrustDomain, known [][32]byte, with *ecdh.PrivateKey, now time.Time) (Token, error) {
	if err := verifyIssuer(td, a.Chain, known, now); err != nil {
		return Token{}, fmt.Errorf("answer to the attestation: %w", err)
	}
	issuer, err := x509.ParseCertificate(a.Chain[0])
	if err != nil {
		return Token{}, err
	}
	if !VerifyStatement(issuer.RawSubjectPublicKeyInfo, attestPurpose, a.content(r), a.Signature) {
		return Token{}, errors.New("answer to the attestation: it was not made by a core member of the cluster, or was changed on its way")
	}
	secret, err := unwrap(a.Sealed, with, attestInfo(r))
	if err != nil || len(secret) != sha256.Size {
		return Token{}, errors.New("answer to the attestation: the token in it does not open here")
	}
	t := Token{ClusterID: a.ClusterID, TrustDomain: td.Name(), ID: a.TokenID, Secret: [32]byte(secret), Roots: known, Node: a.Node}
	if err := t.check(); err != nil {
		return Token{}, fmt.Errorf("answer to the attestation: %w", err)
	}
	return t, nil
}

// verifyIssuer wants the certificate of an issuer of td below one of the roots that are known by their hashes.
func verifyIssuer(td spiffeid.TrustDomain, chain [][]byte, known [][32]byte, now time.Time) error {
	if len(chain) > maxPeerCerts {
		return fmt.Errorf("%d certificates, at most %d are read", len(chain), maxPeerCerts)
	}
	certs, err := parseCerts(chain)
	if err != nil {
		return err
	}
	issuer := certs[0]
	if !issuer.IsCA || issuer.KeyUsage&x509.KeyUsageCertSign == 0 || len(issuer.URIs) != 1 || issuer.URIs[0].String() != td.ID().String() ||
		bytes.Equal(issuer.RawSubject, issuer.RawIssuer) {
		return errors.New("it comes from no issuer of the cluster")
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range certs[1:] {
		if slices.Contains(known, RootHash(c.Raw)) {
			roots.AddCert(c)
		} else {
			between.AddCert(c)
		}
	}
	if _, err := issuer.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil {
		return fmt.Errorf("it comes from no issuer below a root that this host knows: %w", err)
	}
	return nil
}

// newAttestRequest signs one request. The private half of its seal key is returned beside it.
func (o *AttestOptions) newRequest() (AttestRequest, *ecdh.PrivateKey, error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return AttestRequest{}, nil, fmt.Errorf("make a key for the attestation: %w", err)
	}
	r := AttestRequest{
		Request: attestTag, Version: attestVersion, TrustDomain: o.TrustDomain.Name(), Root: o.Roots[0][:], Kind: o.Identity.kind,
		Evidence: o.Identity.evidence, SealKey: key.PublicKey().Bytes(), At: o.Now().Unix(),
	}
	r.Signature, err = o.Identity.sign(r.content())
	if err != nil {
		return AttestRequest{}, nil, fmt.Errorf("sign the attestation: %w", err)
	}
	return r, key, nil
}

// ParseRootHash reads the hash of a root as `parley ca status` and `parley init` print it.
func ParseRootHash(text string) (hash [32]byte, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(hash) {
		return hash, fmt.Errorf("%q is not the hash of a root, 64 hex digits", printable(text, 80))
	}
	return [32]byte(b), nil
}
