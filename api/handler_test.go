package api

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/parley-mesh/parley/api/httpconn"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// do sends one request to a handler, as loopback HTTP unless edit changes it.
func do(h http.Handler, method, target, body string, edit ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "127.0.0.1:8500"
	for _, e := range edit {
		e(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// withRole makes a service like the agent's whose anonymous callers have role.
func (a *fakeAgent) withRole(role policy.Role) *Service {
	o := a.options()
	o.AnonymousRole = role
	a.service = New(o)
	return a.service
}

// calls has one request that succeeds for each endpoint.
var calls = []struct{ method, target, body string }{
	{"GET", "/livez", ""}, {"GET", "/readyz", ""},
	{"GET", "/parley/v1/members", ""}, {"GET", "/parley/v1/core", ""}, {"GET", "/parley/v1/invariants", ""}, {"GET", "/parley/v1/status", ""}, {"GET", "/parley/v1/health", ""},
	{"GET", "/metrics", ""}, {"GET", "/parley/v1/slo", ""}, {"GET", "/parley/v1/alerts", ""}, {"GET", "/parley/v1/health/explain", ""},
	{"GET", "/parley/v1/events", ""}, {"POST", "/parley/v1/events", `{"message":"m"}`},
	{"GET", "/parley/v1/apply", ""}, {"POST", "/parley/v1/apply/quarantine?index=7&place=0", ""},
	{"GET", "/parley/v1/digest/compare", ""}, {"GET", "/parley/v1/digest/diff", ""}, {"POST", "/parley/v1/digest/accept", `{"node":"a1"}`}, {"GET", "/parley/v1/net/matrix", ""}, {"GET", "/parley/v1/node/a1", ""},
	{"GET", "/parley/v1/debug/bundle", ""}, {"GET", "/parley/v1/debug/recordings", ""}, {"DELETE", "/parley/v1/debug/recordings", ""},
	{"GET", "/parley/v1/kv?prefix=1", ""}, {"GET", "/parley/v1/kv/k", ""},
	{"PUT", "/parley/v1/kv/k", "v"}, {"DELETE", "/parley/v1/kv/k?prefix=1", ""},
	{"GET", "/parley/v1/history/k", ""}, {"POST", "/parley/v1/undo/k?revision=LAST", ""}, {"DELETE", "/parley/v1/history/k", ""},
	{"POST", "/parley/v1/txn", `{"then":[{"op":"get","key":"k"}]}`},
	{"POST", "/parley/v1/token", `{}`}, {"GET", "/parley/v1/tokens", ""}, {"DELETE", "/parley/v1/token/00112233445566aa", ""},
	{"POST", "/parley/v1/core/allow", `{"node":"a1"}`}, {"POST", "/parley/v1/core/size", `{"size":3}`},
	{"POST", "/parley/v1/core/hold", `{"node":"a1"}`}, {"GET", "/parley/v1/ca", ""}, {"POST", "/parley/v1/ca/rotate", `{}`},
	{"POST", "/parley/v1/ca/request", `{}`}, {"POST", "/parley/v1/ca/external", `{"chain":"c"}`}, {"POST", "/parley/v1/ca/leave", `{}`}, {"POST", "/parley/v1/ca/token-key", `{}`},
	{"GET", "/parley/v1/admissions", ""}, {"POST", "/parley/v1/admission", admissionExample}, {"DELETE", "/parley/v1/admission/fleet", ""},
	{"GET", "/parley/v1/denies", ""}, {"POST", "/parley/v1/deny", `{"what":"/svc/other"}`}, {"DELETE", "/parley/v1/deny/id/svc/worst", ""}, {"POST", "/parley/v1/ca/reseal", `{"recovery_key":"k"}`},
	{"POST", "/parley/v1/evict", `{"node":"z9"}`}, {"GET", "/parley/v1/leave", ""}, {"POST", "/parley/v1/leave", ""},
	{"POST", "/parley/v1/agent/role", `{"node":"a1","role":"operator"}`}, {"POST", "/parley/v1/agent/trust", `{"node":"a1"}`},
	{"GET", "/parley/v1/operators", ""}, {"GET", "/parley/v1/operator/eve", ""}, {"POST", "/parley/v1/identity/renew", `{"csr":"` + eveCSR + `"}`},
	{"POST", "/parley/v1/operator", `{"role":"local","csr":"` + eveCSR + `"}`}, {"DELETE", "/parley/v1/operator/eve", ""},
	{"GET", "/parley/v1/identity", ""}, {"GET", "/parley/v1/identity/explain/7", ""}, {"GET", "/parley/v1/identity/entries", ""}, {"GET", "/parley/v1/identity/entry/web", ""},
	{"POST", "/parley/v1/identity/entry", `{"name":"web","selectors":["uid:1"]}`}, {"DELETE", "/parley/v1/identity/entry/web", ""},
	{"GET", "/parley/v1/check", ""}, {"GET", "/parley/v1/storage/scrub", ""}, {"POST", "/parley/v1/storage/accept-tail", ""}, {"GET", "/parley/v1/snapshot", ""},
	{"POST", "/parley/v1/session", `{}`}, {"GET", "/parley/v1/sessions", ""}, {"GET", "/parley/v1/session/" + knownSession, ""},
	{"PUT", "/parley/v1/session/" + knownSession, ""}, {"DELETE", "/parley/v1/session/" + knownSession, ""},
	{"GET", "/runbooks/", ""}, {"GET", "/runbooks/server-down", ""},
	{"GET", "/parley/v1/runbooks", ""}, {"GET", "/parley/v1/runbooks/server-down", ""},
}

// knownSession is what furnish makes.
const knownSession = "adf4238a-882b-9ddc-4a9d-5b6758e4159e"

// furnish makes what calls ask for: the key k, knownSession, the operator eve, the entry web, and an authority to leave.
func (c *fakeCluster) furnish(t *testing.T) {
	t.Helper()
	c.put("k", "v")
	id, _ := state.ParseSessionID(knownSession)
	session := state.SessionCreate{Session: state.Session{ID: id, Node: "a1", Behavior: state.BehaviorRelease}}
	eve := state.OperatorBind{Name: "eve", Role: policy.Local, KeyHash: mustRequest(t, eveCSR).KeyHash}
	web := state.EntrySet{Entry: state.Entry{Name: "web", SPIFFEID: "spiffe://example.org/svc/web", Selectors: []string{"uid:1"}}}
	z9 := state.NodeJoin{Token: strings.Repeat("9", 16), Node: "z9", HostKey: []byte("host key"), SealKey: make([]byte, state.SealKeyBytes)}
	ticket := state.Token{ID: z9.Token, Verify: make([]byte, state.VerifyBytes), Expires: 1 << 62, Uses: 1, Role: policy.Discovery}
	above := state.UpstreamPrepare{Chain: [][]byte{[]byte("authority"), []byte("above")}, Seals: []state.Seal{{Node: "a1", Sealed: []byte("s")}}}
	for _, cmd := range []state.Command{state.TokenCreate{Token: ticket}, z9, above, state.RootActivate{Root: sha256.Sum256(above.Chain[0])}} {
		if _, err := c.agents["a1"].service.Execute(t.Context(), Internal("a1"), cmd); err != nil {
			t.Fatal(err)
		}
	}
	fleet := state.AdmissionSet{Admission: state.Admission{Name: "fleet", Kind: state.AdmissionSSH, Authorities: [][]byte{[]byte("key")}, Names: "*", Role: policy.Local}}
	worst := state.DenySet{Kind: state.DenyID, Subject: "spiffe://example.org/svc/worst"}
	for _, cmd := range []state.Command{session, eve, web, fleet, worst} {
		if _, err := c.agents["a1"].service.Execute(t.Context(), operator, cmd); err != nil {
			t.Fatal(err)
		}
	}
}

// Each role may use exactly the endpoints whose action policy gives it; and the test knows every endpoint.
func TestRoleByEndpoint(t *testing.T) {
	reached := map[string]bool{}
	for _, role := range policy.Roles() {
		c := newFake(t, 1, 1)
		c.furnish(t)
		service := c.agents["a1"].withRole(role)
		h := service.Handler(Loopback)
		routes := newRouter(service.Routes())
		for _, call := range calls {
			route, _, _ := routes.find(call.method, strings.SplitN(call.target, "?", 2)[0])
			if route == nil {
				t.Fatalf("%s %s has no route", call.method, call.target)
			}
			if !slices.Contains(policy.Actions(), route.Action) {
				t.Errorf("%s: action %q is not in the policy", route.Path, route.Action)
			}
			reached[route.Method+" "+route.Path] = true
			if strings.Contains(call.target, "/k") {
				c.put("k", "v")
			}
			last := strconv.FormatUint(c.agents["a1"].hub.View().KeyRevision("k"), 10)
			w := do(h, call.method, strings.Replace(call.target, "LAST", last, 1), call.body)
			want := http.StatusForbidden
			if policy.Allowed(role, route.Action) {
				want = http.StatusOK
			}
			if w.Code != want {
				t.Errorf("%s: %s %s is %d, want %d: %s", role, call.method, call.target, w.Code, want, w.Body)
			}
		}
		for _, route := range service.Routes() {
			if !reached[route.Method+" "+route.Path] {
				t.Errorf("%s %s is not in this test", route.Method, route.Path)
			}
		}
	}
}

// A page in a browser on this host cannot use the loopback listener: neither across origins nor through a DNS name
// that was rebound to 127.0.0.1. Programs, which send none of these headers, can (the control).
func TestBrowsersAreNotCallers(t *testing.T) {
	h := newFake(t, 1, 1).agents["a1"].service.Handler(Loopback)
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	host := func(name string) func(*http.Request) { return func(r *http.Request) { r.Host = name } }
	for what, edit := range map[string]func(*http.Request){
		"program": host("127.0.0.1:8500"), "localhost": host("localhost:8500"), "ipv6": host("[::1]:8500"), "bare ipv6": host("[::1]"),
		"own name": host("a1:8500"), "another loopback": host("127.0.0.3"), "typed in": header("Sec-Fetch-Site", "none"),
		"same origin": header("Origin", "http://127.0.0.1:8500"),
	} {
		if w := do(h, "GET", "/parley/v1/status", "", edit); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", what, w.Code, w.Body)
		}
	}
	for what, edit := range map[string]func(*http.Request){
		"rebound": host("evil.example:8500"), "no host": host(""), "another agent": host("a2"), "its address": host("192.0.2.1:8500"),
		"cross-site": header("Sec-Fetch-Site", "cross-site"), "same-site": header("Sec-Fetch-Site", "same-site"),
		"another origin": header("Origin", "https://evil.example"), "no origin": header("Origin", "null"),
	} {
		for _, path := range []string{"/parley/v1/status", "/livez", "/nothing"} {
			if w := do(h, "GET", path, "", edit); w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), CodeForbiddenOrigin) {
				t.Errorf("%s: %s is %d %s", what, path, w.Code, w.Body)
			}
		}
	}
}

// A path is taken as it stands: a key may contain what other servers would redirect, and what does not exist says so.
func TestRouting(t *testing.T) {
	c := newFake(t, 1, 1)
	h := c.agents["a1"].service.Handler(Loopback)
	for _, key := range []string{"a//b", "../etc", "a/../b", "a/./b/", "%2e%2e", "ü", "a%00b", "token/x"} {
		target := "/parley/v1/kv/" + strings.ReplaceAll(key, "%", "%25")
		if w := do(h, "PUT", target, key); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", key, w.Code, w.Body)
		}
		if row, ok := c.machine.View().Get(key); !ok || string(row.Value) != key {
			t.Errorf("%q was not stored under its name", key)
		}
	}
	if w := do(h, "GET", "/parley/v2/kv", ""); w.Code != 404 || !strings.Contains(w.Body.String(), CodeNoEndpoint) {
		t.Errorf("unknown path: %d %s", w.Code, w.Body)
	}
	w := do(h, "POST", "/parley/v1/kv/k", "")
	if allow := w.Header().Get("Allow"); w.Code != 405 || allow != "GET, PUT, DELETE" {
		t.Errorf("wrong method: %d, Allow %q", w.Code, allow)
	}
	if w := do(h, "HEAD", "/livez", ""); w.Code != 200 {
		t.Errorf("HEAD /livez: %d", w.Code)
	}
}

// One caller cannot open more requests than its bound; liveness answers on a full agent too.
func TestConcurrencyIsBounded(t *testing.T) {
	c := newFake(t, 1, 1)
	service := c.agents["a1"].service
	h := service.Handler(Loopback)
	for range maxConcurrent {
		if !service.concurrent.acquire(KindAnonymous) {
			t.Fatal("refused below the limit")
		}
	}
	if w := do(h, "GET", "/parley/v1/status", ""); w.Code != http.StatusTooManyRequests || !strings.Contains(w.Body.String(), CodeTooMany) {
		t.Errorf("at the limit: %d %s", w.Code, w.Body)
	}
	if w := do(h, "GET", "/livez", ""); w.Code != http.StatusOK {
		t.Errorf("livez at the limit: %d", w.Code)
	}
	service.concurrent.release(KindAnonymous)
	if w := do(h, "GET", "/parley/v1/status", ""); w.Code != http.StatusOK {
		t.Errorf("below the limit: %d", w.Code)
	}
	if len(service.concurrent.mu.open) != 1 || service.concurrent.mu.open[KindAnonymous] != maxConcurrent-1 {
		t.Errorf("places are not given back: %v", service.concurrent.mu.open)
	}
}

// Bodies have their bounds whether or not the length is announced, and nothing of them is stored.
func TestBodyLimits(t *testing.T) {
	c := newFake(t, 1, 1)
	h := c.agents["a1"].service.Handler(Loopback)
	unannounced := func(r *http.Request) { r.ContentLength = -1 }
	value := strings.Repeat("x", state.MaxValueBytes)
	for _, test := range []struct {
		method, target, body string
		want                 int
	}{
		{"PUT", "/parley/v1/kv/k", value, 200}, {"PUT", "/parley/v1/kv/l", value + "x", 413},
		{"POST", "/parley/v1/txn", `{"then":[]}` + strings.Repeat(" ", maxBodyBytes), 413},
		{"PUT", "/parley/v1/kv/" + strings.Repeat("k", state.MaxKeyBytes), "v", 200},
		{"PUT", "/parley/v1/kv/" + strings.Repeat("k", state.MaxKeyBytes+1), "v", 413},
		{"POST", "/parley/v1/txn", `{"then":[` + strings.Repeat(`{"op":"get","key":"k"},`, state.MaxTxnOps) + `{"op":"get","key":"k"}]}`, 413},
	} {
		for _, edit := range []func(*http.Request){func(*http.Request) {}, unannounced} {
			if w := do(h, test.method, test.target, test.body, edit); w.Code != test.want {
				t.Errorf("%s %.40s with %d bytes: %d, want %d: %s", test.method, test.target, len(test.body), w.Code, test.want, w.Body)
			}
		}
	}
	if _, ok := c.machine.View().Get("l"); ok {
		t.Error("a value over the limit was stored")
	}
}

// serve runs a real server, as the agent does.
func serve(t *testing.T, l net.Listener, h http.Handler) {
	t.Helper()
	server := NewHTTPServer(h, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(httpconn.NewListener(l)); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	}()
	t.Cleanup(func() { _ = server.Close(); <-done })
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Over a Unix socket any Host will do, for no browser gets there; over TCP a strange one is refused.
func TestHostOverUnixSocket(t *testing.T) {
	handler := newFake(t, 1, 1).agents["a1"].service.Handler(Loopback)
	for network, want := range map[string]int{"unix": 200, "tcp": 403} {
		address := "127.0.0.1:0"
		if network == "unix" {
			address = filepath.Join(t.TempDir(), "http.sock")
		}
		l := listen(t, network, address)
		serve(t, l, handler)
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, l.Addr().String())
		}}
		request, err := http.NewRequest(http.MethodGet, "http://x/livez", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		transport.CloseIdleConnections()
		if response.StatusCode != want {
			t.Errorf("%s: %d, want %d", network, response.StatusCode, want)
		}
	}
}

// A request's header ends at 16 KiB.
func TestHeaderLimit(t *testing.T) {
	l := listen(t, "tcp", "127.0.0.1:0")
	serve(t, l, newFake(t, 1, 1).agents["a1"].service.Handler(Loopback))
	for size, want := range map[int]int{maxHeaderBytes - 512: 200, maxHeaderBytes + 512: 431} {
		request, err := http.NewRequest(http.MethodGet, "http://"+l.Addr().String()+"/livez", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Filler", strings.Repeat("x", size))
		response, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("header of %d bytes: %d, want %d", size, response.StatusCode, want)
		}
	}
}

// The admin socket knows the caller's uid, gives full rights over this agent, and over the cluster the agent's own.
func TestAdminSocket(t *testing.T) {
	c := newFake(t, 2, 1)
	path := filepath.Join(t.TempDir(), "admin.sock")
	serve(t, listen(t, "unix", path), c.agents["a2"].service.Handler(Socket))
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	defer transport.CloseIdleConnections()
	get := func(method, target string) int {
		request, err := http.NewRequest(method, "http://anything"+target, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		return response.StatusCode
	}
	for _, test := range []struct {
		role           policy.Role
		method, target string
		want           int
	}{
		{policy.None, "GET", "/parley/v1/status", 200}, {policy.None, "GET", "/parley/v1/kv/k", 403},
		{policy.Discovery, "PUT", "/parley/v1/kv/k", 403}, {policy.Local, "PUT", "/parley/v1/kv/k", 200},
		{policy.Local, "GET", "/parley/v1/tokens", 403}, {policy.Operator, "GET", "/parley/v1/tokens", 200},
	} {
		c.agents["a2"].role = test.role
		if got := get(test.method, test.target); got != test.want {
			t.Errorf("%s %s by an agent with role %s: %d, want %d", test.method, test.target, test.role, got, test.want)
		}
	}
	want := fmt.Sprintf("uid:%d@a2", os.Geteuid())
	if got := c.log[len(c.log)-1].Caller; got != want {
		t.Errorf("the log names caller %q, want %q", got, want)
	}
}

// Anonymous callers over loopback are told apart by uid where the kernel can, for limits and the log; their role is one.
func TestLoopbackKnowsTheUID(t *testing.T) {
	c := newFake(t, 1, 1)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("%s: %v", address, err)
			continue
		}
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tcpPeerUID(conn); err != nil {
			t.Skipf("no sock_diag here: %v", err)
		}
		_ = conn.Close()
		serve(t, l, c.agents["a1"].service.Handler(Loopback))
		request, err := http.NewRequest(http.MethodPut, "http://"+l.Addr().String()+"/parley/v1/kv/k", strings.NewReader("v"))
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if got, want := c.log[len(c.log)-1].Caller, fmt.Sprintf("uid:%d@a1", os.Geteuid()); got != want {
			t.Errorf("%s: the log names caller %q, want %q", address, got, want)
		}
	}
}

// Another uid, and a connection whose uid is not known, are refused on the admin socket even for what is harmless.
func TestAdminSocketRefusesOthers(t *testing.T) {
	h := newFake(t, 1, 1).agents["a1"].service.Handler(Socket)
	as := func(p peer) func(*http.Request) {
		return func(r *http.Request) { *r = *r.WithContext(context.WithValue(r.Context(), peerKey{}, p)) }
	}
	for what, test := range map[string]struct {
		edit func(*http.Request)
		want int
	}{
		"root":      {as(peer{uid: 0}), 200},
		"own uid":   {as(peer{uid: uint32(os.Geteuid())}), 200}, //nolint:gosec // a uid
		"other uid": {as(peer{uid: 4711}), 403},
		"failed":    {as(peer{err: errors.New("no credentials")}), 403},
		"not asked": {func(*http.Request) {}, 403},
	} {
		if w := do(h, "GET", "/parley/v1/status", "", test.edit); w.Code != test.want {
			t.Errorf("%s: %d, want %d", what, w.Code, test.want)
		}
	}
}

// An https caller is the agent of its certificate, with that agent's role; no certificate, no answer.
func TestHTTPSCallerIsItsAgent(t *testing.T) {
	c := newFake(t, 2, 1)
	o := c.agents["a1"].options()
	o.IdentifyTLS = func(tls.ConnectionState) (Caller, error) {
		return Caller{Role: c.agents["a2"].role, Name: "spiffe://example.org/parley/agent/a2", Kind: KindMTLS}, nil
	}
	h := New(o).Handler(HTTPS)
	withTLS := func(r *http.Request) { r.TLS, r.Host = &tls.ConnectionState{}, "anything.example:8501" }
	if w := do(h, "GET", "/livez", ""); w.Code != 403 {
		t.Errorf("without TLS: %d", w.Code)
	}
	for role, want := range map[policy.Role]int{policy.Discovery: 403, policy.Local: 200} {
		c.agents["a2"].role = role
		if w := do(h, "PUT", "/parley/v1/kv/k", "v", withTLS); w.Code != want {
			t.Errorf("agent with role %s: %d, want %d", role, w.Code, want)
		}
	}
	if got := c.log[0].Caller; got != "spiffe://example.org/parley/agent/a2" {
		t.Errorf("the log names caller %q", got)
	}
	o.IdentifyTLS = func(tls.ConnectionState) (Caller, error) { return Caller{}, errors.New("foreign") }
	if w := do(New(o).Handler(HTTPS), "GET", "/livez", "", withTLS); w.Code != 403 {
		t.Errorf("a foreign certificate: %d", w.Code)
	}
}

// A caller that leaves is not an error of ours; a failure of ours is logged once, with the request's id.
func TestOnlyOurFailuresAreLogged(t *testing.T) {
	c := newFake(t, 1, 1)
	core, logs := observer.New(zap.DebugLevel)
	o := c.agents["a1"].options()
	o.Log = zap.New(core)
	h := New(o).Handler(Loopback)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	gone := func(r *http.Request) { *r = *r.WithContext(ctx) }
	c.agents["a1"].propose = func(ctx context.Context, _ []byte) (Proposed, error) { <-ctx.Done(); return Proposed{}, ctx.Err() }
	do(h, "PUT", "/parley/v1/kv/k", "v", gone)
	do(h, "GET", "/parley/v1/kv/k?index=99&wait=1m", "", gone)
	do(h, "GET", "/parley/v1/kv/k?index=x", "")
	if logs.Len() != 0 {
		t.Errorf("logged %v", logs.All())
	}
	c.agents["a1"].propose = func(context.Context, []byte) (Proposed, error) { return Proposed{Data: []byte{0xff}}, nil }
	w := do(h, "PUT", "/parley/v1/kv/k", "v")
	if logs.Len() != 1 || logs.All()[0].ContextMap()["request_id"] != w.Header().Get(headerRequestID) {
		t.Errorf("logged %v, want one line with request id %s", logs.All(), w.Header().Get(headerRequestID))
	}
}

// A blocking read outlasts the body's read deadline and ends when its caller goes, with its place given back.
func TestDisconnectEndsAWatch(t *testing.T) {
	c := newFake(t, 1, 1)
	revision := c.put("k", "v")
	service := c.agents["a1"].service
	l := listen(t, "tcp", "127.0.0.1:0")
	serve(t, l, service.Handler(Loopback))
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Fprintf(conn, "GET /parley/v1/kv/k?index=%d&wait=5m HTTP/1.1\r\nHost: localhost\r\n\r\n", revision)
	open := func() int {
		service.watches.mu.Lock()
		defer service.watches.mu.Unlock()
		return len(service.watches.mu.open)
	}
	until(t, "the watch is open", func() bool { return open() == 1 })
	_ = conn.Close()
	until(t, "the watch is closed", func() bool { return open() == 0 })
}

// until waits for what another goroutine does over a real socket, where virtual time cannot reach.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for range 5000 {
		if done() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("not in time: %s", what)
}

// The event stream reports what exists, says ready, then each change; from an agent without key/value too.
func TestWatchStream(t *testing.T) {
	c := newFake(t, 2, 1)
	c.agents["a2"].role = policy.Local
	c.put("w/a", "1")
	c.put("x", "1")
	l := listen(t, "tcp", "127.0.0.1:0")
	serve(t, l, c.agents["a2"].service.Handler(Loopback))
	response, err := http.Get("http://" + l.Addr().String() + "/parley/v1/kv/w/?watch=1&prefix=1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	lines := bufio.NewReader(response.Body)
	next := func() string {
		var event []string
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if line = strings.TrimSpace(line); line == "" {
				return strings.Join(event, " ")
			}
			event = append(event, line)
		}
	}
	want := func(parts ...string) {
		t.Helper()
		event := next()
		for _, part := range parts {
			if !strings.Contains(event, part) {
				t.Errorf("event %q lacks %q", event, part)
			}
		}
	}
	want("event: put", `"key":"w/a"`, `"value":"1"`)
	want("event: ready", `"revision":`)
	c.put("x", "2")
	c.put("w/b", "1")
	want("event: put", `"key":"w/b"`)
	if _, err := c.agents["a1"].service.Execute(context.Background(), operator, state.Delete{Key: "w/a"}); err != nil {
		t.Fatal(err)
	}
	want("event: delete", `"key":"w/a"`)
}

// recorder is a response whose writes a test reads while the handler runs.
type recorder struct {
	*httptest.ResponseRecorder
	mu sync.Mutex
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ResponseRecorder.Write(b)
}

func (r *recorder) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.Body.String()
}

// A stream shows every 15 seconds that it is alive, also while a missing key's revision moves with the table's.
func TestWatchStreamHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t, 1, 1)
		ctx, cancel := context.WithCancel(t.Context())
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/parley/v1/kv/none?watch=1", nil)
		r.Host = "localhost"
		w := &recorder{ResponseRecorder: httptest.NewRecorder()}
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.agents["a1"].service.Handler(Loopback).ServeHTTP(w, r)
		}()
		for range 3 {
			time.Sleep(heartbeatEvery)
			c.put("other", "x")
		}
		time.Sleep(time.Second)
		if got := strings.Count(w.text(), ": alive"); got != 3 || strings.Contains(w.text(), "other") {
			t.Errorf("%d heartbeats, want 3:\n%s", got, w.text())
		}
		cancel()
		<-done
	})
}

// A bad stream request is refused while a status can still say so.
func TestWatchStreamRefusals(t *testing.T) {
	c := newFake(t, 1, 1)
	service := c.agents["a1"].service
	h := service.Handler(Loopback)
	if w := do(h, "GET", "/parley/v1/kv/k?watch=1&index=4", ""); w.Code != 400 {
		t.Errorf("with an index: %d", w.Code)
	}
	for range maxWatches {
		service.watches.acquire(KindAnonymous)
	}
	if w := do(h, "GET", "/parley/v1/kv/k?watch=1", ""); w.Code != 429 {
		t.Errorf("beyond the limit: %d", w.Code)
	}
}
