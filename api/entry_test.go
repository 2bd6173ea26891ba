package api

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/security/policy"
)

var fakeIdentities = Identities{
	Show: func() IdentityReport {
		c := CertificateInUse{SPIFFEID: "spiffe://example.org/parley/agent/a1", Link: "leaf", Of: "agent", Serial: "01", NotAfter: time.Unix(1_700_000_000, 0).UTC(), Remaining: 0.5}
		return IdentityReport{OutageIn: 60, First: &c, Certificates: []CertificateInUse{c}}
	},
	Explain: func(_ context.Context, pid int) (Explanation, error) {
		if pid == 8 {
			return Explanation{}, Errorf(CodeNotFound, "there is no process %d on this host", pid)
		}
		return Explanation{PID: pid, Selectors: []string{"uid:1"}, Entries: []EntryInfo{}, Nearest: []NearEntry{}}, nil
	},
}

// TestEntriesOverHTTP goes through what an operator does with entries, and what is refused.
func TestEntriesOverHTTP(t *testing.T) {
	c := newFake(t, 1, 1)
	h := c.agents["a1"].withRole(policy.Operator).Handler(Loopback)
	for _, step := range []struct {
		method, target, body string
		status               int
		says                 string
	}{
		{"GET", "/parley/v1/identity/entries", "", 200, "[]"},
		{"POST", "/parley/v1/identity/entry", `{"name":"web","selectors":["unit:web.service","uid:1","uid:1"]}`, 200,
			`"spiffe_id":"spiffe://example.org/svc/web","selectors":["uid:1","unit:web.service"],"nodes":[],"service":"","federates_with":[],"ttl_s":3600,"jwt_ttl_s":300`},
		{"POST", "/parley/v1/identity/entry", `{"name":"web","selectors":["uid:2"]}`, 409, "--replace"},
		{"POST", "/parley/v1/identity/entry", `{"name":"web","selectors":["uid:2"],"spiffe_id":"/team/a","replace":true}`, 200, `"spiffe_id":"spiffe://example.org/team/a"`},
		{"POST", "/parley/v1/identity/entry", `{"name":"x","selectors":["path:/bin/x"]}`, 400, "no selector is a uid, unit or cgroup"},
		{"POST", "/parley/v1/identity/entry", `{"name":"x","selectors":["uid:1"],"spiffe_id":"/parley/agent/a1"}`, 400, "for agents and operators"},
		{"POST", "/parley/v1/identity/entry", `{"name":"x","selectors":["uid:1"],"spiffe_id":"spiffe://other.org/x"}`, 400, "this cluster's is example.org"},
		{"POST", "/parley/v1/identity/entry", `{"name":"x","selectors":["uid:1"],"ttl_s":1}`, 400, "TTL of 1 s"},
		{"POST", "/parley/v1/identity/entry", `{"name":"x","selector":["uid:1"]}`, 400, "selector"},
		{"GET", "/parley/v1/identity/entry/web?stale", "", 200, `"generation":2`},
		{"GET", "/parley/v1/identity/entry/x", "", 404, "parley identity entry list"},
		{"DELETE", "/parley/v1/identity/entry/x", "", 404, "no entry"},
		{"DELETE", "/parley/v1/identity/entry/web", "", 200, `"removed":true`},
		{"GET", "/parley/v1/identity", "", 200, `"outage_in_s":60`},
		{"GET", "/parley/v1/identity/explain/7", "", 200, `"pid":7`},
		{"GET", "/parley/v1/identity/explain/8", "", 404, "no process 8"},
		{"GET", "/parley/v1/identity/explain/x", "", 400, "not the number of a process"},
		{"GET", "/parley/v1/identity/explain/-1", "", 400, "not the number of a process"},
	} {
		w := do(h, step.method, step.target, step.body)
		if w.Code != step.status || !strings.Contains(w.Body.String(), step.says) {
			t.Errorf("%s %s %s: %d %s, want %d with %s", step.method, step.target, step.body, w.Code, w.Body, step.status, step.says)
		}
	}
}

// TestEntriesNeedALeader: without one a new registration is refused with a reason, and what is known is still listed.
func TestEntriesNeedALeader(t *testing.T) {
	c := newFake(t, 1, 1)
	c.furnish(t)
	c.setLeader("")
	o := c.agents["a1"].options()
	o.AnonymousRole, o.LeaderWait = policy.Operator, 50*time.Millisecond
	h := New(o).Handler(Loopback)
	w := do(h, "POST", "/parley/v1/identity/entry", `{"name":"new","selectors":["uid:1"]}`)
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), CodeNoLeader) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := do(h, "GET", "/parley/v1/identity/entries?stale", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"name":"web"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
