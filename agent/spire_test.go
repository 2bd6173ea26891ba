package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/api/client"
)

// TestSPIRE is TestClusterOfAnotherAuthority with SPIRE itself: its server, one of its agents, and the command that our errors
// name. SPIRE knows a process by its uid, so all agents of this one process are the same to it: it gives all identities to
// each, and each takes its own.
func TestSPIRE(t *testing.T) {
	server, agent := os.Getenv("SPIRE_SERVER_BIN"), os.Getenv("SPIRE_AGENT_BIN")
	if server == "" || agent == "" {
		t.Skip("needs SPIRE: set SPIRE_SERVER_BIN and SPIRE_AGENT_BIN to its two programs")
	}
	dir, err := os.MkdirTemp("", "parley-spire-") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	admin, workload := filepath.Join(dir, "server.sock"), filepath.Join(dir, "agent.sock")
	host, port, _ := strings.Cut(freeAddr(t), ":")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	runSPIRE(t, server, "run", "-config", write("server.conf", fmt.Sprintf(`
server { bind_address = %q, bind_port = %q, trust_domain = %q, data_dir = %q, socket_path = %q, log_level = "WARN" }
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3", connection_string = %q } }
  KeyManager "memory" { plugin_data {} }
  NodeAttestor "join_token" { plugin_data {} }
}`, host, port, outsideTD, dir, admin, filepath.Join(dir, "server.db"))))
	ask := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), server, append(args, "-socketPath", admin)...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
		return string(out), err
	}
	var token string
	within(t, "SPIRE's server makes a token", func(context.Context) error {
		out, err := ask("token", "generate", "-spiffeID", "spiffe://"+outsideTD+"/host")
		_, token, _ = strings.Cut(out, "Token: ")
		token = strings.TrimSpace(token)
		return err
	})
	for _, node := range []string{"a1", "a2"} {
		if _, err := ask("entry", "create", "-spiffeID", outsideID(node), "-parentID", "spiffe://"+outsideTD+"/host",
			"-selector", fmt.Sprintf("unix:uid:%d", os.Getuid())); err != nil {
			t.Fatal(err)
		}
	}
	runSPIRE(t, agent, "run", "-config", write("agent.conf", fmt.Sprintf(`
agent { server_address = %q, server_port = %q, trust_domain = %q, data_dir = %q, socket_path = %q, insecure_bootstrap = true, join_token = %q, log_level = "WARN" }
plugins {
  KeyManager "memory" { plugin_data {} }
  NodeAttestor "join_token" { plugin_data {} }
  WorkloadAttestor "unix" { plugin_data {} }
}`, host, port, outsideTD, filepath.Join(dir, "agent"), workload, token)))

	cfg := outsideConfig(t, "a1", "unix://"+workload)
	foundOutside(t, cfg)
	one := start(t, cfg, 0)
	join, err := one.CreateToken(t.Context(), client.TokenSpec{Uses: 1})
	if err != nil {
		t.Fatal(err)
	}
	joiner := outsideConfig(t, "a2", cfg.Identity.WorkloadAPI)
	joiner.Join, joiner.Token = []string{cfg.Mesh.Bind}, join.Token
	two := start(t, joiner, 0)
	within(t, "the agents see each other", func(ctx context.Context) error {
		members, err := two.Members(ctx)
		if err == nil && len(members) != 2 {
			err = errors.New("one is missing")
		}
		return err
	})
	if got := two.agent.source.ID().String(); got != outsideID("a2") || len(two.agent.source.AgentRoots()) == 0 {
		t.Errorf("the second agent is %s", got)
	}
}

// runSPIRE runs one of SPIRE's programs until the test ends, and shows what it said if that failed.
func runSPIRE(t *testing.T, args ...string) {
	t.Helper()
	var said strings.Builder
	cmd := exec.CommandContext(context.Background(), args[0], args[1:]...) //nolint:gosec // the test's own variable
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", args[0], said.String())
		}
	})
}
