package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/runbook"
)

// Runbooks are there for people, programs and the two doors that are left when nothing else works: without a leader,
// and over the admin socket of an agent that has no role at all.
func TestRunbooksAreServed(t *testing.T) {
	c := newFake(t, 1, 1)
	c.leader = ""
	agent := c.agents["a1"]
	agent.role = "none"
	for _, kind := range []Listener{Loopback, Socket} {
		h := agent.service.Handler(kind)
		root := func(r *http.Request) {
			*r = *r.WithContext(context.WithValue(r.Context(), peerKey{}, peer{uid: 0}))
		}
		w := do(h, "GET", "/parley/v1/runbooks", "", root)
		var list []map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || w.Code != http.StatusOK || len(list) < 4 {
			t.Fatalf("list: %d %s", w.Code, w.Body)
		}
		for _, field := range []string{"id", "title", "failure_mode", "alerts", "severity", "last_drill"} {
			if _, ok := list[0][field]; !ok {
				t.Errorf("the list has no %s", field)
			}
		}
		for _, tt := range []struct {
			target, contentType, words string
			status                     int
		}{
			{"/runbooks/", "text/html; charset=utf-8", `href="/runbooks/server-down"`, 200},
			{"/runbooks/server-down", "text/html; charset=utf-8", "<h2>Do NOT</h2>", 200},
			{"/runbooks/server-down.md", "text/markdown; charset=utf-8", "## Do NOT", 200},
			{"/parley/v1/runbooks/server-down", "application/json", `"failure_mode":2`, 200},
			{"/runbooks/nothing", "application/json", "there is no runbook", 404},
			{"/runbooks/../server-down", "application/json", "there is no runbook", 404},
			{"/parley/v1/runbooks/nothing", "application/json", "crash-loop, data-corruption, data-loss, firewall, heisenbug, host-copied, incorrect-algorithm, query-of-death, server-down", 404},
		} {
			w := do(h, "GET", tt.target, "", root)
			if w.Code != tt.status || w.Header().Get("Content-Type") != tt.contentType || !strings.Contains(w.Body.String(), tt.words) {
				t.Errorf("%s: %d %s, want %d %s with %q\n%.300s", tt.target, w.Code, w.Header().Get("Content-Type"), tt.status, tt.contentType, tt.words, w.Body)
			}
			isPage := strings.HasPrefix(tt.contentType, "text/html")
			if policy := w.Header().Get("Content-Security-Policy"); isPage != (policy == runbook.ContentSecurityPolicy) {
				t.Errorf("%s: the policy is %q", tt.target, policy)
			}
		}
	}
}

// The client of the same repository reads runbooks, and one that was made to read only changes nothing: it is refused
// what writes, whichever method sends it, and reads on.
func TestClientRunbooksAndReadOnly(t *testing.T) {
	fake := newFake(t, 1, 1)
	fake.put("k", "v")
	ctx := t.Context()
	c := newClient(t, fake.agents["a1"])
	list, err := c.Runbooks(ctx)
	if err != nil || len(list) < 4 || list[1].ID != "crash-loop" || string(list[1].FailureMode) != "1" || list[1].LastDrill != nil {
		t.Errorf("list: %+v, %v", list, err)
	}
	whole, err := c.Runbook(ctx, "firewall")
	if err != nil || !strings.Contains(string(whole), `"steps":[`) {
		t.Errorf("firewall: %.100s, %v", whole, err)
	}
	var refused *client.Error
	if _, err := c.Runbook(ctx, "nothing"); !errors.As(err, &refused) || refused.Code != CodeNotFound || refused.ExitCode() != 1 {
		t.Errorf("nothing: %v", err)
	}

	reader := newClient(t, fake.agents["a1"], client.ReadOnly())
	before := len(fake.log)
	for name, write := range map[string]func() error{
		"put":    func() error { _, err := reader.Put(ctx, "k", []byte("w"), client.PutOptions{}); return err },
		"delete": func() error { _, err := reader.Delete(ctx, "k", client.DeleteOptions{}); return err },
		"txn": func() error {
			_, err := reader.Txn(ctx, client.Txn{Then: []client.Op{{Op: "delete", Key: "k"}}})
			return err
		},
		"token": func() error { _, err := reader.CreateToken(ctx, client.TokenSpec{}); return err },
		"core":  func() error { return reader.SetCoreSize(ctx, 1) },
		"role":  func() error { return reader.SetAgentRole(ctx, "a1", "none") },
		"read txn": func() error {
			_, err := reader.Txn(ctx, client.Txn{Then: []client.Op{{Op: "get", Key: "k"}}})
			return err
		},
	} {
		if err := write(); !errors.As(err, &refused) || refused.Code != CodeDenied || refused.ExitCode() != 4 {
			t.Errorf("%s, read only: %v", name, err)
		}
	}
	if pair, err := reader.Get(ctx, "k", client.ReadOptions{}); err != nil || string(pair.Value) != "v" || len(fake.log) != before {
		t.Errorf("read: %+v, %v; %d commands more in the log", pair, err, len(fake.log)-before)
	}
	if _, err := c.Put(ctx, "k", []byte("w"), client.PutOptions{}); err != nil {
		t.Errorf("the control: %v", err)
	}
}
