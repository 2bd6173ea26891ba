package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/security/external/externaltest"
	"github.com/parley-mesh/parley/transport"
)

const outsideTD = "outside.test"

// outsideConfig is an agent's whose identity comes by the Workload API.
func outsideConfig(t *testing.T, name, addr string) config.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "parley-agent-") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := config.Default()
	cfg.DataDir, cfg.Name = filepath.Join(dir, "d"), name
	cfg.Mesh.Bind, cfg.HTTP.Bind, cfg.Gossip.Profile = freeAddr(t), freeAddr(t), "fast"
	cfg.Identity.Source, cfg.Identity.WorkloadAPI = config.SourceWorkloadAPI, addr
	return cfg
}

func foundOutside(t *testing.T, cfg config.Config) {
	t.Helper()
	_, err := Init(t.Context(), InitOptions{
		DataDir: cfg.DataDir, TrustDomain: outsideTD, Name: cfg.Name, Address: cfg.Mesh.Bind, IdentitySource: cfg.Identity.Source,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func outsideID(node string) string { return "spiffe://" + outsideTD + "/parley/agent/" + node }

// Agents that another authority certifies form a cluster: they join with a token, follow its rotations, and the cluster signs
// for nobody.
func TestClusterOfAnotherAuthority(t *testing.T) {
	authority := externaltest.New(t, outsideTD)
	servers := []*externaltest.Server{authority.Serve(outsideID("a1")), authority.Serve(outsideID("a2"))}
	cfg := outsideConfig(t, "a1", servers[0].Addr)
	foundOutside(t, cfg)
	one := start(t, cfg, 0)
	token, err := one.CreateToken(t.Context(), client.TokenSpec{Uses: 2})
	if err != nil {
		t.Fatal(err)
	}
	joiner := outsideConfig(t, "a2", servers[1].Addr)
	joiner.Join, joiner.Token = []string{cfg.Mesh.Bind}, token.Token
	two := start(t, joiner, 0)
	whole := func(ctx context.Context) error {
		for _, r := range []*running{one, two} {
			members, err := r.Members(ctx)
			alive := 0
			for _, m := range members {
				if m.State == "alive" {
					alive++
				}
			}
			if err != nil || alive != 2 {
				return fmt.Errorf("%s sees %d alive (%w)", r.name, alive, err)
			}
		}
		return nil
	}
	within(t, "both see each other", whole)
	if got := two.agent.source.Leaf().Issuer.Organization; !slices.Equal(got, []string{"SPIRE"}) {
		t.Errorf("the joiner's certificate is by %q", got)
	}
	if _, err := os.Stat(filepath.Join(joiner.DataDir, "identity", "agent.pem")); err == nil {
		t.Error("a certificate is on disk")
	}
	for what, err := range map[string]error{
		"programs": func() error { _, err := one.agent.workloads.mint("a1", tokenRequest{}); return err }(),
		"agents":   one.agent.certifies(),
	} {
		var refused *transport.Error
		if !errors.As(err, &refused) || refused.Code != api.CodeDenied {
			t.Errorf("the cluster certifies %s: got %v", what, err)
		}
	}
	if err := one.agent.knownAgent(transport.Peer{Node: "stranger"}); err == nil {
		t.Error("an agent that is registered and never joined is served")
	}
	if err := one.agent.knownAgent(transport.Peer{Node: "a2"}); err != nil {
		t.Error(err)
	}

	authority.Rotate()
	within(t, "the next root is in use", func(context.Context) error {
		for _, r := range []*running{one, two} {
			if len(r.agent.source.AgentRoots()) != 2 {
				return errors.New(r.name + " does not hold it")
			}
		}
		return nil
	})
	authority.DropOld()
	within(t, "the old root is gone", func(context.Context) error {
		if len(one.agent.source.AgentRoots()) != 1 || len(two.agent.source.AgentRoots()) != 1 {
			return errors.New("it is there")
		}
		return nil
	})
	within(t, "all is well below the new root alone", whole)
	within(t, "a write from the second agent goes to the leader", func(ctx context.Context) error {
		_, err := two.CreateToken(ctx, client.TokenSpec{Uses: 1})
		if err != nil && strings.Contains(err.Error(), "role") {
			return nil // it was heard, and refused by its role
		}
		return err
	})
	two.stop()
	joiner.Token, joiner.Join = "", nil
	again := start(t, joiner, 0)
	within(t, "a restart comes back", func(ctx context.Context) error {
		members, err := again.Members(ctx)
		if err != nil || len(members) != 2 {
			return fmt.Errorf("got %v, %w", members, err)
		}
		return nil
	})
}

// A directory keeps the source that it was made for, and an agent that gets no identity says what to do.
func TestSourceIsForGood(t *testing.T) {
	authority := externaltest.New(t, outsideTD)
	cfg := outsideConfig(t, "a1", authority.Serve().Addr)
	foundOutside(t, cfg)
	run := func(cfg config.Config) error {
		a, err := New(cfg, Options{firstIdentity: 500 * time.Millisecond})
		if err != nil {
			return err
		}
		return a.Run(t.Context())
	}
	if err := run(cfg); err == nil || !strings.Contains(err.Error(), "no registration entry") || !strings.Contains(Hint(err), outsideID("a1")) {
		t.Errorf("without a registration: got %v, hint %q", err, Hint(err))
	}
	built := cfg
	built.Identity.Source, built.Identity.WorkloadAPI = config.SourceBuiltIn, ""
	if err := run(built); err == nil || !strings.Contains(Hint(err), "set identity.source to workload-api") {
		t.Errorf("built-in in a directory of the other source: got %v", err)
	}
	other := single(t)
	other.Identity.Source, other.Identity.WorkloadAPI = config.SourceWorkloadAPI, cfg.Identity.WorkloadAPI
	if err := run(other); err == nil || !strings.Contains(Hint(err), "set identity.source to built-in") {
		t.Errorf("the other source in a directory of the built-in one: got %v", err)
	}
}

// A configuration with two authorities for one trust domain is refused.
func TestSourceSettings(t *testing.T) {
	source := config.Override{Key: "identity.source", Value: "workload-api"}
	addr := config.Override{Key: "identity.workload_api", Value: "unix:///run/spire/sockets/agent.sock"}
	if _, err := config.Load("", source, addr); err != nil {
		t.Fatal(err)
	}
	for name, set := range map[string][]config.Override{
		"no address":     {source},
		"no source":      {addr},
		"a network":      {source, {Key: addr.Key, Value: "tcp://127.0.0.1:8081"}},
		"programs":       {source, addr, {Key: "identity.workload_socket", Value: "/run/parley/workload.sock"}},
		"a bundle":       {source, addr, {Key: "identity.bundle_endpoint", Value: "127.0.0.1:8443"}},
		"federation":     {source, addr, {Key: "identity.federate_with", Value: "x.test https_web https://x.test/"}},
		"operators":      {source, addr, {Key: "https.bind", Value: "127.0.0.1:8501"}},
		"another source": {{Key: "identity.source", Value: "spire"}},
	} {
		if _, err := config.Load("", set...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
