package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// Every agent tells what a key was, and takes it back: the leader, a follower, and one outside the core, which holds none of it.
func TestHistoryFromAnyAgent(t *testing.T) {
	fake := newFake(t, 3, 2)
	fake.agents["a3"].role = policy.Local
	for _, name := range []string{"a1", "a2", "a3"} {
		c, ctx, key := newClient(t, fake.agents[name]), context.Background(), "web//"+name
		first, _ := c.Put(ctx, key, []byte("one"), client.PutOptions{Flags: 3})
		second, _ := c.Put(ctx, key, []byte{0xff}, client.PutOptions{})
		third, _ := c.Delete(ctx, key, client.DeleteOptions{})
		h, err := c.History(ctx, key, false)
		if err != nil || h.Key != key || h.Since != 0 || len(h.Versions) != 3 || !h.Versions[0].Deleted ||
			h.Versions[0].Revision != third.Revision || h.Versions[1].Value[0] != 0xff || h.Versions[1].Deleted || string(h.Versions[2].Value) != "one" {
			t.Fatalf("%s: history %+v, %v", name, h, err)
		}
		if p, err := c.GetAt(ctx, key, second.Revision-1, true); err != nil || string(p.Value) != "one" || p.Revision != first.Revision {
			t.Errorf("%s: at %d: %+v, %v", name, second.Revision-1, p, err)
		}
		if _, err := c.GetAt(ctx, key, third.Revision, false); !hasCode(err, CodeNotFound) {
			t.Errorf("%s: at its deletion: %v", name, err)
		}
		if _, err := c.GetAt(ctx, key, first.Revision-1, false); !hasCode(err, CodeNotFound) || !strings.Contains(err.Error(), "there was no key") {
			t.Errorf("%s: before it was made: %v", name, err)
		}
		if _, err := c.GetAt(ctx, key, 1<<40, false); !hasCode(err, CodeInvalid) {
			t.Errorf("%s: in the future: %v", name, err)
		}
		if _, err := c.Undo(ctx, key, second.Revision, ""); !hasCode(err, CodeConflict) || !strings.Contains(err.Error(), fmt.Sprintf("by revision %d", third.Revision)) {
			t.Errorf("%s: undo of what was changed since: %v", name, err)
		}
		done, err := c.Undo(ctx, key, third.Revision, "")
		if err != nil || done.Undone != third.Revision || done.Restored != second.Revision || done.Deleted || done.Revision <= third.Revision {
			t.Errorf("%s: undo: %+v, %v", name, done, err)
		}
		if _, err := c.Undo(ctx, "no trace", 5, ""); !hasCode(err, CodeNotFound) {
			t.Errorf("%s: undo of nothing: %v", name, err)
		}
		if _, err := c.History(ctx, "no trace", false); !hasCode(err, CodeNotFound) {
			t.Errorf("%s: history of nothing: %v", name, err)
		}
	}
	if view := fake.agents["a3"].hub.View(); view.Rows(state.TableHistory) != 0 {
		t.Error("history outside the core")
	}
}

// What is forgotten is said to be, with the revision from which on it is known.
func TestForgottenHistory(t *testing.T) {
	fake := newFake(t, 1, 1)
	c, ctx := newClient(t, fake.agents["a1"]), context.Background()
	_, _ = c.Put(ctx, "k", []byte("secret"), client.PutOptions{})
	last, _ := c.Put(ctx, "k", []byte("new"), client.PutOptions{})
	if n, err := c.Purge(ctx, "k"); err != nil || n != 1 {
		t.Fatalf("purged %d, %v", n, err)
	}
	h, err := c.History(ctx, "k", false)
	if err != nil || h.Since != last.Revision || len(h.Versions) != 1 || string(h.Versions[0].Value) != "new" {
		t.Errorf("history %+v, %v", h, err)
	}
	want := fmt.Sprintf("begins at revision %d", last.Revision)
	if _, err := c.Undo(ctx, "k", last.Revision, ""); !hasCode(err, CodeNotFound) || !strings.Contains(err.Error(), want) {
		t.Errorf("undo: %v, want one that says %q", err, want)
	}
	if _, err := c.GetAt(ctx, "k", last.Revision-1, false); !hasCode(err, CodeNotFound) || !strings.Contains(err.Error(), want) {
		t.Errorf("get: %v, want one that says %q", err, want)
	}
}

// An undo needs today's rights, at this agent and at the leader, and a purge more than those of a writer.
func TestUndoNeedsRights(t *testing.T) {
	fake := newFake(t, 2, 1)
	fake.put("k", "v")
	undo := state.KVUndo{Key: "k", Revision: fake.agents["a1"].hub.View().KeyRevision("k")}
	for role, allowed := range map[policy.Role]map[string]bool{
		policy.Discovery: {}, policy.Local: {"undo": true}, policy.Operator: {"undo": true, "purge": true},
	} {
		for what, cmd := range map[string]state.Command{"undo": undo, "purge": state.KVPurge{Key: "k"}} {
			_, err := fake.agents["a1"].service.Execute(t.Context(), Caller{Role: role, Kind: KindAnonymous}, cmd)
			if denied := hasErrorCode(err, CodeDenied); denied == allowed[what] {
				t.Errorf("%s as %s: %v", what, role, err)
			}
			fake.agents["a2"].role = role // what the leader grants whatever the origin claims
			_, err = fake.agents["a2"].service.Execute(t.Context(), operator, cmd)
			if denied := hasErrorCode(err, CodeDenied); denied == allowed[what] {
				t.Errorf("%s through an agent that is %s: %v", what, role, err)
			}
		}
	}
}

func hasErrorCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// A bad request says what is wrong with it.
func TestHistoryRefusals(t *testing.T) {
	fake := newFake(t, 1, 1)
	fake.put("k", "v")
	h := fake.agents["a1"].withRole(policy.Operator).Handler(Loopback)
	for call, want := range map[string]string{
		"POST /parley/v1/undo/k":                      "the revision to undo is missing",
		"POST /parley/v1/undo/k?revision=x":           "revision",
		"POST /parley/v1/undo/?revision=3":            "the key is empty",
		"DELETE /parley/v1/history/":                  "the key is empty",
		"GET /parley/v1/history/":                     "the key is empty",
		"GET /parley/v1/history/k?prefix=1":           "unknown parameter",
		"GET /parley/v1/kv/k?revision=2&prefix=1":     "prefix and revision together",
		"GET /parley/v1/kv/k?revision=2&watch=1":      "watch and revision together",
		"GET /parley/v1/kv/k?revision=0":              "revision 0 is before the first",
		"GET /parley/v1/kv/k?revision=":               "revision",
		"GET /parley/v1/kv/k?revision=99999999999999": "is yet to come",
	} {
		method, target, _ := strings.Cut(call, " ")
		if w := do(h, method, target, ""); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want 400 with %q", call, w.Code, w.Body, want)
		}
	}
	big := strings.Repeat("x", state.MaxValueBytes)
	for range 8 {
		fake.put("big", big)
	}
	if w := do(h, "GET", "/parley/v1/history/big", ""); w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("8 large versions: %d", w.Code)
	}
}

// Every target of a compare decides, over HTTP, and 128 parts are done and 129 refused.
func TestNativeTransactions(t *testing.T) {
	fake := newFake(t, 1, 1)
	h := fake.agents["a1"].withRole(policy.Local).Handler(Loopback)
	fake.put("k", "v")
	fake.put("k", "w")
	kv, _ := fake.agents["a1"].hub.View().Get("k")
	for compare, holds := range map[string]bool{
		`{"key":"k","target":"value","value":"w"}`: true, `{"key":"k","target":"value","value":"v"}`: false,
		`{"key":"k","target":"value","relation":">","value_base64":"dg=="}`:                                  true,
		`{"key":"k","target":"value","relation":"<","value":"w"}`:                                            false,
		fmt.Sprintf(`{"key":"k","target":"revision","number":%d}`, kv.ModRevision):                           true,
		fmt.Sprintf(`{"key":"k","number":%d}`, kv.ModRevision-1):                                             false,
		fmt.Sprintf(`{"key":"k","target":"create_revision","number":%d}`, kv.CreateRevision):                 true,
		fmt.Sprintf(`{"key":"k","target":"create_revision","relation":"!=","number":%d}`, kv.CreateRevision): false,
		`{"key":"k","target":"version","number":2}`:                                                          true, `{"key":"k","target":"version","relation":"<","number":2}`: false,
		`{"key":"none"}`: true, `{"key":"k","number":0}`: false, `{"key":"k","relation":">","number":0}`: true,
	} {
		w := do(h, "POST", "/parley/v1/txn", `{"compare":[`+compare+`],"then":[{"op":"get","key":"k"}]}`)
		if want := fmt.Sprintf(`"succeeded":%t`, holds); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want %s", compare, w.Code, w.Body, want)
		}
	}
	parts := func(n int) string {
		ops := make([]string, n-1)
		for i := range ops {
			ops[i] = fmt.Sprintf(`{"op":"put","key":"many/%d","value":"x"}`, i)
		}
		return `{"compare":[{"key":"none"}],"then":[` + strings.Join(ops, ",") + `]}`
	}
	if w := do(h, "POST", "/parley/v1/txn", parts(state.MaxTxnOps+1)); w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("%d parts: %d", state.MaxTxnOps+1, w.Code)
	}
	if w := do(h, "POST", "/parley/v1/txn", parts(state.MaxTxnOps)); w.Code != http.StatusOK || fake.agents["a1"].hub.View().Rows(state.TableKV) != state.MaxTxnOps {
		t.Errorf("%d parts: %d %s", state.MaxTxnOps, w.Code, w.Body)
	}
}

// A 429 says when to come again, not always the same, whether the caller or the leader is full; the client waits for that
// long, a few times, and not longer than its context.
func TestRetryAfter(t *testing.T) {
	fake := newFake(t, 1, 1)
	a := fake.agents["a1"]
	refused := 0
	a.propose = func(context.Context, []byte) (Proposed, error) {
		refused++
		return Proposed{}, Errorf(CodeBusy, "the inbox is full")
	}
	h := a.withRole(policy.Local).Handler(Loopback)
	seen := map[string]bool{}
	for range 50 {
		w := do(h, "PUT", "/parley/v1/kv/k", "v")
		if w.Code != http.StatusTooManyRequests {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		seen[w.Header().Get("Retry-After")] = true
	}
	for after := range seen {
		if after != "1" && after != "2" && after != "3" {
			t.Errorf("Retry-After %q", after)
		}
	}
	if len(seen) < 2 {
		t.Error("all are told to come back together")
	}
	if w := do(h, "GET", "/parley/v1/kv/none", ""); w.Header().Get("Retry-After") != "" {
		t.Error("Retry-After on another refusal")
	}

	c := newClient(t, a)
	refused = 0
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Put(ctx, "k", nil, client.PutOptions{}); !hasCode(err, CodeBusy) || refused != 1 {
		t.Errorf("%v after %d tries: want busy after one, as the next would come too late", err, refused)
	}
	refused = 0
	a.propose = func(context.Context, []byte) (Proposed, error) {
		refused++
		a.propose = nil // there is room again
		return Proposed{}, Errorf(CodeBusy, "the inbox is full")
	}
	began := time.Now()
	if _, err := c.Put(t.Context(), "k", nil, client.PutOptions{}); err != nil || refused != 1 || time.Since(began) < 500*time.Millisecond {
		t.Errorf("%v after %d tries and %v", err, refused, time.Since(began))
	}
}
