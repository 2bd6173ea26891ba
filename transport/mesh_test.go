package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestHostilePeersAreRefused: each is refused with a reason that an operator understands, and an
// honest peer is served on a connection from before and on a new one.
func TestHostilePeersAreRefused(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	r := newMeshRig(t, MeshOptions{
		HandshakeTimeout: 300 * time.Millisecond,
		Identify: func(state tls.ConnectionState) (Peer, error) {
			peer, err := identifyTest(state)
			switch peer.Node {
			case "stranger":
				return Peer{}, errors.New("not an agent of this cluster")
			case "bomb":
				panic("a certificate that breaks the parser")
			}
			return peer, err
		},
	}, zap.New(core))
	foreign := newAuthority(t)
	expired := r.clientTLS("", ALPNRPC)
	expired.Certificates = []tls.Certificate{r.leaf("late", time.Now().Add(-time.Minute))}
	old := r.clientTLS("old", ALPNRPC)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12

	before := r.rpc(t, "honest")
	r.wantServing(t, before)
	cases := []struct {
		name, reason string
		attack       func(conn net.Conn) error
	}{
		{"plain TCP bytes", "peer does not speak TLS", func(conn net.Conn) error {
			_, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: mesh\r\n\r\n"))
			return err
		}},
		{"TLS 1.2", "peer speaks only TLS older than 1.3", shake(old)},
		{"no ALPN", "peer names no protocol of ours", shake(r.clientTLS("quiet"))},
		{"unknown ALPN", "peer names no protocol of ours", shake(r.clientTLS("web", "h2"))},
		{"ALPN without a handler", "peer names no protocol of ours", shake(r.clientTLS("join", ALPNJoin))},
		{"no certificate", "peer sent no certificate", shake(r.clientTLS("", ALPNRPC))},
		{"another CA", "peer's certificate is not from this cluster's CA", shake(foreign.clientTLS("honest", ALPNRPC))},
		{"expired", "peer's certificate has expired or is not valid yet", shake(expired)},
		{"refused by identity", "peer was refused in the handshake", shake(r.clientTLS("stranger", ALPNRPC))},
		{"closes at once", "peer closed the connection during the handshake", func(conn net.Conn) error {
			return conn.(*net.TCPConn).CloseWrite()
		}},
		{"silence", "peer did not finish the handshake in time", func(net.Conn) error { return nil }},
		{"slow loris", "peer did not finish the handshake in time", func(conn net.Conn) error {
			_, err := conn.Write([]byte{22, 3, 1}) // the start of a ClientHello
			return err
		}},
		{"makes Identify panic", "", shake(r.clientTLS("bomb", ALPNRPC))},
	}
	for _, c := range cases {
		r.refusals.summarize() // a new interval
		logs.TakeAll()
		wantRefused(t, r.addr, c.name, c.attack)
		refused := logs.FilterMessage("mesh connection refused").All()
		if c.reason == "" {
			continue
		}
		if len(refused) != 1 || refused[0].ContextMap()["reason"] != c.reason {
			t.Errorf("%s: got log %v, want reason %q", c.name, refused, c.reason)
		}
		r.wantServing(t, before)
	}
	r.wantServing(t, r.rpc(t, "honest"))
	if got := r.Stats().Failed; got != uint64(len(cases)) {
		t.Errorf("got %d failed handshakes, want %d", got, len(cases))
	}
}

// shake makes a TLS handshake and then an attempt to use the connection.
func shake(config *tls.Config) func(net.Conn) error {
	return func(conn net.Conn) error {
		secured := tls.Client(conn, config)
		if err := secured.Handshake(); err != nil {
			return nil // refused in the handshake is as good as after it
		}
		_, err := secured.Write(appendHeader(nil, header{kind: kindPing}))
		return err
	}
}

// wantRefused dials, attacks and waits until the mesh has closed the connection.
func wantRefused(t *testing.T, addr, name string, attack func(net.Conn) error) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := attack(conn); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: %v", name, err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: the connection is still open", name)
	}
}

func TestJoinerNeedsNoCertificate(t *testing.T) {
	checkGoroutines(t)
	a := newAuthority(t)
	peers := make(chan Peer, 1)
	addr := startMesh(t, a, 0, ALPNJoin, func(_ context.Context, _ *tls.Conn, peer Peer) { peers <- peer })
	conn, err := tls.Dial("tcp", addr, a.clientTLS("", ALPNJoin))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if got := <-peers; got != (Peer{}) {
		t.Errorf("got %+v, want the zero peer", got)
	}
}

// startMesh runs a mesh with one handler, behind a listener that fails at first, until the test ends.
func startMesh(t *testing.T, a *authority, grace time.Duration, alpn string, handle ConnHandler) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := NewMesh(MeshOptions{Listener: &flakyListener{listener, 3}, TLS: a.serverTLS(), Identify: identifyTest, Grace: grace})
	m.Handle(alpn, handle)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

func TestHandshakeFloodLeavesOthersServed(t *testing.T) {
	const limit = 8
	r := newMeshRig(t, MeshOptions{MaxHandshakes: limit, MaxHandshakesPerSource: limit, HandshakeTimeout: 500 * time.Millisecond}, nil)
	before := r.rpc(t, "honest")
	r.wantServing(t, before)

	for range 4 * limit {
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	r.wantServing(t, before)
	if s := r.Stats(); s.Pending > limit {
		t.Errorf("got %d pending handshakes, want at most %d", s.Pending, limit)
	}
	// The flood's handshakes time out and others get their turn; the pool backs off until then.
	after := r.rpc(t, "honest")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for {
		_, err := after.Call(ctx, "n", "whoami", nil)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("no honest peer got in after the flood: %v", err)
		}
	}
	if s := r.Stats(); s.Refused < 3*limit {
		t.Errorf("got %d refused, want at least %d", s.Refused, 3*limit)
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	r := newMeshRig(t, MeshOptions{MaxConns: 1}, nil)
	r.wantServing(t, r.rpc(t, "honest"))
	wantRefused(t, r.addr, "second connection", func(net.Conn) error { return nil })
	if s := r.Stats(); s.Refused != 1 || s.Open != 1 || s.Pending != 0 {
		t.Errorf("got %+v, want one refused and one open", s)
	}
}

func TestOneSourceCannotTakeAllHandshakes(t *testing.T) {
	p := newPending(4, 2)
	a, b := netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.0.0.2/32")
	for i, c := range []struct {
		source netip.Prefix
		want   bool
	}{{a, true}, {a, true}, {a, false}, {b, true}, {b, true}, {b, false}} {
		if got := p.enter(c.source); got != c.want {
			t.Errorf("enter %d from %v: got %v, want %v", i, c.source, got, c.want)
		}
	}
	for _, source := range []netip.Prefix{a, a, b, b} {
		p.leave(source)
	}
	if p.count() != 0 || len(p.sources) != 0 {
		t.Errorf("got %d pending, %d sources left", p.count(), len(p.sources))
	}
}

func TestSourceIsAHost(t *testing.T) {
	for addr, want := range map[string]string{
		"10.1.2.3:80":            "10.1.2.3/32",
		"[::ffff:10.1.2.3]:80":   "10.1.2.3/32",
		"[2001:db8:1:2:3::4]:80": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80":      "fe80::/64",
	} {
		got := sourceOf(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		if got.String() != want {
			t.Errorf("%s: got %v, want %s", addr, got, want)
		}
	}
}

func TestRefusalsAreLoggedOnceAnInterval(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	r := newRefusals(zap.New(core))
	for range 100 {
		r.note(refusal{reason: "one"}, nil, nil)
	}
	r.note(refusal{reason: "two"}, nil, nil)
	r.summarize()
	if got := logs.Len(); got != 3 { // two first ones, one summary
		t.Errorf("got %d lines, want 3", got)
	}
	again := logs.FilterMessage("mesh connections refused again").All()
	if len(again) != 1 || again[0].ContextMap()["count"] != int64(99) {
		t.Errorf("got summary %v, want count 99", again)
	}
	r.note(refusal{reason: "one"}, nil, nil)
	if got := logs.Len(); got != 4 {
		t.Errorf("the next interval did not log: %d lines", got)
	}
}

// flakyListener fails a few times as if descriptors had run out.
type flakyListener struct {
	net.Listener
	failures int
}

func (l *flakyListener) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestAcceptSurvivesRunningOutOfFiles(t *testing.T) {
	checkGoroutines(t)
	a := newAuthority(t)
	served := make(chan struct{})
	addr := startMesh(t, a, 0, ALPNRPC, func(context.Context, *tls.Conn, Peer) { close(served) })
	conn, err := tls.Dial("tcp", addr, a.clientTLS("honest", ALPNRPC))
	if err != nil {
		t.Fatal(err)
	}
	<-served
	_ = conn.Close()
}

func TestHandlerThatIgnoresItsContextIsCutOff(t *testing.T) {
	checkGoroutines(t)
	a := newAuthority(t)
	var conn *tls.Conn
	t.Cleanup(func() { _ = conn.Close() }) // runs after startMesh's, which ends the mesh
	started := make(chan struct{})
	addr := startMesh(t, a, 50*time.Millisecond, ALPNRPC, func(_ context.Context, conn *tls.Conn, _ Peer) {
		close(started)
		_, _ = conn.Read(make([]byte, 1)) // the client sends nothing and stays: startMesh ends it
	})
	var err error
	conn, err = tls.Dial("tcp", addr, a.clientTLS("honest", ALPNRPC))
	if err != nil {
		t.Fatal(err)
	}
	<-started
}
