package api

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/api/wire"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

func (c *fakeCluster) session(agent string) state.Session {
	c.t.Helper()
	s, _, err := c.agents[agent].service.CreateSession(context.Background(), operator, state.Session{Node: "a1", Behavior: state.BehaviorRelease})
	if err != nil {
		c.t.Fatalf("create a session through %s: %v", agent, err)
	}
	return s
}

// Any agent creates, reads, renews and ends sessions: in the core from its own View, outside by one question to the
// leader. A renewal reaches the leader and writes nothing.
func TestSessionsFromAnyAgent(t *testing.T) {
	c := newFake(t, 4, 3)
	c.agents["a4"].role = policy.Local
	ctx := context.Background()
	for _, test := range []struct {
		agent       string
		read, renew []string
	}{
		{"a1", nil, nil},
		{"a2", []string{"a2>a1 op.readindex"}, []string{"a2>a1 op.session.renew"}},
		{"a4", []string{"a4>a1 op.sessions"}, []string{"a4>a1 op.session.renew"}},
	} {
		service := c.agents[test.agent].service
		s := c.session(test.agent)
		c.takeCalls()
		got, err := service.Sessions(ctx, operator, SessionQuery{ID: &s.ID})
		if err != nil || len(got.Sessions) != 1 || got.Revision != s.CreateRevision || got.Index == 0 || got.Node == "" {
			t.Fatalf("%s: %+v, %v", test.agent, got, err)
		}
		if one := got.Sessions[0]; one.ID != s.ID || one.CreateRevision != s.CreateRevision || one.CreatedAt != s.CreatedAt {
			t.Errorf("%s: read %+v, created %+v", test.agent, one, s)
		}
		if calls := c.takeCalls(); !slices.Equal(calls, test.read) {
			t.Errorf("%s reads by %q, want %q", test.agent, calls, test.read)
		}
		before := c.agents["a1"].hub.View().Index()
		renewed, err := service.RenewSession(ctx, operator, s.ID)
		if err != nil || len(renewed.Sessions) != 1 || renewed.Sessions[0].ID != s.ID {
			t.Fatalf("%s renews: %+v, %v", test.agent, renewed, err)
		}
		if calls := c.takeCalls(); !slices.Equal(calls, test.renew) {
			t.Errorf("%s renews by %q, want %q", test.agent, calls, test.renew)
		}
		if last := c.renewed[len(c.renewed)-1]; last != "a1 "+s.ID.String() || c.agents["a1"].hub.View().Index() != before {
			t.Errorf("%s: the leader heard %q, and wrote if the index moved", test.agent, last)
		}
		if _, err := service.Execute(ctx, operator, state.SessionDestroy{ID: s.ID, Reason: state.ReasonAsked}); err != nil {
			t.Fatal(err)
		}
		_, err = service.RenewSession(ctx, operator, s.ID)
		wantCode(t, err, CodeNotFound)
		if got, err := service.Sessions(ctx, operator, SessionQuery{ID: &s.ID}); err != nil || len(got.Sessions) != 0 || got.Revision == 0 {
			t.Errorf("%s reads a session that ended: %+v, %v", test.agent, got, err)
		}
	}
}

// A renewal is answered only by an agent that a majority confirms as the leader: one that was cut off would promise
// what its successor does not know of.
func TestRenewalConfirmsTheLead(t *testing.T) {
	c := newFake(t, 3, 3)
	s := c.session("a1")
	a1 := c.agents["a1"].service
	a1.local.ReadIndex = func(context.Context) (uint64, error) {
		return 0, Errorf(CodeTimeout, "no majority answered")
	}
	_, err := a1.RenewSession(context.Background(), operator, s.ID)
	wantCode(t, err, CodeTimeout)
	_, err = c.agents["a2"].service.RenewSession(context.Background(), operator, s.ID)
	wantCode(t, err, CodeTimeout)
	if len(c.renewed) != 0 {
		t.Errorf("renewed without a confirmed lead: %q", c.renewed)
	}
	c.setLeader("")
	_, err = c.agents["a2"].service.RenewSession(context.Background(), operator, s.ID)
	wantCode(t, err, CodeNoLeader)
	c.setLeader("a1")
	a1.local.ReadIndex = c.agents["a1"].readIndex
	c.refuseRenewal = Errorf(CodeNotFound, "has ended")
	_, err = c.agents["a2"].service.RenewSession(context.Background(), operator, s.ID)
	wantCode(t, err, CodeNotFound)
}

// A leader whose View does not hold sessions yet says so: to answer that there is none would end a lock that is held.
func TestRenewalOfWhatIsNotHeldYet(t *testing.T) {
	c := newFake(t, 2, 2)
	s := c.session("a1")
	a1 := c.agents["a1"].service
	a1.local.Hub = watch.NewHub(state.NewFollower(state.ClassPublic).View())
	a1.local.ReadIndex = func(context.Context) (uint64, error) { return 0, nil }
	_, err := c.agents["a2"].service.RenewSession(t.Context(), operator, s.ID)
	wantCode(t, err, CodeNoLeader)
}

// A session that ends between the look at the state and the count of its time is not renewed: its holder must hear of it.
// Without the end in between it is, which is the control.
func TestRenewalDuringTheEnd(t *testing.T) {
	for _, ends := range []bool{true, false} {
		c := newFake(t, 1, 1)
		s := c.session("a1")
		a1 := c.agents["a1"].service
		a1.local.RenewSession = func(state.Session) error { // as a keeper that has forgotten it, and begins anew
			if !ends {
				return nil
			}
			_, err := a1.Execute(t.Context(), operator, state.SessionDestroy{ID: s.ID, Reason: state.ReasonAsked})
			return err
		}
		_, err := a1.RenewSession(t.Context(), operator, s.ID)
		if ends {
			wantCode(t, err, CodeNotFound)
		} else if err != nil {
			t.Errorf("the control: %v", err)
		}
	}
}

// What an agent asks for its caller is capped at the role that the cluster gave the agent.
func TestForwardedSessionsAreCapped(t *testing.T) {
	c := newFake(t, 4, 3) // a4 is outside the core, with the role discovery
	s := c.session("a1")
	ctx := context.Background()
	a4 := c.agents["a4"].service
	_, err := a4.Sessions(ctx, operator, SessionQuery{})
	wantCode(t, err, CodeDenied)
	_, err = a4.Sessions(ctx, operator, SessionQuery{Consistency: Stale})
	wantCode(t, err, CodeDenied)
	_, err = a4.RenewSession(ctx, operator, s.ID)
	wantCode(t, err, CodeDenied)
	_, _, err = a4.CreateSession(ctx, operator, state.Session{Node: "a1", Behavior: state.BehaviorRelease})
	wantCode(t, err, CodeDenied)
	_, err = a4.Execute(ctx, operator, state.Lock{Key: "k", Session: s.ID.String()})
	wantCode(t, err, CodeDenied)
	c.agents["a4"].role = policy.Local
	if _, err := a4.Sessions(ctx, operator, SessionQuery{Consistency: Stale}); err != nil {
		t.Errorf("the control: %v", err)
	}
	weak := Caller{Role: policy.Discovery, Name: "uid:1", Kind: KindAnonymous}
	_, err = c.agents["a1"].service.Sessions(ctx, weak, SessionQuery{})
	wantCode(t, err, CodeDenied)
	_, err = c.agents["a1"].service.RenewSession(ctx, weak, s.ID)
	wantCode(t, err, CodeDenied)
}

// A blocking read of one session, or of a node's, sleeps through changes elsewhere; one of all wakes for each. The
// same from outside the core.
func TestSessionWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t, 2, 1)
		c.agents["a2"].role = policy.Local
		first := c.session("a1")
		c.put("k", "v")
		for _, agent := range []string{"a1", "a2"} {
			service := c.agents[agent].service
			for name, q := range map[string]SessionQuery{
				"one": {ID: &first.ID}, "node": {Node: "a1"}, "all": {},
			} {
				now, err := service.Sessions(t.Context(), operator, q)
				if err != nil {
					t.Fatal(err)
				}
				q.MinRevision, q.Wait = now.Revision, 50*time.Second
				began := time.Now()
				others := time.AfterFunc(10*time.Second, func() { c.put("k", "w") })
				own := time.AfterFunc(20*time.Second, func() {
					s := c.session("a1")
					if name == "one" {
						_, _ = service.Execute(t.Context(), operator, state.SessionDestroy{ID: s.ID, Reason: state.ReasonAsked})
					}
				})
				got, err := service.Sessions(t.Context(), operator, q)
				others.Stop()
				own.Stop()
				want := 20 * time.Second
				if name == "one" {
					want = 50 * time.Second // other sessions came and went
				}
				if waited := time.Since(began); err != nil || waited != want || name != "one" && got.Revision <= now.Revision {
					t.Errorf("%s, %s: woke after %s at %d, %v", agent, name, waited, got.Revision, err)
				}
				synctest.Wait()
			}
		}
	})
}

// A list that is too large is an error, never cut.
func TestSessionListLimit(t *testing.T) {
	c := newFake(t, 1, 1)
	long := strings.Fields(strings.Repeat(strings.Repeat("c", state.MaxCheckNameBytes)+" ", state.MaxSessionChecks))
	_, err := c.agents["a1"].service.Execute(t.Context(), operator, state.CatalogRegister{Name: "a1", Checks: []state.CatalogCheck{
		{Node: "a1", ID: long[0], Status: state.CheckPassing},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for range maxAnswer/(state.MaxSessionChecks*state.MaxCheckNameBytes) + 1 {
		_, _, err := c.agents["a1"].service.CreateSession(t.Context(), operator, state.Session{Behavior: state.BehaviorRelease, NodeChecks: long})
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.agents["a1"].service.Sessions(t.Context(), operator, SessionQuery{})
	wantCode(t, err, CodeTooLarge)
	_, err = c.agents["a1"].service.Sessions(t.Context(), operator, SessionQuery{Node: "a1"})
	wantCode(t, err, CodeTooLarge)
}

// The forwarded questions and answers come from other agents: any bytes are refused or come back the same.
func FuzzSessionCodec(f *testing.F) {
	id := state.SessionID{1, 15: 2}
	f.Add(appendSessionRequest(nil, sessionRequest{role: policy.Local, name: "uid:1", query: SessionQuery{ID: &id, Wait: time.Second}}))
	f.Add(appendSessionRequest(nil, sessionRequest{query: SessionQuery{Node: "a1", Consistency: Stale, MinRevision: 7}}))
	f.Add(appendSessionAnswer(nil, SessionAnswer{Sessions: []state.Session{{ID: id, Name: "n", Behavior: state.BehaviorDelete}}, Index: 3}))
	f.Fuzz(func(t *testing.T, body []byte) {
		if req, err := parseSessionRequest(body); err == nil {
			again := appendSessionRequest(nil, req)
			if back, err := parseSessionRequest(again); err != nil || string(appendSessionRequest(nil, back)) != string(again) {
				t.Errorf("request %+v came back as %+v, %v", req, back, err)
			}
		}
		if a, err := parseSessionAnswer(body); err == nil {
			again := appendSessionAnswer(nil, a)
			if back, err := parseSessionAnswer(again); err != nil || string(appendSessionAnswer(nil, back)) != string(again) {
				t.Errorf("answer %+v came back as %+v, %v", a, back, err)
			}
		}
	})
}

// An answer that claims more sessions than its bytes can hold is refused before anything is allocated.
func TestSessionAnswerClaims(t *testing.T) {
	b := appendSessionAnswer(nil, SessionAnswer{})
	b = append(b[:len(b)-1], 0xff, 0xff, 0xff, 0xff, 0x0f)
	if _, err := parseSessionAnswer(b); !errors.Is(err, wire.ErrShort) {
		t.Errorf("got %v", err)
	}
}

// The native endpoints, through the client of the same repository: a session is exact, takes and lets go of a lock,
// and its fencing token grows from one session to the next.
func TestNativeSessions(t *testing.T) {
	fake := newFake(t, 1, 1)
	c, ctx := newClient(t, fake.agents["a1"]), context.Background()
	delay := time.Duration(0)
	first, err := c.CreateSession(ctx, client.SessionSpec{Name: "job", TTL: 30 * time.Second, Behavior: "delete", LockDelay: &delay})
	if err != nil {
		t.Fatal(err)
	}
	want := client.Session{
		ID: first.ID, Name: "job", Node: "a1", TTL: "30s", Lease: "30s", Behavior: "delete", LockDelay: "0s",
		CreatedAt: first.CreatedAt, CreatedHLC: first.CreatedHLC, FencingToken: first.FencingToken,
	}
	if first != want || len(first.ID) != 36 || first.CreatedAt.IsZero() || first.CreatedHLC == "" || first.FencingToken == 0 {
		t.Errorf("created %+v", first)
	}
	second, err := c.CreateSession(ctx, client.SessionSpec{})
	if err != nil || second.TTL != "0s" || second.Behavior != "release" || second.LockDelay != "15s" || second.FencingToken <= first.FencingToken {
		t.Errorf("created %+v, %v", second, err)
	}
	if all, err := c.Sessions(ctx, ""); err != nil || len(all) != 2 {
		t.Errorf("all: %+v, %v", all, err)
	}
	if none, err := c.Sessions(ctx, "a9"); err != nil || len(none) != 0 {
		t.Errorf("of another node: %+v, %v", none, err)
	}
	if renewed, err := c.RenewSession(ctx, first.ID); err != nil || renewed != first {
		t.Errorf("renewed %+v, %v", renewed, err)
	}
	for _, step := range []struct {
		options client.PutOptions
		code    string
		index   uint64
	}{
		{client.PutOptions{Session: first.ID}, "", 1},
		{client.PutOptions{Session: second.ID}, "conflict", 0},
		{client.PutOptions{Session: second.ID, Release: true}, "conflict", 0},
		{client.PutOptions{Session: first.ID, Release: true}, "", 1},
		{client.PutOptions{Session: second.ID}, "", 2},
		{client.PutOptions{Session: "nonsense"}, "not_found", 0},
		{client.PutOptions{Release: true}, "invalid", 0},
		{client.PutOptions{Session: second.ID, CAS: new(uint64)}, "invalid", 0},
	} {
		done, err := c.Put(ctx, "k", []byte("v"), step.options)
		var refused *client.Error
		if errors.As(err, &refused); (refused == nil) != (step.code == "") || refused != nil && refused.Code != step.code || done.LockIndex != step.index {
			t.Errorf("%+v: %+v, %v", step.options, done, err)
		}
	}
	if pair, err := c.Get(ctx, "k", client.ReadOptions{}); err != nil || pair.Session != second.ID || pair.LockIndex != 2 {
		t.Errorf("the key: %+v, %v", pair, err)
	}
	txn, err := c.Txn(ctx, client.Txn{Then: []client.Op{
		{Op: "check_session", Key: "k", Session: second.ID}, {Op: "unlock", Key: "k", Session: second.ID},
		{Op: "lock", Key: "k", Value: []byte("w"), Session: first.ID}, {Op: "get_tree"},
	}})
	if err != nil || len(txn.Results) != 4 || txn.Results[2].Pair.LockIndex != 3 || string(txn.Results[2].Pair.Value) != "w" || len(txn.Results[3].Pairs) != 1 {
		t.Errorf("txn: %+v, %v", txn, err)
	}
	if done, err := c.DestroySession(ctx, first.ID); err != nil || done.ID != first.ID || done.Revision == 0 {
		t.Errorf("destroyed %+v, %v", done, err)
	}
	for _, err := range []error{
		errorOf(c.Get(ctx, "k", client.ReadOptions{})), errorOf(c.RenewSession(ctx, first.ID)), errorOf(c.DestroySession(ctx, first.ID)),
	} {
		if refused := new(client.Error); !errors.As(err, &refused) || refused.Code != "not_found" {
			t.Errorf("after its end: %v", err)
		}
	}
	for _, spec := range []client.SessionSpec{{TTL: time.Millisecond}, {TTL: 25 * time.Hour}, {Behavior: "keep"}, {Node: "nowhere"}} {
		if _, err := c.CreateSession(ctx, spec); err == nil {
			t.Errorf("created %+v", spec)
		}
	}
}

func errorOf[T any](_ T, err error) error { return err }

// A transaction that only reads is answered by a core member without a write; outside the core, and with a write in
// it, it is left to Execute.
func TestReadOps(t *testing.T) {
	c := newFake(t, 4, 3)
	c.put("k", "v")
	read, write := []state.Op{{Kind: state.OpGet, Key: "k"}}, []state.Op{{Kind: state.OpPut, Key: "k"}}
	before := c.agents["a1"].hub.View().Index()
	for _, agent := range []string{"a1", "a2"} {
		got, ok, err := c.agents[agent].service.ReadOps(t.Context(), operator, read, Linearizable)
		if err != nil || !ok || string(got.Answer.Results[0].KV.Value) != "v" || got.Node != agent || got.Index != before {
			t.Errorf("%s: %+v, %v, %v", agent, got, ok, err)
		}
	}
	if _, ok, err := c.agents["a4"].service.ReadOps(t.Context(), operator, read, Stale); ok || err != nil {
		t.Errorf("outside the core: %v, %v", ok, err)
	}
	if _, ok, err := c.agents["a1"].service.ReadOps(t.Context(), operator, write, Stale); ok || err != nil {
		t.Errorf("a write: %v, %v", ok, err)
	}
	_, _, err := c.agents["a1"].service.ReadOps(t.Context(), Caller{Role: policy.Discovery}, read, Stale)
	wantCode(t, err, CodeDenied)
	if got := c.agents["a1"].hub.View().Index(); got != before {
		t.Errorf("reads moved the index from %d to %d", before, got)
	}
}
