package command

import (
	"bytes"
	"testing"
	"text/tabwriter"

	"github.com/parley-mesh/parley/api/client"
)

// TestExplanationReads: who has no identity reads what was found, and sentence by sentence what the nearest entry wants.
func TestExplanationReads(t *testing.T) {
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	tableExplanation(w, client.IdentityExplanation{
		PID: 7, Selectors: []string{"uid:1", "unit:web.service"},
		Nearest: []client.NearEntry{{
			EntryInfo: client.EntryInfo{Name: "web", SPIFFEID: "spiffe://example.org/svc/web"}, Differences: []string{"it wants uid:2, and found was uid:1"},
		}},
	})
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	want := "Found of process 7:\n  uid:1\n  unit:web.service\nNo entry holds: the process gets no identity.\n" +
		"Not spiffe://example.org/svc/web, by the entry web:\n  it wants uid:2, and found was uid:1\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
