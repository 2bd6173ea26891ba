package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

func value(a KVAnswer) string {
	if len(a.Rows) == 0 {
		return "(none)"
	}
	return string(a.Rows[0].Value)
}

// Every agent gives the same linearizable answer: the leader by itself, a follower after one question for the index,
// an agent without key/value with one question for the data.
func TestReadFromAnyAgent(t *testing.T) {
	c := newFake(t, 3, 2)
	c.agents["a3"].role = policy.Local
	c.put("k", "v")
	for _, test := range []struct {
		agent, calls string
		stale        bool
	}{
		{"a1", "", false}, {"a2", "a2>a1 op.readindex", false}, {"a3", "a3>a1 op.read", false},
		{"a1", "", true}, {"a2", "", true}, {"a3", "a3>a1 op.read", true},
	} {
		q := KVQuery{Key: "k"}
		if test.stale {
			q.Consistency = Stale
		}
		answer, err := c.agents[test.agent].service.Read(context.Background(), operator, q)
		if err != nil {
			t.Fatalf("%s: %v", test.agent, err)
		}
		if value(answer) != "v" || answer.Revision == 0 || answer.Index == 0 {
			t.Errorf("%s: got %q at revision %d, index %d", test.agent, value(answer), answer.Revision, answer.Index)
		}
		if got := strings.Join(c.takeCalls(), ","); got != test.calls {
			t.Errorf("%s stale=%v: calls %q, want %q", test.agent, test.stale, got, test.calls)
		}
	}
}

// A follower whose View lags answers a linearizable read only when it has caught up; a stale read does not wait (the
// control).
func TestFollowerWaitsForTheReadIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t, 2, 2)
		follower := c.agents["a2"]
		c.put("k", "old")
		behind := follower.hub.View()
		c.put("k", "new")
		follower.hub.Publish(behind, state.Touched{All: true})
		late := time.AfterFunc(100*time.Millisecond, func() {
			follower.hub.Publish(c.agents["a1"].hub.View(), state.Touched{All: true})
		})
		defer late.Stop()
		stale, err := follower.service.Read(context.Background(), operator, KVQuery{Key: "k", Consistency: Stale})
		if err != nil || value(stale) != "old" {
			t.Errorf("stale: %q, %v", value(stale), err)
		}
		fresh, err := follower.service.Read(context.Background(), operator, KVQuery{Key: "k"})
		if err != nil || value(fresh) != "new" {
			t.Errorf("linearizable: %q, %v", value(fresh), err)
		}
	})
}

// Without a leader, stale reads go on everywhere and linearizable ones say so.
func TestStaleReadsNeedNoLeader(t *testing.T) {
	c := newFake(t, 3, 2)
	c.agents["a3"].role = policy.Local
	c.put("k", "v")
	c.setLeader("")
	for _, agent := range []string{"a1", "a2", "a3"} {
		answer, err := c.agents[agent].service.Read(context.Background(), operator, KVQuery{Key: "k", Consistency: Stale})
		if err != nil || value(answer) != "v" {
			t.Errorf("%s: stale %q, %v", agent, value(answer), err)
		}
		_, err = c.agents[agent].service.Read(context.Background(), operator, KVQuery{Key: "k"})
		wantCode(t, err, CodeNoLeader)
	}
}

// A View without key/value is never read as "no such key", whatever the agent says of itself meanwhile.
func TestViewWithoutKeyValueIsNotEmpty(t *testing.T) {
	c := newFake(t, 2, 2)
	c.put("k", "v")
	joining := c.agents["a2"]
	joining.hub.Publish(state.NewFollower(state.ClassPublic).View(), state.Touched{All: true})
	answer, err := joining.service.Read(context.Background(), operator, KVQuery{Key: "k", Consistency: Stale})
	if err != nil || value(answer) != "v" {
		t.Errorf("got %q, %v, want the leader's value", value(answer), err)
	}
}

// A forwarded read is capped like a write.
func TestForwardedReadIsCapped(t *testing.T) {
	c := newFake(t, 2, 1)
	c.put("k", "v")
	_, err := c.agents["a2"].service.Read(context.Background(), operator, KVQuery{Key: "k"})
	wantCode(t, err, CodeDenied)
	_, err = c.agents["a2"].service.Tokens(context.Background(), operator)
	wantCode(t, err, CodeDenied)
	c.agents["a2"].role = policy.Local
	if _, err := c.agents["a2"].service.Read(context.Background(), operator, KVQuery{Key: "k"}); err != nil {
		t.Errorf("with the role: %v", err)
	}
}

// A blocking read is woken by its own key alone, from any agent, and ends after its wait with what there is. Waiting
// through another agent is asked for in bounded parts.
func TestBlockingRead(t *testing.T) {
	for _, agent := range []string{"a1", "a2", "a3"} {
		t.Run(agent, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newFake(t, 3, 2)
				c.agents["a3"].role = policy.Local
				revision := c.put("k", "1")
				service, began := c.agents[agent].service, time.Now()
				q := KVQuery{Key: "k", MinRevision: revision, Wait: 2 * time.Minute}
				other := time.AfterFunc(30*time.Second, func() { c.put("other", "x") })
				defer other.Stop()
				own := time.AfterFunc(70*time.Second, func() { c.put("k", "2") })
				defer own.Stop()
				answer, err := service.Read(context.Background(), operator, q)
				if err != nil || value(answer) != "2" || time.Since(began) != 70*time.Second {
					t.Errorf("got %q after %s, %v", value(answer), time.Since(began), err)
				}
				q.MinRevision, began = answer.Revision, time.Now()
				answer, err = service.Read(context.Background(), operator, q)
				if err != nil || value(answer) != "2" || time.Since(began) != 2*time.Minute {
					t.Errorf("unchanged: got %q after %s, %v", value(answer), time.Since(began), err)
				}
			})
		})
	}
}

// A wait is cut at ten minutes, and the watch after the last allowed one is refused at once.
func TestWatchLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t, 1, 1)
		revision := c.put("k", "v")
		service, began := c.agents["a1"].service, time.Now()
		q := KVQuery{Key: "k", MinRevision: revision, Wait: time.Hour}
		var open sync.WaitGroup
		for range maxWatches {
			open.Go(func() {
				if _, err := service.Read(context.Background(), operator, q); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		_, err := service.Read(context.Background(), operator, q)
		wantCode(t, err, CodeTooMany)
		if _, err := service.Read(context.Background(), operator, KVQuery{Key: "k"}); err != nil {
			t.Errorf("a plain read is refused: %v", err)
		}
		open.Wait()
		if got := time.Since(began); got != maxWait {
			t.Errorf("waited %s, want %s", got, maxWait)
		}
		q.Wait = time.Millisecond
		if _, err := service.Read(context.Background(), operator, q); err != nil {
			t.Errorf("after the others ended: %v", err)
		}
	})
}

// An answer beyond its bound is an error and never silently cut; an explicit limit cuts.
func TestAnswerLimits(t *testing.T) {
	c := newFake(t, 1, 1)
	service := c.agents["a1"].service
	big := strings.Repeat("x", state.MaxValueBytes)
	for i := range 8 {
		c.put(fmt.Sprintf("big/%d", i), big)
	}
	_, err := service.Read(context.Background(), operator, KVQuery{Key: "big/", Prefix: true})
	wantCode(t, err, CodeTooLarge)
	answer, err := service.Read(context.Background(), operator, KVQuery{Key: "big/", Prefix: true, Limit: 3})
	if err != nil || len(answer.Rows) != 3 {
		t.Errorf("limit 3: %d rows, %v", len(answer.Rows), err)
	}
	answer, err = service.Read(context.Background(), operator, KVQuery{Key: "big/", Prefix: true, KeysOnly: true})
	if err != nil || len(answer.Rows) != 8 || answer.Rows[0].Value != nil {
		t.Errorf("keys: %d rows, %v", len(answer.Rows), err)
	}
	for _, q := range []KVQuery{{Key: strings.Repeat("k", state.MaxKeyBytes+1)}, {Key: ""}} {
		if _, err := service.Read(context.Background(), operator, q); err == nil {
			t.Errorf("accepted a key of %d bytes", len(q.Key))
		}
	}
}

// All reads that wait together share one question, no read shares one that began before it, and a reader that gives
// up spoils nothing for the rest.
func TestBarrierSharesRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := barrier{limit: time.Minute}
		var asked atomic.Uint64
		ask := func(context.Context) (uint64, *Error) {
			n := asked.Add(1)
			time.Sleep(time.Second)
			return n, nil
		}
		var got []uint64
		var mu sync.Mutex
		var open sync.WaitGroup
		read := func(ctx context.Context) {
			open.Go(func() {
				index, err := b.wait(ctx, ask)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					got = append(got, index)
				}
			})
		}
		read(t.Context())
		synctest.Wait() // the first round is on its way
		impatient, cancel := context.WithCancel(t.Context())
		read(impatient)
		for range 50 {
			read(t.Context())
		}
		synctest.Wait()
		cancel()
		open.Wait()
		slices.Sort(got)
		if asked.Load() != 2 || len(got) != 51 || got[0] != 1 || got[1] != 2 || got[50] != 2 {
			t.Errorf("%d questions for %v", asked.Load(), got)
		}
		if index, err := b.wait(t.Context(), ask); err != nil || index != 3 {
			t.Errorf("afterwards: %d, %v", index, err)
		}
	})
}
