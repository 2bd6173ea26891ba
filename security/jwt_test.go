package security

import (
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
)

// TestTokens: go-spiffe takes a token of ours by the bundle that carries the key, for its audience, and nothing else.
func TestTokens(t *testing.T) {
	w, now := newWorld(t, testTD), time.Now()
	keys := NewJWTKeys(t.TempDir())
	key, err := keys.Make()
	if err != nil {
		t.Fatal(err)
	}
	token, err := key.Sign(webID, []string{"db", "cache"}, time.Minute, now.Add(time.Hour), now)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := TrustBundle(testTD, 7, w.gen.Roots, map[string][]byte{key.ID(): key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	svid, err := jwtsvid.ParseAndValidate(token, bundle, []string{"cache"})
	if err != nil || svid.ID != webID || svid.Expiry.Sub(now) > time.Minute {
		t.Fatalf("%+v, %v", svid, err)
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil || parsed.Headers[0].KeyID != key.ID() {
		t.Errorf("header %+v, %v", parsed.Headers, err)
	}
	if _, err := jwtsvid.ParseAndValidate(token, bundle, []string{"other"}); err == nil {
		t.Error("it counts for others")
	}
	without, err := TrustBundle(testTD, 7, w.gen.Roots, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jwtsvid.ParseAndValidate(token, without, []string{"db"}); err == nil {
		t.Error("it counts without its key")
	}
	if seq, ok := bundle.SequenceNumber(); !ok || seq != 7 || len(bundle.X509Authorities()) != 1 {
		t.Errorf("bundle: %d, %v", seq, ok)
	}
	raw, err := bundle.Marshal()
	if err != nil || strings.Contains(string(raw), `"d"`) {
		t.Errorf("the bundle holds a private key, or %v", err)
	}
	if text := fmt.Sprintf("%v %+v %#v", key, key, key); strings.Contains(text, key.id) || !strings.Contains(text, "redacted") {
		t.Errorf("it prints as %.80s", text)
	}
}

// TestTokenRefusals reaches the limits, and a token never outlives its key.
func TestTokenRefusals(t *testing.T) {
	now := time.Now()
	key, err := NewJWTKeys(t.TempDir()).Make()
	if err != nil {
		t.Fatal(err)
	}
	ends := now.Add(time.Hour)
	for what, try := range map[string]func() (string, error){
		"nobody":   func() (string, error) { return key.Sign(webID, nil, time.Minute, ends, now) },
		"empty":    func() (string, error) { return key.Sign(webID, []string{""}, time.Minute, ends, now) },
		"too many": func() (string, error) { return key.Sign(webID, make([]string, MaxAudiences+1), time.Minute, ends, now) },
		"too long": func() (string, error) {
			return key.Sign(webID, []string{strings.Repeat("a", MaxAudienceBytes+1)}, time.Minute, ends, now)
		},
		"control":      func() (string, error) { return key.Sign(webID, []string{"a\nb"}, time.Minute, ends, now) },
		"no life":      func() (string, error) { return key.Sign(webID, []string{"db"}, 0, ends, now) },
		"long life":    func() (string, error) { return key.Sign(webID, []string{"db"}, MaxJWTTTL+1, ends, now) },
		"no id":        func() (string, error) { return key.Sign(spiffeid.ID{}, []string{"db"}, time.Minute, ends, now) },
		"trust domain": func() (string, error) { return key.Sign(testTD.ID(), []string{"db"}, time.Minute, ends, now) },
		"ended":        func() (string, error) { return key.Sign(webID, []string{"db"}, time.Minute, now, now) },
	} {
		if token, err := try(); err == nil {
			t.Errorf("%s: %s", what, token)
		}
	}
	token, err := key.Sign(webID, []string{"db"}, time.Minute, now.Add(5*time.Second), now)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	var claims jwt.Claims
	if err := parsed.Claims(&key.key.PublicKey, &claims); err != nil || claims.Expiry.Time().After(now.Add(5*time.Second)) {
		t.Errorf("%+v, %v", claims, err)
	}
}

// TestJWTKeyFiles: keys are kept for their owner alone, and one that others may have read is refused.
func TestJWTKeyFiles(t *testing.T) {
	dir := t.TempDir()
	keys := NewJWTKeys(dir)
	if current, next, err := keys.Load(); current != nil || next != nil || err != nil {
		t.Fatalf("an empty directory: %v, %v, %v", current, next, err)
	}
	made, err := keys.Make()
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Promote(made); err != nil {
		t.Fatal(err)
	}
	current, next, err := keys.Load()
	if err != nil || current.ID() != made.ID() || next.ID() != made.ID() || current.ID() != JWTKeyID(made.Public()) {
		t.Errorf("%v, %v, %v", current, next, err)
	}
	if pub, err := x509.ParsePKIXPublicKey(current.Public()); err != nil || !current.key.PublicKey.Equal(pub.(*ecdsa.PublicKey)) {
		t.Errorf("public half: %v", err)
	}
	path := identityPath(dir, jwtKeyFile)
	if err := os.Chmod(path, 0o644); err != nil { //nolint:gosec // the mistake that has to be found
		t.Fatal(err)
	}
	if _, _, err := keys.Load(); err == nil {
		t.Error("a key that all may read is used")
	}
	if err := CheckKeyFiles(dir); err == nil || !strings.Contains(err.Error(), jwtKeyFile) {
		t.Errorf("check of the key files: %v", err)
	}
}
