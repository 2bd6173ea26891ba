package agent

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/state"
)

// An agent that the cluster lets go loses the https connection that it has open, and gets no other one.
func TestWhoLeavesIsCutOff(t *testing.T) {
	cfg := single(t)
	cfg.HTTPS.Bind = freeAddr(t)
	a1 := start(t, cfg, 0)
	settings := a1.agent.source.ClientTLS("a1", "http/1.1")
	conn, err := tls.Dial("tcp", cfg.HTTPS.Bind, settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	answers := bufio.NewReader(conn)
	for range 2 { // it stays open from one request to the next
		if _, err := fmt.Fprint(conn, "GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("before it left: %s", resp.Status)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	if _, err := a1.agent.service.Execute(t.Context(), api.Internal("a1"), state.NodeSetLeft{Node: "a1", Left: true}); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := answers.ReadByte(); err == nil {
		t.Error("the connection says something unasked")
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the connection was closed after %s", took)
	}
	if again, err := tls.Dial("tcp", cfg.HTTPS.Bind, settings); err == nil {
		_ = again.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := again.Read(make([]byte, 1)); err == nil {
			t.Error("a new connection was taken")
		}
		_ = again.Close()
	}
}
