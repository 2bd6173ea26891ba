package consul

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// agent is one agent that applies commands at once; leader is "" for none.
type agent struct {
	*fakeGossip
	handler http.Handler
	hub     *watch.Hub

	mu      sync.Mutex
	leader  string
	machine *state.Machine
	ahead   clock.Stamp // added to the stamps of commands

	renewed       []state.Session
	refuseRenewal error
}

func newAgent(t *testing.T) *agent { return newAgentFor(t, policy.Local) }

// newAgentFor gives anonymous callers role.
func newAgentFor(t *testing.T, role policy.Role) *agent {
	t.Helper()
	machine := state.Genesis(state.GenesisOptions{
		ClusterID: "00112233445566778899aabbccddeeff", TrustDomain: "example.org",
		Node:   state.Node{Name: "a1", HostKey: []byte{1}, SealKey: make([]byte, 32)},
		Bundle: state.Bundle{Sequence: 1, Roots: [][]byte{{1}}}, Sealed: []byte{1}, At: 1 << 40,
	})
	return newAgentOf(t, role, machine, "a1", 1)
}

// newAgentOf is the start, counted from 1, of the agent of that name, which leads.
func newAgentOf(t *testing.T, role policy.Role, machine *state.Machine, name string, start uint64) *agent {
	t.Helper()
	a := &agent{fakeGossip: newGossip(), leader: name, machine: machine, hub: watch.NewHub(machine.View())}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = a.hub.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	service := api.New(a.beside(name, start, api.Options{
		AnonymousRole: role, LeaderWait: 20 * time.Millisecond,
		Local: api.Local{
			Node: "a1", Hub: a.hub, HoldsKV: func() bool { return true }, Leader: a.leads, Propose: a.propose,
			ReadIndex:      func(context.Context) (uint64, error) { return a.hub.View().Index(), nil },
			RoleOf:         func(string) policy.Role { return policy.Operator },
			CoreNodes:      func() []string { return []string{"a1"} },
			ClusterVersion: func() uint32 { return state.Version }, RenewSession: a.renew,
			Core: func() api.CoreStatus {
				core := api.CoreStatus{Voters: []api.CoreMember{{Name: "a2"}, {Name: "a1"}}, Learners: []api.CoreMember{{Name: "a3"}}}
				if leader, _, ok := a.leads(); ok {
					core.Leader = &leader
				}
				return core
			},
		},
	}))
	service.Mount(Routes(Options{})...)
	a.handler = service.Handler(api.Loopback)
	return a
}

func (a *agent) leads() (string, bool, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.leader, a.leader != "", a.leader != ""
}

// renew refuses the sessions that the test says are over.
func (a *agent) renew(s state.Session) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.renewed = append(a.renewed, s)
	return a.refuseRenewal
}

func (a *agent) setLeader(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leader = name
}

func (a *agent) propose(_ context.Context, command []byte) (api.Proposed, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	index := a.machine.View().Index() + 1
	results, touched, err := a.machine.Apply(index, 1, clock.Stamp(1<<40+index)+a.ahead, [][]byte{command})
	if err != nil {
		return api.Proposed{}, err
	}
	a.hub.Publish(a.machine.View(), touched)
	return api.Proposed{Index: index, Term: 1, Data: results[0]}, nil
}

func (a *agent) do(method, target, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "localhost"
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	return w
}

// want checks status and body, and that a read carries all its headers.
func (a *agent) want(t *testing.T, method, target, body string, status int, answer string) *httptest.ResponseRecorder {
	t.Helper()
	w := a.do(method, target, body)
	if got := strings.TrimSpace(w.Body.String()); w.Code != status || got != answer {
		t.Errorf("%s %s: got %d %s, want %d %s", method, target, w.Code, got, status, answer)
	}
	if method == http.MethodGet && (status == http.StatusOK || status == http.StatusNotFound) {
		for _, name := range []string{"X-Consul-Index", "X-Consul-LastContact", "X-Consul-KnownLeader", "Parley-Receipt"} {
			if value := w.Header().Get(name); value == "" || name == "X-Consul-Index" && value == "0" {
				t.Errorf("%s %s: %s is %q", method, target, name, value)
			}
		}
	}
	return w
}
