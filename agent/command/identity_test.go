package command

import (
	"bytes"
	"slices"
	"strings"
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

// TestExplanationIsOfOneProcess: a user who names his program so cannot write a line of his own, or a colour, to the terminal of an
// operator who looks at it.
func TestExplanationIsOfOneProcess(t *testing.T) {
	const path = "path:/home/eve/sl\x1b[31meep\n  uid:0\u202e"
	var out bytes.Buffer
	tableExplanation(&out, client.IdentityExplanation{
		PID: 7, Selectors: []string{path, "path:/opt/Müller/web", "uid:1001"},
		Nearest: []client.NearEntry{{Differences: []string{"it wants path:/bin/sleep, and found was " + path}}},
	})
	for line := range strings.Lines(out.String()) {
		if line == "  uid:0\n" || strings.ContainsAny(line, "\x1b\u202e") {
			t.Errorf("it is shown as %q", line)
		}
	}
	if !strings.Contains(out.String(), "  path:/opt/Müller/web\n  uid:1001\n") {
		t.Errorf("control: a path that can be shown is %s", out.String())
	}
}

// Who binds an entry to a node that there is not is told so: the name may be wrong, or the host may join later.
func TestUnknownNodes(t *testing.T) {
	members := []client.Member{{Name: "a1"}, {Name: "a2"}}
	if got := unknownNodes([]string{"a1", "nosuch"}, members); !slices.Equal(got, []string{"nosuch"}) {
		t.Errorf("got %v", got)
	}
	if got := unknownNodes([]string{"a1", "nosuch"}, nil); got != nil {
		t.Errorf("nobody could be asked: got %v", got)
	}
}
