package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/ops/lab"
)

// TestCatalog: what is registered through an agent outside the core is seen on every agent, also with the core gone; a
// blocked read wakes with it; and a check that becomes critical ends the session that relies on it, on another agent.
func TestCatalog(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 4, ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	whole(t, clients)
	outside, leader := agentInRole(t, clients, "none"), agentInRole(t, clients, "leader")

	woken := make(chan string, 1)
	_, index := dialect(t.Context(), l, leader, "GET", "/v1/health/service/web", "")
	go func() {
		body, _ := dialect(t.Context(), l, leader, "GET", "/v1/health/service/web?wait=60s&index="+index, "")
		woken <- body
	}()
	const node = `{"Node":"printer","Address":"192.0.2.7","Service":{"Service":"web","ID":"w1","Port":80},` +
		`"Check":{"CheckID":"up","ServiceID":"w1","Status":"%s"}}`
	if body, _ := dialect(t.Context(), l, outside, "PUT", "/v1/catalog/register", fmt.Sprintf(node, "passing")); body != "true" {
		t.Fatalf("register: %s", body)
	}
	if body := <-woken; !strings.Contains(body, `"Node":"printer"`) {
		t.Errorf("the blocked read answered %s", body)
	}
	body, _ := dialect(t.Context(), l, leader, "PUT", "/v1/session/create", `{"Node":"printer","NodeChecks":[],"ServiceChecks":[{"ID":"up"}],"LockDelay":"0s"}`)
	var session struct{ ID string }
	if err := json.Unmarshal([]byte(body), &session); err != nil || session.ID == "" {
		t.Fatalf("create a session: %s", body)
	}
	if body, _ := dialect(t.Context(), l, outside, "PUT", "/v1/kv/paper?acquire="+session.ID, "v"); body != "true" {
		t.Fatalf("acquire: %s", body)
	}
	if body, _ := dialect(t.Context(), l, outside, "PUT", "/v1/catalog/register", fmt.Sprintf(node, "critical")); body != "true" {
		t.Fatalf("register: %s", body)
	}
	if body, _ := dialect(t.Context(), l, leader, "GET", "/v1/kv/paper", ""); strings.Contains(body, "Session") {
		t.Errorf("its session's check is critical, and the key is still held: %s", body)
	}

	for _, a := range l.Agents {
		if a.Name != outside {
			kill(t, l, a.Name)
		}
	}
	eventually(t, 20*time.Second, "an answer that knows of no leader", func(ctx context.Context) error {
		body, _ := dialect(ctx, l, outside, "GET", "/v1/health/state/critical", "")
		if !strings.Contains(body, `"CheckID":"up"`) || strings.Count(body, `"CheckID":"serfHealth"`) != 3 {
			return fmt.Errorf("without the core: %s", body)
		}
		return nil
	})
}

// dialect is one request to an agent's loopback listener: the body, and the index of what was read.
func dialect(ctx context.Context, l *lab.Lab, agent, method, path, body string) (answer, index string) {
	a, err := l.Agent(agent)
	if err != nil {
		return err.Error(), ""
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+a.HTTP+path, strings.NewReader(body))
	if err != nil {
		return err.Error(), ""
	}
	got, err := http.DefaultClient.Do(r)
	if err != nil {
		return err.Error(), ""
	}
	defer got.Body.Close() //nolint:errcheck // only read
	raw, err := io.ReadAll(got.Body)
	if err != nil {
		return err.Error(), ""
	}
	return strings.TrimSpace(string(raw)), got.Header.Get("X-Consul-Index")
}
