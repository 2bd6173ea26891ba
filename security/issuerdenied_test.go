package security

import (
	"errors"
	"testing"
	"time"
)

// What an evicted member of the core has signed is refused, by its name and the time of its intermediate; what it signs
// under the same name later, as another host, is not.
func TestDeniedIssuerIsRefused(t *testing.T) {
	w := newWorld(t, testTD)
	_, chain := w.leaf(w.gen.Host, "a1", time.Hour)
	certs, err := parseCerts(chain)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBundle(testTD, 1, w.gen.Roots)
	if err != nil {
		t.Fatal(err)
	}
	evicted := time.Now().Add(time.Second)
	for what, test := range map[string]struct {
		denied func(string, time.Time) bool
		want   error
	}{
		"nobody":         {nil, nil},
		"another member": {func(node string, _ time.Time) bool { return node == "a2" }, nil},
		"the member":     {func(node string, issued time.Time) bool { return node == "a1" && !issued.After(evicted) }, ErrIssuerDenied},
		"it, from before": {func(node string, issued time.Time) bool {
			return node == "a1" && !issued.After(evicted.Add(-time.Hour))
		}, nil},
		"everybody at all": {func(string, time.Time) bool { return true }, ErrIssuerDenied},
	} {
		v := verifier{td: testTD, roots: b.pool, now: time.Now(), issuerDenied: test.denied}
		if _, err := v.peer(certs, ""); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
