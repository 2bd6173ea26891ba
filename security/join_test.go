package security

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/transport"
)

// door is an agent of a world that answers joiners on a real port, with what the core would keep
// about one token.
type door struct {
	t     *testing.T
	w     *world
	src   *Source
	token Token
	addr  string

	mu     sync.Mutex
	keys   [][32]byte // leaf keys that asked, in order
	errs   []error    // of Serve
	answer func(n int, r JoinRequest) (JoinResponse, error)
	attest func(ctx context.Context, r AttestRequest) (AttestResponse, error) // set before anybody asks
}

func openDoor(t *testing.T, w *world) *door {
	t.Helper()
	token, err := NewToken(w.gen.ClusterID, w.td, w.gen.Roots, "", false)
	if err != nil {
		t.Fatal(err)
	}
	d := &door{t: t, w: w, src: w.first(), token: token}
	d.answer = func(_ int, r JoinRequest) (JoinResponse, error) { return d.admit(r) }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = l.Addr().String()
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { d.serve(raw) })
		}
	})
	return d
}

func (d *door) serve(raw net.Conn) {
	conn := tls.Server(raw, d.src.ServerTLS(meshProtos...))
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if err := conn.Handshake(); err != nil {
		raw.Close()
		d.note(err)
		return
	}
	peer, err := d.src.Identify(conn.ConnectionState())
	if err != nil {
		raw.Close()
		d.note(err)
		return
	}
	server := NewJoinServer(func(_ context.Context, r JoinRequest) (JoinResponse, error) {
		d.mu.Lock()
		d.keys = append(d.keys, r.LeafKeyHash())
		n, answer := len(d.keys), d.answer
		d.mu.Unlock()
		return answer(n, r)
	})
	server.Attest = d.attest
	d.note(server.Serve(d.t.Context(), conn, conn.ConnectionState().NegotiatedProtocol, peer))
}

func (d *door) note(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.errs = append(d.errs, err)
}

func (d *door) asked() [][32]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.keys
}

// admit is what an agent does with a request once its token is found in the state.
func (d *door) admit(r JoinRequest) (JoinResponse, error) {
	if r.ClusterID != d.token.ClusterID {
		return JoinResponse{}, NewJoinError(JoinForeign, "the token is for cluster "+r.ClusterID)
	}
	if r.TokenID != d.token.ID {
		return JoinResponse{}, NewJoinError(JoinUnknown, "no such token")
	}
	if err := CheckJoin(r, d.w.td, d.token.VerifyKey(), time.Now()); err != nil {
		return JoinResponse{}, err
	}
	chain, err := d.w.gen.Authority.SignAgent(r.LeafRequest(), time.Now())
	if err != nil {
		return JoinResponse{}, err
	}
	resp := JoinResponse{
		ClusterID: d.token.ClusterID, Chain: chain, BundleSequence: d.w.gen.BundleSequence, Roots: d.w.gen.Roots,
		Role: policy.Discovery, Members: []JoinMember{{Name: "a1", Address: d.addr, Core: true}},
	}
	resp.Prove(r, d.token.VerifyKey())
	return resp, nil
}

// options are those of a new host "a2" that was given the door's token.
func (d *door) options() JoinOptions {
	dir := d.t.TempDir()
	host, err := CreateHost(dir)
	if err != nil {
		d.t.Fatal(err)
	}
	return JoinOptions{
		Token: d.token, Addrs: []string{d.addr}, Host: host, Node: "a2", Zone: "z1", Address: "127.0.0.2:8310",
		Dir: dir, Now: time.Now, RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond,
	}
}

func join(t *testing.T, o JoinOptions) (*JoinResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return Join(ctx, o)
}

// A host with a token joins, finds its identity on disk, and is an agent like the others.
func TestJoin(t *testing.T) {
	w := newWorld(t, testTD)
	d := openDoor(t, w)
	o := d.options()
	resp, err := join(t, o)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Role != policy.Discovery || resp.CoreGrant || len(resp.Members) != 1 || resp.Members[0].Name != "a1" {
		t.Errorf("response %+v", resp)
	}
	w.bind("a2", o.Host.HostKey())
	host, err := LoadHost(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	a2 := w.source(o.Dir, "a2", host)
	if s, c := connect(t, d.src.ServerTLS(meshProtos...), a2.ClientTLS("a1", transport.ALPNRPC)); s.err != nil || c.err != nil {
		t.Errorf("server %v, client %v", s.err, c.err)
	}
	if seq, roots := a2.Bundle(); seq != 1 || !equalDERs(roots, w.gen.Roots) {
		t.Errorf("bundle %d", seq)
	}
}

// What may pass is tried again, each time with the same leaf key, also by a process that starts again
// after it was killed.
func TestJoinRetries(t *testing.T) {
	d := openDoor(t, newWorld(t, testTD))
	d.answer = func(n int, r JoinRequest) (JoinResponse, error) {
		switch n {
		case 1:
			return JoinResponse{}, NewJoinError(JoinUnavailable, "no leader")
		case 2:
			return JoinResponse{}, errors.New("an internal matter with a secret in it")
		case 3:
			return JoinResponse{}, &LeafTimeError{NotAfter: time.Now(), Now: time.Now()}
		case 4:
			return JoinResponse{ClusterID: d.token.ClusterID, Role: policy.Local}, nil // rubbish
		}
		return d.admit(r)
	}
	o := d.options()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	o.Addrs = append([]string{closed.Addr().String()}, o.Addrs...)
	core, logs := observer.New(zapcore.DebugLevel)
	o.Log = zap.New(core)
	if _, err := join(t, o); err != nil {
		t.Fatal(err)
	}
	again := o
	again.Host, err = LoadHost(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(identityPath(o.Dir, leafFile)); err != nil { // killed before it was written
		t.Fatal(err)
	}
	if _, err := join(t, again); err != nil {
		t.Fatal(err)
	}
	keys := d.asked()
	if len(keys) != 6 {
		t.Fatalf("asked %d times", len(keys))
	}
	for i, k := range keys {
		if k != keys[0] {
			t.Errorf("attempt %d used another key", i)
		}
	}
	if text := fmt.Sprint(logs.All()); strings.Contains(text, "internal matter") || logs.Len() != 4 {
		t.Errorf("the joiner logged %s", text)
	}
}

// What cannot pass is returned at once with a hint, and leaves no certificate behind.
func TestJoinRefusedAtOnce(t *testing.T) {
	d := openDoor(t, newWorld(t, testTD))
	for _, code := range []string{JoinForeign, JoinUnknown, JoinExpired, JoinUsed, JoinRevoked, JoinNodeBound, JoinNameTaken, JoinDenied, JoinInvalid, "a code of tomorrow"} {
		before := len(d.asked())
		d.mu.Lock()
		d.answer = func(int, JoinRequest) (JoinResponse, error) { return JoinResponse{}, NewJoinError(code, "because") }
		d.mu.Unlock()
		o := d.options()
		_, err := join(t, o)
		var refused *JoinError
		if !errors.As(err, &refused) || refused.Code != code || !refused.Permanent() || refused.Hint != joinHints[code] {
			t.Errorf("%s: %v", code, err)
		}
		if n := len(d.asked()) - before; n != 1 {
			t.Errorf("%s: asked %d times", code, n)
		}
		if _, err := os.Stat(identityPath(o.Dir, leafFile)); !isNotExist(err) {
			t.Errorf("%s: a certificate was written", code)
		}
	}
	for code := range joinHints {
		if NewJoinError(code, "x").Hint == "" {
			t.Errorf("%s has no hint", code)
		}
	}
}

// A token for another node is refused on the host itself, and bad options before any connection.
func TestJoinChecksItsOptions(t *testing.T) {
	d := openDoor(t, newWorld(t, testTD))
	for name, change := range map[string]func(*JoinOptions){
		"bound to another node": func(o *JoinOptions) { o.Token.Node = "a3" },
		"zero token":            func(o *JoinOptions) { o.Token = Token{} },
		"bad name":              func(o *JoinOptions) { o.Node = "A2" },
		"no address":            func(o *JoinOptions) { o.Addrs = nil },
		"too many addresses":    func(o *JoinOptions) { o.Addrs = make([]string, MaxJoinAddrs+1) },
	} {
		o := d.options()
		o.Dial = func(context.Context, string) (net.Conn, error) {
			t.Errorf("%s: dialled", name)
			return nil, errors.New("no")
		}
		change(&o)
		if _, err := join(t, o); err == nil {
			t.Errorf("%s: joined", name)
		}
	}
}

// A cluster that the token does not name gets nothing: the joiner leaves before it sends a byte of
// the request. One wrong address among right ones does not matter.
func TestJoinOtherCluster(t *testing.T) {
	mine, other := openDoor(t, newWorld(t, testTD)), openDoor(t, newWorld(t, testTD))
	o := mine.options()
	o.Addrs = []string{other.addr}
	_, err := join(t, o)
	var refused *JoinError
	if !errors.As(err, &refused) || refused.Code != JoinRootMismatch || !strings.Contains(err.Error(), other.addr) {
		t.Errorf("got %v", err)
	}
	if n := len(other.asked()); n != 0 {
		t.Errorf("the other cluster got %d requests", n)
	}
	o.Addrs = []string{other.addr, mine.addr}
	if _, err := join(t, o); err != nil || len(other.asked()) != 0 {
		t.Errorf("with a right address as well: %v", err)
	}
	// The same root under another cluster id (a copy of the cluster) is another cluster.
	o = mine.options()
	o.Token.ClusterID = strings.Repeat("0", 32)
	if _, err := join(t, o); !errors.As(err, &refused) || refused.Code != JoinForeign {
		t.Errorf("other cluster id: %v", err)
	}
	mine.answer = func(_ int, r JoinRequest) (JoinResponse, error) {
		resp, err := mine.admit(r)
		resp.ClusterID = strings.Repeat("f", 32)
		return resp, err
	}
	if _, err := join(t, mine.options()); !errors.As(err, &refused) || refused.Code != JoinForeign {
		t.Errorf("answer from another cluster: %v", err)
	}
}

// Impostors at the address: the root shown but not held, a workload's certificate, no mesh at all.
func TestJoinImpostors(t *testing.T) {
	w, other := newWorld(t, testTD), newWorld(t, testTD)
	d := openDoor(t, w)
	stolen := *other.first().leaf.Load()
	stolen.Certificate = append(stolen.Certificate[:2:2], w.gen.Roots[0]) // another cluster's chain beside our root
	for name, cert := range map[string]*tls.Certificate{
		"root shown, not held": &stolen,
		"root left out":        w.first().leaf.Load(),
	} {
		impostor := w.first().joinServerTLS()
		impostor.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }
		o := d.options()
		if err := o.prepare(); err != nil {
			t.Fatal(err)
		}
		s, c := connect(t, impostor, o.clientTLS(w.td))
		if !errors.Is(c.err, errWrongRoot) || s.err == nil {
			t.Errorf("%s: client %v, server %v", name, c.err, s.err)
		}
	}
	o := d.options()
	noALPN := w.first().joinServerTLS()
	noALPN.NextProtos = nil
	if _, c := connect(t, noALPN, o.clientTLS(w.td)); !errors.Is(c.err, ErrNoALPN) {
		t.Errorf("no protocol: %v", c.err)
	}
	if s, c := connect(t, w.first().joinServerTLS(), o.clientTLS(w.td)); s.err != nil || c.err != nil {
		t.Errorf("control: server %v, client %v", s.err, c.err)
	}
}

// When ctx ends the joiner stops and says what the last obstacle was.
func TestJoinStops(t *testing.T) {
	d := openDoor(t, newWorld(t, testTD))
	ctx, cancel := context.WithCancel(t.Context())
	d.answer = func(n int, _ JoinRequest) (JoinResponse, error) {
		if n == 3 {
			cancel()
		}
		return JoinResponse{}, NewJoinError(JoinBusy, "try later")
	}
	_, err := Join(ctx, d.options())
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// testRequest is a good request of a new host and the key that verifies it.
func testRequest(t testing.TB) (JoinRequest, Token, *Host) {
	t.Helper()
	token := testToken(t, 1, "", false)
	host, err := newHost()
	if err != nil {
		t.Fatal(err)
	}
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := NewLeafRequest(host, "a2", testTD, &key.PublicKey, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	r, err := newJoinRequest(&JoinOptions{Token: token, Host: host, Node: "a2", Zone: "z", Address: "127.0.0.2:8310"}, leaf)
	if err != nil {
		t.Fatal(err)
	}
	return r, token, host
}

// Each field that is changed on the way breaks the proof; so does another token's key.
func TestJoinProofCoversEveryField(t *testing.T) {
	good, token, _ := testRequest(t)
	now := time.Now()
	if err := CheckJoin(good, testTD, token.VerifyKey(), now); err != nil {
		t.Fatalf("control: %v", err)
	}
	other, _, _ := testRequest(t)
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b }
	for name, change := range map[string]func(*JoinRequest){
		"cluster_id":      func(r *JoinRequest) { r.ClusterID = strings.Repeat("0", 32) },
		"token_id":        func(r *JoinRequest) { r.TokenID = strings.Repeat("0", 16) },
		"zone":            func(r *JoinRequest) { r.Zone = "y" },
		"address":         func(r *JoinRequest) { r.Address = "127.0.0.3:8310" },
		"zone to address": func(r *JoinRequest) { r.Zone, r.Address = "", r.Zone+r.Address },
		"host_key":        func(r *JoinRequest) { r.HostKey = other.HostKey },
		"seal_key":        func(r *JoinRequest) { r.SealKey = flip(r.SealKey) },
		"node":            func(r *JoinRequest) { r.Leaf.Node = "a3" },
		"leaf key":        func(r *JoinRequest) { r.Leaf.PublicKey = other.Leaf.PublicKey },
		"not_after":       func(r *JoinRequest) { r.Leaf.NotAfter = r.Leaf.NotAfter.Add(time.Second) },
		"host_signature":  func(r *JoinRequest) { r.Leaf.HostSignature = flip(r.Leaf.HostSignature) },
		"host_proof":      func(r *JoinRequest) { r.HostProof = flip(r.HostProof) },
		"proof":           func(r *JoinRequest) { r.Proof = flip(r.Proof) },
		"no proof":        func(r *JoinRequest) { r.Proof = nil },
	} {
		r := good
		change(&r)
		if VerifyProof(r, token.VerifyKey()) {
			t.Errorf("%s: the proof still holds", name)
		}
		var refused *JoinError
		if err := CheckJoin(r, testTD, token.VerifyKey(), now); !errors.As(err, &refused) || refused.Code != JoinUnknown {
			t.Errorf("%s: %v", name, err)
		}
	}
	if VerifyProof(good, testToken(t, 1, "", false).VerifyKey()) {
		t.Error("the proof holds for another token")
	}
	if bytes.Contains(mustJSON(t, good), token.Secret[:4]) || findSecret(mustJSON(t, good), token.Secret[:]) != "" {
		t.Error("the request holds the secret")
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Who has a token, and a copy of another host's certificate, cannot join as that host with a seal key
// of his own; nor with its host key and a leaf key of his own.
func TestJoinNeedsTheHostKey(t *testing.T) {
	victim, token, _ := testRequest(t)
	attacker, _, attackerHost := testRequest(t)
	now := time.Now()
	prove := func(r JoinRequest, sign bool) JoinRequest {
		if sign {
			sig, err := attackerHost.Signer.Sign(rand.Reader, r.hostDigest(), crypto.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			r.HostProof = sig
		}
		r.Proof = r.proof(token.VerifyKey())
		return r
	}
	sealKey := victim
	sealKey.SealKey = attacker.SealKey
	leafKey := victim
	leafKey.Leaf.PublicKey, leafKey.Leaf.HostSignature = attacker.Leaf.PublicKey, attacker.Leaf.HostSignature
	hostKey := victim
	hostKey.HostKey = attacker.HostKey
	late := victim
	late.Leaf.NotAfter = now.Add(time.Hour * 24).Truncate(time.Second)
	for name, r := range map[string]JoinRequest{
		"own seal key":            prove(sealKey, false),
		"own seal key, re-signed": prove(sealKey, true),
		"own leaf key":            prove(leafKey, true),
		"own host key, old leaf":  prove(hostKey, true),
		"longer life":             prove(late, true),
	} {
		if !VerifyProof(r, token.VerifyKey()) {
			t.Errorf("%s: the test's own proof is wrong", name)
		}
		var refused *JoinError
		if err := CheckJoin(r, testTD, token.VerifyKey(), now); !errors.As(err, &refused) || refused.Code != JoinInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := CheckJoin(prove(victim, false), testTD, token.VerifyKey(), now); err != nil {
		t.Errorf("control: %v", err)
	}
	var refused *JoinError
	if err := CheckJoin(victim, testTD, token.VerifyKey(), now.Add(2*time.Hour)); !errors.As(err, &refused) || refused.Code != JoinClock || refused.Permanent() {
		t.Errorf("a clock that is two hours behind: %v", err)
	}
}

// Requests of the wrong form are refused with the field at fault.
func TestJoinRequestForm(t *testing.T) {
	good, _, _ := testRequest(t)
	if back, err := DecodeJoinRequest(mustJSON(t, good)); err != nil || !bytes.Equal(mustJSON(t, back), mustJSON(t, good)) {
		t.Fatalf("round trip: %v", err)
	}
	for want, change := range map[string]func(*JoinRequest){
		"version":        func(r *JoinRequest) { r.Version = 2 },
		"cluster_id":     func(r *JoinRequest) { r.ClusterID = "x" },
		"token_id":       func(r *JoinRequest) { r.TokenID = "" },
		"zone":           func(r *JoinRequest) { r.Zone = strings.Repeat("z", maxZone+1) },
		"printable":      func(r *JoinRequest) { r.Zone = "\x1b[31m" },
		"address":        func(r *JoinRequest) { r.Address = strings.Repeat("9", maxAddress+1) },
		"host public":    func(r *JoinRequest) { r.HostKey = r.HostKey[1:] },
		"seal key":       func(r *JoinRequest) { r.SealKey = r.SealKey[1:] },
		"node name":      func(r *JoinRequest) { r.Leaf.Node = ".." },
		"leaf public":    func(r *JoinRequest) { r.Leaf.PublicKey = nil },
		"host signature": func(r *JoinRequest) { r.Leaf.HostSignature = make([]byte, maxHostSignature+1) },
		"proof":          func(r *JoinRequest) { r.HostProof = make([]byte, maxHostSignature+1) },
	} {
		r := good
		change(&r)
		if _, err := DecodeJoinRequest(mustJSON(t, r)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for _, data := range []string{"", "{}", "[]", string(mustJSON(t, good)) + "{}", strings.Repeat(" ", MaxJoinBytes+1)} {
		if _, err := DecodeJoinRequest([]byte(data)); err == nil {
			t.Errorf("%.20q was accepted", data)
		}
	}
	hostKeyOnWire := bytes.Replace(mustJSON(t, good), []byte(`"leaf":{`), []byte(`"leaf":{"HostKey":"AAAA",`), 1)
	if r, err := DecodeJoinRequest(hostKeyOnWire); err != nil || r.Leaf.HostKey != nil {
		t.Errorf("the wire filled in the pinned host key: %v", err)
	}
}

// A frame is bounded before memory is taken for it, in both directions, and an agent with a
// certificate is not served.
func TestJoinFrames(t *testing.T) {
	if _, err := readFrame(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff})); err == nil || !strings.Contains(err.Error(), "announced") {
		t.Errorf("4 GiB announced: %v", err)
	}
	full := lengthPrefixed(nil, make([]byte, MaxJoinBytes))
	if data, err := readFrame(bytes.NewReader(full)); err != nil || len(data) != MaxJoinBytes {
		t.Errorf("a full frame: %v", err)
	}
	var out bytes.Buffer
	if err := writeFrame(&out, strings.Repeat("x", MaxJoinBytes)); err == nil || out.Len() != 0 {
		t.Errorf("an oversized value: %v", err)
	}
	w := newWorld(t, testTD)
	client, server := net.Pipe()
	defer client.Close()
	js := NewJoinServer(func(context.Context, JoinRequest) (JoinResponse, error) { return JoinResponse{}, nil })
	if err := js.Serve(t.Context(), server, transport.ALPNJoin, transport.Peer{ID: w.first().ID(), Node: "a1"}); err == nil {
		t.Error("an agent was served")
	}
	// A silent joiner is cut off with its context.
	client, server = net.Pipe()
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := js.Serve(ctx, server, transport.ALPNJoin, transport.Peer{}); err == nil {
		t.Error("a silent joiner was served")
	}
}

// An answer names a few members at most, however many the handler knows.
func TestJoinMembersLimit(t *testing.T) {
	d := openDoor(t, newWorld(t, testTD))
	d.answer = func(_ int, r JoinRequest) (JoinResponse, error) {
		resp, err := d.admit(r)
		resp.Members = make([]JoinMember, MaxJoinMembers+1)
		resp.Prove(r, d.token.VerifyKey())
		return resp, err
	}
	resp, err := join(t, d.options())
	if err != nil || len(resp.Members) != MaxJoinMembers {
		t.Errorf("got %v", err)
	}
}

// What a peer writes into an error cannot steer the terminal that shows it.
func TestJoinErrorIsSanitized(t *testing.T) {
	d := openDoor(t, newWorld(t, testTD))
	d.answer = func(int, JoinRequest) (JoinResponse, error) {
		return JoinResponse{}, &JoinError{Code: "x\n", Message: "\x1b]0;owned\a" + strings.Repeat("m", 1000), Hint: "h\r"}
	}
	_, err := join(t, d.options())
	if err == nil || strings.ContainsAny(err.Error(), "\x1b\n\r\a") || len(err.Error()) > 1200 {
		t.Errorf("got %q", err)
	}
}

// No secret reaches a log or an error: neither the token's nor any private key, through a failed and
// a successful join, refusals by the server, and renewals that fail and succeed.
func TestNoSecretInLogs(t *testing.T) {
	w := newWorld(t, testTD)
	d := openDoor(t, w)
	core, logs := observer.New(zapcore.DebugLevel)
	log := zap.New(core)
	o := d.options()
	o.Log = log
	d.answer = func(n int, r JoinRequest) (JoinResponse, error) {
		if n < 3 {
			return JoinResponse{}, NewJoinError(JoinBusy, "later")
		}
		return d.admit(r)
	}
	if _, err := join(t, o); err != nil {
		t.Fatal(err)
	}
	d.answer = func(int, JoinRequest) (JoinResponse, error) { return JoinResponse{}, NewJoinError(JoinUsed, "used") }
	_, refusal := join(t, o)
	log.Warn("refused", zap.Error(refusal), zap.Any("options", o), zap.Any("token", o.Token), zap.Any("host", o.Host))
	src, err := NewSource(SourceOptions{Dir: o.Dir, TrustDomain: w.td, Node: "a2", Host: o.Host, Log: log,
		Now: func() time.Time { return time.Now().Add(2 * time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	log.Info("source", zap.Any("id", src.ID()), zap.String("fmt", fmt.Sprintf("%v %+v", o.Host, o.Token)))
	u := &upkeep{now: time.Now, log: log, life: func() (time.Time, time.Time) { return time.Now(), time.Now() }}
	u.failed(refusal, 1, false)

	secrets := map[string][]byte{"token": o.Token.Secret[:], "verify key": o.Token.VerifyKey(), "seal key": o.Host.Seal.Bytes()}
	keys, err := readECKeys(identityPath(o.Dir, leafKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]interface{ Bytes() ([]byte, error) }{"host key": o.Host.Signer, "leaf key": keys[0], "root key": w.root.Key} {
		if secrets[name], err = k.Bytes(); err != nil {
			t.Fatal(err)
		}
	}
	if logs.Len() < 5 {
		t.Errorf("only %d lines: nothing was tested", logs.Len())
	}
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	for _, entry := range logs.All() {
		line, err := encoder.EncodeEntry(entry.Entry, entry.Context)
		if err != nil {
			t.Fatal(err)
		}
		for name, secret := range secrets {
			if form := findSecret(line.Bytes(), secret); form != "" {
				t.Errorf("%s of the %s in %s", form, name, line)
			}
		}
	}
}

// After a join the identity directory is private too, and holds nothing that it should not.
func TestJoinedFilesArePrivate(t *testing.T) {
	d := openDoor(t, newWorld(t, testTD))
	o := d.options()
	if _, err := join(t, o); err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(o.Dir, identityDirName, "*"))
	if err != nil || len(paths) != 5 {
		t.Errorf("%v, %v", paths, err)
	}
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", p, info.Mode(), err)
		}
		data, err := os.ReadFile(p)
		if err != nil || findSecret(data, o.Token.Secret[:]) != "" {
			t.Errorf("%s holds the token's secret (%v)", p, err)
		}
	}
}

// Whatever a joiner sends is refused or well formed, and survives a round trip.
func FuzzDecodeJoinRequest(f *testing.F) {
	good, _, _ := testRequest(f)
	f.Add(mustJSON(f, good))
	f.Add([]byte(`{"version":1,"leaf":{"not_after":"9999-12-31T23:59:59Z"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeJoinRequest(data)
		if err != nil {
			return
		}
		again, err := DecodeJoinRequest(mustJSON(t, r))
		if err != nil || !bytes.Equal(again.content(), r.content()) {
			t.Errorf("round trip: %v", err)
		}
		_ = CheckJoin(r, testTD, make([]byte, 32), time.Unix(0, 0))
	})
}

// An issuer reads a request for a renewal as the host made it, but never the pinned host key.
func FuzzDecodeLeafRequest(f *testing.F) {
	good, _, _ := testRequest(f)
	f.Add(mustJSON(f, good.Leaf))
	f.Add([]byte(`{"node":"a2","HostKey":"AAAA"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeLeafRequest(data)
		if err != nil {
			return
		}
		if r.HostKey != nil || CheckNodeName(r.Node) != nil {
			t.Errorf("host key %x, node %q", r.HostKey, r.Node)
		}
		if _, _, err := r.check(testTD, time.Now()); err == nil {
			t.Error("accepted without the pinned host key")
		}
	})
}

// A request for a renewal goes over the wire and is signed once the issuer has filled in the key.
func TestLeafRequestOverTheWire(t *testing.T) {
	w := newWorld(t, testTD)
	key := testKey(t)
	req, err := NewLeafRequest(w.gen.Host, "a1", w.td, &key.PublicKey, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeLeafRequest(mustJSON(t, req))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.gen.Authority.SignAgent(got, time.Now()); !errors.Is(err, ErrHostSignature) {
		t.Errorf("without the pinned key: %v", err)
	}
	got.HostKey, _ = w.hostKeyOf("a1")
	if _, err := w.gen.Authority.SignAgent(got, time.Now()); err != nil {
		t.Errorf("with it: %v", err)
	}
}

// A host that was admitted but cannot write says so; the same token works once it can.
func TestJoinWithoutDisk(t *testing.T) {
	d := openDoor(t, newWorld(t, testTD))
	for _, name := range []string{leafFile, bundleFile} {
		o := d.options()
		blocked := identityPath(o.Dir, name)
		if err := os.MkdirAll(filepath.Join(blocked, "in the way"), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := join(t, o); err == nil || !strings.Contains(err.Error(), "same token") {
			t.Errorf("%s cannot be written: %v", name, err)
		}
		if err := os.RemoveAll(blocked); err != nil {
			t.Fatal(err)
		}
		if _, err := join(t, o); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
	if keys := d.asked(); len(keys) != 4 || keys[0] != keys[1] || keys[2] != keys[3] {
		t.Errorf("%d requests, or with new keys", len(keys))
	}
}

// Whatever an agent answers, the joiner refuses it or gets one of response and error.
func FuzzDecodeJoinAnswer(f *testing.F) {
	f.Add(mustJSON(f, joinAnswer{Error: NewJoinError(JoinUsed, "used")}))
	f.Add(mustJSON(f, joinAnswer{Response: &JoinResponse{ClusterID: testClusterID, Chain: [][]byte{{1}}, Roots: [][]byte{{2}}, Role: policy.Local}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		answer, err := decodeJoinAnswer(data)
		if err != nil {
			return
		}
		if (answer.Response == nil) == (answer.Error == nil) {
			t.Error("both or neither")
		}
	})
}
