package consul

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/state"
)

// create makes a session from a body and returns its id.
func (a *agent) create(t *testing.T, body string) string {
	t.Helper()
	w := a.do("PUT", "/v1/session/create", body)
	var out struct{ ID string }
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || w.Code != 200 || len(out.ID) != 36 {
		t.Fatalf("create %s: %d %s", body, w.Code, w.Body)
	}
	return out.ID
}

// The answers that clients parse, byte for byte: what is absent gets the defaults, durations are nanoseconds, lists
// that clients range over are never null.
func TestSessionShapes(t *testing.T) {
	const tail = `"CreateIndex":2,"ModifyIndex":2}]`
	for body, want := range map[string]string{
		``:                                      `"Name":"","Node":"a1","LockDelay":15000000000,"Behavior":"release","TTL":"","NodeChecks":["serfHealth"],"ServiceChecks":null,`,
		`{}`:                                    `"Name":"","Node":"a1","LockDelay":15000000000,"Behavior":"release","TTL":"","NodeChecks":["serfHealth"],"ServiceChecks":null,`,
		`{"NodeChecks":[]}`:                     `"Name":"","Node":"a1","LockDelay":15000000000,"Behavior":"release","TTL":"","NodeChecks":[],"ServiceChecks":null,`,
		`{"Checks":[]}`:                         `"Name":"","Node":"a1","LockDelay":15000000000,"Behavior":"release","TTL":"","NodeChecks":[],"ServiceChecks":null,`,
		`{"Checks":null,"ServiceChecks":[]}`:    `"Name":"","Node":"a1","LockDelay":15000000000,"Behavior":"release","TTL":"","NodeChecks":["serfHealth"],"ServiceChecks":null,`,
		`{"checks":["serfHealth"],"ttl":"24h"}`: `"Name":"","Node":"a1","LockDelay":15000000000,"Behavior":"release","TTL":"86400s","NodeChecks":["serfHealth"],"ServiceChecks":null,`,
		`{"Name":"n","Node":"a1","LockDelay":"1500ms","Behavior":"delete","TTL":"10.5s"}`: `"Name":"n","Node":"a1","LockDelay":1500000000,"Behavior":"delete","TTL":"10.5s","NodeChecks":["serfHealth"],"ServiceChecks":null,`,
		`{"LockDelay":20,"TTL":"10s"}`:        `"Name":"","Node":"a1","LockDelay":20000000000,"Behavior":"release","TTL":"10s","NodeChecks":["serfHealth"],"ServiceChecks":null,`,
		`{"LockDelay":1500000000,"TTL":"0s"}`: `"Name":"","Node":"a1","LockDelay":1500000000,"Behavior":"release","TTL":"","NodeChecks":["serfHealth"],"ServiceChecks":null,`,
		`{"LockDelay":"0s","Unknown":1}`:      `"Name":"","Node":"a1","LockDelay":0,"Behavior":"release","TTL":"","NodeChecks":["serfHealth"],"ServiceChecks":null,`,
	} {
		a := newAgent(t)
		id := a.create(t, body)
		one := `[{"ID":"` + id + `",` + want + tail
		a.want(t, "GET", "/v1/session/info/"+id, "", 200, one)
		a.want(t, "GET", "/v1/session/info/"+strings.ToUpper(id)+"?stale", "", 200, one)
		a.want(t, "GET", "/v1/session/list", "", 200, one)
		a.want(t, "GET", "/v1/session/node/a1", "", 200, one)
		a.want(t, "GET", "/v1/session/node/a2", "", 200, "[]")
		a.want(t, "PUT", "/v1/session/renew/"+id, "", 200, one)
		a.want(t, "PUT", "/v1/session/destroy/"+id, "", 200, "true")
		a.want(t, "PUT", "/v1/session/destroy/"+id, "", 200, "true")
		a.want(t, "GET", "/v1/session/list", "", 200, "[]")
	}
}

// What is refused says why, and makes no session.
func TestSessionRefusals(t *testing.T) {
	a := newAgent(t)
	for _, test := range []struct {
		method, target, body string
		status               int
		text                 string
	}{
		{"PUT", "/v1/session/create", "{", 400, "Request decode failed"},
		{"PUT", "/v1/session/create", `{"Behavior":"keep"}`, 400, "Invalid Session Behavior"},
		{"PUT", "/v1/session/create", `{"LockDelay":"61s"}`, 400, "Invalid Session LockDelay"},
		{"PUT", "/v1/session/create", `{"LockDelay":-1}`, 400, "Invalid Session LockDelay"},
		{"PUT", "/v1/session/create", `{"LockDelay":"soon"}`, 400, "Invalid Session LockDelay"},
		{"PUT", "/v1/session/create", `{"LockDelay":9999999999999}`, 400, "Invalid Session LockDelay"},
		{"PUT", "/v1/session/create", `{"LockDelay":{}}`, 400, "Invalid Session LockDelay"},
		{"PUT", "/v1/session/create", `{"NodeChecks":["dne"]}`, 400, `no check "dne" on node "a1"`},
		{"PUT", "/v1/session/create", `{"ServiceChecks":[{"ID":"dne"}]}`, 400, `no check "dne" on node "a1"`},
		{"PUT", "/v1/session/create", `{"Node":"nowhere"}`, 400, `no node "nowhere"`},
		{"PUT", "/v1/session/create", `{"Name":"` + strings.Repeat("n", state.MaxSessionNameBytes+1) + `"}`, 400, "the limit is 256"},
		{"PUT", "/v1/session/create", strings.Repeat(" ", maxSessionBody+1), 413, "limit"},
		{"PUT", "/v1/session/create?dc=elsewhere", "", 500, "No path to datacenter"},
		{"PUT", "/v1/session/destroy/", "", 400, "Missing session"},
		{"PUT", "/v1/session/renew/", "", 400, "Missing session"},
		{"GET", "/v1/session/info/", "", 400, "Missing session"},
		{"GET", "/v1/session/node/", "", 400, "Missing node name"},
		{"GET", "/v1/session/list?wait=x", "", 400, "Invalid wait"},
		{"GET", "/v1/session/create", "", 405, "GET"},
	} {
		w := a.do(test.method, test.target, test.body)
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.text) {
			t.Errorf("%s %s %.60s: %d %s, want %d with %q", test.method, test.target, test.body, w.Code, w.Body, test.status, test.text)
		}
	}
	a.want(t, "GET", "/v1/session/list", "", 200, "[]")
}

// Trap 5: the texts on which clients branch begin the bodies, with the status 500.
func TestSessionTextsBeginTheBody(t *testing.T) {
	a := newAgent(t)
	for _, ttl := range []string{"9.999s", "1ns", "-10s", "24h0m1s", "ten", "10"} {
		w := a.do("PUT", "/v1/session/create", fmt.Sprintf(`{"TTL":%q}`, ttl))
		if w.Code != 500 || !strings.HasPrefix(w.Body.String(), "Invalid Session TTL") {
			t.Errorf("TTL %s: %d %s", ttl, w.Code, w.Body)
		}
	}
	for _, id := range []string{"nonsense", state.SessionID{1}.String()} {
		w := a.do("PUT", "/v1/kv/k?acquire="+id, "v")
		if w.Code != 500 || !strings.HasPrefix(w.Body.String(), `invalid session "`+id+`"`) {
			t.Errorf("acquire by %s: %d %s", id, w.Code, w.Body)
		}
	}
	a.want(t, "GET", "/v1/kv/k", "", 404, "")
}

// Trap 4: a renewal of a missing session is 404 and its info an empty list, with the status 200; also for one that the
// leader has given up and that is still in the state.
func TestMissingSession(t *testing.T) {
	a := newAgent(t)
	for _, id := range []string{"nonsense", state.SessionID{1}.String()} {
		if w := a.do("PUT", "/v1/session/renew/"+id, ""); w.Code != 404 || !strings.Contains(w.Body.String(), "not found") {
			t.Errorf("renew %s: %d %s", id, w.Code, w.Body)
		}
		a.want(t, "GET", "/v1/session/info/"+id, "", 200, "[]")
		a.want(t, "PUT", "/v1/session/destroy/"+id, "", 200, "true")
	}
	id := a.create(t, `{"TTL":"10s"}`)
	a.want(t, "PUT", "/v1/session/renew/"+id, "", 200, strings.TrimSpace(a.do("GET", "/v1/session/info/"+id, "").Body.String()))
	a.refuseRenewal = api.Errorf(api.CodeNotFound, "it has ended")
	if w := a.do("PUT", "/v1/session/renew/"+id, ""); w.Code != 404 {
		t.Errorf("renew of one that is over: %d %s", w.Code, w.Body)
	}
}

// Trap 4: after its holder's session ended, a key is unlocked and still cannot be acquired for the lock-delay. Letting
// go by hand starts none.
func TestLockDelay(t *testing.T) {
	a := newAgent(t)
	first, second := a.create(t, `{"LockDelay":"5s"}`), a.create(t, "")
	key := func() pair {
		var rows []pair
		if err := json.Unmarshal(a.do("GET", "/v1/kv/k", "").Body.Bytes(), &rows); err != nil || len(rows) != 1 {
			t.Fatalf("read the key: %v", err)
		}
		return rows[0]
	}
	a.want(t, "PUT", "/v1/kv/k?acquire="+first, "v", 200, "true")
	a.want(t, "PUT", "/v1/kv/k?release="+first, "v", 200, "true")
	a.want(t, "PUT", "/v1/kv/k?acquire="+second, "v", 200, "true")
	a.want(t, "PUT", "/v1/kv/k?release="+second, "v", 200, "true")
	a.want(t, "PUT", "/v1/kv/k?acquire="+first, "v", 200, "true")
	a.want(t, "PUT", "/v1/session/destroy/"+first, "", 200, "true")
	if got := key(); got.Session != "" || got.LockIndex != 3 {
		t.Errorf("after the end of its session: %+v", got)
	}
	a.want(t, "PUT", "/v1/kv/k?acquire="+second, "v", 200, "false")
	a.want(t, "PUT", "/v1/kv/k", "w", 200, "true")
	a.ahead = 5000 << 16
	a.want(t, "PUT", "/v1/kv/k?acquire="+second, "v", 200, "true")
	if got := key(); got.Session != second || got.LockIndex != 4 {
		t.Errorf("after the lock-delay: %+v", got)
	}
}

// Acquire and release answer true and false as clients expect: the holder again keeps its lock index, others are
// refused, a plain put keeps the lock, and only the holder releases.
func TestAcquireAndRelease(t *testing.T) {
	a := newAgent(t)
	first, second := a.create(t, ""), a.create(t, `{"Behavior":"delete","LockDelay":"0s"}`)
	row := func(lockIndex int, value, session string, modify int) string {
		if session != "" {
			session = `,"Session":"` + session + `"`
		}
		return fmt.Sprintf(`[{"LockIndex":%d,"Key":"k","Flags":7,"Value":%q,"CreateIndex":4,"ModifyIndex":%d%s}]`, lockIndex, value, modify, session)
	}
	for _, step := range []struct{ method, target, want string }{
		{"PUT", "/v1/kv/k?release=" + first, "false"},
		{"PUT", "/v1/kv/k?flags=7&acquire=" + first, "true"},
		{"GET", "/v1/kv/k", row(1, "dg==", first, 4)},
		{"PUT", "/v1/kv/k?flags=7&acquire=" + strings.ToUpper(first), "true"},
		{"PUT", "/v1/kv/k?flags=7&acquire=" + second, "false"},
		{"PUT", "/v1/kv/k?flags=7&release=" + second, "false"},
		{"PUT", "/v1/kv/k?flags=7", "true"},
		{"GET", "/v1/kv/k", row(1, "dg==", first, 6)},
		{"PUT", "/v1/kv/k?flags=7&release=" + first, "true"},
		{"PUT", "/v1/kv/k?flags=7&release=" + first, "false"},
		{"GET", "/v1/kv/k", row(1, "dg==", "", 7)},
		{"PUT", "/v1/kv/k?flags=7&acquire=" + second, "true"},
		{"GET", "/v1/kv/k", row(2, "dg==", second, 8)},
		{"PUT", "/v1/session/destroy/" + second, "true"},
		{"PUT", "/v1/kv/k?acquire=" + first, "true"},
		{"DELETE", "/v1/kv/k", "true"},
		{"PUT", "/v1/session/destroy/" + first, "true"},
	} {
		a.want(t, step.method, step.target, map[string]string{"PUT": "v"}[step.method], 200, step.want)
	}
	a.want(t, "GET", "/v1/kv/k", "", 404, "")
}

// Trap 3: a session of this dialect is leased for twice its TTL, and shows the TTL that was asked for.
func TestSessionLeaseIsTwiceTheTTL(t *testing.T) {
	a := newAgent(t)
	id, err := state.ParseSessionID(a.create(t, `{"TTL":"10s"}`))
	if err != nil {
		t.Fatal(err)
	}
	s, _ := a.hub.View().Session(id)
	if s.TTL != 10*time.Second || s.Lease != 20*time.Second {
		t.Errorf("ttl %s, lease %s", s.TTL, s.Lease)
	}
	none, _ := state.ParseSessionID(a.create(t, ""))
	if s, _ := a.hub.View().Session(none); s.TTL != 0 || s.Lease != 0 {
		t.Errorf("without a TTL: ttl %s, lease %s", s.TTL, s.Lease)
	}
}

// Traps 1 and 2 hold for sessions: one's index is its own, a node's that of its sessions, and a blocking read sleeps
// through changes of keys and of other sessions.
func TestSessionIndexes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		if got := index(t, a.want(t, "GET", "/v1/session/list", "", 200, "[]").Header()); got != 1 {
			t.Errorf("no sessions: index %d, want 1 and never 0", got)
		}
		a.do("PUT", "/v1/kv/k", "v") // revision 2
		first := a.create(t, "")     // 3
		second := a.create(t, "")    // 4
		a.do("PUT", "/v1/kv/k", "w") // 5
		for target, want := range map[string]uint64{
			"/v1/session/info/" + first: 3, "/v1/session/info/" + second: 4, "/v1/session/node/a1": 4, "/v1/session/list": 4,
			"/v1/session/info/nonsense": 4,
		} {
			if got := index(t, a.do("GET", target, "").Header()); got != want {
				t.Errorf("%s: index %d, want %d", target, got, want)
			}
		}
		began := time.Now()
		time.AfterFunc(10*time.Second, func() { a.do("PUT", "/v1/kv/k", "x") })
		time.AfterFunc(20*time.Second, func() { a.do("PUT", "/v1/session/destroy/"+second, "") })
		time.AfterFunc(30*time.Second, func() { a.do("PUT", "/v1/session/destroy/"+first, "") })
		a.want(t, "GET", "/v1/session/info/"+first+"?index=3&wait=1m", "", 200, "[]")
		if got := time.Since(began); got != 30*time.Second {
			t.Errorf("woke after %s, want 30s", got)
		}
		began = time.Now()
		time.AfterFunc(10*time.Second, func() { a.do("PUT", "/v1/kv/k", "y") })
		time.AfterFunc(20*time.Second, func() { a.create(t, "") })
		if w := a.do("GET", "/v1/session/list?index=8&wait=1m", ""); time.Since(began) < 20*time.Second || w.Body.String() == "[]\n" {
			t.Errorf("list woke after %s with %s", time.Since(began), w.Body)
		}
	})
}

// Trap 6: without a leader a session is 500, and a stale read goes on.
func TestSessionsWithoutLeader(t *testing.T) {
	a := newAgent(t)
	id := a.create(t, "")
	a.setLeader("")
	for _, request := range [][2]string{
		{"PUT", "/v1/session/create"}, {"PUT", "/v1/session/renew/" + id}, {"PUT", "/v1/session/destroy/" + id},
		{"GET", "/v1/session/list"}, {"PUT", "/v1/kv/k?acquire=" + id},
	} {
		w := a.do(request[0], request[1], "")
		if w.Code != http.StatusInternalServerError || !strings.HasPrefix(w.Body.String(), "No cluster leader") {
			t.Errorf("%v: %d %s", request, w.Code, w.Body)
		}
	}
	if w := a.do("GET", "/v1/session/info/"+id+"?stale", ""); w.Code != 200 || !strings.Contains(w.Body.String(), id) {
		t.Errorf("stale: %d %s", w.Code, w.Body)
	}
}
