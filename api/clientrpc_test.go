package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/api/wire"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/transport"
)

// rpcAgent serves the clients of an agent on a port of its own. The common name of a client's certificate is its name and,
// before a colon, its role.
type rpcAgent struct {
	addr  string
	conns sync.WaitGroup
	sent  atomic.Int64 // writes to the network
	mu    sync.Mutex
	roles map[string]policy.Role // in place of the certificate's
}

// fakeCertificate is self-signed: the tests' server believes it.
func fakeCertificate(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// unanswered is a call as the agent hands it over.
type unanswered struct{ *transport.Begun }

func (u unanswered) GoOn(rest func(ctx context.Context) []byte) {
	u.Begun.GoOn(func(ctx context.Context, _ transport.Peer, _ []byte) ([]byte, error) { return rest(ctx), nil })
}

// sentListener counts what its connections write below TLS.
type sentListener struct {
	net.Listener
	writes *atomic.Int64
}

func (l sentListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return sentConn{conn, l.writes}, err
}

type sentConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c sentConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// serveRPC is what the agent does with a connection, in small.
func serveRPC(t testing.TB, a *fakeAgent) *rpcAgent {
	t.Helper()
	out := &rpcAgent{roles: map[string]policy.Role{}}
	server := transport.NewServer(transport.ServerOptions{})
	identify := func(p transport.Peer) (Caller, error) {
		out.mu.Lock()
		defer out.mu.Unlock()
		role, name := policy.Operator, p.Node
		if changed, ok := out.roles[name]; ok {
			role = changed
		}
		return Caller{Role: role, Name: name, Kind: KindMTLS}, nil
	}
	answer := a.service.ClientHandler()
	for _, method := range ClientMethods() {
		handle := func(ctx context.Context, p transport.Peer, body []byte) ([]byte, error) {
			caller, _ := identify(p)
			return answer(ctx, caller, method, body), nil
		}
		if method != wire.MethodPut {
			server.HandleWithin(a.service.ClientLimit(method), method, handle)
			continue
		}
		server.HandleBegun(a.service.ClientLimit(method), method, func(ctx context.Context, p transport.Peer, body []byte, call *transport.Begun) func(error) {
			caller, _ := identify(p)
			return a.service.BeginPut(ctx, caller, body, unanswered{call})
		}, handle)
	}
	server.HandleStream(wire.MethodWatch, func(ctx context.Context, p transport.Peer, _ []byte, send func([]byte) error) error {
		err := a.service.ServeWatches(ctx, func() (Caller, error) { return identify(p) }, send)
		var known *Error
		if errors.As(err, &known) {
			return &transport.Error{Code: known.Code, Message: known.Message, Hint: known.Hint}
		}
		return err
	})
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := tls.NewListener(sentListener{plain, &out.sent}, &tls.Config{
		Certificates: []tls.Certificate{fakeCertificate(t, "agent")}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{transport.ALPNRPC},
	})
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); _ = l.Close(); out.conns.Wait() })
	out.addr = l.Addr().String()
	out.conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			out.conns.Go(func() {
				hello := make([]byte, 25)
				if _, err := io.ReadFull(conn, hello); err != nil {
					return
				}
				if _, err := conn.Write(append([]byte{1}, make([]byte, 24)...)); err != nil {
					return
				}
				name := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
				server.ServeConn(ctx, conn, transport.Peer{Node: name})
			})
		}
	})
	return out
}

func (r *rpcAgent) client(t testing.TB, name string, options ...client.Option) *client.Client {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{fakeCertificate(t, name)}, InsecureSkipVerify: true} //nolint:gosec // a test of what is said, not of who says it
	c, err := client.New("rpc://"+r.addr, append(options, client.WithTLS(config))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (r *rpcAgent) setRole(name string, role policy.Role) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.roles[name] = role
}

// The roles that may use a method over RPC are those that may use its endpoint over HTTP, and the test knows every method.
func TestRoleByClientMethod(t *testing.T) {
	ctx := t.Context()
	calls := map[string]func(*client.Client) error{
		wire.MethodGet:    func(c *client.Client) error { _, err := c.Get(ctx, "k", client.ReadOptions{}); return err },
		wire.MethodPut:    func(c *client.Client) error { _, err := c.Put(ctx, "p", nil, client.PutOptions{}); return err },
		wire.MethodDelete: func(c *client.Client) error { _, err := c.DeletePrefix(ctx, "p"); return err },
		wire.MethodCall:   func(c *client.Client) error { _, err := c.Txn(ctx, client.Txn{}); return err },
		wire.MethodWatchAdd: func(c *client.Client) error {
			w, err := c.OpenWatches(ctx, func(client.Notice) {})
			if err == nil {
				defer w.Close()
				err = w.Add(ctx, client.Subscription{ID: 1, Key: "k"})
			}
			return err
		},
		wire.MethodWatchRemove: func(c *client.Client) error {
			w, err := c.OpenWatches(ctx, func(client.Notice) {})
			if err == nil {
				defer w.Close()
				err = w.Remove(ctx, 1)
			}
			return err
		},
	}
	for _, role := range policy.Roles() {
		fake := newFake(t, 1, 1)
		fake.furnish(t)
		agent := serveRPC(t, fake.agents["a1"])
		agent.setRole("x", role)
		c := agent.client(t, "x")
		for _, method := range ClientMethods() {
			if calls[method] == nil {
				t.Fatalf("%s is not in this test", method)
			}
			action := clientMethods[method].action
			if method == wire.MethodCall {
				action = policy.Txn
			}
			err := calls[method](c)
			if policy.Allowed(role, action) && err != nil || !policy.Allowed(role, action) && !hasCode(err, CodeDenied) {
				t.Errorf("%s as %q: %v", method, role, err)
			}
		}
	}
}

// What the client of HTTP sees, the client of RPC sees: values, revisions, errors with code, status, hint and exit code.
func TestRPCAnswersAsHTTPDoes(t *testing.T) {
	fake := newFake(t, 2, 1)
	fake.agents["a2"].role = policy.Operator // what it may forward
	for _, name := range []string{"a1", "a2"} {
		over, http := serveRPC(t, fake.agents[name]).client(t, "x"), newClient(t, fake.agents[name])
		ctx := t.Context()
		zero := uint64(0)
		for what, do := range map[string]func(c *client.Client) (any, error){
			"missing": func(c *client.Client) (any, error) { return c.Get(ctx, "none", client.ReadOptions{}) },
			"no key":  func(c *client.Client) (any, error) { return c.Get(ctx, "", client.ReadOptions{}) },
			"bad key": func(c *client.Client) (any, error) { return c.Put(ctx, "k\xff", nil, client.PutOptions{}) },
			"large": func(c *client.Client) (any, error) {
				return c.Put(ctx, "k", make([]byte, 600<<10), client.PutOptions{})
			},
			"conflict": func(c *client.Client) (any, error) { return c.Put(ctx, "there", nil, client.PutOptions{CAS: &zero}) },
			"session": func(c *client.Client) (any, error) {
				return c.Put(ctx, "k", nil, client.PutOptions{Session: "s", CAS: &zero})
			},
			"empty":     func(c *client.Client) (any, error) { return c.List(ctx, "none", client.ListOptions{}) },
			"list":      func(c *client.Client) (any, error) { return c.List(ctx, "", client.ListOptions{Limit: 1}) },
			"keys":      func(c *client.Client) (any, error) { return c.Keys(ctx, "", client.ListOptions{}) },
			"limit":     func(c *client.Client) (any, error) { return c.List(ctx, "", client.ListOptions{Limit: -1}) },
			"get":       func(c *client.Client) (any, error) { return c.Get(ctx, "there", client.ReadOptions{Stale: true}) },
			"not there": func(c *client.Client) (any, error) { return c.Delete(ctx, "none", client.DeleteOptions{}) },
			"members":   func(c *client.Client) (any, error) { return c.Members(ctx) },
		} {
			fake.put("there", "v")
			a, errA := do(over)
			b, errB := do(http)
			if fmt.Sprintf("%+v", a) != fmt.Sprintf("%+v", b) {
				t.Errorf("%s on %s: %+v over rpc, %+v over http", what, name, a, b)
			}
			var fa, fb *client.Error
			if errors.As(errA, &fa) != errors.As(errB, &fb) || fa != nil && (fa.Code != fb.Code || fa.Status != fb.Status || fa.ExitCode() != fb.ExitCode() || fa.Hint != fb.Hint) {
				t.Errorf("%s on %s: %#v over rpc, %#v over http", what, name, errA, errB)
			}
		}
	}
	reader := serveRPC(t, fake.agents["a1"]).client(t, "x", client.ReadOnly())
	if _, err := reader.Put(t.Context(), "k", nil, client.PutOptions{}); !hasCode(err, CodeDenied) {
		t.Errorf("a client that reads only put: %v", err)
	}
	if err := reader.SaveSnapshot(t.Context(), false, io.Discard); !hasCode(err, CodeUnsupported) {
		t.Errorf("a backup over rpc: %v", err)
	}
}

// One identity has so many requests open and no more, and is told when to come back; the others are not touched.
func TestClientLimits(t *testing.T) {
	fake := newFake(t, 1, 1)
	a := fake.agents["a1"]
	o := a.options()
	o.Concurrent, o.Watches, o.OpTimeout = 2, 3, 10*time.Second
	a.service = New(o)
	agent := serveRPC(t, a)
	c := agent.client(t, "x")
	fake.put("k", "v")
	w, err := c.OpenWatches(t.Context(), func(client.Notice) {})
	if err != nil {
		t.Fatal(err)
	}
	four := []client.Subscription{{ID: 1, Key: "a"}, {ID: 2, Key: "a"}, {ID: 3, Key: "a"}, {ID: 4, Key: "a"}}
	if err := w.Add(t.Context(), four...); !hasCode(err, CodeTooMany) {
		t.Errorf("four watches of three: %v", err)
	}
	if err := w.Add(t.Context(), four[:3]...); err != nil {
		t.Errorf("all or none: %v", err)
	}
	if err := w.Add(t.Context(), four[0]); !hasCode(err, CodeTooMany) {
		t.Errorf("one more: %v", err)
	}
	if err := w.Remove(t.Context(), 1, 9); err != nil {
		t.Error(err)
	}
	if err := w.Add(t.Context(), four[1]); !hasCode(err, CodeExists) {
		t.Errorf("an id twice: %v", err)
	}
	second, err := c.OpenWatches(t.Context(), func(client.Notice) {})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Get(t.Context(), "k", client.ReadOptions{})
	var failed *client.Error
	if !errors.As(err, &failed) || failed.Code != CodeTooMany || failed.RetryAfter <= 0 || failed.Status != 429 {
		t.Errorf("a third request: %#v", err)
	}
	_, err = c.Members(t.Context()) // goes through an endpoint of HTTP
	if !errors.As(err, &failed) || failed.Code != CodeTooMany || failed.RetryAfter <= 0 || failed.Status != 429 {
		t.Errorf("a third request to an endpoint: %#v", err)
	}
	if _, err := c.OpenWatches(t.Context(), func(client.Notice) {}); !hasCode(err, CodeTooMany) {
		t.Errorf("a third stream: %v", err)
	}
	if _, err := agent.client(t, "y").Get(t.Context(), "k", client.ReadOptions{}); err != nil {
		t.Errorf("another caller: %v", err)
	}
	second.Close()
	w.Close()
	waitUntil(t, "the places are free again", func() bool {
		_, err := c.Get(t.Context(), "k", client.ReadOptions{})
		return err == nil
	})
}

func waitUntil(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
	}
}

// A stream tells what is there, what changes and what goes, of the keys and prefixes that it was given, resumes behind a
// revision, and ends when the caller's right does.
func TestWatchesOverRPC(t *testing.T) {
	fake := newFake(t, 1, 1)
	agent := serveRPC(t, fake.agents["a1"])
	c, other := agent.client(t, "x"), agent.client(t, "y")
	notices := make(chan client.Notice, 64)
	w, err := c.OpenWatches(t.Context(), func(n client.Notice) { notices <- n })
	if err != nil {
		t.Fatal(err)
	}
	next := func() string {
		t.Helper()
		select {
		case n := <-notices:
			value := "-"
			if n.Pair != nil {
				value = string(n.Pair.Value)
			}
			return fmt.Sprint(n.ID, " ", value, " ", n.Gone)
		case <-time.After(20 * time.Second):
			t.Fatal("no notice")
			return ""
		}
	}
	revision := fake.put("web/1", "one")
	if err := w.Add(t.Context(), client.Subscription{ID: 1, Key: "web/1", Values: true}, client.Subscription{ID: 2, Key: "web/", Prefix: true, After: revision}); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "1 one false" {
		t.Errorf("how it is: %s", got)
	}
	both := func() []string {
		got := []string{next(), next()}
		slices.Sort(got)
		return got
	}
	fake.put("web/1", "two")
	if got := both(); !slices.Equal(got, []string{"1 two false", "2 - false"}) {
		t.Errorf("a change: %q", got)
	}
	if _, err := c.Delete(t.Context(), "web/1", client.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := both(); !slices.Equal(got, []string{"1 - true", "2 - false"}) {
		t.Errorf("a delete: %q", got)
	}
	if err := w.Remove(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	fake.put("web/2", "v")
	fake.put("web/1", "three")
	if got := next(); got != "1 three false" {
		t.Errorf("after the prefix was removed: %s", got)
	}
	if err := w.Add(t.Context(), client.Subscription{ID: 3, Key: "web/1", After: revision}); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "3 - false" {
		t.Errorf("resumed behind a revision: %s", got)
	}
	if _, err := other.OpenWatches(t.Context(), func(client.Notice) {}); err != nil {
		t.Errorf("another caller: %v", err)
	}
	agent.setRole("x", policy.Discovery)
	fake.put("web/1", "secret")
	select {
	case <-w.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the stream goes on without the right")
	}
	if !hasCode(w.Err(), CodeDenied) || len(notices) > 0 {
		t.Errorf("it ended with %v, and told %d things more", w.Err(), len(notices))
	}
}

// Client.Watch reports the same over RPC as over HTTP, also on an agent that holds no keys.
func TestWatchOverRPC(t *testing.T) {
	fake := newFake(t, 2, 1)
	fake.agents["a2"].role = policy.Operator // what it may forward
	for _, name := range []string{"a1", "a2"} {
		c := serveRPC(t, fake.agents[name]).client(t, "x")
		fake.put("w/1", "v")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		var got []string
		stop := errors.New("enough")
		err := c.Watch(ctx, "w/", true, func(e client.Event) error {
			got = append(got, e.Type+" "+e.Key)
			switch len(got) {
			case 2:
				go fake.put("w/2", "v")
			case 3:
				go func() { _, _ = c.DeletePrefix(ctx, "w/1") }()
			case 4:
				return stop
			}
			return nil
		})
		cancel()
		if want := []string{"put w/1", "ready ", "put w/2", "delete w/1"}; !errors.Is(err, stop) || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
		_, _ = c.DeletePrefix(t.Context(), "w/")
	}
}

// Subscriptions that take more than one request are begun all or none too: those of the first request are taken back when
// there is no room for the second.
func TestManyWatchesAllOrNone(t *testing.T) {
	fake := newFake(t, 1, 1)
	c := serveRPC(t, fake.agents["a1"]).client(t, "x")
	w, err := c.OpenWatches(t.Context(), func(client.Notice) {})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	subs := make([]client.Subscription, maxWatches+1)
	for i := range subs {
		subs[i] = client.Subscription{ID: uint64(i), Key: "k"} //nolint:gosec // small
	}
	if err := w.Add(t.Context(), subs...); !hasCode(err, CodeTooMany) {
		t.Fatalf("one watch too many: %v", err)
	}
	if err := w.Add(t.Context(), subs[:maxWatches]...); err != nil {
		t.Errorf("as many as there may be, after that: %v", err)
	}
}
