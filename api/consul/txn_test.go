package consul

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/state"
)

// Each verb does what clients expect, with the rows that they expect, byte for byte; values come with get and get-tree
// alone.
func TestTxnVerbs(t *testing.T) {
	a := newAgent(t)
	id := a.create(t, "") // revision 2
	kv := func(verb, key, rest string) string {
		return fmt.Sprintf(`{"KV":{"Verb":%q,"Key":%q%s}}`, verb, key, rest)
	}
	row := func(key, value string, lock int, create, modify int, session string) string {
		if session != "" {
			session = `,"Session":"` + session + `"`
		}
		return fmt.Sprintf(`{"KV":{"LockIndex":%d,"Key":%q,"Flags":0,"Value":%s,"CreateIndex":%d,"ModifyIndex":%d%s}}`, lock, key, value, create, modify, session)
	}
	for _, step := range []struct {
		ops     []string
		results []string
	}{
		{[]string{kv("set", "p/a", `,"Value":"djE=","Flags":0`), kv("lock", "p/b", `,"Value":"djI=","Session":"`+strings.ToUpper(id)+`"`)},
			[]string{row("p/a", "null", 0, 3, 3, ""), row("p/b", "null", 1, 3, 3, id)}},
		{[]string{kv("get", "p/a", ""), kv("get-or-empty", "none", ""), kv("get-tree", "p/", ""), kv("get-tree", "none", "")},
			[]string{row("p/a", `"djE="`, 0, 3, 3, ""), row("none", "null", 0, 0, 0, ""), row("p/a", `"djE="`, 0, 3, 3, ""), row("p/b", `"djI="`, 1, 3, 3, id)}},
		{[]string{kv("check-index", "p/a", `,"Index":3`), kv("check-session", "p/b", `,"Session":"`+id+`"`), kv("check-not-exists", "none", "")},
			[]string{row("p/a", "null", 0, 3, 3, ""), row("p/b", "null", 1, 3, 3, id)}},
		{[]string{kv("cas", "p/a", `,"Index":3,"Value":"djM="`), kv("cas", "p/c", `,"Index":0`), kv("unlock", "p/b", `,"Session":"`+id+`"`)},
			[]string{row("p/a", "null", 0, 3, 4, ""), row("p/c", "null", 0, 4, 4, ""), row("p/b", "null", 1, 3, 4, "")}},
		{[]string{kv("delete", "none", ""), kv("delete-cas", "p/a", `,"Index":4`), kv("delete-tree", "p/", "")}, nil},
		{nil, nil},
	} {
		a.want(t, "PUT", "/v1/txn", "["+strings.Join(step.ops, ",")+"]", 200, `{"Results":[`+strings.Join(step.results, ",")+`],"Errors":null}`)
	}
	a.want(t, "GET", "/v1/kv/?keys", "", 404, "")
	before := a.hub.View().Index()
	w := a.do("PUT", "/v1/txn", "["+kv("get-or-empty", "k", "")+"]")
	if got := a.hub.View().Index(); got != before {
		t.Errorf("a transaction that only reads moved the log from %d to %d", before, got)
	}
	if index(t, w.Header()) == 0 || w.Header().Get("X-Consul-KnownLeader") != "true" {
		t.Errorf("headers of a read: %v", w.Header())
	}
}

// What cannot be done is 409 with every step that stood in the way, and nothing is done.
func TestTxnErrors(t *testing.T) {
	a := newAgent(t)
	first, second := a.create(t, ""), a.create(t, "")
	a.do("PUT", "/v1/kv/held?acquire="+first, "v")
	before := a.hub.View().Revision()
	for _, test := range []struct{ ops, errors string }{
		{`{"KV":{"Verb":"lock","Key":"k","Value":"dg=="}},{"KV":{"Verb":"get","Key":"k"}}`,
			`{"OpIndex":0,"What":"missing session"},{"OpIndex":1,"What":"the key \"k\" doesn't exist"}`},
		{`{"KV":{"Verb":"set","Key":"k"}},{"KV":{"Verb":"lock","Key":"k","Session":"nonsense"}}`,
			`{"OpIndex":1,"What":"invalid session \"nonsense\""}`},
		{`{"KV":{"Verb":"lock","Key":"held","Session":"` + second + `"}},{"KV":{"Verb":"set","Key":"k"}},{"KV":{"Verb":"check-not-exists","Key":"held"}}`,
			`{"OpIndex":0,"What":"the key \"held\" is held by session ` + first + `"},{"OpIndex":2,"What":"the key \"held\" exists"}`},
		{`{"KV":{"Verb":"cas","Key":"held","Index":1}},{"KV":{"Verb":"delete-cas","Key":"held","Index":0}},{"KV":{"Verb":"check-index","Key":"none","Index":1}}`,
			`{"OpIndex":0,"What":"the key \"held\" is at revision 4, not 1"},{"OpIndex":1,"What":"the key \"held\" exists, at revision 4"},{"OpIndex":2,"What":"the key \"none\" doesn't exist"}`},
	} {
		a.want(t, "PUT", "/v1/txn", "["+test.ops+"]", 409, `{"Results":null,"Errors":[`+test.errors+`]}`)
	}
	if got := a.hub.View().Revision(); got != before {
		t.Errorf("a refused transaction moved the revision from %d to %d", before, got)
	}
}

// Requests that make no sense are refused as a whole, with the status that clients expect.
func TestTxnRefusals(t *testing.T) {
	a := newAgent(t)
	one := `{"KV":{"Verb":"set","Key":"k"}}`
	many := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + "]" }
	big := base64.StdEncoding.EncodeToString(make([]byte, state.MaxValueBytes+1))
	for _, test := range []struct {
		target, body string
		status       int
		text         string
	}{
		{"/v1/txn", many(state.MaxTxnOps), 200, "Results"},
		{"/v1/txn", many(state.MaxTxnOps + 1), 413, "too many operations (129 > 128)"},
		{"/v1/txn", `[{"KV":{"Verb":"set","Key":"k","Value":"` + big + `"}}]`, 413, "too large"},
		{"/v1/txn", strings.Repeat(" ", maxTxnBody+1), 413, "limit"},
		{"/v1/txn", "", 400, "Failed to parse body"},
		{"/v1/txn", `[{"KV":{"Verb":"set","Key":"k","Value":"%"}}]`, 400, "Failed to parse body"},
		{"/v1/txn", `[{"Node":{"Verb":"set"}}]`, 400, "operation 0 is missing a node name"},
		{"/v1/txn", "[" + one + `,{"Check":{}}]`, 400, "operation 1 has the unknown check verb"},
		{"/v1/txn", `[{"Service":{"Verb":"get","Node":"n"}}]`, 400, "operation 0 is missing a node name or a service id"},
		{"/v1/txn", `[{"Session":{"Verb":"create"}}]`, 400, "unknown session verb"},
		{"/v1/txn", `[{}]`, 400, "operation 0 is empty"},
		{"/v1/txn", `[{"KV":{"Verb":"rename","Key":"k"}}]`, 400, `unknown KV verb "rename"`},
		{"/v1/txn", "[{\"KV\":{\"Verb\":\"set\",\"Key\":\"k\xff\"}}]", 400, "not UTF-8"},
		{"/v1/txn", `[{"KV":{"Verb":"set"}}]`, 400, "missing a key"},
		{"/v1/txn", `[{"KV":{"Verb":"set","Key":"` + strings.Repeat("k", state.MaxKeyBytes+1) + `"}}]`, 400, "the limit is 1024"},
		{"/v1/txn?dc=elsewhere", "[]", 500, "No path to datacenter"},
	} {
		w := a.do("PUT", test.target, test.body)
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.text) {
			t.Errorf("%.60s: %d %.200s, want %d with %q", test.body, w.Code, w.Body, test.status, test.text)
		}
	}
	a.setLeader("")
	for target, status := range map[string]int{"/v1/txn": 500, "/v1/txn?stale": 200} {
		if w := a.do("PUT", target, `[{"KV":{"Verb":"get","Key":"k"}}]`); w.Code != status {
			t.Errorf("%s of a read without a leader: %d %s, want %d", target, w.Code, w.Body, status)
		}
	}
	if w := a.do("PUT", "/v1/txn", "["+one+"]"); w.Code != 500 || !strings.HasPrefix(w.Body.String(), "No cluster leader") {
		t.Errorf("without a leader: %d %s", w.Code, w.Body)
	}
}
