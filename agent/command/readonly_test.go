package command

import (
	"bytes"
	"context"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/ops/runbook"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// A diagnose step that writes is refused by the agent, not by what the engine thinks of the command: here it is a
// plain `kv put` of an operator, and the endpoints are the real ones. The same command in a mitigate step reaches the
// log (the control).
func TestDiagnoseStepsAreReadOnly(t *testing.T) {
	proposed := 0
	agent := realAgent(t, func() { proposed++ })
	run := func(from string, confirm bool) runbook.Run {
		t.Helper()
		text, err := os.ReadFile("testdata/writes.md")
		if err != nil {
			t.Fatal(err)
		}
		book, err := runbook.Parse("writes.md", text)
		if err != nil {
			t.Fatal(err)
		}
		a := &app{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &bytes.Buffer{}, getenv: func(string) string { return agent }}
		run, err := book.Run(t.Context(), runbook.Options{
			Execute: a.executor(a.tree()), From: from,
			Confirm: func(context.Context, string) bool { return confirm },
		})
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
	diagnosis := run("", false).Steps[0]
	if *diagnosis.Exit != exitDenied || diagnosis.Passed() || !strings.Contains(diagnosis.Error, "the caller asked to read only") || proposed != 0 {
		t.Errorf("diagnose: %+v, %d commands reached the log", diagnosis, proposed)
	}
	if verify := run("verify", false).Steps[0]; *verify.Exit != exitDenied || proposed != 0 {
		t.Errorf("verify: %+v, %d commands reached the log", verify, proposed)
	}
	if mitigation := run("mitigate", true).Steps[0]; *mitigation.Exit == exitDenied || proposed == 0 {
		t.Errorf("mitigate: %+v, %d commands reached the log", mitigation, proposed)
	}
}

// realAgent serves the real endpoints to operators over http. Every command that gets as far as the log is counted and
// refused there.
func realAgent(t *testing.T, count func()) string {
	t.Helper()
	machine := state.Genesis(state.GenesisOptions{
		ClusterID: "00112233445566778899aabbccddeeff", TrustDomain: "example.org",
		Node:   state.Node{Name: "a1", HostKey: []byte{1}, SealKey: make([]byte, 32)},
		Bundle: state.Bundle{Sequence: 1, Roots: [][]byte{{1}}}, Sealed: []byte{1}, At: 1,
	})
	service := api.New(api.Options{
		AnonymousRole: policy.Operator,
		Local: api.Local{
			Node: "a1", Hub: watch.NewHub(machine.View()),
			HoldsKV:        func() bool { return true },
			Leader:         func() (string, bool, bool) { return "a1", true, true },
			ClusterVersion: func() uint32 { return state.Version },
			RoleOf:         func(string) policy.Role { return policy.Operator },
			Propose: func(context.Context, []byte) (api.Proposed, error) {
				count()
				return api.Proposed{}, api.Errorf(api.CodeNoSpace, "no space")
			},
		},
	})
	server := httptest.NewServer(service.Handler(api.Loopback))
	t.Cleanup(server.Close)
	return server.URL
}
