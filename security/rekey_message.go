package security

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// ContinuityWindow is how long after the end of its last certificate a host is still known by its
	// host key.
	ContinuityWindow = 30 * 24 * time.Hour

	rekeyVersion = 1
	// rekeyTag tells a renewal from a join, which has no tag, whichever connection it comes by.
	rekeyTag = "rekey"
	// maxLastCerts are the last certificate and its issuer.
	maxLastCerts = 2
)

// RekeyRequest is how a host whose certificate ended asks for another one. HostProof covers all of it,
// so an agent that relays it can change nothing.
//
// Sending a copy again gives its sender nothing. The answer is a certificate for the same key, with the
// same end of life, because the host key signed both; only the host has the private key; and once that
// end is near no core member signs it. That is why nothing about a renewal has to be remembered, and
// none needs a write to the replicated state.
//
// Last is there because the applied state does not know when a node was last renewed: renewals write
// nothing. The host shows the certificate that it had instead. It is no credential: the host key is what
// speaks for the host, and the certificate can only make the core refuse. It dates the host's last
// renewal, signed by the cluster's own issuer, and whoever finds an old disk cannot show a newer one.
type RekeyRequest struct {
	Request   string      `json:"request"` // rekeyTag
	Version   int         `json:"version"`
	ClusterID string      `json:"cluster_id"`
	Leaf      LeafRequest `json:"leaf"`       // the certificate asked for, with the node name
	Last      [][]byte    `json:"last"`       // DER, leaf first, then its issuer
	HostProof []byte      `json:"host_proof"` // ASN.1 ECDSA by the host key
}

// hostDigest is what the host key signs: everything but the signature itself.
func (r *RekeyRequest) hostDigest() []byte {
	until := binary.BigEndian.AppendUint64(nil, uint64(r.Leaf.NotAfter.Unix()))
	parts := [][]byte{
		[]byte(r.ClusterID), []byte(r.Leaf.Node), r.Leaf.PublicKey, until, r.Leaf.HostSignature,
	}
	if link := r.Leaf.Generation; link != nil { // else a relay could put an older one in its place, and the host would look like two
		parts = append(parts, link.Signature)
	}
	sum := sha256.Sum256(canonical("parley rekey host proof v1", append(parts, r.Last...)...))
	return sum[:]
}

// check says what is wrong with the form of r. What it means is for the cluster to judge.
func (r *RekeyRequest) check() error {
	if r.Request != rekeyTag {
		return fmt.Errorf("request %q is not %q", printable(r.Request, 32), rekeyTag)
	}
	if r.Version != rekeyVersion {
		return fmt.Errorf("renewal protocol version %d, this agent speaks %d", r.Version, rekeyVersion)
	}
	if id, err := hex.DecodeString(r.ClusterID); err != nil || len(id) != clusterIDBytes {
		return errors.New("cluster_id is not 32 hex digits")
	}
	if err := CheckNodeName(r.Leaf.Node); err != nil {
		return err
	}
	if _, err := parsePublicKey(r.Leaf.PublicKey); err != nil {
		return fmt.Errorf("leaf %w", err)
	}
	if len(r.Leaf.HostSignature) == 0 || len(r.Leaf.HostSignature) > maxHostSignature {
		return errors.New("host signature is missing")
	}
	if err := r.Leaf.checkGeneration(); err != nil {
		return err
	}
	if len(r.Last) == 0 || len(r.Last) > maxLastCerts {
		return fmt.Errorf("%d last certificates, want 1 to %d", len(r.Last), maxLastCerts)
	}
	if len(r.HostProof) == 0 || len(r.HostProof) > maxHostSignature {
		return errors.New("host proof is missing")
	}
	return nil
}

// DecodeRekeyRequest reads a request of at most MaxJoinBytes and checks its form. Fields that it does
// not know are ignored.
func DecodeRekeyRequest(data []byte) (RekeyRequest, error) {
	var r RekeyRequest
	if err := decodeJSON(data, &r); err != nil {
		return RekeyRequest{}, fmt.Errorf("renewal request: %w", err)
	}
	if err := r.check(); err != nil {
		return RekeyRequest{}, fmt.Errorf("renewal request: %w", err)
	}
	return r, nil
}

// requestTag reads the tag alone. What has none, or cannot be read, is for the join to judge.
func requestTag(data []byte) string {
	var tag struct {
		Request string `json:"request"`
	}
	if decodeJSON(data, &tag) != nil {
		return ""
	}
	return tag.Request
}

// CheckRekey is what must hold before a core member signs r: hostKey, which the applied state pins for
// the node, made the request; the last certificate ended within ContinuityWindow; and the end of life is
// one that an issuer will grant. It returns what to sign. Errors are *RekeyError.
//
// The proof comes first: without it a stranger would cost a chain of verifications, not one.
func (s *Source) CheckRekey(r RekeyRequest, hostKey []byte) (LeafRequest, error) {
	key, err := parsePublicKey(hostKey)
	if err != nil {
		return LeafRequest{}, NewRekeyError(RekeyInvalid, "host "+err.Error())
	}
	if !ecdsa.VerifyASN1(key, r.hostDigest(), r.HostProof) {
		return LeafRequest{}, NewRekeyError(RekeyHostKey,
			"the request is not signed by the host key that this cluster knows for node "+r.Leaf.Node)
	}
	now := s.now()
	if err := s.checkLast(r, hostKey, now); err != nil {
		return LeafRequest{}, err
	}
	leaf := r.Leaf
	leaf.HostKey = hostKey
	return leaf, rekeyLeafError(leaf, s.td, now)
}

func rekeyLeafError(leaf LeafRequest, td spiffeid.TrustDomain, now time.Time) error {
	_, _, err := leaf.check(td, now)
	var times *LeafTimeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &times):
		return NewRekeyError(RekeyClock, err.Error())
	case errors.Is(err, ErrHostSignature):
		return NewRekeyError(RekeyHostKey, err.Error())
	}
	return NewRekeyError(RekeyInvalid, err.Error())
}

// checkLast judges the last certificate as every peer's, but at the last moment of its life, if that is
// over: the question is when it ended, not whether it is good for anything now. This is the one place
// where the clock of a verifier is turned back, and what it lets through gets no further than the
// signature by the host key that was verified before.
func (s *Source) checkLast(r RekeyRequest, hostKey []byte, now time.Time) error {
	certs, err := parseCerts(r.Last)
	if err != nil {
		return NewRekeyError(RekeyInvalid, "last certificate: "+err.Error())
	}
	ended := certs[0].NotAfter
	if ago := now.Sub(ended); ago > ContinuityWindow {
		return NewRekeyError(RekeyWindow, fmt.Sprintf("the last certificate of node %s ended %s ago, a host key renews for %s",
			r.Leaf.Node, ago.Round(time.Minute), ContinuityWindow))
	}
	v := s.verifier()
	if ended.Before(now) {
		v.now = ended
	}
	v.hostKeyOf = func(string) ([]byte, bool) { return hostKey, true }
	v.certDenied = nil // that the last one is denied is why another one is asked for
	_, err = v.peer(certs, r.Leaf.Node)
	var validity *ValidityError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrDenied):
		return NewRekeyError(RekeyDenied, "this host was evicted")
	case errors.As(err, &validity) && !validity.Expired():
		return NewRekeyError(RekeyClock, "last certificate: "+err.Error())
	}
	return NewRekeyError(RekeyInvalid, "last certificate: "+err.Error())
}

// RekeyResponse is what a renewed host gets; see Rekey for what it does not get.
type RekeyResponse struct {
	Chain [][]byte `json:"chain"` // DER, leaf first
}

// rekeyAnswer is what crosses the wire: one of the two.
type rekeyAnswer struct {
	Response *RekeyResponse `json:"response,omitempty"`
	Error    *RekeyError    `json:"error,omitempty"`
}

func decodeRekeyAnswer(data []byte) (rekeyAnswer, error) {
	var a rekeyAnswer
	if err := decodeJSON(data, &a); err != nil {
		return rekeyAnswer{}, fmt.Errorf("renewal answer: %w", err)
	}
	if (a.Response == nil) == (a.Error == nil) {
		return rekeyAnswer{}, errors.New("renewal answer: neither a response nor an error alone")
	}
	return a, nil
}
