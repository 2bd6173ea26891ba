package command

import (
	"bytes"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/api/client"
)

// The verdict says when somebody did not take part. Before, two members that agreed while the third was missing were
// "all 2".
func TestDigestTable(t *testing.T) {
	two := []client.MemberDigest{{Name: "a1", Digest: "aa"}, {Name: "a2", Digest: "aa"}}
	for _, test := range []struct {
		found client.DigestComparison
		want  string
	}{
		{client.DigestComparison{Groups: 1, Index: 7, Members: two}, "all 2 hold the same at index 7"},
		{client.DigestComparison{Groups: 1, Index: 7, Members: two, Unreachable: []string{"a3"}},
			"the 2 that were compared hold the same at index 7; 1 did not take part\nno answer: a3"},
		{client.DigestComparison{Groups: 1, Index: 7, Members: two, Behind: []string{"a3"}},
			"the 2 that were compared hold the same at index 7; 1 did not take part\nnot at that index: a3"},
		{client.DigestComparison{Groups: 1, Index: 7, Members: two, Absent: []string{"a3", "a4"}},
			"the 2 that were compared hold the same at index 7; 2 did not take part\nnot in the core, which has room for them: a3, a4"},
	} {
		var out bytes.Buffer
		digestTable(&out, test.found)
		if _, verdict, _ := strings.Cut(out.String(), "\n\n"); strings.TrimSpace(verdict) != test.want {
			t.Errorf("got  %q\nwant %q", strings.TrimSpace(verdict), test.want)
		}
	}
}
