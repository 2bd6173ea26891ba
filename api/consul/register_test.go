package consul

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/state"
)

const (
	registerWeb = `{"Node":"x1","ID":"E0155642-135d-4739-9853-a1ee6c9f945b","Address":"10.0.0.1","TaggedAddresses":{"lan":"10.0.0.1"},` +
		`"NodeMeta":{"rack":"9"},"Service":{"Service":"web","ID":"web1","Tags":["b","a"],"Port":80,"Meta":{"k":"v"},` +
		`"TaggedAddresses":{"lan":{"Address":"10.0.0.1","Port":80}},"Weights":{"Passing":0,"Warning":0},"Proxy":{},"Connect":null},` +
		`"Check":{"CheckID":"alive","Status":"passing"},"Checks":[{"Node":"x1","Name":"web-up","ServiceID":"web1","Status":"warning",` +
		`"Output":"slow","Definition":{"TCP":"10.0.0.1:80","IntervalDuration":"5s","Timeout":1000000000}}]}`
	nodeX1    = `{"ID":"e0155642-135d-4739-9853-a1ee6c9f945b","Node":"x1","Address":"10.0.0.1","Datacenter":"dc1","TaggedAddresses":{"lan":"10.0.0.1"},"Meta":{"rack":"9"},"CreateIndex":2,"ModifyIndex":2}`
	serviceX1 = `{"ID":"web1","Service":"web","Tags":["b","a"],"Meta":{"k":"v"},"Port":80,"Address":"","TaggedAddresses":{"lan":{"Address":"10.0.0.1","Port":80}},` +
		`"Weights":{"Passing":1,"Warning":1},"EnableTagOverride":false,"Proxy":{},"Connect":{},"CreateIndex":2,"ModifyIndex":2}`
	webUp = `{"Node":"x1","CheckID":"web-up","Name":"web-up","Status":"warning","Notes":"","Output":"slow","ServiceID":"web1","ServiceName":"web","ServiceTags":["b","a"],` +
		`"Type":"tcp","Interval":"","Timeout":"","ExposedPort":0,"Definition":{"TCP":"10.0.0.1:80","Interval":"5s","Timeout":"1s"},"CreateIndex":2,"ModifyIndex":2}`
	aliveX1 = `{"Node":"x1","CheckID":"alive","Name":"","Status":"passing","Notes":"","Output":"","ServiceID":"","ServiceName":"","ServiceTags":[],` +
		`"Type":"","Interval":"","Timeout":"","ExposedPort":0,"Definition":{},"CreateIndex":2,"ModifyIndex":2}`
)

// read is a GET whose body has to be that.
func (a *agent) read(t *testing.T, target, want string) {
	t.Helper()
	var got json.RawMessage
	a.get(t, target, &got)
	if strings.TrimSpace(string(got)) != want {
		t.Errorf("GET %s:\ngot  %s\nwant %s", target, got, want)
	}
}

func (a *agent) put(t *testing.T, target, body string) {
	t.Helper()
	a.want(t, "PUT", target, body, 200, "true")
}

// What is registered on a node without an agent is read back by every endpoint, byte for byte as clients know it.
func TestRegisterAndRead(t *testing.T) {
	a := newAgent(t)
	a.put(t, "/v1/catalog/register", registerWeb)
	flat := `{"ID":"e0155642-135d-4739-9853-a1ee6c9f945b","Node":"x1","Address":"10.0.0.1","Datacenter":"dc1","TaggedAddresses":{"lan":"10.0.0.1"},"NodeMeta":{"rack":"9"},` +
		`"ServiceID":"web1","ServiceName":"web","ServiceTags":["b","a"],"ServiceAddress":"","ServiceTaggedAddresses":{"lan":{"Address":"10.0.0.1","Port":80}},` +
		`"ServiceWeights":{"Passing":1,"Warning":1},"ServiceMeta":{"k":"v"},"ServicePort":80,"ServiceEnableTagOverride":false,"ServiceProxy":{},"ServiceConnect":{},"CreateIndex":2,"ModifyIndex":2}`
	for target, want := range map[string]string{
		"/v1/catalog/services":                      `{"consul":[],"web":["a","b"]}`,
		"/v1/catalog/services?node-meta=rack:9":     `{"web":["a","b"]}`,
		"/v1/catalog/services?node-meta=rack:8":     `{}`,
		"/v1/catalog/nodes?node-meta=rack:9":        "[" + nodeX1 + "]",
		"/v1/catalog/node/x1":                       `{"Node":` + nodeX1 + `,"Services":{"web1":` + serviceX1 + `}}`,
		"/v1/catalog/node/none":                     `null`,
		"/v1/catalog/node-services/x1":              `{"Node":` + nodeX1 + `,"Services":[` + serviceX1 + `]}`,
		"/v1/catalog/service/web":                   "[" + flat + "]",
		"/v1/catalog/service/web?tag=a&tag=b":       "[" + flat + "]",
		"/v1/catalog/service/web?tag=a&tag=c":       "[]",
		"/v1/catalog/service/none":                  "[]",
		"/v1/health/node/x1":                        "[" + aliveX1 + "," + webUp + "]",
		"/v1/health/checks/web":                     "[" + webUp + "]",
		"/v1/health/service/web":                    `[{"Node":` + nodeX1 + `,"Service":` + serviceX1 + `,"Checks":[` + aliveX1 + "," + webUp + "]}]",
		"/v1/health/service/web?passing":            "[]",
		"/v1/health/service/web?passing=false":      `[{"Node":` + nodeX1 + `,"Service":` + serviceX1 + `,"Checks":[` + aliveX1 + "," + webUp + "]}]",
		"/v1/health/service/web?node-meta=rack:8":   "[]",
		"/v1/health/service/none":                   "[]",
		"/v1/health/state/warning":                  "[" + webUp + "]",
		"/v1/health/state/passing?node-meta=rack:9": "[" + aliveX1 + "]",
		"/v1/health/state/strange":                  "[]",
	} {
		a.read(t, target, want)
	}
	var any []check
	if a.get(t, "/v1/health/state/any", &any); len(any) != 3 || any[0].CheckID != serfCheckID {
		t.Errorf("any state: %+v", any)
	}

	// The service that every datacenter has runs on the voters.
	var core []entry
	if a.get(t, "/v1/health/service/consul?passing", &core); len(core) != 1 || core[0].Node.Node != "a1" || core[0].Service.Port != 8310 {
		t.Errorf("the core's service: %+v", core)
	}

	// Registered again, by a client that leaves the node as it is, nothing changes; and what passes is found.
	a.put(t, "/v1/catalog/register", `{"Node":"x1","SkipNodeUpdate":true,"Address":"9.9.9.9","Check":{"CheckID":"web-up","Name":"web-up","ServiceID":"web1","Status":"passing"}}`)
	var entries []entry
	if a.get(t, "/v1/health/service/web?passing", &entries); len(entries) != 1 || entries[0].Node.Address != "10.0.0.1" {
		t.Errorf("passing: %+v", entries)
	}
	a.put(t, "/v1/catalog/deregister", `{"Node":"x1","CheckID":"alive"}`)
	a.put(t, "/v1/catalog/deregister", `{"Node":"x1","ServiceID":"web1","CheckID":"ignored"}`)
	a.read(t, "/v1/health/node/x1", "[]")
	a.read(t, "/v1/catalog/services", `{"consul":[]}`)
	a.put(t, "/v1/catalog/deregister", `{"Node":"x1","Datacenter":"dc1","Address":"10.0.0.1"}`)
	a.put(t, "/v1/catalog/deregister", `{"Node":"x1"}`)
	a.read(t, "/v1/catalog/node/x1", "null")
}

// A program's service on an agent's node is shown with what gossip says of the agent, and the agent's own description of
// the node stays.
func TestRegisterOnAnAgent(t *testing.T) {
	a := newAgent(t)
	a.join(t, "a2", "127.0.0.2:8310")
	a.put(t, "/v1/catalog/register", `{"Node":"a2","Address":"9.9.9.9","Service":{"Service":"db"}}`)
	var got []entry
	a.get(t, "/v1/health/service/db?passing", &got)
	if len(got) != 1 || got[0].Node.Address != "127.0.0.2" || len(got[0].Checks) != 1 || got[0].Checks[0].CheckID != serfCheckID || got[0].Service.ID != "db" {
		t.Fatalf("got %+v", got)
	}
	a.gossip("a2", func(m *api.Member) { m.State = stateDead })
	if a.get(t, "/v1/health/service/db?passing", &got); len(got) != 0 {
		t.Errorf("its agent is dead: %+v", got)
	}
	if a.get(t, "/v1/health/service/db", &got); len(got) != 1 || got[0].Checks[0].Status != "critical" {
		t.Errorf("its agent is dead: %+v", got)
	}
}

// What makes no sense, or is not offered, is refused before it is proposed; what the state refuses says why.
func TestRegisterRefusals(t *testing.T) {
	a := newAgent(t)
	before := a.hub.View().Revision()
	for _, test := range []struct {
		target, body string
		status       int
		text         string
	}{
		{"register", `{`, 400, "Request decode failed"},
		{"register", `{"Node":"x1","Address":"1.1.1.1","Colour":"red"}`, 400, `unknown field "Colour"`},
		{"register", `{"Node":"x1","Address":"1.1.1.1","Service":{"Service":"s","Colour":"red"}}`, 400, `unknown field "Colour"`},
		{"register", `{"Address":"1.1.1.1"}`, 400, "Must provide node"},
		{"register", `{"Node":"x1"}`, 400, "Must provide address"},
		{"register", `{"Node":"x1","Address":"1.1.1.1","Service":{"ID":"s"}}`, 400, "Must provide service name"},
		{"register", `{"Node":"x1","Address":"1.1.1.1","Service":{"Service":"s","Kind":"connect-proxy"}}`, 400, "not offered"},
		{"register", `{"Node":"x1","Address":"1.1.1.1","Service":{"Service":"s","Proxy":{"DestinationServiceName":"t"}}}`, 400, "not offered"},
		{"register", `{"Node":"x1","Address":"1.1.1.1","Namespace":"team"}`, 400, "not offered"},
		{"register", `{"Node":"x1","Address":"1.1.1.1","Check":{"Status":"passing"}}`, 400, "neither CheckID nor Name"},
		{"register", `{"Node":"x1","Address":"1.1.1.1","Check":{"Name":"c","Node":"x2"}}`, 400, "the registration is of node"},
		{"register", `{"Node":"x1","Address":"1.1.1.1","Check":{"Name":"c","Status":"fine"}}`, 400, `status "fine"`},
		{"register", `{"Node":"x1","Address":"1.1.1.1","Check":{"Name":"c","Output":"` + strings.Repeat("x", state.MaxOutputBytes+1) + `"}}`, 400, "the limit is 4096"},
		{"register", `{"Node":"x1","Address":"1.1.1.1","Datacenter":"dc2"}`, 500, "No path to datacenter"},
		{"register?dc=dc2", registerWeb, 500, "No path to datacenter"},
		{"register", strings.Repeat(" ", maxRegisterBody+1), 413, "limit"},
		{"register", `{"Node":"x1","SkipNodeUpdate":true,"Service":{"Service":"s"}}`, 404, `no node "x1"`},
		{"register", `{"Node":"a1","Address":"1.1.1.1"}`, 409, "has an agent"},
		{"register", `{"Node":"a1","Address":"1.1.1.1","Check":{"CheckID":"serfHealth"}}`, 409, "cannot be set"},
		{"deregister", `{}`, 400, "Missing node name"},
		{"deregister", `{"Node":"x1","Who":"me"}`, 400, "unknown field"},
		{"deregister", `{"Node":"a1"}`, 409, "has an agent"},
	} {
		w := a.do("PUT", "/v1/catalog/"+test.target, test.body)
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.text) {
			t.Errorf("%s %.80s: %d %.200s, want %d with %q", test.target, test.body, w.Code, w.Body, test.status, test.text)
		}
	}
	for target, text := range map[string]string{
		"/v1/catalog/node/": "Missing node name", "/v1/catalog/node-services/": "Missing node name", "/v1/catalog/service/": "Missing service name",
		"/v1/health/service/": "Missing service name", "/v1/health/checks/": "Missing service name", "/v1/health/state/": "Missing check state",
	} {
		if w := a.do("GET", target, ""); w.Code != 400 || !strings.Contains(w.Body.String(), text) {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	if got := a.hub.View().Revision(); got != before {
		t.Errorf("what was refused moved the revision from %d to %d", before, got)
	}
}

// Trap 1 for services: a blocked read wakes when its own service changes (an instance, a check of it or of its node, the
// node, the life of the agent that it runs on), and sleeps through all else. Its index grows, also when the last
// instance goes.
func TestServiceBlocksOnItself(t *testing.T) {
	changes := map[string]func(*testing.T, *agent){
		"instance": func(t *testing.T, a *agent) {
			a.put(t, "/v1/catalog/register", `{"Node":"a2","SkipNodeUpdate":true,"Service":{"Service":"web"}}`)
		},
		"check": func(t *testing.T, a *agent) {
			a.put(t, "/v1/catalog/register", `{"Node":"x1","SkipNodeUpdate":true,"Check":{"Name":"up","ServiceID":"web","Status":"passing"}}`)
		},
		"node check": func(t *testing.T, a *agent) {
			a.put(t, "/v1/catalog/register", `{"Node":"x1","SkipNodeUpdate":true,"Check":{"Name":"disk"}}`)
		},
		"address": func(t *testing.T, a *agent) { a.put(t, "/v1/catalog/register", `{"Node":"x1","Address":"10.0.0.9"}`) },
		"death":   func(_ *testing.T, a *agent) { a.gossip("a3", func(m *api.Member) { m.State = stateDead }) },
		"end": func(t *testing.T, a *agent) {
			a.put(t, "/v1/catalog/deregister", `{"Node":"x1"}`)
			a.put(t, "/v1/catalog/deregister", `{"Node":"a3","ServiceID":"web"}`)
		},
	}
	for what, change := range changes {
		synctest.Test(t, func(t *testing.T) {
			a := newAgent(t)
			a.join(t, "a2", "127.0.0.2:8310")
			a.join(t, "a3", "127.0.0.3:8310")
			a.put(t, "/v1/catalog/register", `{"Node":"x1","Address":"10.0.0.1","Service":{"Service":"web"}}`)
			a.put(t, "/v1/catalog/register", `{"Node":"a3","SkipNodeUpdate":true,"Service":{"Service":"web"}}`)
			at, began := a.indexOf(t, "/v1/health/service/web"), time.Now()
			time.AfterFunc(10*time.Second, func() { a.gossip("a2", func(m *api.Member) { m.State = stateDead }) })
			time.AfterFunc(11*time.Second, func() {
				a.put(t, "/v1/catalog/register", `{"Node":"x2","Address":"10.0.0.2","Service":{"Service":"db"}}`)
			})
			time.AfterFunc(12*time.Second, func() { a.put(t, "/v1/catalog/register", `{"Node":"x2","Address":"10.0.0.3","Check":{"Name":"disk"}}`) })
			time.AfterFunc(13*time.Second, func() { a.do("PUT", "/v1/kv/k", "v") })
			time.AfterFunc(20*time.Second, func() { change(t, a) })
			next := a.indexOf(t, fmt.Sprintf("/v1/health/service/web?index=%d&wait=1m", at))
			if got := time.Since(began); got != 20*time.Second || next <= at {
				t.Errorf("%s: woke after %s with index %d after %d, want 20s and more", what, got, next, at)
			}
			if last := a.indexOf(t, "/v1/health/service/web"); last < next {
				t.Errorf("%s: the index went back from %d to %d", what, next, last)
			}
		})
	}
}

// A service that nobody knows yet can be waited for: nothing else wakes the reader.
func TestWaitForAService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		for _, target := range []string{"/v1/catalog/service/new", "/v1/health/node/x9", "/v1/catalog/node/x9"} {
			at, began := a.indexOf(t, target), time.Now()
			time.AfterFunc(5*time.Second, func() {
				a.put(t, "/v1/catalog/register", `{"Node":"x1","Address":"10.0.0.1","Service":{"Service":"old"}}`)
			})
			time.AfterFunc(20*time.Second, func() {
				a.put(t, "/v1/catalog/register", `{"Node":"x9","Address":"10.0.0.1","Service":{"Service":"new"}}`)
			})
			if next := a.indexOf(t, fmt.Sprintf("%s?index=%d&wait=1m", target, at)); time.Since(began) != 20*time.Second || next <= at {
				t.Errorf("%s: woke after %s with index %d after %d", target, time.Since(began), next, at)
			}
			a.put(t, "/v1/catalog/deregister", `{"Node":"x9"}`)
			a.put(t, "/v1/catalog/deregister", `{"Node":"x1"}`)
		}
	})
}

// Services whose readers were forgotten are read once more, and their index does not go back.
func TestPrintsAreBounded(t *testing.T) {
	r := &roster{}
	r.mu.prints = make(map[string]printed)
	r.turns("web", 1)
	was := r.turns("web", 2)
	for i := range maxPrints + 1 {
		r.turns(fmt.Sprint(i), 1)
	}
	if got := len(r.mu.prints); got > maxPrints {
		t.Errorf("%d services are remembered", got)
	}
	if got := r.turns("web", 1); got < was {
		t.Errorf("the count went back from %d to %d", was, got)
	}
}

// A session ends, and its keys are let go, when a check that it names becomes critical.
func TestSessionEndsWithItsCheck(t *testing.T) {
	a := newAgent(t)
	a.put(t, "/v1/catalog/register", registerWeb)
	create := func(body string) string {
		t.Helper()
		w := a.do("PUT", "/v1/session/create", body)
		var made struct{ ID string }
		if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code != 200 {
			t.Fatalf("create %s: %d %s", body, w.Code, w.Body)
		}
		return made.ID
	}
	id := create(`{"Node":"x1","NodeChecks":["alive"],"ServiceChecks":[{"ID":"web-up"}],"LockDelay":"10s"}`)
	var got []session
	if a.get(t, "/v1/session/info/"+id, &got); len(got) != 1 || fmt.Sprint(got[0].NodeChecks, got[0].ServiceChecks) != "[alive] [{web-up }]" {
		t.Errorf("got %+v", got)
	}
	a.put(t, "/v1/kv/lock?acquire="+id, "v")
	a.put(t, "/v1/catalog/register", `{"Node":"x1","SkipNodeUpdate":true,"Check":{"CheckID":"web-up","ServiceID":"web1"}}`)
	a.read(t, "/v1/session/info/"+id, "[]")
	other := create("")
	a.want(t, "PUT", "/v1/kv/lock?acquire="+other, "w", 200, "false") // the lock-delay
	for body, text := range map[string]string{
		`{"Node":"x1","NodeChecks":[],"ServiceChecks":[{"ID":"web-up"}]}`: "is critical",
		`{"Node":"x1"}`: `no check "serfHealth" on node "x1"`,
		`{"Node":"x1","NodeChecks":[],"Checks":["alive"]}`: "",
	} {
		if w := a.do("PUT", "/v1/session/create", body); text != "" && (w.Code < 400 || !strings.Contains(w.Body.String(), text)) || text == "" && w.Code != 200 {
			t.Errorf("%s: %d %s, want %q", body, w.Code, w.Body, text)
		}
	}
	a.join(t, "a2", "127.0.0.2:8310")
	create(`{"Node":"a2"}`)
	a.gossip("a2", func(m *api.Member) { m.State = stateDead })
	if w := a.do("PUT", "/v1/session/create", `{"Node":"a2"}`); w.Code != 400 || !strings.Contains(w.Body.String(), "critical") {
		t.Errorf("on a dead agent: %d %s", w.Code, w.Body)
	}
}

// Nodes, services and checks in a transaction are answered as clients know them; what stands in the way is named.
func TestTxnOfTheCatalog(t *testing.T) {
	a := newAgent(t)
	a.put(t, "/v1/catalog/register", registerWeb)
	id := a.create(t, "")
	a.want(t, "PUT", "/v1/txn", `[{"Node":{"Verb":"get","Node":{"Node":"x1"}}},{"Service":{"Verb":"get","Node":"x1","Service":{"ID":"web1"}}},`+
		`{"Check":{"Verb":"get","Check":{"Node":"x1","CheckID":"web-up"}}},{"Check":{"Verb":"get","Check":{"Node":"x1","CheckID":"alive"}}}]`, 200,
		`{"Results":[{"Node":`+nodeX1+`},{"Service":`+serviceX1+`},{"Check":`+webUp+`},{"Check":`+strings.Replace(aliveX1, `"ServiceTags":[]`, `"ServiceTags":null`, 1)+`}],"Errors":null}`)
	w := a.do("PUT", "/v1/txn", `[{"Node":{"Verb":"get","Node":{"Node":"a1"}}}]`)
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"Address":"127.0.0.1"`) || !strings.Contains(w.Body.String(), `"consul-version"`) {
		t.Errorf("the node of an agent: %d %s", w.Code, w.Body)
	}
	a.want(t, "PUT", "/v1/txn", `[{"Node":{"Verb":"cas","Node":{"Node":"x1","Address":"10.0.0.1","ModifyIndex":1}}},`+
		`{"Service":{"Verb":"delete-cas","Node":"x1","Service":{"ID":"web1","ModifyIndex":9}}},{"Check":{"Verb":"cas","Check":{"Node":"x1","CheckID":"c"}}},`+
		`{"Check":{"Verb":"get","Check":{"Node":"x1","CheckID":"none"}}},{"Session":{"Verb":"delete","Session":{"ID":"`+id+`"}}},{"Node":{"Verb":"delete","Node":{"Node":"a1"}}}]`, 409,
		`{"Results":null,"Errors":[{"OpIndex":0,"What":"the node \"x1\" is at revision 2, not 1"},{"OpIndex":1,"What":"the service \"web1\" is at revision 2, not 9"},`+
			`{"OpIndex":3,"What":"the check \"none\" doesn't exist on node \"x1\""},{"OpIndex":5,"What":"the node \"a1\" has an agent, which alone says what it is: register services and checks on it, or another node"}]}`)
	w = a.do("PUT", "/v1/txn", `[{"Session":{"Verb":"delete","Session":{"ID":"`+id+`"}}},{"Check":{"Verb":"delete","Check":{"Node":"x1","CheckID":"alive"}}},`+
		`{"Service":{"Verb":"delete","Node":"x1","Service":{"ID":"web1"}}},{"Node":{"Verb":"delete-cas","Node":{"Node":"x1","ModifyIndex":2}}}]`)
	if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != `{"Results":[],"Errors":null}` {
		t.Errorf("deletes: %d %s", w.Code, got)
	}
	a.read(t, "/v1/session/info/"+id, "[]")
	a.read(t, "/v1/catalog/node/x1", "null")
}
