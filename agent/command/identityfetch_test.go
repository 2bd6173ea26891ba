package command

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/svidfiles"
	"github.com/parley-mesh/parley/security/workload"
)

// fetchWorld is a workload socket, and what it gives.
type fetchWorld struct {
	t      *testing.T
	socket string
	gen    *security.Genesis
	key    *ecdsa.PrivateKey // of tokens
	life   time.Duration     // of tokens

	mu struct {
		sync.Mutex
		held    []workload.Identity
		bundles workload.Bundles
		changed chan struct{}
	}
}

func newFetchWorld(t *testing.T) *fetchWorld {
	t.Helper()
	base, err := os.MkdirTemp("", "pf") // shorter than t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	td := spiffeid.RequireTrustDomainFromString("example.org")
	gen, err := security.InitIdentity(t.TempDir(), td, "a1", security.InitKeys{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w := &fetchWorld{t: t, gen: gen, socket: filepath.Join(base, "s", workload.SocketName), life: time.Minute}
	if w.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	own := spiffebundle.New(td)
	for _, der := range gen.Roots {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		own.AddX509Authority(root)
	}
	if err := own.AddJWTAuthority("k", w.key.Public()); err != nil {
		t.Fatal(err)
	}
	w.mu.changed, w.mu.bundles = make(chan struct{}), workload.Bundles{Own: own, Federated: map[spiffeid.TrustDomain]*spiffebundle.Bundle{}}
	l, err := workload.Listen(w.socket)
	if err != nil {
		t.Fatal(err)
	}
	w.serve(l)
	return w
}

func (w *fetchWorld) serve(l net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- workload.New(workload.Options{Source: w, Now: time.Now}).Serve(ctx, l) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
	})
}

// issue gives the process new certificates for these names, none if there are none.
func (w *fetchWorld) issue(names ...string) {
	w.t.Helper()
	var held []workload.Identity
	for _, name := range names {
		id := spiffeid.RequireFromString("spiffe://example.org/svc/" + name)
		key, err := security.NewWorkloadKey()
		if err != nil {
			w.t.Fatal(err)
		}
		req, err := security.NewWorkloadRequest("a1", name, key)
		if err != nil {
			w.t.Fatal(err)
		}
		chain, err := w.gen.Authority.SignWorkload(req, "a1", id, time.Hour, time.Now())
		if err != nil {
			w.t.Fatal(err)
		}
		certs, err := security.VerifyWorkload(chain, id, &key.PublicKey, w.gen.Roots, time.Now())
		if err != nil {
			w.t.Fatal(err)
		}
		held = append(held, workload.Identity{ID: id, Hint: name, Chain: certs, Key: key})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.held = held
	close(w.mu.changed)
	w.mu.changed = make(chan struct{})
}

func (w *fetchWorld) Identities(context.Context, []workload.Selector) ([]workload.Identity, <-chan struct{}, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.mu.held) == 0 {
		return nil, w.mu.changed, workload.ErrNoIdentity
	}
	return w.mu.held, w.mu.changed, nil
}

func (w *fetchWorld) FederatesWith([]workload.Selector) []spiffeid.TrustDomain { return nil }

func (w *fetchWorld) Bundles() (workload.Bundles, <-chan struct{}, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.bundles, w.mu.changed, nil
}

func (w *fetchWorld) MintJWT(_ context.Context, _ []workload.Selector, id spiffeid.ID, audience []string) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: w.key, KeyID: "k"}}, nil)
	if err != nil {
		return "", err
	}
	return jwt.Signed(signer).Claims(jwt.Claims{
		Subject: id.String(), Audience: audience, ID: rand.Text(), Expiry: jwt.NewNumericDate(time.Now().Add(w.life)),
	}).Serialize()
}

// parley runs a command and returns what it printed.
func (w *fetchWorld) parley(ctx context.Context, args ...string) (code int, out, errs string) {
	var stdout, stderr bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &stdout, err: &stderr, getenv: func(name string) string {
		if name == "SPIFFE_ENDPOINT_SOCKET" {
			return "unix://" + w.socket
		}
		return ""
	}}
	code = a.run(ctx, append([]string{"identity", "fetch"}, args...))
	return code, stdout.String(), stderr.String()
}

// TestFetchBesideTheAgent: where only an agent was named, by its admin socket, the workload socket beside that is asked. In a lab
// the command asked the socket of the host, where nobody was.
func TestFetchBesideTheAgent(t *testing.T) {
	w := newFetchWorld(t)
	w.issue("web")
	admin := "unix://" + filepath.Join(filepath.Dir(w.socket), "admin.sock")
	for what, k := range map[string]struct {
		env  string
		args []string
		code int
	}{
		"by PARLEY_ADDR":      {admin, nil, 0},
		"by --addr":           {"", []string{"--addr", admin}, 0},
		"--socket goes first": {admin, []string{"--socket", "/none/s"}, exitNoAgent},
	} {
		var stdout, stderr bytes.Buffer
		a := &app{in: strings.NewReader(""), out: &stdout, err: &stderr, getenv: func(name string) string {
			if name == addrVariable {
				return k.env
			}
			return ""
		}}
		if code := a.run(t.Context(), append([]string{"identity", "fetch", "x509"}, k.args...)); code != k.code {
			t.Errorf("%s: exit %d: %s%s", what, code, stdout.String(), stderr.String())
		}
	}
}

// TestFetchX509: what is written is one identity that standard readers take, its key for its owner alone; the same again writes
// nothing, and nothing secret is printed.
func TestFetchX509(t *testing.T) {
	w := newFetchWorld(t)
	w.issue("db", "web")
	dir := filepath.Join(t.TempDir(), "identity")
	code, out, errs := w.parley(t.Context(), "x509", "--id", "spiffe://example.org/svc/web", "--write", dir, "-o", "json")
	var document fetchedX509
	if err := json.Unmarshal([]byte(out), &document); code != 0 || err != nil || len(document.SVIDs) != 1 || len(document.Written) != 5 {
		t.Fatalf("exit %d, %s%s %v", code, out, errs, err)
	}
	if s := document.SVIDs[0]; s.SPIFFEID != "spiffe://example.org/svc/web" || s.Hint != "web" || s.NotAfter.Before(time.Now()) {
		t.Errorf("got %+v", s)
	}
	for name, mode := range map[string]os.FileMode{
		svidfiles.KeyName: 0o600, svidfiles.BothName: 0o600, svidfiles.ChainName: 0o644, svidfiles.BundleName: 0o644, svidfiles.BundlesName: 0o644,
	} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, pair := range [][2]string{{svidfiles.ChainName, svidfiles.KeyName}, {svidfiles.BothName, svidfiles.BothName}} {
		cert, err := tls.LoadX509KeyPair(path(pair[0]), path(pair[1]))
		if err != nil || len(cert.Certificate) != 2 {
			t.Errorf("%v: %d certificates, %v", pair, len(cert.Certificate), err)
		}
	}
	if code, again, _ := w.parley(t.Context(), "x509", "--id", "spiffe://example.org/svc/web", "--write", dir, "-o", "json"); code != 0 || strings.Contains(again, "written") {
		t.Errorf("the same again: exit %d, %s", code, again)
	}
	key, err := os.ReadFile(path(svidfiles.KeyName))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(key)
	if block == nil {
		t.Fatal("the key is not PEM")
	}
	_, all, _ := w.parley(t.Context(), "x509")
	if !strings.Contains(all, "svc/db") || !strings.Contains(all, "svc/web") || strings.Contains(all+out, "PRIVATE") {
		t.Errorf("without --write: %s", all)
	}
	if code, _, errs := w.parley(t.Context(), "x509", "--id", "spiffe://example.org/svc/none", "--write", dir); code != exitDenied || !strings.Contains(errs, "does not get") {
		t.Errorf("an identity of others: exit %d, %s", code, errs)
	}
}

// TestFetchKeepsFilesFresh: with --watch the files follow each new certificate, a reader of svid-key.pem never sees halves of two,
// a time without identities leaves them as they are, and a second writer is refused meanwhile.
func TestFetchKeepsFilesFresh(t *testing.T) {
	w := newFetchWorld(t)
	w.issue("web")
	dir := filepath.Join(t.TempDir(), "identity")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan string, 1)
	go func() {
		_, out, errs := w.parley(ctx, "x509", "--write", dir, "--watch", "-o", "json")
		ended <- out + errs
	}()
	both := filepath.Join(dir, svidfiles.BothName)
	serial := func() string {
		text, err := os.ReadFile(both) // once: LoadX509KeyPair would open it twice
		if errors.Is(err, os.ErrNotExist) {
			return ""
		}
		if err != nil {
			t.Fatal(err)
		}
		cert, err := tls.X509KeyPair(text, text)
		if err != nil {
			t.Errorf("a reader sees: %v", err)
			return ""
		}
		return cert.Leaf.SerialNumber.Text(16)
	}
	last := ""
	for range 20 {
		deadline := time.Now().Add(10 * time.Second)
		for serial() == last {
			if time.Now().After(deadline) {
				t.Fatal("the files stay as they were")
			}
		}
		last = serial()
		w.issue("web")
	}
	if code, _, errs := w.parley(t.Context(), "x509", "--write", dir); code != exitFailed || !strings.Contains(errs, "another process") {
		t.Errorf("a second writer: exit %d, %s", code, errs)
	}
	w.issue()
	if serial() == "" {
		t.Error("without an entry the files are gone")
	}
	cancel()
	said := <-ended
	if lines := strings.Count(said, `"written"`); lines < 20 {
		t.Errorf("%d lines: %s", lines, said)
	}
}

// TestFetchJWT: a token is printed alone, or put into a file for its owner alone and not printed, and replaced at half of its life.
func TestFetchJWT(t *testing.T) {
	w := newFetchWorld(t)
	w.issue("web")
	code, token, errs := w.parley(t.Context(), "jwt", "--audience", "db", "-o", "raw")
	if code != 0 || strings.Count(token, ".") != 2 || !strings.HasSuffix(token, "\n") {
		t.Fatalf("exit %d, %q, %s", code, token, errs)
	}
	w.life = 4 * time.Second
	file := filepath.Join(t.TempDir(), "tokens", "db.jwt")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	code, out, errs := w.parley(t.Context(), "jwt", "--audience", "db", "--write", file, "--watch", "--wait", "3s", "-o", "json")
	if code != 0 || strings.Count(out, `"written"`) != 2 || strings.Contains(out, `"token"`) {
		t.Errorf("exit %d, %s%s: want two tokens in three seconds, at a life of four", code, out, errs)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if code, _, errs := w.parley(t.Context(), "jwt"); code != exitFailed || !strings.Contains(errs, "--audience") {
		t.Errorf("without an audience: exit %d, %s", code, errs)
	}
}

// TestFetchBundles: bundles.json holds each trust domain's roots and keys of tokens.
func TestFetchBundles(t *testing.T) {
	w := newFetchWorld(t)
	w.issue("web")
	dir := filepath.Join(t.TempDir(), "bundles")
	code, out, errs := w.parley(t.Context(), "bundles", "--write", dir, "-o", "json")
	if code != 0 || !strings.Contains(out, `"jwt_keys": 1`) {
		t.Fatalf("exit %d, %s%s", code, out, errs)
	}
	text, err := os.ReadFile(filepath.Join(dir, svidfiles.BundlesName))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		TrustDomains map[string]json.RawMessage `json:"trust_domains"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	got, err := spiffebundle.Parse(spiffeid.RequireTrustDomainFromString("example.org"), file.TrustDomains["example.org"])
	if err != nil || len(got.X509Authorities()) != 1 || len(got.JWTAuthorities()) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	if code, out, errs := w.parley(t.Context(), "bundles", "--write", dir, "--watch", "--wait", "2s", "--expect", ".trust_domains | length == 1"); code != 0 {
		t.Errorf("--watch: exit %d, %s%s", code, out, errs)
	}
}

// TestFetchSaysWhy: who gets nothing is told what to do, by exit codes.
func TestFetchSaysWhy(t *testing.T) {
	w := newFetchWorld(t)
	dir := filepath.Join(t.TempDir(), "identity")
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{exitDenied, "identity explain", []string{"x509", "--write", dir}},
		{exitNoAgent, "--socket", []string{"x509", "--socket", filepath.Join(t.TempDir(), "none.sock")}},
		{exitNoAgent, "--socket", []string{"bundles", "--data-dir", t.TempDir()}},
		{exitFailed, "--write", []string{"x509", "--watch"}},
		{exitFailed, "names a directory", []string{"jwt", "--audience", "db", "--write", dir + "/"}},
		{exitFailed, "is no SPIFFE ID", []string{"x509", "--id", "web"}},
		{exitFailed, "no address", []string{"x509", "--socket", "http://here"}},
	} {
		if code, _, errs := w.parley(t.Context(), c.args...); code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%v: exit %d, %s", c.args, code, errs)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.pem")); left != nil {
		t.Errorf("denied, and there is %v", left)
	}
	// The bug: the last try was cut off by the end of the wait, and its failure took the place of the reason.
	if code, _, errs := w.parley(t.Context(), "x509", "--wait", "1s"); code != exitDenied || !strings.Contains(errs, "no identity is registered") {
		t.Errorf("--wait in vain: exit %d, %s", code, errs)
	}
	time.AfterFunc(300*time.Millisecond, func() { w.issue("web") })
	if code, _, errs := w.parley(t.Context(), "x509", "--write", dir, "--wait", "20s"); code != 0 {
		t.Errorf("--wait for an entry: exit %d, %s", code, errs)
	}
}
