package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/ops"
	"github.com/parley-mesh/parley/ops/slo"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// fakeCluster is one state machine that applies at once, seen by agents inside (with key/value) and outside its core.
type fakeCluster struct {
	t      testing.TB
	agents map[string]*fakeAgent

	mu      sync.Mutex
	machine *state.Machine
	leader  string   // "" for none
	calls   []string // "from>to method"
	log     []state.Envelope

	renewed       []string // "agent session"
	refuseRenewal error
}

type fakeAgent struct {
	cluster *fakeCluster
	name    string
	core    bool
	role    policy.Role
	hub     *watch.Hub
	service *Service

	// What tests replace.
	pending  []state.EventAppend
	believes func() string // the leader by this agent's word; nil for the truth
	call     func(ctx context.Context, node, method string, body []byte) ([]byte, error)
	propose  func(ctx context.Context, command []byte) (Proposed, error)
	begin    func(command []byte, done func(Proposed, error)) (giveUp func(cause error))
}

const fakeStamp = clock.Stamp(1_700_000_000_000 << 16)

func fakeGenesis() *state.Machine {
	return state.Genesis(state.GenesisOptions{
		ClusterID: "00112233445566778899aabbccddeeff", TrustDomain: "example.org",
		Node:   state.Node{Name: "a1", HostKey: []byte{1}, SealKey: make([]byte, 32)},
		Bundle: state.Bundle{Sequence: 1, Roots: [][]byte{{1}}}, Sealed: []byte{1}, At: fakeStamp,
	})
}

// newFake makes agents a1, a2, ...: the first cores of them in the core, a1 leading.
func newFake(t testing.TB, agents, cores int) *fakeCluster {
	t.Helper()
	c := &fakeCluster{t: t, agents: map[string]*fakeAgent{}, machine: fakeGenesis(), leader: "a1"}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	for i := 1; i <= agents; i++ {
		a := &fakeAgent{cluster: c, name: fmt.Sprintf("a%d", i), core: i <= cores, role: policy.Discovery}
		view := state.NewFollower(state.ClassPublic).View()
		if a.core {
			a.role, view = policy.Operator, c.machine.View()
		}
		a.hub = watch.NewHub(view)
		running.Add(1)
		go func() {
			defer running.Done()
			_ = a.hub.Run(ctx)
		}()
		a.service = New(a.options())
		c.agents[a.name] = a
	}
	return c
}

func (a *fakeAgent) options() Options {
	return Options{
		LeaderWait: 200 * time.Millisecond, OpTimeout: time.Second,
		AnonymousRole: policy.Operator,
		Local: Local{
			Node: a.name, TrustDomain: spiffeid.RequireTrustDomainFromString("example.org"), Hub: a.hub, HoldsKV: func() bool { return a.core }, Leader: a.leads,
			Propose: a.doPropose, Begin: a.doBegin, ReadIndex: a.readIndex, Call: a.doCall,
			RoleOf: func(node string) policy.Role {
				if other := a.cluster.agents[node]; other != nil {
					return other.role
				}
				return policy.None
			},
			CoreNodes: a.cluster.coreNodes, ClusterVersion: func() uint32 { return state.Version },
			Members: func() []Member {
				return []Member{{Name: "a1", SPIFFEID: "spiffe://example.org/parley/agent/a1", State: "alive", Address: "127.0.0.1:8310", Zone: "z1", Core: "leader"}}
			},
			Core: a.coreStatus,
			Status: func() AgentStatus {
				return AgentStatus{
					Name: a.name, ClusterID: "00112233445566778899aabbccddeeff", TrustDomain: "example.org", Version: "0.1.0", Ready: true,
					Core: a.coreStatus(), SVID: SVID{SPIFFEID: "spiffe://example.org/parley/agent/" + a.name, NotAfter: time.Unix(1700003600, 0).UTC()},
				}
			},
			Health: func() []Capability {
				return []Capability{{Name: "writes", OK: true}, {Name: "view", Detail: "at index 0"}}
			},
			Invariants: func() InvariantReport {
				return InvariantReport{Count: 1, Invariants: []Invariant{{ID: "one-leader-a-term", What: "A term has one leader.", Violations: 1, Detail: "1 and 2"}}}
			},
			EventTime: func() clock.Stamp { return fakeStamp }, PendingEvents: func() []state.EventAppend { return a.pending },
			CompareDigests: func(context.Context) (DigestComparison, error) {
				return DigestComparison{Groups: 1, Index: 7, Members: []MemberDigest{{Name: "a1", Digest: "00"}}}, nil
			},
			Debug: Debug{
				Bundle: func(_ context.Context, w io.Writer) error { _, err := io.WriteString(w, "bundle"); return err },
				Recordings: func() []Recording {
					return []Recording{{Name: "invariant-x.rec", Bytes: 9, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}}
				},
				Forget: func() ([]Recording, error) { return nil, nil },
			},
			Digests: Digests{
				Diff: func(_ context.Context, plan DigestPlan) (DigestDiff, error) {
					return DigestDiff{Reference: "a1", Index: 7, Members: []string{"a2"}, Differences: []RowDiff{
						{Member: "a2", Table: "kv", Key: plan.Node + plan.Reference, Kind: "missing", ReferenceRevision: 5, ReferenceHash: "00"},
					}}, nil
				},
				Accept: func(_ context.Context, node, _ string) (DigestChoice, error) {
					return DigestChoice{Node: node, Index: 7}, nil
				},
			},
			LinkMatrix: func(context.Context) (LinkMatrix, error) {
				return LinkMatrix{Agents: []string{"a1", "a2"}, Links: []Link{{From: "a1", To: "a2", UDP: "fallback", TCP: "ok", RTT: 0.5}}, UDPFallback: 1}, nil
			},
			NodeStatus: func(name string) (NodeStatus, bool) {
				return NodeStatus{Name: name, State: "alive", Incarnation: 3, Starts10m: 1, Core: "leader", Address: "127.0.0.1:8310", Zone: "z1", Version: "0.1.0", Reachable: true}, name == "a1"
			},
			CreateToken: a.createToken,
			Ops:         func() *ops.Snapshot { return fakeSnapshot },
			Metrics:     http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("metrics\n")) }),
			Check: func(context.Context) ops.CheckReport {
				return ops.CheckReport{OK: true, Checks: []ops.CheckResult{{ID: "leader", Status: ops.CheckOK, Message: "the core has a leader"}}}
			},
			Scrub: func(_ context.Context, node string, rate int64) (ScrubReport, error) {
				if node == "a9" {
					return ScrubReport{}, Errorf(CodeNotFound, "there is no agent %q", node)
				}
				return ScrubReport{Segments: 1, Entries: 2, Bytes: rate}, nil
			},
			ApplyStatus: func(context.Context) (ApplyReport, error) {
				return ApplyReport{Members: []MemberApply{{Name: "a1", Commit: 9, Applied: 9}}}, nil
			},
			Quarantine:    func(context.Context, uint64, int) error { return nil },
			AcceptTail:    func(context.Context) (bool, error) { return false, nil },
			Leave:         fakeLeave,
			CAReseal:      func(context.Context, []byte) error { return nil },
			UseTokenKey:   func() (CATokenKeyUsed, error) { return CATokenKeyUsed{Node: "a1", ID: "k", Without: []string{}}, nil },
			CARequest:     func() (CARequest, error) { return CARequest{}, nil },
			CAExternal:    func(context.Context, string, []byte) (CAAuthority, error) { return CAAuthority{}, nil },
			CAStatus:      func(context.Context) (CAStatus, error) { return CAStatus{}, nil },
			SignOperator:  fakeSign,
			Identities:    fakeIdentities,
			RenewSession:  a.renewSession,
			WriteSnapshot: func(v *state.View, w io.Writer) error { return v.WriteSnapshot(w) },
		},
	}
}

// fakeSnapshot is of an agent that holds a2, a voter, dead.
var fakeSnapshot = func() *ops.Snapshot {
	margin, at := 0.0, time.Unix(1_700_000_000, 0).UTC()
	return &ops.Snapshot{
		Readings: ops.Readings{ops.CoreQuorumMargin: margin, ops.CoreVoters: 3, ops.CoreLeaderKnown: 1},
		Alerts: []ops.AlertStatus{{
			ID: "quorum-margin", State: ops.StateFiring, Severity: ops.Page, Value: &margin, Since: at, Summary: "margin", Runbook: "server-down",
		}},
		SLOs:  []slo.Status{{Name: "config-write", Target: 0.999, Window: "30d", Burn: map[string]*float64{"5m": nil, "1h": &margin}, Firing: []string{}}},
		Facts: ops.Facts{Node: "a1", Leader: "a1", Core: []ops.CoreFact{{Name: "a2", Member: "dead", Since: at}}},
	}
}()

// renewSession notes what the leader was told.
func (a *fakeAgent) renewSession(s state.Session) error {
	a.cluster.mu.Lock()
	defer a.cluster.mu.Unlock()
	a.cluster.renewed = append(a.cluster.renewed, a.name+" "+s.ID.String())
	return a.cluster.refuseRenewal
}

func (a *fakeAgent) coreStatus() CoreStatus {
	out := CoreStatus{Term: 1, CommitIndex: 1, AppliedIndex: 1, Size: 3, Voters: []CoreMember{{Name: "a1", RaftID: "1", Healthy: true}}}
	if leader, _, ok := a.leads(); ok {
		out.Leader = &leader
	}
	return out
}

func (a *fakeAgent) createToken(ctx context.Context, caller Caller, spec TokenSpec) (TokenAnswer, error) {
	token := state.Token{ID: "00112233445566aa", Verify: make([]byte, 32), Expires: fakeStamp + 1<<40, Uses: spec.Uses, Role: policy.Role(spec.Role)}
	if _, err := a.service.Execute(ctx, caller, state.TokenCreate{Token: token}); err != nil {
		return TokenAnswer{}, err
	}
	return TokenAnswer{ID: token.ID, Token: "parley1-secret", ExpiresAt: token.Expires.Wall(), JoinCommand: "parley agent --token-file FILE"}, nil
}

func (c *fakeCluster) coreNodes() []string {
	var nodes []string
	for i := 1; i <= len(c.agents); i++ {
		if a := c.agents[fmt.Sprintf("a%d", i)]; a.core {
			nodes = append(nodes, a.name)
		}
	}
	return nodes
}

func (c *fakeCluster) setLeader(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = node
}

func (c *fakeCluster) currentLeader() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader
}

// leads reports self only in truth: what an agent believes of others may be wrong.
func (a *fakeAgent) leads() (string, bool, bool) {
	leader := a.cluster.currentLeader()
	if leader == a.name {
		return leader, true, true
	}
	if a.believes != nil {
		leader = a.believes()
	}
	return leader, false, leader != ""
}

func (a *fakeAgent) doPropose(ctx context.Context, command []byte) (Proposed, error) {
	if a.propose != nil {
		return a.propose(ctx, command)
	}
	return a.apply(command)
}

// doBegin answers by a goroutine of its own.
func (a *fakeAgent) doBegin(command []byte, done func(Proposed, error)) (giveUp func(cause error)) {
	if a.begin != nil {
		return a.begin(command, done)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() { done(a.doPropose(ctx, command)) }()
	return cancel
}

// apply does it at once, as whoever leads.
func (a *fakeAgent) apply(command []byte) (Proposed, error) {
	c := a.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leader != a.name {
		return Proposed{}, Errorf(CodeNotLeader, "%s does not lead", a.name).WithLeader(c.leader)
	}
	envelope, err := state.Decode(command)
	if err != nil {
		return Proposed{}, err
	}
	c.log = append(c.log, envelope)
	index := c.machine.View().Index() + 1
	results, touched, err := c.machine.Apply(index, 1, fakeStamp+clock.Stamp(index), [][]byte{command})
	if err != nil {
		return Proposed{}, err
	}
	for _, agent := range c.agents {
		if agent.core {
			agent.hub.Publish(c.machine.View(), touched)
		}
	}
	return Proposed{Index: index, Term: 1, Stamp: fakeStamp + clock.Stamp(index), Data: results[0]}, nil
}

func (a *fakeAgent) readIndex(context.Context) (uint64, error) {
	c := a.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leader != a.name {
		return 0, Errorf(CodeNotLeader, "%s does not lead", a.name).WithLeader(c.leader)
	}
	return c.machine.View().Index(), nil
}

func (a *fakeAgent) doCall(ctx context.Context, node, method string, body []byte) ([]byte, error) {
	a.cluster.mu.Lock()
	a.cluster.calls = append(a.cluster.calls, a.name+">"+node+" "+method)
	a.cluster.mu.Unlock()
	if a.call != nil {
		return a.call(ctx, node, method, body)
	}
	return a.deliver(ctx, node, method, body)
}

func (a *fakeAgent) deliver(ctx context.Context, node, method string, body []byte) ([]byte, error) {
	other := a.cluster.agents[node]
	if other == nil {
		return nil, Errorf(CodeUnavailable, "no such agent %s", node)
	}
	return other.service.HandleRPC(ctx, a.name, method, body)
}

func (c *fakeCluster) takeCalls() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := c.calls
	c.calls = nil
	return calls
}

func (c *fakeCluster) put(key, value string) uint64 {
	c.t.Helper()
	done, err := c.agents[c.currentLeader()].service.Execute(context.Background(), operator, state.Put{Key: key, Value: []byte(value)})
	if err != nil {
		c.t.Fatalf("put %s: %v", key, err)
	}
	return done.Result.Revision
}

// operator is a caller who may do everything.
var operator = Caller{Role: policy.Operator, Name: "uid:0", Kind: KindSocket}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	_ = coded(t, err, code)
}

// coded is err as an Error, which must have the code and a hint.
func coded(t *testing.T, err error, code string) *Error {
	t.Helper()
	if err == nil {
		t.Fatalf("got no error, want %s", code)
	}
	e := AsError(err)
	if e.Code != code {
		t.Fatalf("got %s (%s), want code %s", e.Code, e.Message, code)
	}
	if e.Hint == "" {
		t.Errorf("%s without a hint", e.Code)
	}
	return e
}

// fakeLeave lets a voter go that another one can replace.
func fakeLeave(_ context.Context, dryRun bool) (Leave, error) {
	return Leave{Node: "a1", Core: "voter", Heir: "a4", Voters: 3, Left: !dryRun}, nil
}
