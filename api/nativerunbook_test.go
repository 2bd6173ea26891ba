package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

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
			{"/parley/v1/runbooks/nothing", "application/json", "crash-loop, data-corruption, firewall, server-down", 404},
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
