package workload

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// FuzzJudgeToken: whatever comes as a token is refused as invalid, or has the header and the claims that were signed, for its audience.
func FuzzJudgeToken(f *testing.F) {
	source := newFakeSource(f, testTD)
	source.entitle(entry{id: webID, want: []Selector{"uid:1"}})
	token, err := source.MintJWT(f.Context(), []Selector{"uid:1"}, spiffeid.RequireFromString(webID), []string{"db"})
	if err != nil {
		f.Fatal(err)
	}
	parts := strings.Split(token, ".")
	for kind, seed := range []string{
		"", `{"alg":"none","kid":"key-1"}`, `{"sub":"spiffe://test.example/svc/root","aud":["db"],"exp":99999999999}`, "x.y.z", `{"alg":"HS256","kid":"key-1"}`,
	} {
		f.Add(uint8(kind), uint16(0), uint8(0), seed, "db") //nolint:gosec // five of them
		f.Add(uint8(kind), uint16(9), uint8(1), seed, "cache")
	}
	f.Add(uint8(1), uint16(0), uint8(0), `{"alg":"ES256","kid":"key-1","crit":["exp"],"typ":"JWT"}`, "db")
	f.Add(uint8(3), uint16(0), uint8(0), `{"payload":"e30","signatures":[{"protected":"e30","signature":"e30"}]}`, "db")
	bundles, _, err := source.Bundles()
	if err != nil {
		f.Fatal(err)
	}
	if _, err := judgeToken(token, "db", bundles, func(spiffeid.ID) bool { return false }); err != nil {
		f.Fatalf("control: %v", err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	// The key is another one in each process, so an input is what is done to a token, or what stands in place of a part of it.
	f.Fuzz(func(t *testing.T, kind uint8, at uint16, flip uint8, instead, audience string) {
		text := []byte(token)
		switch kind % 5 {
		case 0:
			text[int(at)%len(text)] ^= flip
		case 1, 4:
			text = []byte(encode([]byte(instead)) + "." + parts[1] + "." + parts[2])
		case 2:
			text = []byte(parts[0] + "." + encode([]byte(instead)) + "." + parts[2])
		case 3:
			text = []byte(instead)
		}
		got, err := judgeToken(string(text), audience, bundles, func(spiffeid.ID) bool { return false })
		switch {
		case err != nil && status.Code(err) != codes.InvalidArgument:
			t.Errorf("%q: %v", text, err)
		case err == nil && (!strings.HasPrefix(string(text), parts[0]+"."+parts[1]+".") || audience != "db" || got.GetSpiffeId() != webID):
			t.Errorf("%q counts for %q, as %s", text, audience, got.GetSpiffeId())
		}
	})
}
