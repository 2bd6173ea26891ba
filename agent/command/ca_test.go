package command

import (
	"strings"
	"testing"

	"github.com/parley-mesh/parley/api/client"
)

// Who asks for a rotation is told what it comes to: the one that is asked for, the one that is under way, or another one after that.
// Two operators at the same time were told the same, and the root was replaced twice.
func TestRotationInWords(t *testing.T) {
	signing, next, old := client.CARoot{Role: "signing"}, client.CARoot{Role: "next", Hash: "77"}, client.CARoot{Role: "old"}
	for what, k := range map[string]struct {
		s                  client.CAStatus
		force, compromised bool
		before, after      string
		never              string
	}{
		"nothing is under way":   {client.CAStatus{Roots: []client.CARoot{signing}}, false, false, "nobody notices", "is being replaced;", "another"},
		"the next root waits":    {client.CAStatus{Roots: []client.CARoot{signing, next}, WaitingFor: []string{"a4"}}, false, false, "it waits for: a4", "is being replaced;", "another"},
		"it is not waited for":   {client.CAStatus{Roots: []client.CARoot{signing, next}, WaitingFor: []string{"a4"}}, true, false, "cut off until they get the new bundle: a4", "is being replaced;", "nobody notices"},
		"the old one has to go":  {client.CAStatus{Roots: []client.CARoot{old, signing}}, false, false, "another one is noted", "another one is noted", "nobody notices"},
		"the old one may be had": {client.CAStatus{Roots: []client.CARoot{old, signing}}, false, true, "in haste", "is being replaced;", "noted"},
	} {
		before, after := rotateRadius(k.s, k.force, k.compromised), rotateAsked(k.s, k.compromised)
		if !strings.Contains(before, k.before) || strings.Contains(before, k.never) {
			t.Errorf("%s, before: %s", what, before)
		}
		if !strings.Contains(after, k.after) || strings.Contains(after, k.never) {
			t.Errorf("%s, after: %s", what, after)
		}
	}
	var status strings.Builder
	caTable(&status, client.CAStatus{Roots: []client.CARoot{old, signing}, Wanted: true, Measured: true, Step: "none"})
	if !strings.Contains(status.String(), "another replacement, which begins") {
		t.Errorf("the status does not name what is noted: %s", status.String())
	}
}
