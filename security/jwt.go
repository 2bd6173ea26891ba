package security

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// JWTKeyTTL is how long a core member's key of tokens counts. The next one is published at half of it.
	JWTKeyTTL = 24 * time.Hour
	// JWTKeySettle is how long a published key waits at least before it signs, unless it is the only one: verifiers that
	// nobody can ask look at the bundle from time to time.
	JWTKeySettle = 10 * time.Minute
	// BundleRefresh is how often those who poll a bundle should.
	BundleRefresh = 5 * time.Minute
	// MaxAudiences and MaxAudienceBytes bound what one token is for.
	MaxAudiences     = 16
	MaxAudienceBytes = 512
	// MaxJWTTTL bounds the life of a token.
	MaxJWTTTL = time.Hour

	jwtKeyFile     = "jwt.key"
	jwtNextKeyFile = "jwt-next.key"
)

// JWTKey is a key with which a core member signs JWT-SVIDs. It never leaves the host. It prints as [redacted].
type JWTKey struct {
	redacted
	key *ecdsa.PrivateKey
	id  string
	pub []byte
}

func jwtKeyOf(key *ecdsa.PrivateKey) (*JWTKey, error) {
	spki, err := publicKeyBytes(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	return &JWTKey{key: key, id: JWTKeyID(spki), pub: spki}, nil
}

// JWTKeyID is the kid of a public key (SPKI DER): the first 16 bytes of its SHA-256, in hex.
func JWTKeyID(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:16])
}

// ID is the kid, and Public the public half (SPKI DER), which the bundle carries.
func (k *JWTKey) ID() string     { return k.id }
func (k *JWTKey) Public() []byte { return k.pub }

// JWTKeys are the keys of one core member's data directory: the one that signs, and the next one. Owned by one goroutine;
// the keys that it hands out may be used by many.
type JWTKeys struct{ dir string }

// NewJWTKeys gives the keys of a data directory.
func NewJWTKeys(dir string) JWTKeys { return JWTKeys{dir} }

// Load returns the stored keys, nil for one that there is none of. The error says what cannot be read.
func (k JWTKeys) Load() (current, next *JWTKey, err error) {
	if current, err = k.read(jwtKeyFile); err != nil {
		return nil, nil, err
	}
	next, err = k.read(jwtNextKeyFile)
	return current, next, err
}

func (k JWTKeys) read(name string) (*JWTKey, error) {
	keys, err := readECKeys(identityPath(k.dir, name))
	if isNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return jwtKeyOf(keys[0])
}

// Make makes and stores the next key.
func (k JWTKeys) Make() (*JWTKey, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	return k.save(jwtNextKeyFile, key)
}

// Promote stores a key as the one that signs.
func (k JWTKeys) Promote(next *JWTKey) error {
	_, err := k.save(jwtKeyFile, next.key)
	return err
}

func (k JWTKeys) save(name string, key *ecdsa.PrivateKey) (*JWTKey, error) {
	data, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	if err := writeFile(identityPath(k.dir, name), data); err != nil {
		return nil, fmt.Errorf("save %s: %w", name, err)
	}
	return jwtKeyOf(key)
}

// CheckAudience returns nil for what a token may be for.
func CheckAudience(audience []string) error {
	if len(audience) == 0 || len(audience) > MaxAudiences {
		return fmt.Errorf("%d audiences: name 1 to %d, whom the token is for", len(audience), MaxAudiences)
	}
	for _, a := range audience {
		if a == "" || len(a) > MaxAudienceBytes || strings.ContainsFunc(a, unicode.IsControl) {
			return fmt.Errorf("the audience %.80q: use 1 to %d bytes without control characters", a, MaxAudienceBytes)
		}
	}
	return nil
}

// Sign makes a JWT-SVID of id for an audience, from now until ttl has passed or the key ends. Who may have it is for the
// caller to know.
func (k *JWTKey) Sign(id spiffeid.ID, audience []string, ttl time.Duration, keyEnds, now time.Time) (string, error) {
	if err := CheckAudience(audience); err != nil {
		return "", err
	}
	if id.IsZero() || id.Path() == "" || ttl <= 0 || ttl > MaxJWTTTL {
		return "", fmt.Errorf("sign token of %s for %s: not the identity of a program, or no life of at most %s", id, ttl, MaxJWTTTL)
	}
	ends := now.Add(ttl)
	if ends.After(keyEnds) {
		ends = keyEnds
	}
	if !ends.After(now) {
		return "", errors.New("sign token: this core member's key of tokens has ended: ask another core member")
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: k.key, KeyID: k.id}},
		(&jose.SignerOptions{}).WithType("JWT"),
	)
	if err != nil {
		return "", fmt.Errorf("sign token of %s: %w", id, err)
	}
	token, err := jwt.Signed(signer).Claims(jwt.Claims{
		Subject: id.String(), Audience: audience, IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(ends),
	}).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign token of %s: %w", id, err)
	}
	return token, nil
}

// TrustBundle is the bundle of a trust domain as the SPIFFE standards have it: roots (DER), and keys of tokens by kid (SPKI
// DER).
func TrustBundle(td spiffeid.TrustDomain, sequence uint64, roots [][]byte, keys map[string][]byte) (*spiffebundle.Bundle, error) {
	b := spiffebundle.New(td)
	certs, err := parseCerts(roots)
	if err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	b.SetX509Authorities(certs)
	for kid, spki := range keys {
		key, err := x509.ParsePKIXPublicKey(spki)
		if err != nil {
			return nil, fmt.Errorf("trust bundle: key %s: %w", kid, err)
		}
		if err := b.AddJWTAuthority(kid, key); err != nil {
			return nil, fmt.Errorf("trust bundle: %w", err)
		}
	}
	b.SetSequenceNumber(sequence)
	b.SetRefreshHint(BundleRefresh)
	return b, nil
}
