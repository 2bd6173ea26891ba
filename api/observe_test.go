package api

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// observed is a service that notes what it tells its observer.
func observed(a *fakeAgent, events *[]string) *Service {
	o := a.options()
	o.Observe = Observer{
		Request: func(route string) func(int, bool) {
			return func(status int, blocking bool) {
				*events = append(*events, fmt.Sprintf("%s %d blocking=%v", route, status, blocking))
			}
		},
		Write: func(probe bool) func(int, bool) {
			return func(status int, abandoned bool) {
				*events = append(*events, fmt.Sprintf("write probe=%v %d abandoned=%v", probe, status, abandoned))
			}
		},
	}
	a.service = New(o)
	return a.service
}

// Every request is told with its endpoint, never with its path, and its status; a write beside it with its own end.
func TestObserver(t *testing.T) {
	c := newFake(t, 1, 1)
	var events []string
	h := observed(c.agents["a1"], &events).Handler(Loopback)
	for _, test := range []struct {
		method, target, body string
		want                 []string
	}{
		{"GET", "/livez", "", []string{"GET /livez 200 blocking=false"}},
		{"PUT", "/parley/v1/kv/k", "v", []string{"write probe=false 200 abandoned=false", "PUT /parley/v1/kv/* 200 blocking=false"}},
		{"PUT", "/parley/v1/kv/k?cas=99", "v", []string{"write probe=false 409 abandoned=false", "PUT /parley/v1/kv/* 409 blocking=false"}},
		{"GET", "/parley/v1/kv/k?index=1&wait=1ms", "", []string{"GET /parley/v1/kv/* 200 blocking=true"}},
		{"GET", "/parley/v1/kv/none", "", []string{"GET /parley/v1/kv/* 404 blocking=false"}},
		{"POST", "/livez", "", []string{"none 405 blocking=false"}},
		{"GET", "/any/path", "", []string{"none 404 blocking=false"}},
	} {
		events = nil
		do(h, test.method, test.target, test.body)
		if !slices.Equal(events, test.want) {
			t.Errorf("%s %s: told %q, want %q", test.method, test.target, events, test.want)
		}
	}
}

// Of what the agent does by itself only probes are told; a caller that went away is told as such.
func TestObserverOfWrites(t *testing.T) {
	c := newFake(t, 1, 1)
	var events []string
	s := observed(c.agents["a1"], &events)
	for _, cmd := range []state.Command{state.CoreGrant{Node: "a1"}, state.Probe{}} {
		if _, err := s.Execute(t.Context(), Internal("a1"), cmd); err != nil {
			t.Fatal(err)
		}
	}
	c.setLeader("")
	if _, err := s.Execute(t.Context(), operator, state.Put{Key: "k"}); err == nil {
		t.Fatal("a write without a leader was done")
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Execute(gone, operator, state.Put{Key: "k"}); err == nil {
		t.Fatal("a write without a leader was done")
	}
	want := []string{"write probe=true 200 abandoned=false", "write probe=false 503 abandoned=false", "write probe=false 503 abandoned=true"}
	if !slices.Equal(events, want) {
		t.Errorf("told %q, want %q", events, want)
	}
}

// An agent with the weakest role of an agent may probe through the leader, and write nothing; a probe changes nothing.
// Callers from outside may not probe, whatever their role.
func TestProbeNeedsNoRight(t *testing.T) {
	c := newFake(t, 2, 1)
	outside := c.agents["a2"]
	outside.role = policy.Discovery
	before := c.machine.View().Revision()
	done, err := outside.service.Execute(t.Context(), Internal("a2"), state.Probe{})
	if err != nil || done.Index == 0 || c.machine.View().Revision() != before {
		t.Errorf("probe: %v, index %d, revision %d, before %d", err, done.Index, c.machine.View().Revision(), before)
	}
	_, err = outside.service.Execute(t.Context(), Internal("a2"), state.Put{Key: "k"})
	wantCode(t, err, CodeDenied)
	_, err = c.agents["a1"].service.Execute(t.Context(), operator, state.Probe{})
	wantCode(t, err, CodeDenied)
}

// An agent that floods the leader with probes is refused, and nothing of it reaches the log; another one is not, and
// a second later it may send two again.
func TestProbesArePaced(t *testing.T) {
	c := newFake(t, 3, 1)
	now := time.Hour
	leader := c.agents["a1"]
	o := leader.options()
	o.Elapsed = func() time.Duration { return now }
	leader.service = New(o)
	flood := func(agent string) (done int) {
		for range 30 {
			_, err := c.agents[agent].service.Execute(t.Context(), Internal(agent), state.Probe{})
			if err == nil {
				done++
			} else {
				wantCode(t, err, CodeBusy)
			}
		}
		return done
	}
	if got := flood("a2"); got != probeBurst {
		t.Errorf("%d probes at once, want %v", got, probeBurst)
	}
	if got := flood("a3"); got != probeBurst {
		t.Errorf("another agent: %d probes at once, want %v", got, probeBurst)
	}
	now += time.Second
	if got := flood("a2"); got != probeRate {
		t.Errorf("%d probes a second later, want %v", got, probeRate)
	}
	if got := len(c.log); got != 2*probeBurst+probeRate {
		t.Errorf("%d commands in the log", got)
	}
}

// Nobody can push the timeline out in a minute: a caller writes so many notes and no more, and what an agent sends is
// bounded at the leader, whatever kind it claims.
func TestEventsArePaced(t *testing.T) {
	c := newFake(t, 2, 1)
	leader := c.agents["a1"]
	o := leader.options()
	o.Elapsed = func() time.Duration { return time.Hour }
	leader.service = New(o)
	flood := func(agent string, caller Caller, kind string) (done int) {
		for i := range 200 {
			e := state.EventAppend{ID: [16]byte{byte(len(agent)), byte(i), agent[1], kind[0]}, Node: agent, Kind: kind, Message: "m"}
			if _, err := c.agents[agent].service.Execute(t.Context(), caller, e); err == nil {
				done++
			} else {
				wantCode(t, err, CodeBusy)
			}
		}
		return done
	}
	if got := flood("a1", operator, state.EventNote); got != noteBurst {
		t.Errorf("%d notes at once, want %v", got, noteBurst)
	}
	if got := flood("a2", Internal("a2"), EventAlert); got != eventBurst {
		t.Errorf("%d events of another agent at once, want %v", got, eventBurst)
	}
}

// The pacer remembers a bounded number of agents, and forgets first those that it has nothing against.
func TestPacerIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		p := newPacer(1, 2, func() time.Duration { return time.Since(began) })
		for i := range maxPaced {
			if !p.allow(fmt.Sprint(i)) {
				t.Fatalf("agent %d was refused", i)
			}
		}
		if p.allow("one more") {
			t.Error("one more than the limit was let in")
		}
		time.Sleep(time.Second)
		if !p.allow("one more") || len(p.mu.buckets) != 1 {
			t.Errorf("a second later it is refused, or %d are remembered", len(p.mu.buckets))
		}
	})
}
