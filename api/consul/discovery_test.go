package consul

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// apply does a command as the core would.
func (a *agent) apply(t *testing.T, cmd state.Command) {
	t.Helper()
	raw, err := state.Encode(state.Envelope{Command: cmd}, state.Version)
	if err != nil {
		t.Fatal(err)
	}
	done, err := a.propose(context.Background(), raw)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := state.DecodeResult(done.Data); err != nil || res.Code != state.CodeOK {
		t.Fatalf("%T: %+v, %v", cmd, res, err)
	}
}

// join adds a node to the replicated state.
func (a *agent) join(t *testing.T, name, address string) {
	t.Helper()
	if len(a.hub.View().Tokens()) == 0 {
		a.apply(t, state.TokenCreate{Token: state.Token{
			ID: "0011223344556677", Verify: make([]byte, 32), Expires: clock.Stamp(1 << 50), Uses: 10, Role: policy.Discovery,
		}})
	}
	n := byte(len(a.hub.View().Nodes()) + 1)
	a.apply(t, state.NodeJoin{
		Token: "0011223344556677", CSRKeyHash: [32]byte{n}, Node: name, UID: [16]byte{n, 15: n},
		HostKey: []byte{n}, SealKey: make([]byte, 32), Zone: "z1", Address: address,
	})
}

// get decodes an answer of status 200 into v and returns its headers.
func (a *agent) get(t *testing.T, target string, v any) http.Header {
	t.Helper()
	w := a.do("GET", target, "")
	if w.Code != http.StatusOK {
		t.Fatalf("GET %s: %d %s", target, w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), v); err != nil {
		t.Fatalf("GET %s: %v in %s", target, err, w.Body)
	}
	for _, name := range []string{"X-Consul-Index", "X-Consul-LastContact", "X-Consul-KnownLeader"} {
		if value := w.Header().Get(name); value == "" || name == "X-Consul-Index" && value == "0" {
			t.Errorf("GET %s: %s is %q", target, name, value)
		}
	}
	return w.Header()
}

func (a *agent) indexOf(t *testing.T, target string) uint64 {
	t.Helper()
	var any json.RawMessage
	return index(t, a.get(t, target, &any))
}

// The catalog is every agent that joined and has not left, dead ones too; its addresses are those that gossip has now.
func TestCatalogNodes(t *testing.T) {
	a := newAgent(t)
	a.join(t, "a2", "10.0.0.2:8310")
	a.join(t, "gone", "10.0.0.9:8310")
	a.join(t, "unseen", "[2001:db8::7]:8310")
	a.apply(t, state.NodeSetLeft{Node: "gone", Left: true})
	a.gossip("a2", func(m *api.Member) { m.State = stateDead })
	var got []node
	h := a.get(t, "/v1/catalog/nodes", &got)
	if h.Get(headerEffective) != "leader" {
		t.Errorf("effective consistency %q", h.Get(headerEffective))
	}
	if names := fmt.Sprint(got[0].Node, got[1].Node, got[2].Node); len(got) != 3 || names != "a1a2unseen" {
		t.Fatalf("got %+v", got)
	}
	two := got[1]
	if two.ID != "02000000-0000-0000-0000-000000000002" || two.Address != "127.0.0.2" || two.Datacenter != "dc1" ||
		two.TaggedAddresses["lan"] != "127.0.0.2" || two.TaggedAddresses["wan_ipv4"] != "127.0.0.2" || two.Meta["zone"] != "z1" {
		t.Errorf("got %+v", two)
	}
	if three := got[2]; three.Address != "2001:db8::7" || three.TaggedAddresses["lan_ipv6"] != "2001:db8::7" {
		t.Errorf("before gossip has met it: %+v", three)
	}
	for _, n := range got {
		if n.ModifyIndex > index(t, h) || n.CreateIndex == 0 {
			t.Errorf("%s: indexes %d and %d of %s", n.Node, n.CreateIndex, n.ModifyIndex, h.Get("X-Consul-Index"))
		}
	}
	for query, want := range map[string]int{"node-meta=zone:z1": 2, "node-meta=zone:z1&node-meta=none:x": 0, "near=a1": 3} {
		if a.get(t, "/v1/catalog/nodes?"+query, &got); len(got) != want {
			t.Errorf("%s: %d nodes, want %d", query, len(got), want)
		}
	}
}

// What has no moving parts: the one datacenter, the one service, and the names of agents for who asks this one.
func TestCatalogAndAgent(t *testing.T) {
	a := newAgent(t)
	a.gossip("a3", func(m *api.Member) { m.State = stateLeft })
	a.want(t, "GET", "/v1/catalog/datacenters", "", 200, `["dc1"]`)
	a.want(t, "GET", "/v1/catalog/services", "", 200, `{"consul":[]}`)
	a.want(t, "GET", "/v1/catalog/services?pretty", "", 200, "{\n    \"consul\": []\n}")
	a.want(t, "GET", "/v1/catalog/services?node-meta=rack:9", "", 200, `{}`)
	var me self
	a.get(t, "/v1/agent/self", &me)
	if c := me.Config; c.NodeName != "a1" || c.Datacenter != "dc1" || !c.Server || c.Version != Version || c.NodeID == "" {
		t.Errorf("config: %+v", c)
	}
	if m := me.Member; m.Name != "a1" || m.Addr != "127.0.0.1" || m.Port != 8310 || m.Status != memberAlive || m.Tags["dc"] != "dc1" {
		t.Errorf("member: %+v", m)
	}
	if me.Stats["consul"]["leader"] != "true" {
		t.Errorf("stats: %v", me.Stats)
	}
	var members []member
	a.get(t, "/v1/agent/members", &members)
	if len(members) != 3 || members[0].Name != "a1" || members[0].Tags["role"] != "consul" || members[2].Tags["role"] != "node" || members[2].Status != memberLeft {
		t.Errorf("members: %+v", members)
	}
	a.get(t, "/v1/agent/members?wan=1", &members)
	if len(members) != 2 || members[0].Name != "a1.dc1" {
		t.Errorf("servers: %+v", members)
	}
}

// serfHealth is what gossip holds: a suspect may still refute and is passing, the dead are critical, and so is a node
// that gossip never met; a node that left has no checks.
func TestSerfHealth(t *testing.T) {
	a := newAgent(t)
	for _, name := range []string{"a2", "a3", "unseen"} {
		a.join(t, name, "10.0.0.2:8310")
	}
	want := func(name, status string) {
		t.Helper()
		var got []check
		h := a.get(t, "/v1/health/node/"+name, &got)
		if h.Get(headerEffective) == "" {
			t.Errorf("no effective consistency")
		}
		if status == "" {
			if len(got) != 0 {
				t.Errorf("%s has %+v", name, got)
			}
			return
		}
		if len(got) != 1 || got[0].CheckID != "serfHealth" || got[0].Status != status || got[0].Node != name || got[0].ServiceTags == nil {
			t.Errorf("%s: got %+v, want %s", name, got, status)
		}
	}
	want("a1", "passing")
	want("a2", "passing")
	want("unseen", "critical")
	want("nobody", "")
	a.gossip("a2", func(m *api.Member) { m.State = stateSuspect })
	want("a2", "passing")
	a.gossip("a2", func(m *api.Member) { m.State = stateDead })
	want("a2", "critical")
	a.apply(t, state.NodeSetLeft{Node: "a3", Left: true})
	want("a3", "")
	if w := a.do("GET", "/v1/health/node/", ""); w.Code != 400 {
		t.Errorf("no name: %d", w.Code)
	}
}

// Trap 1 for what gossip knows: a blocked read wakes when its own node's health changes, by gossip or in the state, and
// sleeps through what happens to others.
func TestHealthBlocksOnItsOwnNode(t *testing.T) {
	for what, change := range map[string]func(*testing.T, *agent){
		"gossip": func(_ *testing.T, a *agent) { a.gossip("a2", func(m *api.Member) { m.State = stateDead }) },
		"state":  func(t *testing.T, a *agent) { a.apply(t, state.NodeSetLeft{Node: "a2", Left: true}) },
	} {
		synctest.Test(t, func(t *testing.T) {
			a := newAgent(t)
			a.join(t, "a2", "10.0.0.2:8310")
			a.join(t, "a3", "10.0.0.3:8310")
			at := a.indexOf(t, "/v1/health/node/a2")
			began := time.Now()
			time.AfterFunc(10*time.Second, func() { a.gossip("a3", func(m *api.Member) { m.State = stateDead }) })
			time.AfterFunc(11*time.Second, func() { a.apply(t, state.NodeSetLeft{Node: "a3", Left: true}) })
			time.AfterFunc(12*time.Second, func() { a.do("PUT", "/v1/kv/k", "v") })
			time.AfterFunc(20*time.Second, func() { change(t, a) })
			next := a.indexOf(t, fmt.Sprintf("/v1/health/node/a2?index=%d&wait=1m", at))
			if got := time.Since(began); got != 20*time.Second || next <= at {
				t.Errorf("%s: woke after %s with index %d after %d, want 20s and more", what, got, next, at)
			}
			nodes := a.indexOf(t, "/v1/catalog/nodes")
			time.AfterFunc(time.Second, func() { a.gossip("a1", func(m *api.Member) { m.State = stateSuspect }) })
			time.AfterFunc(5*time.Second, func() { a.gossip("a1", func(m *api.Member) { m.Address = "127.0.0.9:8310" }) })
			began = time.Now()
			if next = a.indexOf(t, fmt.Sprintf("/v1/catalog/nodes?index=%d", nodes)); time.Since(began) != 5*time.Second || next <= nodes {
				t.Errorf("%s: nodes woke after %s with index %d after %d, want 5s", what, time.Since(began), next, nodes)
			}
		})
	}
}

// An index of gossip is this agent's own. It grows over a restart, also when the View begins at an older revision; and
// an index of another agent, or of a run that is over, is answered at once.
func TestGossipIndexNeverGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newAgent(t)
		first.join(t, "a2", "10.0.0.2:8310") // the others' Views do not have this yet
		for i := range 50 {
			first.gossip("a1", func(m *api.Member) { m.State = []string{stateDead, stateAlive}[i%2] })
			first.do("GET", "/v1/health/node/a1", "")
		}
		old := newAgent(t)
		restarted := newAgentOf(t, policy.Local, old.machine, "a1", 2)
		other := newAgentOf(t, policy.Local, newAgent(t).machine, "a2", 1)
		for _, target := range []string{"/v1/health/node/a1", "/v1/catalog/nodes"} {
			was, now, elsewhere := first.indexOf(t, target), restarted.indexOf(t, target), other.indexOf(t, target)
			if now <= was {
				t.Errorf("%s: %d before the restart, %d after it", target, was, now)
			}
			if was == elsewhere {
				t.Errorf("%s: two agents have the index %d", target, was)
			}
			for _, foreign := range []uint64{was, now} {
				began := time.Now()
				if other.indexOf(t, fmt.Sprintf("%s?index=%d", target, foreign)); time.Since(began) > 0 {
					t.Errorf("%s: an index of another agent waited %s", target, time.Since(began))
				}
			}
		}
	})
}

// Trap 2 on catalog and health: five minutes when nothing is said, at most ten, a sixteenth on top, and odd durations
// parse.
func TestTrap2DiscoveryWaits(t *testing.T) {
	for _, target := range []string{"/v1/catalog/nodes", "/v1/catalog/services", "/v1/health/node/a1"} {
		for query, want := range map[string]time.Duration{
			"": 5 * time.Minute, "&wait=1h": 10 * time.Minute, "&wait=9.998s": 9998 * time.Millisecond, "&wait=1ms": time.Millisecond,
		} {
			synctest.Test(t, func(t *testing.T) {
				a := newAgent(t)
				at, began := a.indexOf(t, target), time.Now()
				if got := a.indexOf(t, fmt.Sprintf("%s?index=%d%s", target, at, query)); got != at {
					t.Errorf("%s: index %d became %d", target, at, got)
				}
				if got := time.Since(began); got < want || got > want+want/jitterShare+1 {
					t.Errorf("%s%s: answered after %s, want %s to a sixteenth more", target, query, got, want)
				}
			})
		}
	}
}

// Trap 6, and its limit: who asks for consistency without a leader gets 500 and the words on which clients retry;
// discovery goes on and says that there is none.
func TestTrap6DiscoveryWithoutLeader(t *testing.T) {
	a := newAgent(t)
	a.setLeader("")
	for _, target := range []string{"/v1/catalog/nodes", "/v1/catalog/services", "/v1/health/node/a1", "/v1/catalog/nodes?stale"} {
		var got json.RawMessage
		h := a.get(t, target, &got)
		if h.Get("X-Consul-KnownLeader") != "false" || h.Get(headerEffective) != "stale" {
			t.Errorf("%s: known leader %q, consistency %q", target, h.Get("X-Consul-KnownLeader"), h.Get(headerEffective))
		}
		if strings.Contains(target, "?") {
			continue
		}
		w := a.do("GET", target+"?consistent", "")
		if w.Code != 500 || !strings.HasPrefix(w.Body.String(), "No cluster leader") || w.Header().Get("X-Consul-Index") == "" {
			t.Errorf("%s?consistent: %d %s", target, w.Code, w.Body)
		}
	}
	a.setLeader("a1")
	var got json.RawMessage
	if h := a.get(t, "/v1/catalog/nodes?consistent", &got); h.Get(headerEffective) != "consistent" {
		t.Errorf("consistency %q", h.Get(headerEffective))
	}
}

// What is refused, before anything is read.
func TestDiscoveryRefusals(t *testing.T) {
	a := newAgent(t)
	for target, want := range map[string]string{
		"/v1/catalog/nodes?stale&consistent": "400 Cannot use stale and consistent", "/v1/catalog/nodes?index=1&wait=x": "400 Invalid wait",
		"/v1/catalog/services?filter=a": "400 filter is not offered", "/v1/agent/members?filter=a": "400 filter is not offered",
		"/v1/health/node/a1?filter=a==b": "400 filter is not offered", "/v1/health/node/a1?dc=x": "500 No path to datacenter",
		"/v1/agent/connect/ca/roots?dc=x": "500 No path to datacenter", "/v1/catalog/datacenters?dc=x": "500 No path to datacenter",
	} {
		w := a.do("GET", target, "")
		if got := fmt.Sprint(w.Code, " ", w.Body); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}

func makeRoot(t *testing.T, name string, from time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := new(big.Int).SetString("ffeeddccbbaa99887766554433221100", 16)
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: from.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Roots are certificates in PEM; the newest one is active; a blocking read wakes when the bundle changes and for
// nothing else.
func TestRoots(t *testing.T) {
	older, newer := makeRoot(t, "older", time.Unix(1_000_000, 0)), makeRoot(t, "newer", time.Unix(2_000_000, 0))
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		a.apply(t, state.SetBundle{Bundle: state.Bundle{Sequence: 2, Roots: [][]byte{older}}})
		var got roots
		h := a.get(t, "/v1/agent/connect/ca/roots", &got)
		if got.TrustDomain != "example.org" || len(got.Roots) != 1 || got.ActiveRootID == "" || got.Roots[0].ID != got.ActiveRootID {
			t.Fatalf("got %+v", got)
		}
		block, _ := pem.Decode([]byte(got.Roots[0].RootCert))
		if block == nil || !slices.Equal(block.Bytes, older) || got.Roots[0].SerialNumber != 0x7766554433221100 {
			t.Errorf("got %+v", got.Roots[0])
		}
		began := time.Now()
		time.AfterFunc(time.Second, func() { a.join(t, "a2", "10.0.0.2:8310") })
		time.AfterFunc(5*time.Second, func() {
			a.apply(t, state.SetBundle{Bundle: state.Bundle{Sequence: 3, Roots: [][]byte{newer, older}}})
		})
		a.get(t, "/v1/connect/ca/roots?index="+h.Get("X-Consul-Index"), &got)
		if time.Since(began) != 5*time.Second {
			t.Errorf("woke after %s, want 5s", time.Since(began))
		}
		if len(got.Roots) != 2 || !got.Roots[0].Active || got.Roots[1].Active || got.Roots[0].Name != "newer" {
			t.Errorf("got %+v", got.Roots)
		}
	})
}

// A watch has its limit, whatever it waits for.
func TestDiscoveryWatchesAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		at := a.indexOf(t, "/v1/health/node/a1")
		target := fmt.Sprintf("/v1/health/node/a1?index=%d&wait=", at)
		for range maxWatchesOfOne {
			go a.do("GET", target+"1m", "")
		}
		synctest.Wait()
		if w := a.do("GET", target+"1m", ""); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
			t.Errorf("one more: %d %s", w.Code, w.Body)
		}
		time.Sleep(2 * time.Minute) // virtual
		if w := a.do("GET", target+"1ms", ""); w.Code != 200 {
			t.Errorf("afterwards: %d %s", w.Code, w.Body)
		}
	})
}

// maxWatchesOfOne is api's limit for one caller.
const maxWatchesOfOne = 1000
