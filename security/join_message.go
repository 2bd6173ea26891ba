package security

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/security/policy"
)

const (
	// MaxJoinBytes bounds a join request and its answer.
	MaxJoinBytes = 64 << 10
	// MaxJoinMembers is how many members an answer names; a joiner needs a few to begin with.
	MaxJoinMembers = 64

	joinVersion = 1
	maxZone     = 63
	maxAddress  = 255

	// joinDeadline is how long one exchange may take, handshake included.
	joinDeadline = 15 * time.Second
)

// JoinRequest is what a new host says about itself. Two proofs cover all of it. Proof shows that the
// token's holder wrote it: an agent that relays the request to the leader can neither change it nor
// use it for itself, and a copy that is sent again can only give the same host the same answer.
// HostProof shows that the host key's owner wrote it: who has a token and the certificate of somebody
// else could otherwise join under that host's name with a seal key of his own, and have the root
// sealed for it.
type JoinRequest struct {
	Version   int    `json:"version"`
	ClusterID string `json:"cluster_id"`
	TokenID   string `json:"token_id"`
	Zone      string `json:"zone,omitempty"`
	Address   string `json:"address"`  // of the mesh port, addr:port
	HostKey   []byte `json:"host_key"` // SPKI DER, P-256
	SealKey   []byte `json:"seal_key"` // X25519, 32 bytes

	Leaf LeafRequest `json:"leaf"` // the certificate asked for, with the node name

	HostProof []byte `json:"host_proof"` // ASN.1 ECDSA by the host key
	Proof     []byte `json:"proof"`      // HMAC-SHA256 with Token.VerifyKey
}

// content is everything but the proofs.
func (r *JoinRequest) content() []byte {
	until := binary.BigEndian.AppendUint64(nil, uint64(r.Leaf.NotAfter.Unix()))
	return canonical("parley join request v1",
		[]byte(r.ClusterID), []byte(r.TokenID), []byte(r.Zone), []byte(r.Address), r.HostKey, r.SealKey,
		[]byte(r.Leaf.Node), r.Leaf.PublicKey, until, r.Leaf.HostSignature)
}

// hostDigest is what the host key signs.
func (r *JoinRequest) hostDigest() []byte {
	sum := sha256.Sum256(canonical("parley join host proof v1", r.content()))
	return sum[:]
}

// proof is the HMAC over everything, HostProof included.
func (r *JoinRequest) proof(verifyKey []byte) []byte {
	mac := hmac.New(sha256.New, verifyKey)
	mac.Write(canonical("parley join proof v1", r.content(), r.HostProof))
	return mac.Sum(nil)
}

// VerifyProof tells whether r was made by a holder of the token to which verifyKey belongs, and not
// changed since.
func VerifyProof(r JoinRequest, verifyKey []byte) bool {
	return hmac.Equal(r.Proof, r.proof(verifyKey))
}

// CheckJoin is what must hold before a join is proposed: the proof of the token (its verify key comes
// from the applied state), the proofs of the host key, and an end of life that an issuer will grant at
// the time now. Errors are *JoinError.
func CheckJoin(r JoinRequest, td spiffeid.TrustDomain, verifyKey []byte, now time.Time) error {
	if !VerifyProof(r, verifyKey) {
		return NewJoinError(JoinUnknown, "no such token, or its secret is another one")
	}
	host, err := parsePublicKey(r.HostKey)
	if err != nil {
		return NewJoinError(JoinInvalid, "host "+err.Error())
	}
	if !ecdsa.VerifyASN1(host, r.hostDigest(), r.HostProof) {
		return NewJoinError(JoinInvalid, "the request is not signed by the host key that it names")
	}
	leaf := r.LeafRequest()
	_, _, err = leaf.check(td, now)
	var times *LeafTimeError
	switch {
	case errors.As(err, &times):
		return NewJoinError(JoinClock, err.Error())
	case err != nil:
		return NewJoinError(JoinInvalid, err.Error())
	}
	return nil
}

// LeafKeyHash identifies the attempt: the cluster records it with the redeemed token, so that the
// same host may ask again after its connection was cut.
func (r *JoinRequest) LeafKeyHash() [32]byte { return sha256.Sum256(r.Leaf.PublicKey) }

// LeafRequest is the request for the certificate with the host key that the joiner brought.
func (r *JoinRequest) LeafRequest() LeafRequest {
	leaf := r.Leaf
	leaf.HostKey = r.HostKey
	return leaf
}

// check says what is wrong with the form of r. What it means is for the cluster to judge.
func (r *JoinRequest) check() error {
	if r.Version != joinVersion {
		return fmt.Errorf("join protocol version %d, this agent speaks %d", r.Version, joinVersion)
	}
	if id, err := hex.DecodeString(r.ClusterID); err != nil || len(id) != clusterIDBytes {
		return errors.New("cluster_id is not 32 hex digits")
	}
	if id, err := hex.DecodeString(r.TokenID); err != nil || len(id) != tokenIDBytes {
		return errors.New("token_id is not 16 hex digits")
	}
	if err := checkText("zone", r.Zone, maxZone); err != nil {
		return err
	}
	if err := checkText("address", r.Address, maxAddress); err != nil {
		return err
	}
	if _, err := parsePublicKey(r.HostKey); err != nil {
		return fmt.Errorf("host %w", err)
	}
	if _, err := ecdh.X25519().NewPublicKey(r.SealKey); err != nil {
		return errors.New("seal key is not an X25519 key")
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
	if len(r.Proof) != sha256.Size || len(r.HostProof) == 0 || len(r.HostProof) > maxHostSignature {
		return errors.New("proof is missing")
	}
	return nil
}

// checkText allows printable ASCII without space, because the value is shown in terminals.
func checkText(field, s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%s is longer than %d characters", field, limit)
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return fmt.Errorf("%s has characters other than printable ASCII", field)
		}
	}
	return nil
}

// DecodeJoinRequest reads a request of at most MaxJoinBytes and checks its form. Fields that it does
// not know are ignored: a newer joiner may send them.
func DecodeJoinRequest(data []byte) (JoinRequest, error) {
	var r JoinRequest
	if err := decodeJSON(data, &r); err != nil {
		return JoinRequest{}, fmt.Errorf("join request: %w", err)
	}
	if err := r.check(); err != nil {
		return JoinRequest{}, fmt.Errorf("join request: %w", err)
	}
	return r, nil
}

// JoinMember is an agent that a new host can begin to talk to.
type JoinMember struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Core    bool   `json:"core,omitempty"`
}

// JoinResponse is what a new host gets: its certificate, whom to trust, what it may do, and whom to
// talk to.
type JoinResponse struct {
	ClusterID      string       `json:"cluster_id"`
	Chain          [][]byte     `json:"chain"` // DER, leaf first
	BundleSequence uint64       `json:"bundle_sequence"`
	Roots          [][]byte     `json:"roots"` // DER
	Role           policy.Role  `json:"role"`
	CoreGrant      bool         `json:"core_grant,omitempty"`
	Members        []JoinMember `json:"members,omitempty"` // at most MaxJoinMembers
	Proof          []byte       `json:"proof"`             // see Prove
}

// joinAnswer is what crosses the wire: one of the two.
type joinAnswer struct {
	Response *JoinResponse `json:"response,omitempty"`
	Error    *JoinError    `json:"error,omitempty"`
}

func decodeJoinAnswer(data []byte) (joinAnswer, error) {
	var a joinAnswer
	if err := decodeJSON(data, &a); err != nil {
		return joinAnswer{}, fmt.Errorf("join answer: %w", err)
	}
	if (a.Response == nil) == (a.Error == nil) {
		return joinAnswer{}, errors.New("join answer: neither a response nor an error alone")
	}
	return a, nil
}

// decodeJSON reads exactly one value of at most MaxJoinBytes.
func decodeJSON(data []byte, into any) error {
	if len(data) > MaxJoinBytes {
		return fmt.Errorf("%d bytes, at most %d are read", len(data), MaxJoinBytes)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}

// newJoinRequest makes the request of one attempt, which differs from the last one in the times and
// therefore in the signatures.
func newJoinRequest(o *JoinOptions, leaf LeafRequest) (JoinRequest, error) {
	r := JoinRequest{
		Version: joinVersion, ClusterID: o.Token.ClusterID, TokenID: o.Token.ID,
		Zone: o.Zone, Address: o.Address, HostKey: o.Host.HostKey(), SealKey: o.Host.SealKey(), Leaf: leaf,
	}
	sig, err := o.Host.Signer.Sign(rand.Reader, r.hostDigest(), crypto.SHA256)
	if err != nil {
		return JoinRequest{}, fmt.Errorf("sign join request with host key: %w", err)
	}
	r.HostProof = sig
	r.Proof = r.proof(o.Token.VerifyKey())
	return r, nil
}

// writeFrame sends one JSON value with its length in four bytes before it.
func writeFrame(w io.Writer, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if len(data) > MaxJoinBytes {
		return fmt.Errorf("%d bytes, at most %d are sent", len(data), MaxJoinBytes)
	}
	_, err = w.Write(lengthPrefixed(nil, data))
	return err
}

// readFrame receives what writeFrame sent; it allocates no more than MaxJoinBytes.
func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxJoinBytes {
		return nil, fmt.Errorf("%d bytes announced, at most %d are read", n, MaxJoinBytes)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, err
	}
	return data, nil
}
