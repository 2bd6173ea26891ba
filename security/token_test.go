package security

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const testClusterID = "00112233445566778899aabbccddeeff"

func testToken(t testing.TB, roots int, node string, core bool) Token {
	t.Helper()
	ders := [][]byte{}
	for i := range roots {
		ders = append(ders, []byte{byte(i)})
	}
	token, err := NewToken(testClusterID, testTD, ders, node, core)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func equalTokens(a, b Token) bool {
	return a.ClusterID == b.ClusterID && a.TrustDomain == b.TrustDomain && a.ID == b.ID && a.Secret == b.Secret &&
		slices.Equal(a.Roots, b.Roots) && a.Node == b.Node && a.Core == b.Core
}

// What is printed is read back, with any number of roots, a bound node and the core flag.
func TestTokenRoundTrip(t *testing.T) {
	for roots := 1; roots <= MaxRoots; roots++ {
		for _, node := range []string{"", "a1", strings.Repeat("n", maxNodeName)} {
			for _, core := range []bool{false, true} {
				want := testToken(t, roots, node, core)
				text := want.String()
				if !strings.HasPrefix(text, tokenPrefix) || len(text) > maxTokenText {
					t.Fatalf("%d characters", len(text))
				}
				got, err := ParseToken(" " + text + "\n")
				if err != nil || !equalTokens(got, want) {
					t.Errorf("roots %d node %q core %v: %v", roots, node, core, err)
				}
			}
		}
	}
	long := testToken(t, MaxRoots, strings.Repeat("n", maxNodeName), true)
	long.TrustDomain = strings.Repeat("d", 255)
	if got, err := ParseToken(long.String()); err != nil || !equalTokens(got, long) {
		t.Errorf("the longest token, %d characters: %v", len(long.String()), err)
	}
}

// Each single changed, missing or added character is told from a token that the cluster does not know.
func TestTokenTypos(t *testing.T) {
	text := testToken(t, 1, "a1", false).String()
	for i := len(tokenPrefix); i < len(text); i++ {
		other := byte('A')
		if text[i] == other {
			other = 'B'
		}
		for kind, bad := range map[string]string{
			"changed": text[:i] + string(other) + text[i+1:],
			"missing": text[:i] + text[i+1:],
			"added":   text[:i] + "x" + text[i:],
			"cut":     text[:i],
			"newline": text[:i] + "\n" + text[i:],
		} {
			if kind == "newline" && i == len(text) {
				continue
			}
			if _, err := ParseToken(bad); !errors.Is(err, ErrTokenDamaged) {
				t.Fatalf("%s at %d: %v", kind, i, err)
			}
		}
	}
	for in, want := range map[string]error{
		"":                                       ErrTokenFormat,
		"hello":                                  ErrTokenFormat,
		"s.abcdef-123":                           ErrTokenFormat,
		"parley2-AAAA":                           ErrTokenVersion,
		tokenPrefix:                              ErrTokenDamaged,
		tokenPrefix + "!!!!":                     ErrTokenDamaged,
		"--token " + text:                        ErrTokenFormat,
		strings.ToUpper(text):                    ErrTokenFormat,
		text + text:                              ErrTokenDamaged,
		text + strings.Repeat("A", maxTokenText): ErrTokenDamaged,
	} {
		if _, err := ParseToken(in); !errors.Is(err, want) {
			t.Errorf("%.30q: %v, want %v", in, err, want)
		}
	}
}

// Bytes with a right checksum and wrong contents are refused as well.
func TestTokenContents(t *testing.T) {
	b := func() []byte {
		raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(testToken(t, 1, "a1", false).String(), tokenPrefix))
		if err != nil {
			t.Fatal(err)
		}
		return raw[:len(raw)-tokenChecksum]
	}
	parse := func(b []byte) error {
		_, err := ParseToken(tokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, tokenSum(b)...)))
		return err
	}
	if err := parse(b()); err != nil {
		t.Fatalf("control: %v", err)
	}
	for name, tc := range map[string]struct {
		bytes []byte
		want  error
	}{
		"unknown flag":   {append([]byte{2}, b()[1:]...), ErrTokenVersion},
		"no roots":       {slices.Concat([]byte{0, 0}, b()[2:58], b()[90:]), ErrTokenDamaged},
		"too many roots": {slices.Concat([]byte{0, MaxRoots + 1}, b()[2:]), ErrTokenDamaged},
		"more bytes":     {append(b(), 0), ErrTokenDamaged},
		"bad node":       {append(b()[:len(b())-2], "A1"...), ErrTokenDamaged},
		"empty":          {nil, ErrTokenDamaged},
	} {
		if err := parse(tc.bytes); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	for name, make := range map[string]func() (Token, error){
		"cluster id": func() (Token, error) { return NewToken("short", testTD, [][]byte{{1}}, "", false) },
		"no root":    func() (Token, error) { return NewToken(testClusterID, testTD, nil, "", false) },
		"node":       func() (Token, error) { return NewToken(testClusterID, testTD, [][]byte{{1}}, "A", false) },
		"domain": func() (Token, error) {
			return NewToken(testClusterID, spiffeid.TrustDomain{}, [][]byte{{1}}, "", false)
		},
	} {
		if _, err := make(); err == nil {
			t.Errorf("NewToken with a bad %s", name)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("the zero token was printed")
		}
	}()
	_ = Token{}.String()
}

// Nothing but String prints the secret: no verb, no JSON, no structure around it, no logger.
func TestTokenIsRedacted(t *testing.T) {
	token := testToken(t, 1, "", false)
	var out bytes.Buffer
	type around struct {
		Token Token
		Ptr   *Token
	}
	for _, v := range []any{token, &token, around{token, &token}, []Token{token}, map[string]Token{"a": token}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(data)
	}
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	log := zap.New(zapcore.NewCore(encoder, zapcore.AddSync(&out), zapcore.DebugLevel))
	log.Info("x", zap.Any("a", token), zap.Any("b", &token), zap.Object("c", token), zap.Reflect("d", around{token, nil}), zap.Inline(token))
	log.Sugar().Infow("x", "token", token)
	log.Sugar().Infof("%v %s", token, token)
	if !strings.Contains(out.String(), token.ID) {
		t.Errorf("the public id is missing: %s", out.String())
	}
	if leaked := findSecret(out.Bytes(), token.Secret[:]); leaked != "" {
		t.Errorf("%s of the secret in %s", leaked, out.String())
	}
	if findSecret([]byte(token.String()), token.Secret[:]) == "" {
		t.Error("control: String does not hold the secret, or the search does not find it")
	}
}

// findSecret looks for secret in the forms in which it could be printed.
func findSecret(in, secret []byte) string {
	decimal := strings.Trim(fmt.Sprint(secret), "[]")
	forms := map[string]string{
		"raw": string(secret), "hex": hex.EncodeToString(secret), "HEX": strings.ToUpper(hex.EncodeToString(secret)),
		"decimal": decimal, "decimal list": strings.ReplaceAll(decimal, " ", ","),
		"0x list": strings.Trim(strings.TrimPrefix(fmt.Sprintf("%#v", secret), "[]byte"), "{}"),
	}
	// In base64 of a longer text the secret starts at one of three offsets.
	for off := range 3 {
		for name, enc := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			s := enc.EncodeToString(append(make([]byte, off), secret...))
			forms[fmt.Sprint(name, off)] = s[(off*8+5)/6 : len(s)-2]
		}
	}
	for name, form := range forms {
		if bytes.Contains(in, []byte(form)) {
			return name
		}
	}
	return ""
}

// The verify key depends on all of secret, id and cluster, and does not show the secret.
func TestVerifyKey(t *testing.T) {
	token := testToken(t, 1, "", false)
	key := token.VerifyKey()
	if len(key) != 32 || bytes.Equal(key, token.Secret[:]) || !bytes.Equal(key, token.VerifyKey()) {
		t.Error("verify key has the wrong form")
	}
	other := token
	other.Secret[31] ^= 1
	otherID := token
	otherID.ID = "0000000000000000"
	otherCluster := token
	otherCluster.ClusterID = strings.Repeat("0", 32)
	for _, o := range []Token{other, otherID, otherCluster} {
		if bytes.Equal(o.VerifyKey(), key) {
			t.Error("two tokens share a verify key")
		}
	}
}

// Whatever ParseToken accepts prints as it was read.
func FuzzParseToken(f *testing.F) {
	f.Add(testToken(f, 1, "", false).String())
	f.Add(testToken(f, MaxRoots, "node", true).String())
	f.Add("parley1-AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err != nil {
			return
		}
		if got := token.String(); got != strings.TrimSpace(text) {
			t.Errorf("%q was read and prints as %q", text, got)
		}
	})
}

// The payload decoder is fuzzed past the checksum, which a fuzzer would not guess.
func FuzzTokenPayload(f *testing.F) {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(testToken(f, 2, "node", true).String(), tokenPrefix))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw[:len(raw)-tokenChecksum])
	f.Fuzz(func(t *testing.T, b []byte) {
		token, err := decodeToken(b)
		if err != nil {
			return
		}
		text := token.String()
		if again, err := ParseToken(text); err != nil || !equalTokens(again, token) {
			t.Errorf("token does not survive a round trip: %v", err)
		}
	})
}
