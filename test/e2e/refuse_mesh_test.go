package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/parley-mesh/parley/ops/lab"
	"github.com/parley-mesh/parley/transport"
)

// strangerTries is how often each stranger knocks: the log tells of the first, and counts the others.
const strangerTries = 8

// TestMeshRefusesStrangers: what is no agent of this cluster gets nothing out of the mesh port, over TCP
// or UDP. The log says in words what came, once for each kind and half a minute, and the lab goes on.
func TestMeshRefusesStrangers(t *testing.T) {
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	a1 := l.Agents[0]
	before := settled(t, l)
	self, other := selfSigned(t, "lab.parley.test"), certOf(t, foreign(t))
	over13 := func(protos []string, certs ...tls.Certificate) func(net.Conn) error {
		return func(c net.Conn) error {
			return speakTLS(tls.Client(c, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: protos, Certificates: certs}))
		}
	}
	type stranger struct {
		name, reason string
		attack       func(net.Conn) error
	}
	strangers := []stranger{
		{"plain text", "peer does not speak TLS", func(c net.Conn) error {
			_, _ = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
			return readAnswer(c)
		}},
		{"TLS 1.2", "peer speaks only TLS older than 1.3", func(c net.Conn) error {
			return speakTLS(tls.Client(c, &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true, NextProtos: []string{transport.ALPNRPC}}))
		}},
		{"no ALPN", "peer names no protocol of ours", over13(nil, self)},
		{"unknown ALPN", "peer names no protocol of ours", over13([]string{"h2"}, self)},
		{"no certificate", "peer sent no certificate", over13([]string{transport.ALPNRPC})},
		{"join beside another protocol, no certificate", "peer sent no certificate", over13([]string{transport.ALPNJoin, transport.ALPNRaft})},
	}
	for _, alpn := range []string{transport.ALPNRPC, transport.ALPNRaft, transport.ALPNGossip} {
		strangers = append(strangers,
			stranger{"self-signed, " + alpn, "peer's certificate is not from this cluster's CA", over13([]string{alpn}, self)},
			stranger{"another cluster, " + alpn, "peer's certificate is not from this cluster's CA", over13([]string{alpn}, other)})
	}
	for _, s := range strangers {
		t.Run(s.name, func(t *testing.T) {
			for range strangerTries {
				c, err := net.DialTimeout("tcp", a1.Mesh, time.Second)
				if err != nil {
					t.Fatal(err)
				}
				_ = c.SetDeadline(time.Now().Add(2 * time.Second))
				if err := s.attack(c); err == nil {
					t.Error("it was answered")
				}
				_ = c.Close()
			}
			if n := refusals(t, a1, s.reason); n != 1 {
				t.Errorf("%d lines of the log say %q, want one", n, s.reason)
			}
			unchanged(t, l, before)
		})
	}
	t.Run("gossip over QUIC", func(t *testing.T) {
		for _, cert := range []tls.Certificate{self, other, {}} {
			quicRefused(t, a1.Mesh, transport.ALPNGossip, cert)
		}
		quicRefused(t, a1.Mesh, "h3", other)
		unchanged(t, l, before)
	})
	t.Run("joiners who talk nonsense", func(t *testing.T) { joinNonsense(t, a1.Mesh); unchanged(t, l, before) })
	t.Run("silent connections", func(t *testing.T) { silence(t, l); unchanged(t, l, before) })
	works(t, l)
	for _, line := range regexp.MustCompile(`(?m)^.*mesh: .*$`).FindAllString(readLog(t, a1), -1) {
		t.Log(line)
	}
}

// speakTLS shakes hands, sends a request and waits for an answer or the refusal, which in TLS 1.3 comes
// after the client's part of the handshake.
func speakTLS(c *tls.Conn) error {
	if err := c.Handshake(); err != nil {
		return err
	}
	_, _ = c.Write(make([]byte, 64))
	return readAnswer(c)
}

func readAnswer(c net.Conn) error {
	_, err := c.Read(make([]byte, 64))
	return err
}

func readLog(t testing.TB, a *lab.Agent) string {
	t.Helper()
	text, err := os.ReadFile(a.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// refusals counts the lines about a reason, once one is there.
func refusals(t testing.TB, a *lab.Agent, reason string) int {
	t.Helper()
	n := 0
	for end := time.Now().Add(3 * time.Second); n == 0 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		n = strings.Count(readLog(t, a), `mesh connection refused (reason="`+reason+`"`)
	}
	return n
}

// selfSigned is what an agent's certificate looks like, signed by nobody.
func selfSigned(t testing.TB, trustDomain string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"Parley"}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		URIs:     []*url.URL{{Scheme: "spiffe", Host: trustDomain, Path: "/parley/agent/a2"}},
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(crand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// certOf is the certificate of the agent whose data directory this is.
func certOf(t testing.TB, dataDir string) tls.Certificate {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(filepath.Join(dataDir, "identity", "leaf.pem"), filepath.Join(dataDir, "identity", "leaf.key"))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// quicRefused wants the connection to end, at the latest when its first stream is used.
func quicRefused(t *testing.T, addr, alpn string, cert tls.Certificate) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	config := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{alpn}}
	if cert.PrivateKey != nil {
		config.Certificates = []tls.Certificate{cert}
	}
	conn, err := quic.DialAddr(ctx, addr, config, &quic.Config{EnableDatagrams: true})
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseWithError(0, "") }()
	_ = conn.SendDatagram(make([]byte, 200))
	select {
	case <-conn.Context().Done():
	case <-ctx.Done():
		t.Errorf("the connection with %s lives", alpn)
	}
}

// joinNonsense speaks to the one protocol that needs no certificate.
func joinNonsense(t *testing.T, addr string) {
	frame := func(text string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
	}
	for name, sent := range map[string][]byte{
		"endless frame": {0xff, 0xff, 0xff, 0xff, 1, 2, 3},
		"no JSON":       frame("hello"),
		"empty object":  frame("{}"),
		"two values":    frame("{}{}"),
		"random":        frame(string(randomBytes(4000))),
	} {
		conn, err := tls.Dial("tcp", addr, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{transport.ALPNJoin}})
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = conn.Write(sent)
		text, err := io.ReadAll(io.LimitReader(conn, 64<<10))
		var answered struct{ Response, Error *json.RawMessage }
		if len(text) > 4 {
			_ = json.Unmarshal(text[4:], &answered)
		}
		if answered.Response != nil || (len(text) > 0 && answered.Error == nil) {
			t.Errorf("%s was answered with %q, %v", name, text, err)
		}
		_ = conn.Close()
	}
}

// silence holds more unfinished handshakes open from one source than one source may have, and looks
// whether the agents, which come from others, still get through.
func silence(t *testing.T, l *lab.Lab) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 9, 9, 9)}, Timeout: time.Second}
	var held []net.Conn
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	for range 200 {
		c, err := d.Dial("tcp", l.Agents[0].Mesh)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	if n := refusals(t, l.Agents[0], "too many unfinished handshakes"); n != 1 {
		t.Errorf("%d lines about unfinished handshakes, want one", n)
	}
	parley(t, freshAgent(t, filepath.Join(shortDir(t), "d"), "j", "--join", l.Agents[0].Mesh, "--token-file",
		filepath.Join(l.Dir, "token"))...).wants(t, 4, "(token_used)", "make a new token")
}

// TestMeshIgnoresNoise: packets of random bytes, and a real first packet of QUIC that was cut or
// changed, cost the agent little, end nothing and do not fill its log.
func TestMeshIgnoresNoise(t *testing.T) {
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	a1 := l.Agents[0]
	before, lines, memory := settled(t, l), strings.Count(readLog(t, a1), "\n"), residentKiB(t, a1)
	first := firstPacket(t)
	c, err := net.Dial("udp", a1.Mesh)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // a test's socket
	for n := range 6000 {
		packet := randomBytes(1 + rand.IntN(1400))
		switch n % 3 {
		case 1:
			packet = first[:rand.IntN(len(first)+1)]
		case 2:
			packet = append([]byte{}, first...)
			for range 1 + rand.IntN(4) {
				packet[rand.IntN(len(packet))] ^= byte(1 + rand.IntN(255))
			}
		}
		_, _ = c.Write(packet) // refused at times, when the socket's buffer is full
		if n%500 == 0 {
			works(t, l)
		}
	}
	works(t, l)
	if more := strings.Count(readLog(t, a1), "\n") - lines; more > 20 {
		t.Errorf("the log grew by %d lines", more)
	}
	if grown := residentKiB(t, a1) - memory; grown > 64<<10 {
		t.Errorf("the agent grew by %d KiB", grown)
	}
	if after := strings.Join(membersOf(t, l), " "); !strings.Contains(before, after) {
		t.Errorf("members are now %s", after)
	}
}

func membersOf(t testing.TB, l *lab.Lab) []string {
	t.Helper()
	members, err := clientOf(t, l.Agents[0]).Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, m := range members {
		list = append(list, m.Name+"/"+m.State+"/"+m.Core+"/"+m.Address)
	}
	return list
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = crand.Read(b)
	return b
}

// firstPacket is what a QUIC client sends first.
func firstPacket(t *testing.T) []byte {
	t.Helper()
	sink, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close() //nolint:errcheck // a test's socket
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	var dialling sync.WaitGroup
	defer dialling.Wait()
	defer cancel()
	dialling.Go(func() {
		_, _ = quic.DialAddr(ctx, sink.LocalAddr().String(), &tls.Config{MinVersion: tls.VersionTLS13,
			InsecureSkipVerify: true, NextProtos: []string{transport.ALPNGossip}}, nil)
	})
	packet := make([]byte, 2000)
	n, _, err := sink.ReadFrom(packet)
	if err != nil {
		t.Fatal(err)
	}
	return packet[:n]
}

func residentKiB(t testing.TB, a *lab.Agent) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.Pid()))
	need(t, err == nil, "/proc")
	found := regexp.MustCompile(`VmRSS:\s+(\d+)`).FindSubmatch(text)
	if found == nil {
		t.Fatal("no VmRSS")
	}
	n, _ := strconv.Atoi(string(found[1]))
	return n
}

// TestForeignAgentDials: a real agent of another cluster with the same trust domain, which takes the
// addresses of ours for its own members, is never one of us, nor are we one of its.
func TestForeignAgentDials(t *testing.T) {
	l := startLab(t, lab.Options{Agents: 3, ReplaceAfter: 10 * time.Minute})
	dir := foreign(t)
	known := fmt.Sprintf(`[{"node":"a1","addr":%q,"core":true},{"node":"a2","addr":%q}]`, l.Agents[0].Mesh, l.Agents[1].Mesh)
	if err := os.Mkdir(filepath.Join(dir, "view"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "view", "members.json"), []byte(known), 0o600); err != nil {
		t.Fatal(err)
	}
	before := settled(t, l)
	stranger := startAgent(t, freshAgent(t, dir, "", "--join", l.Agents[0].Mesh)...)
	eventually(t, 15*time.Second, "a word about the stranger in a log", func(context.Context) error {
		if !strings.Contains(readLog(t, l.Agents[0])+readLog(t, l.Agents[1]), "mesh connection refused") {
			return fmt.Errorf("nothing; the stranger says\n%s", stranger.said())
		}
		return nil
	})
	unchanged(t, l, before)
	works(t, l)
	s := parley(t, "members", "--data-dir", dir, "-o", "json", "--expect",
		`all(.[]; .name == "b1" or .state != "alive")`)
	if s.code != 0 {
		t.Errorf("the stranger sees\n%s%s", s.out, s.err)
	}
}
