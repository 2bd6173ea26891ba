package security

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap/zapcore"
)

const (
	tokenPrefix = "parley1-"
	// maxTokenText bounds what ParseToken reads; the longest token has about 700 characters.
	maxTokenText = 1024
	// tokenChecksum is how many bytes of a hash end a token. They tell a typing error from a token
	// that the cluster does not know.
	tokenChecksum = 4

	clusterIDBytes = 16
	tokenIDBytes   = 8
	tokenFlagCore  = 1
)

// What ParseToken refuses.
var (
	// ErrTokenFormat: the text is no token at all.
	ErrTokenFormat = errors.New("this is not a join token: it begins with " + tokenPrefix + " and is printed by `parley token create`")
	// ErrTokenVersion: a token of a newer version.
	ErrTokenVersion = errors.New("this join token was made by another version of parley: install the version that the cluster runs")
	// ErrTokenDamaged: a character is missing, added or changed.
	ErrTokenDamaged = errors.New("this join token is incomplete or mistyped: copy it again, whole")
)

// Token is what an operator carries from the cluster to a new host. It says which cluster (id, trust
// domain, root hashes), so that the host cannot be lured into another one, and it holds a secret that
// the host proves without sending it.
//
// String is the one way to print the secret. Every verb of fmt, JSON, YAML and zap show the public
// part only.
type Token struct {
	ClusterID   string // 32 hex digits
	TrustDomain string
	ID          string // 16 hex digits; public, what `parley token list` shows
	Secret      [32]byte
	Roots       [][32]byte // see RootHash; 1 to MaxRoots
	Node        string     // the one node name that may use it, or ""
	Core        bool       // the joiner gets the core grant
}

// NewToken makes a token with a fresh id and secret for a cluster whose bundle has the given roots
// (DER). node binds it to one node name unless it is "".
func NewToken(clusterID string, td spiffeid.TrustDomain, roots [][]byte, node string, core bool) (Token, error) {
	var id [tokenIDBytes]byte
	t := Token{ClusterID: clusterID, TrustDomain: td.Name(), Node: node, Core: core}
	if _, err := rand.Read(id[:]); err != nil {
		return Token{}, fmt.Errorf("make token: %w", err)
	}
	if _, err := rand.Read(t.Secret[:]); err != nil {
		return Token{}, fmt.Errorf("make token: %w", err)
	}
	t.ID = hex.EncodeToString(id[:])
	for _, der := range roots {
		t.Roots = append(t.Roots, RootHash(der))
	}
	if err := t.check(); err != nil {
		return Token{}, fmt.Errorf("make token: %w", err)
	}
	return t, nil
}

// check says what is wrong with the parts of a token.
func (t Token) check() error {
	if id, err := hex.DecodeString(t.ClusterID); err != nil || len(id) != clusterIDBytes {
		return errors.New("cluster id is not 32 hex digits")
	}
	if id, err := hex.DecodeString(t.ID); err != nil || len(id) != tokenIDBytes {
		return errors.New("token id is not 16 hex digits")
	}
	if td, err := spiffeid.TrustDomainFromString(t.TrustDomain); err != nil || td.Name() != t.TrustDomain {
		return fmt.Errorf("trust domain %q is not one", t.TrustDomain)
	}
	if len(t.TrustDomain) > 255 {
		return errors.New("trust domain is longer than 255 characters")
	}
	if len(t.Roots) == 0 || len(t.Roots) > MaxRoots {
		return fmt.Errorf("%d roots, want 1 to %d", len(t.Roots), MaxRoots)
	}
	if t.Node != "" {
		return CheckNodeName(t.Node)
	}
	return nil
}

// String is the token as an operator passes it on, secret included. It panics for a Token that
// neither NewToken nor ParseToken made.
func (t Token) String() string {
	if err := t.check(); err != nil {
		panic("security: print token: " + err.Error())
	}
	cluster, _ := hex.DecodeString(t.ClusterID) // check has decoded both
	id, _ := hex.DecodeString(t.ID)
	var flags byte
	if t.Core {
		flags |= tokenFlagCore
	}
	b := append([]byte{flags, byte(len(t.Roots))}, cluster...)
	b = append(b, id...)
	b = append(b, t.Secret[:]...)
	for _, r := range t.Roots {
		b = append(b, r[:]...)
	}
	b = append(append(b, byte(len(t.TrustDomain))), t.TrustDomain...)
	b = append(append(b, byte(len(t.Node))), t.Node...)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, tokenSum(b)...))
}

func tokenSum(b []byte) []byte {
	sum := sha256.Sum256(append([]byte(tokenPrefix), b...))
	return sum[:tokenChecksum]
}

// ParseToken reads what Token.String printed; space around it is ignored. Errors never repeat the text.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	text, ok := strings.CutPrefix(s, tokenPrefix)
	switch {
	case !ok && strings.HasPrefix(s, "parley") && strings.Contains(s, "-"):
		return Token{}, ErrTokenVersion
	case !ok:
		return Token{}, ErrTokenFormat
	case len(s) > maxTokenText:
		return Token{}, ErrTokenDamaged
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < tokenChecksum || strings.ContainsAny(text, "\r\n") {
		return Token{}, ErrTokenDamaged
	}
	b, sum := b[:len(b)-tokenChecksum], b[len(b)-tokenChecksum:]
	if !bytes.Equal(sum, tokenSum(b)) {
		return Token{}, ErrTokenDamaged
	}
	return decodeToken(b)
}

// decodeToken reads the bytes that the checksum covers.
func decodeToken(b []byte) (Token, error) {
	r := bytes.NewReader(b)
	take := func(n byte) []byte {
		part := make([]byte, n)
		if _, err := io.ReadFull(r, part); err != nil {
			return nil
		}
		return part
	}
	var t Token
	head := take(2)
	cluster, id, secret := take(clusterIDBytes), take(tokenIDBytes), take(32)
	if head == nil || cluster == nil || id == nil || secret == nil || head[1] > MaxRoots {
		return Token{}, ErrTokenDamaged
	}
	if head[0]&^tokenFlagCore != 0 {
		return Token{}, ErrTokenVersion
	}
	t.Core = head[0]&tokenFlagCore != 0
	t.ClusterID, t.ID, t.Secret = hex.EncodeToString(cluster), hex.EncodeToString(id), [32]byte(secret)
	for range head[1] {
		hash := take(32)
		if hash == nil {
			return Token{}, ErrTokenDamaged
		}
		t.Roots = append(t.Roots, [32]byte(hash))
	}
	for _, s := range []*string{&t.TrustDomain, &t.Node} {
		n, err := r.ReadByte()
		part := take(n)
		if err != nil || part == nil {
			return Token{}, ErrTokenDamaged
		}
		*s = string(part)
	}
	if r.Len() > 0 || t.check() != nil {
		return Token{}, ErrTokenDamaged
	}
	return t, nil
}

// VerifyKey is derived from the secret; the cluster keeps it instead of the secret, in the class of
// state that only core members have. Whoever holds it can prove a join, as a core member could anyway.
func (t Token) VerifyKey() []byte {
	key, err := hkdf.Key(sha256.New, t.Secret[:], []byte(t.ClusterID), "parley join proof v1 "+t.ID, 32)
	if err != nil {
		panic("security: derive join key: " + err.Error()) // only for absurd lengths
	}
	return key
}

// redactedString is the public part of a token.
func (t Token) redactedString() string { return "join token " + t.ID + " [redacted]" }

// Format implements fmt.Formatter for every verb, so that none prints the secret.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.redactedString()) }

// MarshalText implements encoding.TextMarshaler, which JSON, YAML and TOML respect.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.redactedString()), nil }

// MarshalLogObject implements zapcore.ObjectMarshaler, which zap asks before String.
func (t Token) MarshalLogObject(e zapcore.ObjectEncoder) error {
	e.AddString("token_id", t.ID)
	return nil
}
