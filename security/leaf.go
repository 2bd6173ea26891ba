package security

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// DefaultLeafTTL is how long an agent's certificate is valid, unless configured.
	DefaultLeafTTL = time.Hour
	// MinLeafTTL leaves a renewer several attempts in the second half of a lifetime.
	MinLeafTTL = 10 * time.Second
	// MaxLeafTTL lets an issuer in the last part of its own life sign a whole leaf: a leaf must not
	// outlive its issuer, which has at least half of IssuerTTL left when its renewal works.
	MaxLeafTTL = 6 * time.Hour
	// leafSlack is what a request for MinLeafTTL may lose: the part of a second that was cut off, and
	// the time on its way.
	leafSlack = 2 * time.Second
	// maxClockSkew is how far the clock of who asks for a certificate may be ahead of the issuer's.
	maxClockSkew = 5 * time.Minute
)

// LeafRequest asks an issuer for the certificate of an agent. The host key has signed the new key,
// its end of life and the SPIFFE ID, and the signature becomes part of the certificate: who steals an
// issuer's key still cannot make a certificate that peers take for this agent.
//
// It crosses the wire as JSON, without HostKey: an issuer fills that from its applied state.
type LeafRequest struct {
	Node          string    `json:"node"`
	PublicKey     []byte    `json:"public_key"` // SPKI DER, P-256
	NotAfter      time.Time `json:"not_after"`  // whole seconds, UTC
	HostSignature []byte    `json:"host_signature"`
	// Generation is nil of an agent that knows of no generations.
	Generation *GenerationLink `json:"generation,omitempty"`

	// HostKey (SPKI DER) is the key that the cluster pinned for Node, or in a join the one that
	// the joiner brings and the token vouches for.
	HostKey []byte `json:"-"`
}

// NewLeafRequest makes the request for key on the host itself. notAfter is cut to whole seconds.
func NewLeafRequest(host *Host, node string, td spiffeid.TrustDomain, key *ecdsa.PublicKey, notAfter time.Time) (LeafRequest, error) {
	id, err := AgentID(td, node)
	if err != nil {
		return LeafRequest{}, err
	}
	spki, err := publicKeyBytes(key)
	if err != nil {
		return LeafRequest{}, err
	}
	notAfter = notAfter.UTC().Truncate(time.Second)
	sig, err := signLeafKey(host, id, spki, notAfter)
	if err != nil {
		return LeafRequest{}, err
	}
	return LeafRequest{Node: node, PublicKey: spki, NotAfter: notAfter, HostSignature: sig, HostKey: host.HostKey()}, nil
}

// DecodeLeafRequest reads a request from the wire. HostKey is left for the issuer to fill in.
func DecodeLeafRequest(data []byte) (LeafRequest, error) {
	var r LeafRequest
	if err := decodeJSON(data, &r); err != nil {
		return LeafRequest{}, fmt.Errorf("certificate request: %w", err)
	}
	if err := CheckNodeName(r.Node); err != nil {
		return LeafRequest{}, fmt.Errorf("certificate request: %w", err)
	}
	if err := r.checkGeneration(); err != nil {
		return LeafRequest{}, fmt.Errorf("certificate request: %w", err)
	}
	return r, nil
}

// checkGeneration says what is wrong with the form of the link, if there is one.
func (r *LeafRequest) checkGeneration() error {
	if r.Generation == nil {
		return nil
	}
	return r.Generation.check()
}

// LeafTimeError is returned by Authority.SignAgent for an end of life that the issuer does not grant.
type LeafTimeError struct {
	NotAfter time.Time // what was asked for
	Now      time.Time // the issuer's clock
}

func (e *LeafTimeError) Error() string {
	return fmt.Sprintf("certificate wanted until %s, but the issuer's clock says %s and grants %s to %s: set the clock of the host that asks (is its time synchronised?)",
		e.NotAfter.UTC().Format(time.RFC3339), e.Now.UTC().Format(time.RFC3339), MinLeafTTL, MaxLeafTTL)
}

// check validates r at the issuer's time and returns the key and the ID to certify.
func (r *LeafRequest) check(td spiffeid.TrustDomain, now time.Time) (*ecdsa.PublicKey, spiffeid.ID, error) {
	id, err := AgentID(td, r.Node)
	if err != nil {
		return nil, id, err
	}
	key, err := parsePublicKey(r.PublicKey)
	if err != nil {
		return nil, id, fmt.Errorf("leaf %w", err)
	}
	if !r.NotAfter.Equal(r.NotAfter.Truncate(time.Second)) {
		return nil, id, errors.New("not_after is not a whole second")
	}
	if r.NotAfter.After(now.Add(MaxLeafTTL+maxClockSkew)) || r.NotAfter.Before(now.Add(MinLeafTTL-leafSlack)) {
		return nil, id, &LeafTimeError{NotAfter: r.NotAfter, Now: now}
	}
	sig := hostSignature{HostKeyHash: keyHash(r.HostKey), Signature: r.HostSignature}
	return key, id, sig.verify(r.HostKey, id, r.PublicKey, r.NotAfter)
}

// LeafKey returns the key of the certificate that a joining host is going to ask for. It is made once
// and kept on disk: an attempt that was cut off is repeated with the same key, and the cluster, which
// recorded the key with the redeemed token, gives the same answer again.
func LeafKey(dir string) (*ecdsa.PrivateKey, error) {
	path := identityPath(dir, leafKeyFile)
	keys, err := readECKeys(path)
	if err == nil {
		return keys[0], nil
	}
	if !isNotExist(err) {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	data, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	if err := writeFile(path, data); err != nil {
		return nil, fmt.Errorf("save leaf key: %w", err)
	}
	return key, nil
}
