package e2e

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/transport"
)

// patched is an agent that has joined by the rules and then says what it likes.
type patched struct {
	name   string
	source *security.Source
	pool   *transport.Pool
}

// joinPatched joins with such a token. It never runs an agent.
func joinPatched(t *testing.T, l *lab.Lab, spec client.TokenSpec, name string) *patched {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	ticket, _ := newToken(t, l, spec)
	dir := t.TempDir()
	host, err := security.CreateHost(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := security.Join(ctx, security.JoinOptions{
		Token: ticket, Addrs: []string{l.Agents[0].Mesh}, Host: host, Node: name, Address: "127.0.0.1:1", Dir: dir, Now: time.Now,
	})
	if err != nil || string(got.Role) != spec.Role {
		t.Fatalf("join %s: role %q, %v; want %s", name, got.Role, err, spec.Role)
	}
	p := &patched{name: name}
	p.source, err = security.NewSource(security.SourceOptions{
		Dir: dir, TrustDomain: spiffeid.RequireTrustDomainFromString(ticket.TrustDomain), Node: name, Host: host, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.pool = transport.NewPool(transport.PoolOptions{Dial: func(ctx context.Context, node string) (net.Conn, error) {
		a, err := l.Agent(node)
		if err != nil {
			return nil, err
		}
		d := tls.Dialer{Config: p.source.ClientTLS(node, transport.ALPNRPC)}
		conn, err := d.DialContext(ctx, "tcp", a.Mesh)
		if err == nil {
			_, err = conn.Write(append([]byte{1}, make([]byte, state.EpochBytes)...)) // the greeting of who knows no epoch yet
		}
		if err == nil {
			_, err = io.ReadFull(conn, make([]byte, 1+state.EpochBytes))
		}
		return conn, err
	}})
	t.Cleanup(func() { _ = p.pool.Close() })
	return p
}

// executeBody is the body of op.execute: version, role and kind of the caller, and the command with who asks.
func executeBody(t *testing.T, role policy.Role, kind, caller, via string, command state.Command) []byte {
	t.Helper()
	encoded, err := state.Encode(state.Envelope{Caller: caller, Via: via, Command: command}, state.Version)
	if err != nil {
		t.Fatal(err)
	}
	return framed([]byte{1}, string(role), kind, string(encoded))
}

// readBody is the body of op.read and op.tokens, for one key.
func readBody(role policy.Role, key string) []byte {
	return append(framed([]byte{1}, string(role), "socket", "uid:0", key), 0, 0, 0, 0, 0, 0)
}

func framed(b []byte, parts ...string) []byte {
	for _, p := range parts {
		b = append(binary.AppendUvarint(b, uint64(len(p))), p...)
	}
	return b
}

func (p *patched) call(t *testing.T, node, method string, body []byte) ([]byte, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	answer, err := p.pool.Call(ctx, node, method, body)
	var refused *transport.Error
	if err != nil && !errors.As(err, &refused) {
		t.Fatalf("%s of %s: %v", method, node, err)
	}
	if refused == nil {
		return answer, "done"
	}
	return nil, refused.Code
}

// TestPatchedAgentIsCapped: root on one host is not root of the cluster. An agent that the cluster gave
// the role discovery claims to forward for an operator, by every kind of caller and in other agents'
// names: the leader refuses and nothing changes. The control, an agent of the role operator, gets the
// same requests through.
func TestPatchedAgentIsCapped(t *testing.T) {
	l := startLab(t, lab.Options{Agents: 4, ReplaceAfter: 10 * time.Minute}) // a1 to a4 have the core grant
	works(t, l)
	liar, operator := joinPatched(t, l, client.TokenSpec{Role: "discovery"}, "liar"), joinPatched(t, l, client.TokenSpec{Role: "operator"}, "honest")
	leader, err := leaderOf(t.Context(), clientOf(t, l.Agents[0]))
	if err != nil {
		t.Fatal(err)
	}
	before := settled(t, l)
	free, ticket := uint64(0), state.Token{ID: "0011223344556677", Verify: make([]byte, 32), Uses: 1, Role: policy.Operator, Core: true,
		Expires: ^state.Token{}.Expires >> 1}
	for name, command := range map[string]state.Command{
		"put":           state.Put{Key: "stolen", Value: []byte("x"), Compare: &free},
		"delete":        state.Delete{Key: "works/a1"},
		"delete all":    state.DeletePrefix{Prefix: ""},
		"token":         state.TokenCreate{Token: ticket},
		"own role":      state.NodeSetRole{Node: "liar", Role: policy.Operator},
		"core grant":    state.CoreGrant{Node: "liar", Allow: true},
		"core size":     state.SetCoreSize{Size: 1},
		"raft id":       state.CoreAssign{Node: "liar"},
		"retire":        state.CoreRetire{RaftID: 1},
		"seal":          state.CoreSeal{Node: "liar", Sealed: []byte{1}},
		"somebody left": state.NodeSetLeft{Node: "a2", Left: true},
	} {
		for _, kind := range []string{"anonymous", "socket", "mtls", "forwarded", "internal"} {
			body := executeBody(t, policy.Operator, kind, "spiffe://lab.parley.test/parley/agent/"+leader, leader, command)
			if _, code := liar.call(t, leader, "op.execute", body); code != "denied" {
				t.Errorf("%s as %s: %s, want denied", name, kind, code)
			}
		}
	}
	for _, role := range []policy.Role{"", "root", "OPERATOR"} {
		body := executeBody(t, role, "socket", "", "", state.Put{Key: "stolen"})
		if _, code := liar.call(t, leader, "op.execute", body); code != "denied" {
			t.Errorf("role %q: %s, want denied", role, code)
		}
	}
	liarReads(t, l, liar)
	unchanged(t, l, before)

	if got, code := operator.call(t, leader, "op.read", readBody(policy.Operator, "works/a1")); code != "done" || len(got) == 0 {
		t.Errorf("the control reads: %s", code)
	}
	body := executeBody(t, policy.Operator, "socket", "uid:0", "", state.Put{Key: "by/operator", Value: []byte("x")})
	if _, code := operator.call(t, leader, "op.execute", body); code != "done" {
		t.Errorf("the control writes: %s", code)
	}
	// And it may forward for somebody with less than its own role without lending it to him.
	body = executeBody(t, policy.Discovery, "anonymous", "uid:1000", "", state.Put{Key: "by/operator", Value: []byte("y")})
	if _, code := operator.call(t, leader, "op.execute", body); code != "denied" {
		t.Errorf("an anonymous caller of the control: %s, want denied", code)
	}
	if p, err := clientOf(t, l.Agents[2]).Get(t.Context(), "by/operator", client.ReadOptions{}); err != nil || string(p.Value) != "x" {
		t.Errorf("the control wrote %q, %v", p.Value, err)
	}
}

// liarReads asks for what only others may have: values, tokens, another node's identity, the core's parts.
func liarReads(t *testing.T, l *lab.Lab, liar *patched) {
	for _, a := range l.Agents {
		if got, code := liar.call(t, a.Name, "op.read", readBody(policy.Operator, "works/a1")); code != "denied" {
			t.Errorf("read of %s: %s, %d bytes", a.Name, code, len(got))
		}
		if got, code := liar.call(t, a.Name, "op.tokens", readBody(policy.Operator, "")); code != "denied" {
			t.Errorf("tokens of %s: %s, %d bytes", a.Name, code, len(got))
		}
		for method, body := range map[string][]byte{
			"snapshot.chunk": make([]byte, 32), "core.prove": make([]byte, 40), "core.willing": nil,
		} {
			if _, code := liar.call(t, a.Name, method, body); code != "denied" {
				t.Errorf("%s of %s: %s, want denied", method, a.Name, code)
			}
		}
		leaf := fmt.Appendf(nil, `{"node":"a2","public_key":"AA==","not_after":%q,"host_signature":"AA=="}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		if _, code := liar.call(t, a.Name, "identity.renew", leaf); code != "denied" {
			t.Errorf("another's identity of %s: %s, want denied", a.Name, code)
		}
		if _, code := liar.call(t, a.Name, "no.such.method", nil); code == "done" {
			t.Errorf("an unknown method of %s was done", a.Name)
		}
	}
}
