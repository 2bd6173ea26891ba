package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/workload"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/transport"
)

// TestDeniedOperator: who is denied is cut off within a second, over https and on the mesh port, gets neither another connection
// nor another certificate, and all of it again when let in. The control is an operator beside it.
func TestDeniedOperator(t *testing.T) {
	cfg := single(t)
	cfg.HTTPS.Bind = freeAddr(t)
	a1 := start(t, cfg, 0)
	eve, adam := addOperator(t, a1, "eve", "operator"), addOperator(t, a1, "adam", "operator")
	connect := func(id *client.Identity) []<-chan struct{} {
		conn, err := tls.Dial("tcp", cfg.HTTPS.Bind, id.TLS("http/1.1"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		getLive(t, conn)
		return []<-chan struct{}{endOf(conn), endOf(greetedBy(t, cfg.Mesh.Bind, id))}
	}
	hers, his := connect(eve), connect(adam)
	if d, err := a1.SetDeny(t.Context(), "/parley/operator/eve", time.Hour, "a test"); err != nil || d.Kind != "id" || d.Until.IsZero() || d.Reason != "a test" {
		t.Fatalf("%+v, %v", d, err)
	}
	began := clock.Boottime()
	for _, c := range hers {
		closed(t, "a connection of eve", c)
	}
	if took := clock.Boottime() - began; took > time.Second {
		t.Errorf("it took %s to cut eve off", took)
	}
	for _, c := range his {
		open(t, "a connection of adam", c)
	}
	for name, addr := range map[string]string{"http/1.1": cfg.HTTPS.Bind, transport.ALPNRPC: cfg.Mesh.Bind} {
		if err := refusedTLS(addr, eve.TLS(name)); err == nil {
			t.Errorf("eve gets another connection for %s", name)
		}
		if err := refusedTLS(addr, adam.TLS(name)); err != nil {
			t.Errorf("control: adam does not: %v", err)
		}
	}
	if err := eve.Renew(t.Context(), a1.RenewIdentity); !denied(err) || !strings.Contains(err.Error(), "is denied") {
		t.Errorf("another certificate: %v", err)
	}
	list, err := a1.Denies(t.Context())
	if err != nil || len(list) != 1 || list[0].Subject != "spiffe://agent.test/parley/operator/eve" {
		t.Errorf("%+v, %v", list, err)
	}
	if err := a1.RemoveDeny(t.Context(), list[0].Subject); err != nil {
		t.Fatal(err)
	}
	if err := eve.Renew(t.Context(), a1.RenewIdentity); err != nil {
		t.Errorf("let in again: %v", err)
	}
	connect(eve)

	// One certificate is denied, and the next one counts.
	cert, err := eve.TLS().GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	serial := fmt.Sprintf("%X", cert.Leaf.SerialNumber)
	colons := serial[:2]
	for i := 2; i < len(serial); i += 2 {
		colons += ":" + serial[i:i+2]
	}
	if d, err := a1.SetDeny(t.Context(), colons, 0, ""); err != nil || d.Kind != "serial" || time.Until(d.Until) < 6*time.Hour {
		t.Fatalf("%+v, %v", d, err)
	}
	if err := refusedTLS(cfg.HTTPS.Bind, eve.TLS("http/1.1")); err == nil {
		t.Error("a denied certificate counts")
	}
	if err := eve.Renew(t.Context(), a1.RenewIdentity); err != nil {
		t.Fatal(err)
	}
	if err := refusedTLS(cfg.HTTPS.Bind, eve.TLS("http/1.1")); err != nil {
		t.Errorf("the next certificate: %v", err)
	}
	for what, says := range map[string]string{
		"/parley/agent/a1": "parley evict a1", "spiffe://other.test/svc/web": "trust domain", "web": "no SPIFFE ID", "4a4a": "the serial",
	} {
		if _, err := a1.SetDeny(t.Context(), what, 0, ""); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", what, err, says)
		}
	}
}

// refusedTLS is why a handshake fails, as the first answer that does not come tells: in TLS 1.3 a client's own handshake ends before
// the server has judged.
func refusedTLS(addr string, config *tls.Config) error {
	conn, err := tls.Dial("tcp", addr, config)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // it is over
	if err := conn.SetDeadline(clock.System().Add(300 * time.Millisecond)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return nil // it waits for us
	}
	return err
}

// TestDeniedCertificateOfAnAgent: an agent whose certificate is denied is refused by all within a second, and comes back with another
// one, by the key of its host. So does a member of the core.
func TestDeniedCertificateOfAnAgent(t *testing.T) {
	t.Parallel()
	agents := startCluster(t, 0, 0, 0, 0)
	a1 := agents[0]
	for _, out := range []*running{agents[3], agents[2]} {
		serial := out.agent.source.Leaf().SerialNumber
		ask := func(r *running) error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := out.agent.pool.Call(ctx, r.name, methodPing, nil)
			var answered *transport.Error
			if errors.As(err, &answered) && answered.Code == "invalid" {
				return nil // it came through
			}
			return err
		}
		if err := ask(agents[1]); err != nil {
			t.Fatalf("control: before, %v", err)
		}
		var held []<-chan struct{}
		for _, r := range agents[:2] {
			conn, err := out.agent.dialMesh(t.Context(), r.name, transport.ALPNRPC, r.agent.cfg.Mesh.Bind)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			held = append(held, endOf(conn))
		}
		if _, err := a1.SetDeny(t.Context(), fmt.Sprintf("%x", serial), 0, ""); err != nil {
			t.Fatal(err)
		}
		began, renewed := clock.Boottime(), false
		for _, ended := range held {
			closed(t, "a connection of "+out.name, ended)
		}
		if took := clock.Boottime() - began; took > time.Second {
			t.Errorf("it took %s to cut %s off", took, out.name)
		}
		within(t, "nobody answers it", func(context.Context) error {
			if renewed = out.agent.source.Leaf().SerialNumber.Cmp(serial) != 0; renewed {
				return nil // it is too late to see
			}
			for _, r := range agents[:2] {
				if ask(r) == nil {
					return fmt.Errorf("%s does", r.name)
				}
			}
			return nil
		})
		within(t, "it comes back with another certificate", func(context.Context) error {
			if out.agent.source.Leaf().SerialNumber.Cmp(serial) == 0 {
				return errors.New("it has the denied one")
			}
			return errors.Join(ask(agents[0]), ask(agents[1]))
		})
		t.Logf("%s is back after %s", out.name, clock.Boottime()-began)
	}
}

// TestDeniedProgram: a denied identity is given to nobody, whoever waits is told, and it is explained; it is given again when the
// denial is removed or ends. Where the certificate alone is denied, there is another one, for another key.
func TestDeniedProgram(t *testing.T) {
	g := newIdentityRig(t)
	web := state.DenySet{Kind: state.DenyID, Subject: "spiffe://agent.test/svc/web", Reason: "leaked"}
	selectors := []workload.Selector{"uid:1"}
	g.apply(state.EntrySet{Entry: testEntryOf("web", "uid:1")}, state.EntrySet{Entry: testEntryOf("db", "gid:9", "uid:1")})
	get := func(want error) *workload.Identity {
		t.Helper()
		all, _, err := g.Identities(t.Context(), selectors)
		if !errors.Is(err, want) {
			t.Fatalf("%v, want %v", err, want)
		}
		if want != nil {
			return nil
		}
		return &all[0]
	}
	first := get(nil)
	_, changed, _ := g.Identities(t.Context(), selectors)
	g.apply(web)
	closed(t, "a denial", changed)
	get(workload.ErrDenied)
	if _, err := g.MintJWT(t.Context(), selectors, first.ID, []string{"x"}); !errors.Is(err, workload.ErrDenied) {
		t.Errorf("a token: %v", err)
	}
	if len(g.inUse()) != 0 {
		t.Error("it is held")
	}
	if all, _, err := g.Identities(t.Context(), []workload.Selector{"uid:1", "gid:9"}); err != nil || len(all) != 1 || all[0].ID.Path() != "/svc/db" {
		t.Errorf("another identity of the same program: %v, %v", pathsOf(all), err)
	}
	near := nearEntries(g.hub.View(), "a1", []string{"uid:1"}, g.denials.idUntil)
	if len(near) != 2 || !strings.Contains(near[1].lines[0]+near[0].lines[0], "its identity is denied, by test at ") || !strings.Contains(near[1].lines[0]+near[0].lines[0], ": leaked") {
		t.Errorf("explained as %+v", near)
	}
	g.apply(state.DenyRemove{Kind: state.DenyID, Subject: web.Subject})
	second := get(nil)

	_, changed, _ = g.Identities(t.Context(), selectors)
	g.apply(state.DenySet{Kind: state.DenySerial, Subject: fmt.Sprintf("%x", second.Chain[0].SerialNumber), Seconds: 60})
	closed(t, "the denial of a certificate", changed)
	if third := get(nil); third.Chain[0].SerialNumber.Cmp(second.Chain[0].SerialNumber) == 0 || third.Key.Public().(*ecdsa.PublicKey).Equal(second.Key.Public()) {
		t.Error("the certificate or its key is the denied one")
	}

	web.Seconds = 60
	g.apply(web)
	get(workload.ErrDenied)
	g.offset.Store(int64(2 * time.Minute))
	get(nil)
}

// TestDeniedProgramIsNotCertified: a member of the core signs nothing for a denied identity, whatever an agent makes of it.
func TestDeniedProgramIsNotCertified(t *testing.T) {
	a1 := start(t, single(t), 0)
	if _, err := a1.SetEntry(t.Context(), client.EntrySpec{Name: "web", Selectors: []string{"uid:1"}}); err != nil {
		t.Fatal(err)
	}
	entry := func() error {
		_, _, err := a1.agent.workloads.entry("a1", "web")
		return err
	}
	if err := entry(); err != nil {
		t.Fatalf("control: %v", err)
	}
	if _, err := a1.SetDeny(t.Context(), "/svc/web", 0, ""); err != nil {
		t.Fatal(err)
	}
	var refused *transport.Error
	if err := entry(); !errors.As(err, &refused) || refused.Code != "denied" || !strings.Contains(refused.Message, "is denied") {
		t.Errorf("%v", err)
	}
}
