package security

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/transport"
)

// askOver sends a request over one protocol of a mesh port and returns the answer.
func askOver(t *testing.T, addr, alpn string, request any) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	bare := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}}
	data, err := exchange(ctx, nil, addr, bare, request)
	if err != nil {
		t.Fatalf("over %s: %v", alpn, err)
	}
	return data
}

// TestRekeyHasItsOwnProtocol: a renewal by host key is answered on its own protocol and on no other, and nothing else is answered
// there. An agent from before that is told what to do. The control is the same request where it belongs.
func TestRekeyHasItsOwnProtocol(t *testing.T) {
	w := newOldWorld(t)
	a1, a2 := w.first(), w.aged("a2", time.Hour)
	port := startRenewing(t, w, a1)
	req := rekeyRequest(t, w, a2)

	answer, err := decodeRekeyAnswer(askOver(t, port.addr, transport.ALPNJoin, req))
	if err != nil || answer.Error == nil || answer.Error.Code != RekeyUnavailable || answer.Error.Permanent() || !strings.Contains(answer.Error.Error(), transport.ALPNRekey) {
		t.Errorf("on the protocol of joiners: %+v, %v", answer.Error, err)
	}
	if port.asked() != 0 {
		t.Error("a renewal on the protocol of joiners reached the handler")
	}
	for what, other := range map[string]any{"a join": JoinRequest{Version: 1}, "an attestation": map[string]string{"request": attestTag}} {
		answer, err := decodeRekeyAnswer(askOver(t, port.addr, transport.ALPNRekey, other))
		if err != nil || answer.Error == nil || answer.Error.Code != RekeyInvalid {
			t.Errorf("%s on %s: %+v, %v", what, transport.ALPNRekey, answer, err)
		}
	}
	if answer, err := decodeRekeyAnswer(askOver(t, port.addr, transport.ALPNRekey, req)); err != nil || answer.Response == nil || port.asked() != 1 {
		t.Errorf("control: %+v, %v", answer, err)
	}
}

// TestExpiredIsAcceptedNowhere: who has only a certificate that has ended is let in by no protocol that wants one, and not by
// offering the rekey protocol beside one of them. On the rekey protocol the certificate is not even asked for. The control
// is a certificate that counts.
func TestExpiredIsAcceptedNowhere(t *testing.T) {
	w := newOldWorld(t)
	judge, good, expired := w.first(), w.agent("a3").leaf.Load(), w.aged("a2", time.Hour).leaf.Load()
	show := func(cert *tls.Certificate, protos ...string) endpoint {
		client := &tls.Config{InsecureSkipVerify: true, NextProtos: protos}
		client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		s, _ := connect(t, meshServer(judge), client)
		return s
	}
	for _, alpn := range []string{transport.ALPNRPC, transport.ALPNRaft, transport.ALPNGossip} {
		for _, protos := range [][]string{{alpn}, {transport.ALPNRekey, alpn}, {alpn, transport.ALPNRekey}, {transport.ALPNJoin, transport.ALPNRekey, alpn}} {
			var validity *ValidityError
			if s := show(expired, protos...); !errors.As(s.err, &validity) || !validity.Expired() {
				t.Errorf("%v: the expired certificate: %v", protos, s.err)
			}
			if s := show(good, protos...); s.err != nil || s.conn.ConnectionState().NegotiatedProtocol != alpn {
				t.Errorf("%v: control: %v", protos, s.err)
			}
		}
	}
	s := show(expired, transport.ALPNRekey)
	if s.err != nil {
		t.Fatal(s.err)
	}
	if peer, err := judge.Identify(s.conn.ConnectionState()); err != nil || peer != (transport.Peer{}) {
		t.Errorf("on the rekey protocol it is %+v, %v", peer, err)
	}
}

// TestRekeyFromAnOlderAgent: an agent that does not know the protocol is named as such, and the next address has its turn.
func TestRekeyFromAnOlderAgent(t *testing.T) {
	w := newOldWorld(t)
	a1, a2 := w.first(), w.aged("a2", time.Hour)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-served })
	go func() {
		defer close(served)
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
			_ = tls.Server(raw, a1.ServerTLS(transport.ALPNRPC, transport.ALPNRaft, transport.ALPNJoin)).Handshake()
			raw.Close()
		}
	}()
	o := RekeyOptions{Source: a2, ClusterID: w.gen.ClusterID, Addrs: []string{l.Addr().String()}}
	if _, err := Rekey(t.Context(), o, leafRequest(t, a2)); err == nil || !strings.Contains(err.Error(), "older than "+transport.ALPNRekey) {
		t.Errorf("got %v", err)
	}
	o.Addrs = append(o.Addrs, startRenewing(t, w, a1).addr)
	if _, err := Rekey(t.Context(), o, leafRequest(t, a2)); err != nil {
		t.Errorf("control: with an agent that knows it: %v", err)
	}
}
