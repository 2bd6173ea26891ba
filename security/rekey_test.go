package security

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/parley-mesh/parley/transport"
)

// aged is an agent whose certificate ended ago before now.
func (w *world) aged(node string, ago time.Duration) *Source {
	w.t.Helper()
	s := w.agent(node)
	w.age(s, ago)
	return s
}

// age gives s a certificate that ended ago before now, from the issuer that there was then.
func (w *world) age(s *Source, ago time.Duration) {
	w.t.Helper()
	then := time.Now().Add(-ago - time.Hour)
	by, err := newIssuer(w.root, w.td, "a1", then)
	if err != nil {
		w.t.Fatal(err)
	}
	key := testKey(w.t)
	req, err := NewLeafRequest(s.host, s.node, w.td, &key.PublicKey, then.Add(time.Hour))
	if err != nil {
		w.t.Fatal(err)
	}
	a := newAuthority(w.td, "a1", w.t.TempDir())
	a.current.Store(by)
	chain, err := a.SignAgent(req, then)
	if err != nil {
		w.t.Fatal(err)
	}
	certs, err := parseCerts(chain)
	if err != nil {
		w.t.Fatal(err)
	}
	s.leaf.Store(&tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: certs[0]})
}

// newOldWorld is a world whose root is older than every certificate that aged makes.
func newOldWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, testTD)
	root, err := NewRoot(testTD, time.Now().Add(-2*ContinuityWindow))
	if err != nil {
		t.Fatal(err)
	}
	w.root, w.gen.Roots = root, [][]byte{root.Cert.Raw}
	b, err := newBundle(testTD, w.gen.BundleSequence, w.gen.Roots)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.save(w.dir), w.gen.Authority.Renew(root, time.Now())); err != nil {
		t.Fatal(err)
	}
	key, chain := w.leaf(w.gen.Host, "a1", time.Hour)
	if err := leafFiles(w.dir).save(key, nil, chain); err != nil {
		t.Fatal(err)
	}
	return w
}

// leafRequest asks for a certificate of an hour on behalf of s.
func leafRequest(t testing.TB, s *Source) LeafRequest {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	req, err := NewLeafRequest(s.host, s.node, s.td, &key.PublicKey, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func rekeyRequest(t testing.TB, w *world, s *Source) RekeyRequest {
	t.Helper()
	r, err := (&RekeyOptions{Source: s, ClusterID: w.gen.ClusterID}).request(leafRequest(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// resign makes the proof of r anew, as a host with the key of s would.
func resign(t testing.TB, r RekeyRequest, s *Source) RekeyRequest {
	t.Helper()
	sig, err := s.host.Signer.Sign(rand.Reader, r.hostDigest(), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	r.HostProof = sig
	return r
}

type answerFunc = func(RekeyRequest) (RekeyResponse, error)

// renewing is an agent's mesh port that renews hosts by their keys.
type renewing struct {
	w    *world
	src  *Source
	addr string

	mu     sync.Mutex
	got    []RekeyRequest
	answer answerFunc
}

func startRenewing(t *testing.T, w *world, src *Source) *renewing {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &renewing{w: w, src: src, addr: l.Addr().String()}
	s.answer = s.renew
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { s.serve(t.Context(), raw) })
		}
	})
	return s
}

func (s *renewing) serve(ctx context.Context, raw net.Conn) {
	defer raw.Close()
	conn := tls.Server(raw, s.src.ServerTLS(meshProtos...))
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if conn.Handshake() != nil {
		return
	}
	server := NewJoinServer(func(context.Context, JoinRequest) (JoinResponse, error) {
		return JoinResponse{}, errors.New("no joins")
	})
	server.Rekey = func(_ context.Context, r RekeyRequest) (RekeyResponse, error) {
		s.mu.Lock()
		s.got = append(s.got, r)
		answer := s.answer
		s.mu.Unlock()
		return answer(r)
	}
	_ = server.Serve(ctx, conn, conn.ConnectionState().NegotiatedProtocol, transport.Peer{})
}

func (s *renewing) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got)
}

// renew is what a core member does.
func (s *renewing) renew(r RekeyRequest) (RekeyResponse, error) {
	hostKey, ok := s.w.hostKeyOf(r.Leaf.Node)
	if !ok {
		return RekeyResponse{}, NewRekeyError(RekeyUnknownNode, "no such node")
	}
	leaf, err := s.src.CheckRekey(r, hostKey)
	if err != nil {
		return RekeyResponse{}, err
	}
	chain, err := s.w.gen.Authority.SignAgent(leaf, time.Now())
	return RekeyResponse{Chain: chain}, err
}

func rekeyCode(err error) string {
	var refused *RekeyError
	if errors.As(err, &refused) {
		return refused.Code
	}
	return ""
}

// An agent whose certificate has expired, so that no port takes it, is an agent again by its host key.
func TestRekey(t *testing.T) {
	w := newOldWorld(t)
	a1, a2 := w.first(), w.aged("a2", 48*time.Hour)
	if s, _ := connect(t, a1.ServerTLS(meshProtos...), a2.ClientTLS("a1", transport.ALPNRPC)); s.err == nil {
		t.Fatal("the expired certificate was accepted")
	}
	door := startRenewing(t, w, a1)
	renewer := NewRenewer(RenewerOptions{
		Source: a2, Now: time.Now,
		Renew: func(context.Context, LeafRequest) ([][]byte, uint64, [][]byte, error) {
			return nil, 0, nil, errors.New("refused everywhere")
		},
		Rekey: func(ctx context.Context, req LeafRequest) ([][]byte, error) {
			return Rekey(ctx, RekeyOptions{Source: a2, ClusterID: w.gen.ClusterID, Addrs: []string{door.addr}}, req)
		},
	})
	if err := renewer.renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, c := connect(t, a1.ServerTLS(meshProtos...), a2.ClientTLS("a1", transport.ALPNRPC)); s.err != nil || c.err != nil {
		t.Errorf("afterwards: server %v, client %v", s.err, c.err)
	}
	if left := time.Until(a2.NotAfter()); left < 59*time.Minute {
		t.Errorf("%s left", left)
	}
	door.mu.Lock()
	replay := door.got[0]
	door.mu.Unlock()
	again, err := door.renew(replay)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := parseCerts(again.Chain)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(certs[0].RawSubjectPublicKeyInfo, a2.Leaf().RawSubjectPublicKeyInfo) || !certs[0].NotAfter.Equal(a2.NotAfter()) {
		t.Error("a replay gave another key or another life")
	}
}

// The server is judged before a byte of the request leaves: another cluster's agent, and one whose own
// certificate has expired, get nothing. The next address gets its turn.
func TestRekeyJudgesTheServer(t *testing.T) {
	w, other := newOldWorld(t), newOldWorld(t)
	a2 := w.aged("a2", time.Hour)
	foreign := startRenewing(t, other, other.first())
	expired := startRenewing(t, w, w.aged("a3", time.Minute))
	good := startRenewing(t, w, w.first())
	o := RekeyOptions{Source: a2, ClusterID: w.gen.ClusterID, Addrs: []string{foreign.addr, expired.addr}}
	if _, err := Rekey(t.Context(), o, leafRequest(t, a2)); err == nil {
		t.Error("renewed by strangers")
	}
	if foreign.asked() != 0 || expired.asked() != 0 {
		t.Errorf("the foreign agent got %d requests, the expired one %d", foreign.asked(), expired.asked())
	}
	o.Addrs = append(o.Addrs, good.addr)
	if _, err := Rekey(t.Context(), o, leafRequest(t, a2)); err != nil || good.asked() != 1 {
		t.Errorf("with a right address as well: %v", err)
	}
	o.Addrs = nil
	if _, err := Rekey(t.Context(), o, leafRequest(t, a2)); err == nil || !strings.Contains(err.Error(), "--join") {
		t.Errorf("without an address: %v", err)
	}
}

// Each thing that must hold has its own refusal, final or not.
func TestRekeyRefusals(t *testing.T) {
	w := newOldWorld(t)
	a1, a2, a3 := w.first(), w.aged("a2", time.Hour), w.agent("a3")
	other := newWorld(t, testTD)
	pinned, _ := w.hostKeyOf("a2")
	late := w.aged("a4", ContinuityWindow+time.Hour)
	lateKey, _ := w.hostKeyOf("a4")
	inTime := w.aged("a5", ContinuityWindow-time.Hour)
	inTimeKey, _ := w.hostKeyOf("a5")
	clock := func(d time.Duration) RekeyRequest {
		key := testKey(t)
		leaf, err := NewLeafRequest(a2.host, "a2", testTD, &key.PublicKey, time.Now().Add(d))
		if err != nil {
			t.Fatal(err)
		}
		r := rekeyRequest(t, w, a2)
		r.Leaf = leaf
		return resign(t, r, a2)
	}
	last := func(chain [][]byte) RekeyRequest {
		r := rekeyRequest(t, w, a2)
		r.Last = chain
		return resign(t, r, a2)
	}
	borrowed := rekeyRequest(t, w, a2)
	borrowed.Leaf = rekeyRequest(t, w, a3).Leaf
	borrowed.Leaf.Node = "a2"
	foreign := other.agent("a2")
	_, renamed := w.leaf(a2.host, "a9", time.Hour)
	for name, c := range map[string]struct {
		r       RekeyRequest
		hostKey []byte
		want    string
	}{
		"good":                          {rekeyRequest(t, w, a2), pinned, ""},
		"an hour before the end":        {rekeyRequest(t, w, inTime), inTimeKey, ""},
		"valid still":                   {rekeyRequest(t, w, a3), a3.host.HostKey(), ""},
		"another host key":              {rekeyRequest(t, w, a2), a3.host.HostKey(), RekeyHostKey},
		"leaf by another host key":      {resign(t, borrowed, a2), pinned, RekeyHostKey},
		"too late":                      {rekeyRequest(t, w, late), lateKey, RekeyWindow},
		"clock behind":                  {clock(-time.Hour), pinned, RekeyClock},
		"clock ahead":                   {clock(24 * time.Hour), pinned, RekeyClock},
		"last certificate of another":   {last(a3.leaf.Load().Certificate), pinned, RekeyInvalid},
		"last under another name":       {last(renamed), pinned, RekeyInvalid},
		"last of another cluster":       {last(foreign.leaf.Load().Certificate), pinned, RekeyInvalid},
		"last without its issuer":       {last(a2.leaf.Load().Certificate[:1]), pinned, RekeyInvalid},
		"last is no certificate":        {last([][]byte{{1, 2}}), pinned, RekeyInvalid},
		"last is the issuer":            {last(a2.leaf.Load().Certificate[1:]), pinned, RekeyInvalid},
		"pinned key cannot be read":     {rekeyRequest(t, w, a2), []byte{1}, RekeyInvalid},
		"another key and too late also": {rekeyRequest(t, w, late), pinned, RekeyHostKey},
	} {
		_, err := a1.CheckRekey(c.r, c.hostKey)
		if got := rekeyCode(err); got != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	a1.denied = func(id spiffeid.ID) bool { return id == a2.ID() }
	if _, err := a1.CheckRekey(rekeyRequest(t, w, a2), pinned); rekeyCode(err) != RekeyDenied {
		t.Errorf("evicted: %v", err)
	}
	for code, hint := range rekeyHints {
		passes := code == RekeyClock || code == RekeyUnavailable
		if NewRekeyError(code, "x").Permanent() == passes || hint == "" {
			t.Errorf("%s: permanent %t, hint %q", code, !passes, hint)
		}
	}
}

// A relay that puts an older link of the host, or none, into its request is refused: it would make one host look like two. As a control,
// the request as it was sent is taken.
func TestRekeyProofCoversTheLink(t *testing.T) {
	w := newOldWorld(t)
	a1, a2 := w.first(), w.aged("a2", time.Hour)
	pinned, _ := w.hostKeyOf("a2")
	ratchet := OpenRatchet(t.TempDir(), w.gen.ClusterID, "a2", a2.host)
	links := make([]*GenerationLink, 2)
	for i := range links {
		var err error
		if links[i], err = ratchet.Link(); err != nil {
			t.Fatal(err)
		}
		if err := ratchet.Accepted(); err != nil {
			t.Fatal(err)
		}
	}
	good := rekeyRequest(t, w, a2)
	good.Leaf.Generation = links[1]
	good = resign(t, good, a2)
	if _, err := a1.CheckRekey(good, pinned); err != nil {
		t.Fatal(err)
	}
	for name, link := range map[string]*GenerationLink{"an older one": links[0], "none": nil} {
		r := good
		r.Leaf.Generation = link
		if _, err := a1.CheckRekey(r, pinned); rekeyCode(err) != RekeyHostKey {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Each field that is changed on the way is refused: most by the proof, the tag and the version by form.
func TestRekeyProofCoversEveryField(t *testing.T) {
	w := newOldWorld(t)
	a1, a2 := w.first(), w.aged("a2", time.Hour)
	pinned, _ := w.hostKeyOf("a2")
	good, other := rekeyRequest(t, w, a2), rekeyRequest(t, w, a2)
	if back, err := DecodeRekeyRequest(mustJSON(t, good)); err != nil || !bytes.Equal(mustJSON(t, back), mustJSON(t, good)) {
		t.Fatalf("round trip: %v", err)
	}
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b }
	for name, change := range map[string]func(*RekeyRequest){
		"request":        func(r *RekeyRequest) { r.Request = "join" },
		"version":        func(r *RekeyRequest) { r.Version++ },
		"cluster_id":     func(r *RekeyRequest) { r.ClusterID = strings.Repeat("0", 32) },
		"node":           func(r *RekeyRequest) { r.Leaf.Node = "a3" },
		"leaf key":       func(r *RekeyRequest) { r.Leaf.PublicKey = other.Leaf.PublicKey },
		"not_after":      func(r *RekeyRequest) { r.Leaf.NotAfter = r.Leaf.NotAfter.Add(time.Second) },
		"host_signature": func(r *RekeyRequest) { r.Leaf.HostSignature = flip(r.Leaf.HostSignature) },
		"whole leaf":     func(r *RekeyRequest) { r.Leaf = other.Leaf },
		"last":           func(r *RekeyRequest) { r.Last = [][]byte{flip(r.Last[0]), r.Last[1]} },
		"last, shorter":  func(r *RekeyRequest) { r.Last = r.Last[:1] },
		"last, joined":   func(r *RekeyRequest) { r.Last = [][]byte{append(bytes.Clone(r.Last[0]), r.Last[1]...)} },
		"no last":        func(r *RekeyRequest) { r.Last = nil },
		"host_proof":     func(r *RekeyRequest) { r.HostProof = flip(r.HostProof) },
		"another proof":  func(r *RekeyRequest) { r.HostProof = other.HostProof },
		"no proof":       func(r *RekeyRequest) { r.HostProof = nil },
	} {
		r := good
		change(&r)
		back, err := DecodeRekeyRequest(mustJSON(t, r))
		if err != nil {
			continue
		}
		if _, err := a1.CheckRekey(back, pinned); rekeyCode(err) != RekeyHostKey {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, data := range []string{"", "{}", "[]", string(mustJSON(t, good)) + "{}", strings.Repeat(" ", MaxJoinBytes+1)} {
		if _, err := DecodeRekeyRequest([]byte(data)); err == nil {
			t.Errorf("%.20q was accepted", data)
		}
	}
	joining, _, _ := testRequest(t)
	if requestTag(mustJSON(t, joining)) != "" || requestTag(mustJSON(t, good)) != rekeyTag {
		t.Error("a join is taken for a renewal, or the other way round")
	}
}

// A host tries other addresses after a refusal, which may come from one that is behind or means harm,
// but not for ever; rubbish is no answer; and what a peer wrote cannot steer a terminal.
func TestRekeyAnswers(t *testing.T) {
	w := newOldWorld(t)
	a2 := w.aged("a2", time.Hour)
	doors := make([]*renewing, 5)
	o := RekeyOptions{Source: a2, ClusterID: w.gen.ClusterID}
	for i := range doors {
		doors[i] = startRenewing(t, w, w.first())
		o.Addrs = append(o.Addrs, doors[i].addr)
	}
	ask := func(answers ...answerFunc) error {
		for i, d := range doors {
			d.mu.Lock()
			d.got, d.answer = nil, d.renew
			if i < len(answers) {
				d.answer = answers[i]
			}
			d.mu.Unlock()
		}
		_, err := Rekey(t.Context(), o, leafRequest(t, a2))
		return err
	}
	refuse := func(code string) answerFunc {
		return func(RekeyRequest) (RekeyResponse, error) { return RekeyResponse{}, NewRekeyError(code, "because\x1b") }
	}
	secret := func(RekeyRequest) (RekeyResponse, error) { return RekeyResponse{}, errors.New("an internal matter") }
	rubbish := func(RekeyRequest) (RekeyResponse, error) { return RekeyResponse{Chain: [][]byte{{1}}}, nil }
	anothers := func(RekeyRequest) (RekeyResponse, error) {
		_, chain := w.leaf(a2.host, "a2", time.Hour)
		return RekeyResponse{Chain: chain}, nil
	}
	if err := ask(refuse(RekeyUnknownNode), rubbish, anothers, secret); err != nil || doors[4].asked() != 1 {
		t.Errorf("the fifth signs: %v", err)
	}
	err := ask(slices.Repeat([]answerFunc{refuse(RekeyHostKey)}, 3)...)
	if rekeyCode(err) != RekeyHostKey || doors[3].asked() != 0 || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("three refusals: %v", err)
	}
	err = ask(slices.Concat([]answerFunc{refuse(RekeyClock)}, slices.Repeat([]answerFunc{secret}, 3), []answerFunc{rubbish})...)
	if rekeyCode(err) != RekeyUnavailable || strings.Contains(err.Error(), "internal matter") || doors[4].asked() != 1 {
		t.Errorf("what passes: %v", err)
	}
	for _, d := range doors {
		d.src.leaf.Store(a2.leaf.Load()) // all have expired
	}
	if err := ask(); err == nil || rekeyCode(err) != "" || doors[0].asked() != 0 {
		t.Errorf("nobody to trust: %v", err)
	}
}

// A server without the handler, or with a request of the wrong form, says so and stays on its feet.
func TestRekeyServer(t *testing.T) {
	w := newOldWorld(t)
	server := NewJoinServer(func(context.Context, JoinRequest) (JoinResponse, error) { return JoinResponse{}, nil })
	good := mustJSON(t, rekeyRequest(t, w, w.aged("a2", time.Hour)))
	if a, err := server.answerRekey(t.Context(), good); err == nil || a.Error.Code != RekeyUnavailable {
		t.Errorf("no handler: %v", err)
	}
	if a, err := server.answerRekey(t.Context(), []byte(`{"request":"rekey"}`)); err == nil || a.Error.Code != RekeyInvalid {
		t.Errorf("no form: %v", err)
	}
}

// The way by host key is taken only for a certificate that is about to expire or has, and only after the
// ordinary one failed. A refusal that stays is an error in the log once, with what to do.
func TestRenewerFallsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, testTD)
		src := w.first()
		core, logs := observer.New(zapcore.InfoLevel)
		var mu sync.Mutex
		var asked []time.Duration // what was left of the certificate
		byKey := func() []time.Duration { mu.Lock(); defer mu.Unlock(); return slices.Clone(asked) }
		var healed atomic.Bool
		renewer := NewRenewer(RenewerOptions{
			Source: src, Now: time.Now, Log: zap.New(core),
			Renew: func(context.Context, LeafRequest) ([][]byte, uint64, [][]byte, error) {
				return nil, 0, nil, errors.New("no core member answers")
			},
			Rekey: func(_ context.Context, req LeafRequest) ([][]byte, error) {
				mu.Lock()
				asked = append(asked, time.Until(src.NotAfter()))
				mu.Unlock()
				if !healed.Load() {
					return nil, NewRekeyError(RekeyWindow, "too late")
				}
				return w.gen.Authority.SignAgent(req, time.Now())
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = renewer.Run(ctx) }) // until cancel
		time.Sleep(53 * time.Minute)
		synctest.Wait()
		if early := byKey(); len(early) != 0 {
			t.Errorf("asked by host key with %s left", early[0])
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if got := byKey(); len(got) == 0 || got[0] < 4*time.Minute || got[0] > 6*time.Minute+time.Second {
			t.Errorf("asked by host key %v", got)
		}
		refused := logs.FilterMessage("the cluster does not renew this host by its key").All()
		if len(refused) != 1 || refused[0].Level != zapcore.ErrorLevel || refused[0].ContextMap()["hint"] != joinAgain {
			t.Errorf("refusal in the log: %v", refused)
		}
		healed.Store(true)
		time.Sleep(retryMax)
		synctest.Wait()
		if renewer.Err() != nil || time.Until(src.NotAfter()) < 58*time.Minute {
			t.Errorf("not healed: %v", renewer.Err())
		}
		cancel()
		running.Wait()
	})
}

// Whatever a stranger sends is refused or well formed, survives a round trip, and is never signed.
func FuzzDecodeRekeyRequest(f *testing.F) {
	join, _, host := testRequest(f)
	good := RekeyRequest{
		Request: rekeyTag, Version: rekeyVersion, ClusterID: join.ClusterID, Leaf: join.Leaf,
		Last: [][]byte{{1}, {2}}, HostProof: []byte{3},
	}
	f.Add(mustJSON(f, good))
	f.Add([]byte(`{"request":"rekey","version":1,"leaf":{"not_after":"9999-12-31T23:59:59Z"},"last":[null]}`))
	f.Add(mustJSON(f, join))
	judge := &Source{td: testTD, now: time.Now}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeRekeyRequest(data)
		if err != nil {
			return
		}
		again, err := DecodeRekeyRequest(mustJSON(t, r))
		if err != nil || !bytes.Equal(again.hostDigest(), r.hostDigest()) || r.Leaf.HostKey != nil {
			t.Errorf("round trip: %v", err)
		}
		if _, err := judge.CheckRekey(r, host.HostKey()); err == nil {
			t.Error("signed for a stranger")
		}
	})
}

// Whatever an agent answers, the host refuses it or gets one of response and error.
func FuzzDecodeRekeyAnswer(f *testing.F) {
	f.Add(mustJSON(f, rekeyAnswer{Error: NewRekeyError(RekeyClock, "clock")}))
	f.Add(mustJSON(f, rekeyAnswer{Response: &RekeyResponse{Chain: [][]byte{{1}}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		answer, err := decodeRekeyAnswer(data)
		if err == nil && (answer.Response == nil) == (answer.Error == nil) {
			t.Error("both or neither")
		}
	})
}
