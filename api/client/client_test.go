package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAddresses(t *testing.T) {
	for _, addr := range []string{"unix:///run/admin.sock", "http://127.0.0.1:8500", "http://[::1]:8500/", "https://a1:8501"} {
		if _, err := New(addr); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
	for _, addr := range []string{"", "127.0.0.1:8500", "unix://relative/path", "unix:", "ftp://x", "http://", "http://x/path", "::"} {
		if _, err := New(addr); err == nil {
			t.Errorf("%q is accepted", addr)
		}
	}
}

// asError fails the test unless err is an *Error with code and exit.
func asError(t *testing.T, err error, code string, exit int) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *Error with code %s", err, code)
	}
	if e.Code != code || e.ExitCode() != exit || e.Hint == "" {
		t.Errorf("got %s, exit %d, hint %q; want %s, exit %d", e.Code, e.ExitCode(), e.Hint, code, exit)
	}
	return e
}

// Nobody listening did nothing, for reads and writes alike.
func TestNoAgent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	for _, where := range []string{"http://" + addr, "unix:///nonexistent/admin.sock"} {
		c, err := New(where)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Status(context.Background())
		_ = asError(t, err, CodeNoAgent, 3)
		_, err = c.Put(context.Background(), "k", nil, PutOptions{})
		_ = asError(t, err, CodeNoAgent, 3)
		_ = asError(t, c.Watch(context.Background(), "k", false, func(Event) error { return nil }), CodeNoAgent, 3)
	}
}

// A write that was sent and not answered is of unknown outcome, whether its connection broke or its time was over; a
// read is not.
func TestOutcomeUnknown(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("stale") || r.Method == http.MethodDelete {
			<-release
		}
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	defer close(release)
	c, err := New(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err = c.Put(context.Background(), "k", []byte("v"), PutOptions{})
	if e := asError(t, err, CodeOutcomeUnknown, 5); e.Retryable {
		t.Error("an unknown outcome may be repeated")
	}
	_, err = c.Delete(ctx, "k", DeleteOptions{})
	_ = asError(t, err, CodeOutcomeUnknown, 5)
	_, err = c.Get(context.Background(), "k", ReadOptions{})
	_ = asError(t, err, CodeNoAgent, 3)
	_, err = c.Get(ctx, "k", ReadOptions{Stale: true})
	if e := asError(t, err, CodeInterrupted, 3); !errors.Is(e, context.DeadlineExceeded) {
		t.Errorf("the cause is lost: %v", e.Unwrap())
	}
}

// A handshake that fails comes before the request: nothing was done, whoever of the two did not trust the other. A
// connection that breaks behind the handshake leaves it open (the control).
func TestHandshakeFailedIsNotUnknown(t *testing.T) {
	served := false
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		served = true
		panic(http.ErrAbortHandler)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
		if len(raw) == 0 {
			return errors.New("no certificate")
		}
		return nil
	}}
	server.StartTLS()
	defer server.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(server.Certificate())
	for _, test := range []struct {
		what   string
		config *tls.Config
		code   string
		exit   int
	}{
		{"untrusted server", &tls.Config{Certificates: server.TLS.Certificates, RootCAs: x509.NewCertPool()}, CodeNoAgent, 3},
		{"refused client", &tls.Config{RootCAs: trusted}, CodeRefused, 4},
		{"both trust", &tls.Config{Certificates: server.TLS.Certificates, RootCAs: trusted}, CodeOutcomeUnknown, 5},
	} {
		test.config.MinVersion = tls.VersionTLS13
		c, err := New(server.URL, WithTLS(test.config))
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Put(context.Background(), "k", []byte("v"), PutOptions{})
		_ = asError(t, err, test.code, test.exit)
		if want := test.exit == 5; served != want {
			t.Errorf("%s: the request was served: %v, want %v", test.what, served, want)
		}
		c.Close()
	}
	plain, err := New("https" + strings.TrimPrefix(plainServer(t), "http"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = plain.Put(context.Background(), "k", nil, PutOptions{})
	_ = asError(t, err, CodeNoAgent, 3)
}

// plainServer speaks no TLS.
func plainServer(t *testing.T) string {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(server.Close)
	return server.URL
}

// A server that reads HTTP and hangs up, as a mesh port does, is named as what it looks like. A socket has no other port.
func TestMeshPort(t *testing.T) {
	for network, want := range map[string]bool{"tcp": true, "unix": false} {
		addr := "127.0.0.1:0"
		if network == "unix" {
			addr = filepath.Join(t.TempDir(), "s")
		}
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() }) // only a listener
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Read(make([]byte, 4096))
				_ = conn.Close()
			}
		}()
		scheme := map[string]string{"tcp": "http://", "unix": "unix://"}[network]
		c, err := New(scheme + l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Status(context.Background())
		e := asError(t, err, CodeNoAgent, 3)
		if got := strings.Contains(e.Hint, "mesh port") && strings.Contains(e.Hint, "8500"); got != want {
			t.Errorf("%s: hint %q", network, e.Hint)
		}
	}
}

// Another program at the address is recognized as such.
func TestAnotherProgram(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte("<html>"))
	}))
	defer server.Close()
	c, err := New(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	for status = range map[int]bool{200: true, 404: true, 500: true} {
		_, err = c.Status(context.Background())
		_ = asError(t, err, CodeUnreadable, 1)
		_ = asError(t, c.Watch(context.Background(), "k", false, func(Event) error { return nil }), CodeUnreadable, 1)
	}
	status = http.StatusForbidden
	_, err = c.Status(context.Background())
	_ = asError(t, err, CodeUnreadable, 4)
}

// A pair's JSON is what the agent sends, for text and for bytes.
func TestPairJSON(t *testing.T) {
	for _, text := range []string{
		`{"key":"k","value":"v","flags":1,"revision":2,"create_revision":1,"version":2,"modified_at":"2023-11-14T22:13:20Z","modified_hlc":"1700000000000.2"}`,
		`{"key":"k","value":"","flags":0,"revision":2,"create_revision":1,"version":2,"modified_at":"2023-11-14T22:13:20Z","modified_hlc":"1700000000000.2"}`,
		`{"key":"k","value_base64":"/w==","flags":0,"revision":2,"create_revision":1,"version":2,"modified_at":"2023-11-14T22:13:20Z","modified_hlc":"1700000000000.2"}`,
	} {
		var p Pair
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			t.Fatal(err)
		}
		if got, err := json.Marshal(p); err != nil || string(got) != text {
			t.Errorf("got %s, %v\nwant %s", got, err, text)
		}
	}
}
