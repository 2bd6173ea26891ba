package consul

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// The answers that clients parse, byte for byte.
func TestKV(t *testing.T) {
	a := newAgent(t)
	one := `{"LockIndex":0,"Key":"web/1","Flags":42,"Value":"dg==","CreateIndex":2,"ModifyIndex":2}`
	empty := `{"LockIndex":0,"Key":"web/2/a","Flags":0,"Value":null,"CreateIndex":3,"ModifyIndex":3}`
	for _, step := range []struct {
		method, target, body string
		status               int
		want                 string
	}{
		{"GET", "/v1/kv/web/1", "", 404, ""},
		{"PUT", "/v1/kv/web/1?flags=42", "v", 200, "true"},
		{"PUT", "/v1/kv/web/2/a", "", 200, "true"},
		{"PUT", "/v1/kv/web/2/b", "\xff", 200, "true"},
		{"GET", "/v1/kv/web/1", "", 200, "[" + one + "]"},
		{"GET", "/v1/kv/web/1?consistent=", "", 200, "[" + one + "]"},
		{"GET", "/v1/kv/web/1?stale=1", "", 200, "[" + one + "]"},
		{"GET", "/v1/kv/web/2/a", "", 200, "[" + empty + "]"},
		{"GET", "/v1/kv/web/2/b?raw", "", 200, "\xff"},
		{"GET", "/v1/kv/web/?recurse", "", 200, "[" + one + "," + empty + `,{"LockIndex":0,"Key":"web/2/b","Flags":0,"Value":"/w==","CreateIndex":4,"ModifyIndex":4}]`},
		{"GET", "/v1/kv/none?recurse", "", 404, ""},
		{"GET", "/v1/kv/none?raw", "", 404, ""},
		{"GET", "/v1/kv/?keys", "", 200, `["web/1","web/2/a","web/2/b"]`},
		{"GET", "/v1/kv/web/?keys&separator=/", "", 200, `["web/1","web/2/"]`},
		{"GET", "/v1/kv/?keys=&separator=/", "", 200, `["web/"]`},
		{"GET", "/v1/kv/none?keys", "", 404, ""},

		{"PUT", "/v1/kv/web/1?cas=0", "x", 200, "false"},
		{"PUT", "/v1/kv/web/1?cas=1", "x", 200, "false"},
		{"PUT", "/v1/kv/new?cas=7", "x", 200, "false"},
		{"PUT", "/v1/kv/web/1?cas=2", "x", 200, "true"},
		{"GET", "/v1/kv/web/1?raw", "", 200, "x"},
		{"DELETE", "/v1/kv/web/1?cas=0", "", 200, "false"},
		{"DELETE", "/v1/kv/web/1?cas=2", "", 200, "false"},
		{"DELETE", "/v1/kv/web/1?cas=5", "", 200, "true"},
		{"DELETE", "/v1/kv/web/1", "", 200, "true"},
		{"DELETE", "/v1/kv/web/1?cas=5", "", 200, "false"},
		{"DELETE", "/v1/kv/web/?recurse", "", 200, "true"},
		{"DELETE", "/v1/kv/web/?recurse", "", 200, "true"},
		{"GET", "/v1/kv/?recurse", "", 404, ""},
	} {
		a.want(t, step.method, step.target, step.body, step.status, step.want)
	}
}

// What is refused, with the status that clients expect, and without an effect.
func TestKVRefusals(t *testing.T) {
	a := newAgent(t)
	big := strings.Repeat("x", state.MaxValueBytes)
	a.want(t, "PUT", "/v1/kv/big", big, 200, "true")
	before := a.hub.View().Revision()
	for _, test := range []struct {
		method, target, body string
		status               int
		text                 string
	}{
		{"GET", "/v1/kv/k?stale&consistent", "", 400, "stale and consistent"},
		{"GET", "/v1/kv/k?stale=&consistent=", "", 400, "stale and consistent"},
		{"GET", "/v1/kv/k?index=1&wait=10", "", 400, "Invalid wait"}, {"GET", "/v1/kv/k?wait=bogus", "", 400, "Invalid wait"},
		{"GET", "/v1/kv/k?wait=-1s", "", 400, "Invalid wait"}, {"GET", "/v1/kv/k?index=x", "", 400, "Invalid index"},
		{"GET", "/v1/kv/", "", 400, "Missing key name"}, {"PUT", "/v1/kv/", "x", 400, "Missing key name"},
		{"DELETE", "/v1/kv/", "", 400, "Missing key name"},
		{"PUT", "/v1/kv/k?cas=x", "x", 400, "Invalid cas"}, {"PUT", "/v1/kv/k?flags=-1", "x", 400, "Invalid flags"},
		{"DELETE", "/v1/kv/k?cas=x", "", 400, "Invalid cas"}, {"DELETE", "/v1/kv/k?recurse&cas=1", "", 400, "Conflicting flags"},
		{"PUT", "/v1/kv/" + strings.Repeat("k", state.MaxKeyBytes+1), "x", 400, "the limit is 1024"},
		{"PUT", "/v1/kv/k", big + "x", 413, "524288"},
		{"PUT", "/v1/kv/k?acquire=id&cas=0", "x", 400, "Conflicting flags"}, {"PUT", "/v1/kv/k?release=id&acquire=id", "x", 400, "Conflicting flags"},
		{"PUT", "/v1/kv/k?acquire=", "x", 400, "missing session"}, {"PUT", "/v1/kv/k?release=", "x", 400, "missing session"},
		{"PUT", "/v1/kv/k?acquire=id", "x", 500, "invalid session"},
		{"GET", "/v1/kv/k?dc=elsewhere", "", 500, "No path to datacenter"}, {"PUT", "/v1/kv/k?dc=elsewhere", "x", 500, "No path to datacenter"},
		{"PUT", "/v1/kv/k%ff", "v", 400, "not UTF-8"}, {"GET", "/v1/kv/k%ff", "", 400, "not UTF-8"},
		{"GET", "/v1/kv/k%ff?recurse", "", 400, "not UTF-8"}, {"DELETE", "/v1/kv/k%ff", "", 400, "not UTF-8"},
		{"DELETE", "/v1/kv/k%ff?recurse", "", 400, "not UTF-8"}, {"DELETE", "/v1/kv/k%ff?cas=0", "", 400, "not UTF-8"},
		{"PUT", "/v1/kv/big?cas=%zz", "bad", 400, "malformed"}, {"PUT", "/v1/kv/big?cas=1;b", "bad", 400, "malformed"},
		{"PUT", "/v1/kv/big?cas=0%", "bad", 400, "malformed"}, {"PUT", "/v1/kv/big?cas%=0", "bad", 400, "malformed"},
		{"DELETE", "/v1/kv/big?cas=%zz", "", 400, "malformed"}, {"GET", "/v1/kv/big?wait=%zz", "", 400, "malformed"},
		{"PUT", "/v1/kv/big?cas=2&cas=1", "bad", 400, "2 times"}, {"PUT", "/v1/kv/big?acquire=a&acquire=b", "bad", 400, "2 times"},
		{"DELETE", "/v1/kv/k?dc=elsewhere", "", 500, "No path to datacenter"}, {"GET", "/v1/status/leader?dc=elsewhere", "", 500, "No path to datacenter"},
	} {
		w := a.do(test.method, test.target, test.body)
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.text) {
			t.Errorf("%s %.60s: %d %s, want %d with %q", test.method, test.target, w.Code, w.Body, test.status, test.text)
		}
	}
	if got := a.hub.View().Revision(); got != before {
		t.Errorf("a refused request moved the revision from %d to %d", before, got)
	}
	a.want(t, "GET", "/v1/kv/none?dc=dc1", "", 404, "")
}

func index(t *testing.T, header http.Header) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(header.Get("X-Consul-Index"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Trap 1: the index belongs to what was read. A key's is its own, a prefix's its highest with deletions, a missing
// key's the table's; and a watch sleeps through everything else.
func TestIndexesArePerResource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		if got := index(t, a.do("GET", "/v1/kv/none", "").Header()); got != 1 {
			t.Errorf("missing key of an empty table: %d, want 1 and never 0", got)
		}
		for _, key := range []string{"k", "p/1", "p/2", "z"} { // revisions 2, 3, 4, 5
			a.do("PUT", "/v1/kv/"+key, "v")
		}
		a.do("DELETE", "/v1/kv/p/2", "") // revision 6
		a.do("PUT", "/v1/kv/z", "w")     // revision 7
		for target, want := range map[string]uint64{
			"/v1/kv/k": 2, "/v1/kv/p/?recurse": 6, "/v1/kv/p/?keys": 6, "/v1/kv/p/1": 3, "/v1/kv/none": 7, "/v1/kv/z": 7,
		} {
			if got := index(t, a.do("GET", target, "").Header()); got != want {
				t.Errorf("%s: index %d, want %d", target, got, want)
			}
		}
		for _, watch := range []struct{ target, wakes string }{
			{"/v1/kv/k?index=2&wait=1m", "k"}, {"/v1/kv/p/?recurse&index=6&wait=1m", "p/3"}, {"/v1/kv/none?index=7&wait=1m", "none"},
		} {
			began := time.Now()
			others := time.AfterFunc(10*time.Second, func() { a.do("PUT", "/v1/kv/z", "x") })
			own := time.AfterFunc(20*time.Second, func() { a.do("PUT", "/v1/kv/"+watch.wakes, "new") })
			w := a.do("GET", watch.target, "")
			others.Stop()
			own.Stop()
			if got := time.Since(began); got != 20*time.Second || w.Code != 200 {
				t.Errorf("%s: woke after %s with %d, want 20s and 200", watch.target, got, w.Code)
			}
		}
	})
}

// Trap 2: five minutes when nothing is said, at most ten, a sixteenth of jitter on top, and odd durations parse.
func TestWaits(t *testing.T) {
	for query, want := range map[string]time.Duration{
		"index=2": 5 * time.Minute, "index=2&wait=0s": 5 * time.Minute, "index=2&wait=1h": 10 * time.Minute, "index=2&wait=9.998s": 9998 * time.Millisecond,
		"index=2&wait=1ms": time.Millisecond, "index=0&wait=1h": 0, "wait=1h": 0, "index=": 0,
	} {
		synctest.Test(t, func(t *testing.T) {
			a := newAgent(t)
			a.do("PUT", "/v1/kv/k", "v")
			began := time.Now()
			if w := a.do("GET", "/v1/kv/k?"+query, ""); w.Code != 200 {
				t.Errorf("%s: %d %s", query, w.Code, w.Body)
			}
			if got := time.Since(began); got < want || got > want+want/jitterShare+1 {
				t.Errorf("%s: answered after %s, want %s to a sixteenth more", query, got, want)
			}
		})
	}
	spread := map[time.Duration]bool{}
	for range 100 {
		spread[jitter(time.Minute)] = true
	}
	if len(spread) < 10 {
		t.Errorf("%d different waits of 100: no jitter", len(spread))
	}
}

// Trap 6: without a leader, 500 and the words on which clients retry; stale reads go on and say that there is none.
func TestNoLeaderIs500(t *testing.T) {
	a := newAgent(t)
	a.do("PUT", "/v1/kv/k", "v")
	a.setLeader("")
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		w := a.do(method, "/v1/kv/k", "v")
		if w.Code != 500 || !strings.HasPrefix(w.Body.String(), "No cluster leader") {
			t.Errorf("%s: %d %s", method, w.Code, w.Body)
		}
	}
	w := a.do("GET", "/v1/kv/k?stale", "")
	if w.Code != 200 || w.Header().Get("X-Consul-KnownLeader") != "false" {
		t.Errorf("stale: %d, known leader %q", w.Code, w.Header().Get("X-Consul-KnownLeader"))
	}
}

// Addresses as clients parse them, from what this agent knows; no leader is an empty string.
func TestStatus(t *testing.T) {
	a := newAgent(t)
	a.want(t, "GET", "/v1/status/leader", "", 200, `"127.0.0.1:8310"`)
	a.want(t, "GET", "/v1/status/peers", "", 200, `["127.0.0.1:8310","127.0.0.2:8310"]`)
	a.setLeader("")
	a.want(t, "GET", "/v1/status/leader", "", 200, `""`)
}

// Each role may use exactly what policy gives it, and a refusal reads as clients know it.
func TestRoleByEndpoint(t *testing.T) {
	for _, role := range policy.Roles() {
		a := newAgentFor(t, role)
		for _, route := range Routes(Options{}) {
			w := a.do(route.Method, strings.Replace(route.Path, "*", "?recurse", 1), "")
			allowed := policy.Allowed(role, route.Action)
			if allowed != (w.Code != http.StatusForbidden) || !allowed && !strings.HasPrefix(w.Body.String(), "Permission denied") {
				t.Errorf("%s: %s %s is %d %s", role, route.Method, route.Path, w.Code, w.Body)
			}
		}
	}
}
