package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// TestReplacedHostIsCutOff: once another host has joined in its place, a host's open connection is worth nothing
// within a second, and it gets no new one. It is patched: it never closes the connection, nor heeds what it is told.
// The writes until then, and those of the host that took its place, are the control.
func TestReplacedHostIsCutOff(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{Agents: 1})
	old := joinPatched(t, l, client.TokenSpec{Role: "operator"}, "b1")
	write := func(p *patched, key string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := p.pool.Call(ctx, "a1", "op.execute",
			executeBody(t, policy.Operator, "socket", "uid:0", "", state.Put{Key: key, Value: []byte("v")}))
		return err
	}
	for i := range 3 {
		if err := write(old, fmt.Sprintf("before/%d", i)); err != nil {
			t.Fatalf("before it was replaced: %v", err)
		}
	}

	heir := joinPatched(t, l, client.TokenSpec{Role: "operator", Replace: "b1"}, "b1")
	replaced := time.Now()
	accepted := 0
	for i := 0; time.Since(replaced) < 3*time.Second; i++ {
		if err := write(old, fmt.Sprintf("after/%d", i)); err != nil {
			continue
		}
		accepted++
		if late := time.Since(replaced); late > time.Second {
			t.Fatalf("%s after it was replaced the old host wrote", late)
		}
	}
	t.Logf("%d writes of the old host were accepted after the join was answered", accepted)
	if err := write(heir, "after/heir"); err != nil {
		t.Errorf("the host that replaced it: %v", err)
	}
	if text := readLog(t, l.Agents[0]); !strings.Contains(text, "connection closed, its peer would be refused now") {
		t.Error("the log does not say that a connection was closed")
	}
}

// TestReplaceWantsAName: a token that replaces nobody is refused, and the command for one that does has the name.
func TestReplaceWantsAName(t *testing.T) {
	l := startLab(t, lab.Options{Agents: 2})
	c := clientOf(t, l.Agents[0])
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	var refused *client.Error
	if _, err := c.CreateToken(ctx, client.TokenSpec{TTL: time.Minute, Uses: 1, Replace: "nosuch"}); !errors.As(err, &refused) || refused.Code != "not_found" {
		t.Errorf("a token that replaces nosuch: %v", err)
	}
	made, err := c.CreateToken(ctx, client.TokenSpec{TTL: time.Minute, Uses: 1, Replace: "a2"})
	if err != nil || !strings.Contains(made.JoinCommand, " --name a2 ") {
		t.Errorf("a token that replaces a2: %q, %v", made.JoinCommand, err)
	}
}
