package client

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestRemoveDenyOfAnotherTrustDomain: who would let in an identity of another trust domain does not let in this cluster's of the same path. The
// control is this cluster's own.
func TestRemoveDenyOfAnotherTrustDomain(t *testing.T) {
	var removed []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			removed = append(removed, r.URL.Path)
			_, _ = io.WriteString(w, "{}")
			return
		}
		_, _ = io.WriteString(w, `[{"kind":"id","subject":"spiffe://td.example/svc/web"}]`)
	}))
	defer s.Close()
	c, err := New(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var refused *Error
	if err := c.RemoveDeny(t.Context(), "spiffe://other.example/svc/web"); !errors.As(err, &refused) || refused.Code != "not_found" || len(removed) != 0 {
		t.Errorf("%v, removed %q", err, removed)
	}
	for _, what := range []string{"spiffe://td.example/svc/web", "/svc/web", "4f01"} {
		if err := c.RemoveDeny(t.Context(), what); err != nil {
			t.Errorf("control: %s: %v", what, err)
		}
	}
	if len(removed) != 3 || removed[0] != "/parley/v1/deny/id/svc/web" || removed[1] != removed[0] || removed[2] != "/parley/v1/deny/serial/4f01" {
		t.Errorf("removed %q", removed)
	}
}
