package api

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
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
	for range maxAnswer/(state.MaxSessionChecks*state.MaxCheckNameBytes) + 1 {
		_, _, err := c.agents["a1"].service.CreateSession(t.Context(), operator, state.Session{Behavior: state.BehaviorRelease, NodeChecks: long})
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.agents["a1"].service.Sessions(t.Context(), operator, SessionQuery{})
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
	if _, err := parseSessionAnswer(b); !errors.Is(err, errShort) {
		t.Errorf("got %v", err)
	}
}
