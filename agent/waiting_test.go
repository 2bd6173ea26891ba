package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/parley-mesh/parley/api/client"
)

// relay passes connections to addr on to target until the test ends.
func relay(t *testing.T, addr, target string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				_ = in.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
			go func() { _, _ = io.Copy(in, out); _ = in.Close() }()
		}
	}()
}

// An agent that waits to be let in says so at once on its local listeners, and serves there as ever when it is in.
// Once it took connections and never answered.
func TestAgentAnswersWhileItJoins(t *testing.T) {
	cfg := single(t)
	cfg.Gossip.Profile = "fast"
	a1 := start(t, cfg, 0)
	token, err := a1.CreateToken(t.Context(), client.TokenSpec{Uses: 1})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "parley-agent-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	joiner := cfg
	joiner.DataDir, joiner.Name = filepath.Join(dir, "d"), "a2"
	joiner.Mesh.Bind, joiner.HTTP.Bind = freeAddr(t), freeAddr(t)
	silent := freeAddr(t)
	joiner.Join, joiner.Token = []string{silent}, token.Token
	ready := make(chan struct{})
	a2, err := New(joiner, Options{Ready: func() { close(ready) }, Log: zaptest.NewLogger(t, zaptest.Level(zap.FatalLevel))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a2.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	c, err := client.New("unix://" + filepath.Join(joiner.DataDir, adminSocket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)

	within(t, "an answer by http while it joins", func(ctx context.Context) error {
		return errors.Join(answers(ctx, joiner.HTTP.Bind, "/livez", 200, "ok"),
			answers(ctx, joiner.HTTP.Bind, "/readyz", 503, "joining"),
			answers(ctx, joiner.HTTP.Bind, "/v1/status/leader", 503, "joining by "+silent))
	})
	var refused *client.Error
	asked := time.Now()
	if _, err := c.Status(t.Context()); !errors.As(err, &refused) || refused.ExitCode() != 3 || !strings.Contains(err.Error(), "joining by "+silent) {
		t.Errorf("status of an agent that joins: %v", err)
	}
	if took := time.Since(asked); took > 5*time.Second {
		t.Errorf("status took %s to say so", took)
	}

	relay(t, silent, cfg.Mesh.Bind)
	select {
	case <-ready:
	case <-time.After(60 * time.Second):
		t.Fatal("it is not ready, although it can join now")
	}
	within(t, "the agent itself answers", func(ctx context.Context) error {
		_, err := c.Status(ctx)
		return errors.Join(err, answers(ctx, joiner.HTTP.Bind, "/readyz", 200, "ready"))
	})
}

func answers(ctx context.Context, addr, path string, status int, text string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err == nil && (resp.StatusCode != status || !strings.Contains(string(body), text)) {
		err = errors.New(path + " answers " + resp.Status + " " + string(body))
	}
	return err
}
