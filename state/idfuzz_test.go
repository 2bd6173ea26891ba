package state

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// FuzzWorkloadID: what the state takes for the SPIFFE ID of a program is one to SPIFFE's own authors, letter for letter; and what is
// one to them is refused for its length, for having no path, or for a path of Parley's alone.
func FuzzWorkloadID(f *testing.F) {
	for _, seed := range []string{
		"spiffe://example.org/svc/web", "spiffe://example.org/a/b.c/d_e-F9", "spiffe://example.org", "spiffe://example.org/", "spiffe://example.org/parley/agent/a1",
		"spiffe://example.org/parleys", "spiffe://Example.org/a", "SPIFFE://example.org/a", "spiffe://example.org:1/a", "spiffe://u@example.org/a", "spiffe://example.org/a//b",
		"spiffe://example.org/./a", "spiffe://example.org/..", "spiffe://example.org/%61", "spiffe://example.org/a?b", "spiffe://example.org/a#b", "spiffe:///a", "",
		"spiffe://" + strings.Repeat("a", 256) + "/a", "spiffe://a/" + strings.Repeat("b", 2040), "spiffe://example.org/\u00e4", "spiffe://example.org/a\x00",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ours := CheckWorkloadID(text)
		theirs, err := spiffeid.FromString(text)
		if ours == nil && (err != nil || theirs.String() != text) {
			t.Errorf("%q: taken, and to SPIFFE it is %s, %v", text, theirs, err)
		}
		if err != nil || ours == nil {
			return
		}
		reserved := theirs.Path() == "/parley" || strings.HasPrefix(theirs.Path(), "/parley/")
		if !reserved && theirs.Path() != "" && len(text) <= MaxSPIFFEIDBytes && len(theirs.TrustDomain().Name()) <= MaxTrustBytes {
			t.Errorf("%q: refused without a reason: %v", text, ours)
		}
	})
}
