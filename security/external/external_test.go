package external_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/external"
	"github.com/parley-mesh/parley/security/external/externaltest"
	"github.com/parley-mesh/parley/transport"
)

var testTD = spiffeid.RequireTrustDomainFromString("outside.test")

func agentID(t *testing.T, node string) spiffeid.ID {
	t.Helper()
	id, err := security.AgentID(testTD, node)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newFeed(t *testing.T, addr, node string) *external.Feed {
	t.Helper()
	f, err := external.New(t.Context(), external.Options{Addr: addr, ID: agentID(t, node)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// member is an agent of a cluster whose applied state is bindings: a node's name and its host key.
type member struct {
	*security.Source
	host   *security.Host
	server *externaltest.Server
	feed   *external.Feed
}

type cluster struct {
	authority *externaltest.Authority
	bindings  map[string][]byte
	denied    string
}

func (c *cluster) member(t *testing.T, node string) *member {
	t.Helper()
	m := &member{server: c.authority.Serve(agentID(t, node).String())}
	m.feed = newFeed(t, m.server.Addr, node)
	first, err := m.feed.First(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	genesis, err := security.InitIdentity(dir, testTD, node, security.InitKeys{External: true}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m.host = genesis.Host
	m.Source, err = security.NewSource(security.SourceOptions{
		Dir: dir, TrustDomain: testTD, Node: node, Host: m.host, Now: time.Now, External: first,
		HostKeyOf: func(node string) ([]byte, bool) { key, ok := c.bindings[node]; return key, ok },
		Denied:    func(id spiffeid.ID) bool { return id.Path() == "/parley/agent/"+c.denied },
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *member) follow(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.feed.Run(ctx, m.Source)
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// connected are the two ends of a TCP connection, for a short while.
func connected(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // a test's
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{a, b} {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { _ = c.Close() })
	}
	return a, b
}

// shake opens a connection from one agent to another, and returns what either says of it.
func shake(t *testing.T, from, to *member, node string) (cs tls.ConnectionState, client, server error) {
	t.Helper()
	a, b := connected(t)
	ended := make(chan error, 1)
	accepted := tls.Server(b, to.ServerTLS(transport.ALPNRPC))
	go func() {
		err := accepted.HandshakeContext(t.Context())
		if err != nil {
			_ = b.Close()
		}
		ended <- err
	}()
	dialled := tls.Client(a, from.ClientTLS(node, transport.ALPNRPC))
	if client = dialled.HandshakeContext(t.Context()); client != nil {
		_ = a.Close()
	}
	server = <-ended
	return accepted.ConnectionState(), client, server
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// Two agents with certificates of another authority know each other, by name and by host, and each refuses a name that came
// with another host, one that was evicted, and an agent of another authority for the same trust domain.
func TestAgentsOfAnotherAuthority(t *testing.T) {
	c := &cluster{authority: externaltest.New(t, testTD.Name()), bindings: map[string][]byte{}}
	one, two := c.member(t, "a1"), c.member(t, "a2")
	c.bindings["a1"], c.bindings["a2"] = one.host.HostKey(), two.host.HostKey()
	cs, client, server := shake(t, one, two, "a2")
	if client != nil || server != nil {
		t.Fatalf("got %v and %v", client, server)
	}
	if peer, err := two.Identify(cs); err != nil || peer.Node != "a1" || peer.ID != agentID(t, "a1") {
		t.Fatalf("got %+v, %v", peer, err)
	}
	standing := two.Standing(cs)
	if err := standing.Check(); err != nil {
		t.Fatal(err)
	}
	if links := one.Chain(); len(links) != 2 || links[0].URIs[0].String() != agentID(t, "a1").String() || len(one.AgentRoots()) != 1 {
		t.Errorf("in use are %d links and %d roots, want those of the authority alone", len(links), len(one.AgentRoots()))
	}
	if _, client, _ := shake(t, one, two, "a3"); client == nil || !strings.Contains(client.Error(), "a2 answered") {
		t.Errorf("dialled a3: got %v", client)
	}

	thief := c.member(t, "a1") // another host that the authority knows by the same name
	if _, _, server := shake(t, thief, two, "a2"); !errors.Is(server, security.ErrHostSignature) {
		t.Errorf("the name from another host: got %v", server)
	}
	if _, client, _ := shake(t, two, thief, "a1"); !errors.Is(client, security.ErrHostSignature) {
		t.Errorf("dialled, the name from another host: got %v", client)
	}
	c.denied = "a1"
	if _, _, server := shake(t, one, two, "a2"); !errors.Is(server, security.ErrDenied) {
		t.Errorf("evicted: got %v", server)
	}
	if err := standing.Check(); !errors.Is(err, security.ErrDenied) {
		t.Errorf("an open connection of who was evicted: got %v", err)
	}
	c.denied = ""
	foreign := &cluster{authority: externaltest.New(t, testTD.Name()), bindings: c.bindings}
	if _, client, _ := shake(t, two, foreign.member(t, "a1"), "a1"); !errors.Is(client, security.ErrUnknownRoot) {
		t.Errorf("by another authority: got %v", client)
	}
}

// The signature beside the chain is for one key, one name and one end: another leaf of the same agent cannot borrow it, and
// none is worse.
func TestVoucherIsForOneLeaf(t *testing.T) {
	c := &cluster{authority: externaltest.New(t, testTD.Name()), bindings: map[string][]byte{}}
	one, two, thief := c.member(t, "a1"), c.member(t, "a2"), c.member(t, "a1")
	c.bindings["a1"] = one.host.HostKey()
	good, err := one.ClientTLS("", transport.ALPNRPC).GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := thief.ClientTLS("", transport.ALPNRPC).GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	voucher := good.Certificate[len(good.Certificate)-1]
	for name, chain := range map[string][][]byte{
		"another's voucher": append(append([][]byte{}, stolen.Certificate[:len(stolen.Certificate)-1]...), voucher),
		"no voucher":        stolen.Certificate[:len(stolen.Certificate)-1],
		"a voucher inside":  {stolen.Certificate[0], voucher, stolen.Certificate[1]},
	} {
		a, b := connected(t)
		config := thief.ClientTLS("a2", transport.ALPNRPC)
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: chain, PrivateKey: stolen.PrivateKey}, nil
		}
		go func() {
			_ = tls.Client(a, config).HandshakeContext(t.Context())
			_ = a.Close()
		}()
		err := tls.Server(b, two.ServerTLS(transport.ALPNRPC)).HandshakeContext(t.Context())
		_ = b.Close()
		if !errors.Is(err, security.ErrHostSignature) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A pushed certificate is in use at once, below a new root too. What is not this agent's is never used, and neither that nor
// the loss of the socket takes the last one away.
func TestPushes(t *testing.T) {
	c := &cluster{authority: externaltest.New(t, testTD.Name()), bindings: map[string][]byte{}}
	one, two := c.member(t, "a1"), c.member(t, "a2")
	c.bindings["a1"], c.bindings["a2"] = one.host.HostKey(), two.host.HostKey()
	one.follow(t)
	two.follow(t)
	works := func(what string) {
		t.Helper()
		if _, client, server := shake(t, one, two, "a2"); client != nil || server != nil {
			t.Fatalf("%s: got %v and %v", what, client, server)
		}
	}
	before := one.Leaf()
	one.server.Give(2*time.Hour, agentID(t, "a1").String())
	until(t, "a pushed certificate is not in use", func() bool { return one.Leaf().NotAfter.After(before.NotAfter.Add(time.Minute)) })
	works("after a renewal")

	c.authority.Rotate()
	until(t, "a pushed bundle is not in use", func() bool { return len(one.AgentRoots()) == 2 && len(two.AgentRoots()) == 2 })
	works("below the next root")
	c.authority.DropOld()
	until(t, "the old root stays", func() bool { return len(one.AgentRoots()) == 1 && len(two.AgentRoots()) == 1 })
	works("without the old root")

	kept := one.Leaf()
	one.server.Give(time.Hour, "spiffe://outside.test/parley/agent/a9")
	until(t, "another identity is no error", func() bool { return one.feed.Err() != nil })
	if !one.Leaf().Equal(kept) {
		t.Fatal("the certificate of another node is in use")
	}
	one.server.Give(time.Hour)
	until(t, "no registration is no error", func() bool {
		return one.feed.Err() != nil && strings.Contains(one.feed.Err().Error(), "no registration entry")
	})
	works("without a registration")
	one.server.Stop()
	until(t, "no socket is no error", func() bool { return strings.Contains(one.feed.Err().Error(), "no socket") })
	if !one.Leaf().Equal(kept) {
		t.Fatal("the certificate went with the socket")
	}
	works("without the socket")

	one.server.Start()
	one.server.Give(3*time.Hour, agentID(t, "a1").String())
	until(t, "the socket is back, and no identity comes", func() bool { return one.feed.Err() == nil && !one.Leaf().Equal(kept) })
	works("after all")
}

// A certificate is kept to its end and not beyond.
func TestKeptToItsEnd(t *testing.T) {
	c := &cluster{authority: externaltest.New(t, testTD.Name()), bindings: map[string][]byte{}}
	one, two := c.member(t, "a1"), c.member(t, "a2")
	one.follow(t)
	one.server.Give(2*time.Second, agentID(t, "a1").String())
	until(t, "the short certificate is not in use", func() bool { return time.Until(one.NotAfter()) < time.Minute })
	one.server.Stop()
	if _, _, server := shake(t, one, two, "a2"); server != nil {
		t.Fatal(server)
	}
	time.Sleep(time.Until(one.NotAfter()) + 10*time.Millisecond)
	var ended *security.ValidityError
	if _, _, server := shake(t, one, two, "a2"); !errors.As(server, &ended) || !ended.Expired() {
		t.Errorf("past its end: got %v", server)
	}
}

// What keeps the first identity away is said, with what to do.
func TestFirst(t *testing.T) {
	authority := externaltest.New(t, testTD.Name())
	elsewhere := externaltest.New(t, "elsewhere.test")
	stopped := authority.Serve(agentID(t, "a1").String())
	stopped.Stop()
	for name, test := range map[string]struct{ addr, reason, hint string }{
		"no socket":            {stopped.Addr, "has no socket there", "spire-agent runs"},
		"no registration":      {authority.Serve().Addr, "no registration entry", "-spiffeID spiffe://outside.test/parley/agent/a1"},
		"another trust domain": {elsewhere.Serve("spiffe://elsewhere.test/parley/agent/a1").Addr, "is spiffe://elsewhere.test/parley/agent/a1", "--trust-domain elsewhere.test"},
		"another node":         {authority.Serve("spiffe://outside.test/parley/agent/a10").Addr, "is spiffe://outside.test/parley/agent/a10", "the path names the node"},
		"another path":         {authority.Serve("spiffe://outside.test/svc/web").Addr, "and not spiffe://outside.test/parley/agent/a1", "-selector unix:uid:"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			got, err := newFeed(t, test.addr, "a1").First(ctx)
			var told *external.Error
			if got != nil || !errors.As(err, &told) {
				t.Fatalf("got %v, %v", got, err)
			}
			if !strings.Contains(err.Error(), test.reason) || !strings.Contains(told.Hint, test.hint) {
				t.Errorf("got %q with the hint %q", err, told.Hint)
			}
		})
	}
	late := authority.Serve()
	go func() {
		time.Sleep(300 * time.Millisecond)
		late.Give(time.Hour, "spiffe://outside.test/svc/web", agentID(t, "a1").String())
	}()
	got, err := newFeed(t, late.Addr, "a1").First(t.Context())
	if err != nil || got.Certs[0].URIs[0].String() != agentID(t, "a1").String() {
		t.Errorf("registered after the start, among others: got %v", err)
	}
}

// An identity for a program is none for an agent, so a Feed for one is not made.
func TestOnlyAgents(t *testing.T) {
	id := spiffeid.RequireFromString("spiffe://outside.test/svc/web")
	if _, err := external.New(t.Context(), external.Options{Addr: "unix:///x", ID: id}); !errors.Is(err, security.ErrNotAgent) {
		t.Errorf("got %v", err)
	}
}
