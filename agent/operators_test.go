package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/transport"
)

// addOperator makes an operator by way of a1's admin socket.
func addOperator(t *testing.T, a1 *running, name, role string) *client.Identity {
	t.Helper()
	id, err := client.NewIdentity(filepath.Join(t.TempDir(), name), "agent.test", name)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := id.Request()
	if err != nil {
		t.Fatal(err)
	}
	svid, err := a1.AddOperator(t.Context(), csr, role, false)
	if err == nil {
		err = id.Take(svid)
	}
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// overHTTPS is a client of a1 with an identity.
func overHTTPS(t *testing.T, addr string, id *client.Identity) *client.Client {
	t.Helper()
	c, err := client.New("https://"+addr, client.WithTLS(id.TLS()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func denied(err error) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Code == api.CodeDenied
}

// An operator does over https what its role allows, at once also after the role has changed; it renews itself with the
// same key; the log has its name.
func TestOperatorOverHTTPS(t *testing.T) {
	cfg := single(t)
	cfg.HTTPS.Bind = freeAddr(t)
	a1 := start(t, cfg, 0)
	ctx := t.Context()
	eve := addOperator(t, a1, "eve", "local")
	c := overHTTPS(t, cfg.HTTPS.Bind, eve)
	if _, err := c.Put(ctx, "k", []byte("v"), client.PutOptions{}); err != nil {
		t.Fatalf("a write with the role local: %v", err)
	}
	if _, err := c.CreateToken(ctx, client.TokenSpec{}); !denied(err) {
		t.Errorf("a join token with the role local: %v", err)
	}
	csr, err := eve.Request()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.AddOperator(ctx, csr, "operator", true); !denied(err) {
		t.Errorf("eve makes itself an operator: %v", err)
	}
	if _, err := a1.AddOperator(ctx, csr, "operator", true); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateToken(ctx, client.TokenSpec{}); err != nil {
		t.Errorf("a join token with the role operator: %v", err)
	}
	if _, err := a1.AddOperator(ctx, csr, "discovery", true); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(ctx, "k", client.ReadOptions{}); !denied(err) {
		t.Errorf("a read with the role discovery: %v", err)
	}
	before := eve.NotAfter()
	time.Sleep(time.Until(before.Add(-59*time.Minute - 58*time.Second))) // certificates end at whole seconds
	if err := eve.Renew(ctx, c.RenewIdentity); err != nil || !eve.NotAfter().After(before) {
		t.Errorf("renewal: %v, valid until %s after %s", err, eve.NotAfter(), before)
	}
	row, _ := a1.agent.hub.View().Operator("eve")
	if !strings.HasPrefix(row.CreatedBy, "uid:") || !strings.HasSuffix(row.CreatedBy, "@a1") || row.Generation != 3 {
		t.Errorf("row %+v", row)
	}
}

// Who is removed is cut off within a second, over https and on the mesh port, and gets neither another connection nor
// another certificate. The control is an operator beside it, whose connections stay.
func TestRemovedOperatorIsCutOff(t *testing.T) {
	cfg := single(t)
	cfg.HTTPS.Bind = freeAddr(t)
	a1 := start(t, cfg, 0)
	eve, adam := addOperator(t, a1, "eve", "operator"), addOperator(t, a1, "adam", "operator")
	dial := func(addr string, config *tls.Config) (*tls.Conn, error) { return tls.Dial("tcp", addr, config) }
	type opened struct {
		name string
		conn *tls.Conn
	}
	open := func(id *client.Identity) []opened {
		t.Helper()
		var all []opened
		for name, addr := range map[string]string{"http/1.1": cfg.HTTPS.Bind, transport.ALPNRPC: cfg.Mesh.Bind} {
			conn, err := dial(addr, id.TLS(name))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			if name == transport.ALPNRPC {
				greetAsClient(t, conn)
			} else {
				getLive(t, conn)
			}
			all = append(all, opened{name, conn})
		}
		return all
	}
	hers, his := open(eve), open(adam)
	c := overHTTPS(t, cfg.HTTPS.Bind, eve)
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a1.RemoveOperator(t.Context(), "eve"); err != nil {
		t.Fatal(err)
	}
	removed := time.Now()
	for _, o := range hers {
		_ = o.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err := io.Copy(io.Discard, o.conn) // pings of the RPC server, until the end
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s is open for 10 s after the removal", o.name)
		}
	}
	if took := time.Since(removed); took > 5*time.Second { // a second, and room for a loaded machine
		t.Errorf("cut off after %s", took)
	}
	for _, o := range his {
		_ = o.conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, err := io.Copy(io.Discard, o.conn)
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("control: adam's %s ended: %v", o.name, err)
		}
	}
	if _, err := c.Status(t.Context()); err == nil {
		t.Error("eve is served after her removal")
	}
	if err := eve.Renew(t.Context(), a1.RenewIdentity); !denied(err) {
		t.Errorf("renewal: %v", err)
	}
	if conn, err := dial(cfg.Mesh.Bind, eve.TLS(transport.ALPNRPC)); err == nil {
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the mesh port takes her certificate")
		}
		_ = conn.Close()
	}
}

// getLive asks over an open connection, so that the handshake is over at the other end.
func getLive(t *testing.T, conn *tls.Conn) {
	t.Helper()
	if _, err := io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: a1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 15)
	if _, err := io.ReadFull(conn, head); err != nil || string(head) != "HTTP/1.1 200 OK" {
		t.Fatalf("%q, %v", head, err)
	}
}

// greetAsClient says that this end lives in no epoch.
func greetAsClient(t *testing.T, conn net.Conn) {
	t.Helper()
	hello := make([]byte, greetBytes)
	hello[0] = greetVersion
	if _, err := conn.Write(hello); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, hello); err != nil {
		t.Fatal(err)
	}
}

// agentMethods are what agents ask of each other. The test below fails when one of them is new and not here.
var agentMethods = []string{
	methodChunk, methodApply, methodProve, methodWilling, methodStanding, methodAccept, methodSums, methodRows, methodDigest, methodRenew,
	methodJoin, methodLeave, methodEntries, methodGone, methodPing, methodLinks, methodLinksVia, methodRekey, methodChunkVia,
	methodCoreStatus, methodScrub, methodLatest, methodRoom, methodPace, methodWorkload, methodToken, methodReseal,
}

// No method of the agents is an operator's, whatever its role: each is refused before its handler runs. The control is
// an agent, whose call arrives.
func TestAgentMethodsAreForAgents(t *testing.T) {
	a1 := start(t, single(t), 0)
	eve := addOperator(t, a1, "eve", "operator")
	pool := transport.NewPool(transport.PoolOptions{Dial: func(ctx context.Context, _ string) (net.Conn, error) {
		conn, err := (&tls.Dialer{Config: eve.TLS(transport.ALPNRPC)}).DialContext(ctx, "tcp", a1.agent.cfg.Mesh.Bind)
		if err == nil {
			greetAsClient(t, conn)
		}
		return conn, err
	}})
	defer pool.Close()
	for _, method := range append(agentMethods, a1.agent.service.Methods()...) {
		_, err := pool.Call(t.Context(), "a1", method, nil)
		var refused *transport.Error
		if !errors.As(err, &refused) || refused.Code != api.CodeDenied || refused.Message != "this method is for agents" {
			t.Errorf("%s: %v", method, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := pool.Stream(ctx, "a1", methodStream, make([]byte, 8), func([]byte) error { return nil })
	var refused *transport.Error
	if !errors.As(err, &refused) || refused.Code != api.CodeDenied {
		t.Errorf("%s: %v", methodStream, err)
	}
	server := transport.NewServer(transport.ServerOptions{})
	a1.agent.registerRPC(server)
	for _, method := range append(agentMethods, append(a1.agent.service.Methods(), methodStream)...) {
		if !panics(func() {
			server.Handle(method, func(context.Context, transport.Peer, []byte) ([]byte, error) { return nil, nil })
		}) {
			t.Errorf("%s is no method that is registered", method)
		}
	}
	if err := notAgent(transport.Peer{ID: a1.agent.source.ID(), Node: "a1"}); err != nil {
		t.Errorf("control: %v", err)
	}
}

func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}

// An operator that speaks of epochs is not listened to: nothing is learned, nobody is told of a split.
func TestOperatorHasNoWordOnEpochs(t *testing.T) {
	a1 := start(t, single(t), 0)
	eve := addOperator(t, a1, "eve", "discovery")
	for name, counter := range map[string]byte{"control": 0, "a newer epoch": 9} {
		conn, err := tls.Dial("tcp", a1.agent.cfg.Mesh.Bind, eve.TLS(transport.ALPNRPC))
		if err != nil {
			t.Fatal(err)
		}
		hello := make([]byte, greetBytes)
		hello[0], hello[8] = greetVersion, counter
		if _, err := conn.Write(append(hello, make([]byte, 64)...)); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, err = io.ReadFull(conn, hello)
		if err != nil {
			t.Errorf("%s: the agent does not greet: %v", name, err)
		}
		if counter != 0 {
			_, _ = io.Copy(io.Discard, conn) // until the agent has closed it, and has said of it what it says
		}
		_ = conn.Close()
	}
	if e := a1.agent.epochs.current(); e.Counter != 1 {
		t.Errorf("epoch %d", e.Counter)
	}
	if odds := a1.agent.epochs.odds(); odds != "" {
		t.Errorf("told of %s", odds)
	}
}

// An operator has so many connections to the mesh port and no more; who closes one may open another.
func TestOperatorConnectionsAreBounded(t *testing.T) {
	var c operatorConns
	for i := range maxOperatorConns + 1 {
		if ok := c.enter("eve"); ok != (i < maxOperatorConns) {
			t.Errorf("connection %d: %v", i, ok)
		}
	}
	c.leave("eve")
	if !c.enter("eve") || !c.enter("adam") {
		t.Error("there is room")
	}
	c = operatorConns{}
	for i := range maxAllOperatorConns + 1 {
		if ok := c.enter(string(rune('a' + i/maxOperatorConns))); ok != (i < maxAllOperatorConns) {
			t.Errorf("connection %d of all: %v", i, ok)
		}
	}
	for i := range maxAllOperatorConns {
		c.leave(string(rune('a' + i/maxOperatorConns)))
	}
	if len(c.mu.open) != 0 || c.mu.total != 0 {
		t.Errorf("left: %v, %d", c.mu.open, c.mu.total)
	}
}

// Over https an operator has as many connections and no more: one more is told so, and its request is not carried out. Who
// closes one may open another, and an agent's are not counted.
func TestOperatorHTTPSConnectionsAreBounded(t *testing.T) {
	cfg := single(t)
	cfg.HTTPS.Bind = freeAddr(t)
	a1 := start(t, cfg, 0)
	eve := addOperator(t, a1, "eve", "local")
	dial := func(config *tls.Config) *tls.Conn {
		t.Helper()
		config = config.Clone()
		config.NextProtos = []string{"http/1.1"}
		conn, err := tls.Dial("tcp", cfg.HTTPS.Bind, config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	put := func(conn *tls.Conn, key string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://a1/parley/v1/kv/"+key, strings.NewReader("v"))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Write(conn); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(text)
	}
	var open []*tls.Conn
	for range maxOperatorConns {
		open = append(open, dial(eve.TLS()))
		if code, text := put(open[len(open)-1], "in"); code != http.StatusOK {
			t.Fatalf("connection %d: %d %s", len(open), code, text)
		}
	}
	over := dial(eve.TLS())
	if code, text := put(over, "over"); code != http.StatusTooManyRequests || !strings.Contains(text, api.CodeTooMany) {
		t.Errorf("one more: %d %s", code, text)
	}
	if n, err := over.Read(make([]byte, 1)); err == nil {
		t.Errorf("one more stays open: %d bytes", n)
	}
	if row, there := a1.agent.hub.View().Get("over"); there {
		t.Errorf("its request was carried out: %+v", row)
	}
	if code, text := put(dial(a1.agent.source.ClientTLS("", "http/1.1")), "agent"); code != http.StatusOK {
		t.Errorf("control, the agent's own: %d %s", code, text)
	}
	_ = open[0].Close()
	deadline := time.Now().Add(10 * time.Second)
	for code := 0; code != http.StatusOK; {
		if code, _ = put(dial(eve.TLS()), "again"); time.Now().After(deadline) {
			t.Fatalf("after one was closed: %d", code)
		}
	}
}

// The role of a peer is that of the applied state: of an agent, of an operator, and of nobody else.
func TestCallerOf(t *testing.T) {
	a1 := start(t, single(t), 0)
	eve := addOperator(t, a1, "eve", "local")
	self := a1.agent.source.ID()
	for name, test := range map[string]struct {
		peer transport.Peer
		role policy.Role
	}{
		"an agent":           {transport.Peer{ID: self, Node: "a1"}, policy.Operator},
		"an unknown agent":   {transport.Peer{ID: self, Node: "a9"}, policy.None},
		"an operator":        {transport.Peer{ID: self, Operator: "eve"}, policy.Local},
		"an unknown one":     {transport.Peer{ID: self, Operator: "adam"}, policy.None},
		"a joiner":           {transport.Peer{}, policy.None},
		"an agent's name":    {transport.Peer{ID: self, Operator: "a1"}, policy.None},
		"an operator's name": {transport.Peer{ID: self, Node: "eve"}, policy.None},
	} {
		if role, _, err := a1.agent.callerOf(test.peer); role != test.role || err != nil && role != policy.None {
			t.Errorf("%s: %s, %v", name, role, err)
		}
	}
	if _, err := a1.agent.service.Execute(t.Context(), api.Internal("a1"), state.OperatorRemove{Name: eve.Name()}); err != nil {
		t.Fatal(err)
	}
	if role, _, err := a1.agent.callerOf(transport.Peer{ID: self, Operator: "eve"}); role != policy.None || err == nil {
		t.Errorf("after the removal: %s, %v", role, err)
	}
	resp, err := http.Get("http://" + a1.agent.cfg.HTTP.Bind + "/parley/v1/operators")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("operators are listed for everybody: %v", resp.Status)
	}
}
