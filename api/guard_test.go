package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/security/policy"
)

// A caller that asked to read only can change nothing, whatever endpoint it uses and whatever its role; what it reads
// is as always. Without the header the same requests are let through (the control). The list of requests is the one that
// TestRoleByEndpoint holds against the routes, so that no endpoint is left out.
func TestReadOnlyCallersChangeNothing(t *testing.T) {
	readOnly := func(r *http.Request) { r.Header.Set(headerReadOnly, "1") }
	disguised := func(r *http.Request) { r.Header.Set(headerReadOnly, "0") }
	refused := 0
	for _, call := range calls {
		c := newFake(t, 1, 1)
		c.furnish(t)
		h := c.agents["a1"].withRole(policy.Operator).Handler(Loopback)
		before := len(c.log)
		for _, edit := range []func(*http.Request){readOnly, disguised} {
			w := do(h, call.method, call.target, call.body, edit)
			if call.method == http.MethodGet {
				if w.Code != http.StatusOK {
					t.Errorf("GET %s, read only: %d %s", call.target, w.Code, w.Body)
				}
				continue
			}
			refused++
			if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), `"code":"denied"`) || !strings.Contains(w.Body.String(), "asked to read only") {
				t.Errorf("%s %s, read only: %d %s", call.method, call.target, w.Code, w.Body)
			}
		}
		if len(c.log) != before {
			t.Errorf("%s %s, read only: the log has %d commands more", call.method, call.target, len(c.log)-before)
		}
		if w := do(h, call.method, call.target, call.body); w.Code == http.StatusForbidden {
			t.Errorf("%s %s, the control: %d %s", call.method, call.target, w.Code, w.Body)
		}
	}
	if refused == 0 {
		t.Error("nothing was refused: the list has no request that writes")
	}
}
