package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// sentID is the request id of a forwarded command.
func sentID(t *testing.T, body []byte) string {
	t.Helper()
	req, err := parseExecute(body)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := state.Decode(req.command)
	if err != nil {
		t.Fatal(err)
	}
	return RequestID(envelope.Request).String()
}

// The leader dies after it was asked, with or without having done what it was asked for. The write is sent to the next
// one, happens once, and is answered as it was then: a compare-and-set does not lose to itself.
func TestLeaderDiesBetween(t *testing.T) {
	for _, done := range []bool{true, false} {
		c := newFake(t, 3, 3)
		c.put("before", "v")
		a2 := c.agents["a2"]
		a2.call = func(ctx context.Context, node, method string, body []byte) ([]byte, error) {
			if node != "a1" {
				return a2.deliver(ctx, node, method, body)
			}
			if done {
				if _, err := a2.deliver(ctx, node, method, body); err != nil {
					t.Error(err)
				}
				c.put("k", "of somebody else")
			}
			c.setLeader("a3")
			return nil, errors.New("connection reset")
		}
		zero := uint64(0)
		got, err := a2.service.Execute(context.Background(), operator, state.Put{Key: "k", Value: []byte("v"), Compare: &zero})
		if err != nil {
			t.Fatalf("done %v: %v", done, err)
		}
		kv, _ := c.machine.View().Get("k")
		if kv.CreateRevision != got.Result.Revision || (string(kv.Value) == "v") == done {
			t.Errorf("done %v: the key is %+v, the answer %+v", done, kv, got.Result)
		}
	}
}

// What a second try is refused for says nothing about the first.
func TestRefusedRetryStaysUnknown(t *testing.T) {
	c := newFake(t, 2, 2)
	a2, calls := c.agents["a2"], 0
	a2.call = func(context.Context, string, string, []byte) ([]byte, error) {
		if calls++; calls == 1 {
			return nil, errors.New("connection reset")
		}
		return nil, Errorf(CodeDenied, "not any more")
	}
	_, err := a2.service.Execute(context.Background(), operator, state.Put{Key: "k"})
	if wantCode(t, err, CodeOutcomeUnknown); calls < 2 {
		t.Errorf("%d calls", calls)
	}
}

// forget makes the state forget all requests so far, by as many new ones.
func (c *fakeCluster) forget() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := 0; n <= state.MaxRequests; {
		var commands [][]byte
		index := c.machine.View().Index()
		for range 2048 {
			n++
			b, err := state.Encode(state.Envelope{Request: newRequestID(index), Command: state.Put{Key: "fill"}}, state.Version)
			if err != nil {
				c.t.Fatal(err)
			}
			commands = append(commands, b)
		}
		if _, _, err := c.machine.Apply(index+1, 1, fakeStamp, commands); err != nil {
			c.t.Fatal(err)
		}
	}
}

// An agent whose view is far behind makes an id that is too old. It knows that it sent it once, and makes another.
func TestAgentFarBehind(t *testing.T) {
	c := newFake(t, 2, 1)
	c.agents["a2"].role = policy.Operator
	c.forget()
	if _, err := c.agents["a2"].service.Execute(context.Background(), operator, state.Put{Key: "k"}); err != nil {
		t.Fatal(err)
	}
	if calls := c.takeCalls(); len(calls) != 2 {
		t.Errorf("calls %q, want two", calls)
	}
	_, err := c.agents["a2"].service.ExecuteOnce(context.Background(), operator, newRequestID(1), state.Put{Key: "k"})
	if e := coded(t, err, CodeRequestForgotten); e.ExitCode() != 5 {
		t.Errorf("exit %d", e.ExitCode())
	}
}

// A request that is sent twice under one id over HTTP is done once and answered alike; the id is that of one request,
// and only endpoints that keep their promise take it.
func TestRequestIDHeader(t *testing.T) {
	c := newFake(t, 1, 1)
	c.put("before", "v")
	web := c.agents["a1"].service.Handler(Loopback)
	send := func(method, path, body, id string) (int, string, http.Header) {
		t.Helper()
		w := do(web, method, path, body, func(r *http.Request) { r.Header.Set(headerRequestID, id) })
		return w.Code, w.Body.String(), w.Header()
	}
	id := newRequestID(c.machine.View().Index()).String()
	code, first, head := send(http.MethodPut, "/parley/v1/kv/k?cas=0", "v", id)
	if code != http.StatusOK || head.Get(headerRequestID) != id {
		t.Fatalf("%d %s, id %s", code, first, head.Get(headerRequestID))
	}
	c.put("k", "w")
	if code, again, _ := send(http.MethodPut, "/parley/v1/kv/k?cas=0", "v", strings.ToUpper(id)); code != http.StatusOK || again != first {
		t.Errorf("the retry is answered %d %s, not %s", code, again, first)
	}
	for _, test := range []struct {
		method, path, body, id, want string
	}{
		{http.MethodPut, "/parley/v1/kv/k?cas=0", "x", id, CodeRequestReused},
		{http.MethodDelete, "/parley/v1/kv/k", "", id, CodeRequestReused},
		{http.MethodPut, "/parley/v1/kv/k", "v", "short", CodeInvalid},
		{http.MethodPut, "/parley/v1/kv/k", "v", strings.Repeat("0", 32), CodeInvalid},
		{http.MethodPut, "/parley/v1/kv/k", "v", strings.Repeat("f", 32), CodeInvalid}, // an index that is still to come
		{http.MethodPost, "/parley/v1/core/size", `{"size":3}`, id, CodeUnsupported},
	} {
		_, body, _ := send(test.method, test.path, test.body, test.id)
		var answer errorBody
		if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Error.Code != test.want {
			t.Errorf("%s %s with id %s: %s, want %s", test.method, test.path, test.id, body, test.want)
		}
	}
	if code, _, _ := send(http.MethodGet, "/parley/v1/kv/k", "", "whatever"); code != http.StatusOK {
		t.Errorf("a read with an id: %d", code)
	}
}

// The client asks again by itself, under the same id, after the agent lost its leader or the connection broke, and is
// told the first answer; when nobody knows in time it names the id.
func TestClientAsksAgain(t *testing.T) {
	c := newFake(t, 1, 1)
	c.put("before", "v")
	a1 := c.agents["a1"]
	times := 0
	a1.propose = func(ctx context.Context, command []byte) (Proposed, error) {
		a1.propose, times = nil, times+1
		_, err := a1.doPropose(ctx, command)
		if err != nil {
			t.Error(err)
		}
		return Proposed{}, errors.New("the leader is lost")
	}
	api, ctx := newClient(t, a1), context.Background()
	zero := uint64(0)
	written, err := api.Put(ctx, "k", []byte("v"), client.PutOptions{CAS: &zero})
	if err != nil || times != 1 {
		t.Fatalf("%+v, %v, proposed %d times", written, err, times)
	}
	kv, _ := c.machine.View().Get("k")
	if kv.Version != 1 || kv.ModRevision != written.Revision {
		t.Errorf("%+v, answered %+v", kv, written)
	}
	c.forget()
	if again, err := api.Put(ctx, "k", []byte("w"), client.PutOptions{}); err != nil || again.Revision <= written.Revision {
		t.Errorf("after all was forgotten: %+v, %v", again, err)
	}
	id := newRequestID(c.machine.View().Index()).String()
	first, err := api.Txn(ctx, client.Txn{Then: []client.Op{{Op: "put", Key: "t"}}, RequestID: id})
	again, err2 := api.Txn(ctx, client.Txn{Then: []client.Op{{Op: "put", Key: "t"}}, RequestID: id})
	if err != nil || err2 != nil || !reflect.DeepEqual(first, again) {
		t.Errorf("%+v, %v, then %+v, %v", first, err, again, err2)
	}
}
