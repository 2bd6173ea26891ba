package agent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/membership"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// keptCluster is a state machine with a keeper beside it, on virtual time. Its fields are changed between looks only.
type keptCluster struct {
	keeper *sessionKeeper
	start  time.Time

	mu      sync.Mutex
	machine *state.Machine
	term    uint64 // in which this agent leads, 0 for not at all
	members []membership.Member
	inRaft  []string
	refuse  error // what a proposal answers instead of being done
	ended   []string
}

// newKept begins with self leading in term 1. Sessions are bound to a1.
func newKept(t *testing.T, self string) *keptCluster {
	t.Helper()
	c := &keptCluster{start: time.Now(), term: 1, inRaft: []string{self}}
	c.machine = state.Genesis(state.GenesisOptions{
		ClusterID: "00112233445566778899aabbccddeeff", TrustDomain: "example.org",
		Node:   state.Node{Name: "a1", HostKey: []byte{1}, SealKey: make([]byte, 32)},
		Bundle: state.Bundle{Sequence: 1, Roots: [][]byte{{1}}}, Sealed: []byte{1}, At: 1 << 40,
	})
	c.keeper = &sessionKeeper{
		self: self, grace: time.Minute, hub: watch.NewHub(c.machine.View()), log: zap.NewNop(),
		beat:  func(d time.Duration) time.Duration { return d },
		leads: func() (uint64, bool) { c.mu.Lock(); defer c.mu.Unlock(); return c.term, c.term != 0 },
		members: func() []membership.Member {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.members
		},
		inRaft:  func() []string { c.mu.Lock(); defer c.mu.Unlock(); return c.inRaft },
		now:     func() time.Duration { return time.Since(c.start) + time.Hour },
		propose: c.propose,
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = c.keeper.hub.Run(ctx) })
	running.Go(func() { _ = c.keeper.run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return c
}

func (c *keptCluster) propose(_ context.Context, command []byte) (api.Proposed, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil {
		return api.Proposed{}, c.refuse
	}
	v := c.machine.View()
	results, touched, err := c.machine.Apply(v.Index()+1, c.term, clock.Stamp(1<<40+v.Index()), [][]byte{command})
	if err != nil {
		return api.Proposed{}, err
	}
	c.keeper.hub.Publish(c.machine.View(), touched)
	if e, _ := state.Decode(command); e.Command != nil {
		if d, ok := e.Command.(state.SessionDestroy); ok {
			c.ended = append(c.ended, d.ID.String()[35:]+" "+string(d.Reason))
		}
	}
	return api.Proposed{Index: v.Index() + 1, Term: c.term, Data: results[0]}, nil
}

func (c *keptCluster) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// create adds the session with that last digit.
func (c *keptCluster) create(t *testing.T, id byte, ttl, lease time.Duration) state.Session {
	t.Helper()
	s := state.Session{ID: state.SessionID{15: id}, Node: "a1", TTL: ttl, Lease: lease, Behavior: state.BehaviorRelease}
	c.apply(t, state.SessionCreate{Session: s})
	return s
}

func (c *keptCluster) apply(t *testing.T, cmd state.Command) {
	t.Helper()
	command, err := state.Encode(state.Envelope{Command: cmd}, state.Version)
	if err != nil {
		t.Fatal(err)
	}
	done, err := c.propose(t.Context(), command)
	if res, _ := state.DecodeResult(done.Data); err != nil || res.Code != state.CodeOK {
		t.Fatalf("%T: %v, %+v", cmd, err, res)
	}
	synctest.Wait()
}

// wantEnd passes virtual time until the session is gone, and wants that to be after so long.
func (c *keptCluster) wantEnd(t *testing.T, s state.Session, want time.Duration) {
	t.Helper()
	began := time.Now()
	for time.Since(began) < 10*time.Hour {
		if _, ok := c.keeper.hub.View().Session(s.ID); !ok {
			break
		}
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
	}
	if got := time.Since(began); got != want {
		t.Errorf("session %s ended after %s, want %s", s.ID.String()[35:], got, want)
	}
}

// A session dies when its lease is over: exactly at the TTL as the native API makes them, at twice that as the /v1
// dialect does (trap 3).
func TestSessionDiesAtItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newKept(t, "a1")
		c.wantEnd(t, c.create(t, 1, 10*time.Second, 10*time.Second), 10*time.Second)
		c.wantEnd(t, c.create(t, 2, 10*time.Second, 20*time.Second), 20*time.Second)
		if want := []string{"1 ttl", "2 ttl"}; !slices.Equal(c.ended, want) {
			t.Errorf("ended %q, want %q", c.ended, want)
		}
	})
}

// A renewal is no write, and keeps a session for a lease more. After the end there is none.
func TestRenewalKeepsASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newKept(t, "a1")
		s := c.create(t, 1, 10*time.Second, 10*time.Second)
		before := c.keeper.hub.View().Index()
		for range 5 {
			time.Sleep(9 * time.Second)
			if err := c.keeper.renew(s); err != nil {
				t.Fatal(err)
			}
		}
		if got := c.keeper.hub.View().Index(); got != before {
			t.Errorf("renewals moved the index from %d to %d", before, got)
		}
		c.wantEnd(t, s, 10*time.Second)
	})
}

// While a decided end cannot be written, the session is not renewed, and the end is written as soon as that is
// possible.
func TestEndIsRepeatedUntilWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newKept(t, "a1")
		s := c.create(t, 1, 10*time.Second, 10*time.Second)
		c.set(func() { c.refuse = errors.New("the disk is full") })
		time.Sleep(15*time.Second + 100*time.Millisecond) // between two looks
		if err := c.keeper.renew(s); err == nil || api.AsError(err).Code != api.CodeNotFound {
			t.Errorf("renewed a session that is over: %v", err)
		}
		if _, ok := c.keeper.hub.View().Session(s.ID); !ok {
			t.Fatal("gone without a write")
		}
		c.set(func() { c.refuse = nil })
		c.wantEnd(t, s, keepEvery-100*time.Millisecond)
	})
}

// A new leadership counts every session anew, and one that does not lead ends none and renews none.
func TestNewLeadershipCountsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newKept(t, "a1")
		s := c.create(t, 1, 10*time.Second, 10*time.Second)
		time.Sleep(9 * time.Second)
		c.set(func() { c.term = 0 })
		time.Sleep(time.Minute)
		if _, ok := c.keeper.hub.View().Session(s.ID); !ok {
			t.Fatal("a follower ended a session")
		}
		if err := c.keeper.renew(s); err == nil || api.AsError(err).Code != api.CodeNotLeader {
			t.Errorf("a follower renewed: %v", err)
		}
		c.set(func() { c.term = 3 })
		if err := c.keeper.renew(s); err != nil { // noticed by the renewal
			t.Fatal(err)
		}
		c.wantEnd(t, s, 10*time.Second)
	})
}

// What was decided in one term does nothing in another: the leader that lost the lead in between has not heard of the
// renewals that another one answered.
func TestDecisionIsVoidInAnotherTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newKept(t, "a1")
		s := c.create(t, 1, 10*time.Second, 10*time.Second)
		c.keeper.endOne(t.Context(), 9, ending{s.ID, state.ReasonTTL}, zap.InfoLevel)
		if _, ok := c.keeper.hub.View().Session(s.ID); !ok {
			t.Error("ended by a decision of another term")
		}
		c.keeper.endOne(t.Context(), 1, ending{s.ID, state.ReasonTTL}, zap.InfoLevel)
		if _, ok := c.keeper.hub.View().Session(s.ID); ok {
			t.Error("the control: not ended by a decision of this term")
		}
	})
}

// Trap 8: the session of a node that calls, or that gossip holds alive, stays; that of a node that is silent for both
// ends after the grace time.
func TestSilentNodeLosesItsSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newKept(t, "a2")
		s := c.create(t, 1, 0, 0)
		for range 200 { // gossip has lost it, it goes on calling
			c.keeper.contact("a1")
			time.Sleep(30 * time.Second)
		}
		c.set(func() { c.members = []membership.Member{{Name: "a1", State: membership.StateSuspect}} })
		time.Sleep(time.Hour) // silent, and gossip is not sure
		c.set(func() { c.members, c.inRaft = nil, []string{"a1", "a2"} })
		time.Sleep(time.Hour) // only Raft hears it
		if _, ok := c.keeper.hub.View().Session(s.ID); !ok {
			t.Fatal("ended although its node was heard")
		}
		synctest.Wait()
		c.set(func() {
			c.members, c.inRaft = []membership.Member{{Name: "a1", State: membership.StateDead}}, []string{"a2"}
		})
		c.wantEnd(t, s, time.Minute)
		if want := []string{"1 node"}; !slices.Equal(c.ended, want) {
			t.Errorf("ended %q, want %q", c.ended, want)
		}
	})
}

// Nobody ever hears from a node without an agent: its session stays until the node is deregistered.
func TestSessionOfANodeWithoutAnAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newKept(t, "a1")
		s := state.Session{ID: state.SessionID{15: 1}, Node: "x1", Behavior: state.BehaviorRelease}
		c.apply(t, state.CatalogRegister{Name: "x1", Node: &state.CatalogNode{Name: "x1", Address: "10.0.0.1"}})
		c.apply(t, state.SessionCreate{Session: s})
		time.Sleep(10 * time.Hour)
		if _, ok := c.keeper.hub.View().Session(s.ID); !ok {
			t.Error("ended because nobody heard from a node that has nothing to say")
		}
		c.apply(t, state.CatalogDeregister{Node: "x1"})
		if _, ok := c.keeper.hub.View().Session(s.ID); ok {
			t.Error("the control: it outlived its node")
		}
	})
}

// Many sessions that end together all end, so many at once, and the log is not flooded.
func TestManySessionsEndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newKept(t, "a1")
		core, lines := observer.New(zap.InfoLevel)
		c.keeper.log = zap.New(core)
		const many = 2*keepAtOnce + 10
		for i := range many {
			c.create(t, byte(i+1), 10*time.Second, 10*time.Second)
		}
		time.Sleep(10*time.Second + keepEvery)
		synctest.Wait()
		if left := c.keeper.hub.View().Rows(state.TableSession); left != 0 || len(c.ended) != many {
			t.Errorf("%d sessions left, %d ended", left, len(c.ended))
		}
		if got := lines.Len(); got != keepAtOnce+1 {
			t.Errorf("%d lines in the log, want %d", got, keepAtOnce+1)
		}
	})
}
