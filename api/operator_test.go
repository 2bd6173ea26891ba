package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// eveCSR is a certificate request of an operator eve whose key nobody has.
const eveCSR = "MIIBATCBqAIBADAAMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE5DrDIMVjgs61NT12P8zumS2kRXjw0+CxuJ+yKji9IoaINZmjKAZTfdZMYLe9LtjNgv3/K3cTJ8W59F9K99Sp4aBGMEQGCSqGSIb3DQEJDjE3MDUwMwYDVR0RBCwwKoYoc3BpZmZlOi8vZXhhbXBsZS5vcmcvcGFybGV5L29wZXJhdG9yL2V2ZTAKBggqhkjOPQQDAgNIADBFAiB01q69AjvlWmxWLF8fddNq9c/71Jo6ERI6Ft6xLEQlbwIhAPuDwAvPlFFIKduTK3K1zvPpcd9WjU7BHgyo3rHMW0fX"

func mustRequest(t *testing.T, csr string) security.OperatorRequest {
	t.Helper()
	der, err := base64.StdEncoding.DecodeString(csr)
	if err != nil {
		t.Fatal(err)
	}
	req, err := security.ParseOperatorRequest(spiffeid.RequireTrustDomainFromString("example.org"), der)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// fakeSign stands for an issuer; what it signs names the operator.
func fakeSign(r security.OperatorRequest) ([][]byte, time.Time, error) {
	return [][]byte{[]byte("leaf of " + r.Name), []byte("issuer")}, time.Unix(1_700_003_600, 0).UTC(), nil
}

// requestOf makes a key and a certificate request.
func requestOf(t *testing.T, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse("spiffe://example.org/parley/operator/" + name)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{u}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// The life of an operator, asked of an agent outside the core: added, renewed, replaced, removed. A key that is bound no
// more gets no certificate, also where this agent has not heard of that.
func TestOperatorLife(t *testing.T) {
	c := newFake(t, 3, 2)
	c.agents["a3"].role = policy.Operator
	s, ctx := c.agents["a3"].service, t.Context()
	first, second := requestOf(t, "eve"), requestOf(t, "eve")
	bind := func(csr []byte, replace bool) error {
		_, svid, err := s.BindOperator(ctx, operator, csr, policy.Local, replace)
		if err == nil && (string(svid.Chain[0]) != "leaf of eve" || svid.Role != "local" || svid.SPIFFEID != "spiffe://example.org/parley/operator/eve" || len(svid.Roots) == 0) {
			t.Errorf("certificate %+v", svid)
		}
		return err
	}
	renew := func(csr []byte) error {
		_, err := s.IssueOperator(ctx, Caller{Role: policy.Discovery, Kind: KindAnonymous}, csr)
		return err
	}
	for i, step := range []struct {
		err  error
		want string
	}{
		{renew(first), CodeDenied}, {bind(first, false), ""}, {bind(first, false), ""}, {renew(first), ""},
		{bind(second, false), CodeExists}, {renew(second), CodeDenied}, {bind(second, true), ""}, {renew(second), ""}, {renew(first), CodeDenied},
	} {
		if got := codeOf(step.err); got != step.want {
			t.Errorf("step %d: %q, want %q: %v", i, got, step.want, step.err)
		}
	}
	if _, err := s.Execute(ctx, operator, state.OperatorRemove{Name: "eve"}); err != nil {
		t.Fatal(err)
	}
	if got := codeOf(renew(second)); got != CodeDenied {
		t.Errorf("after its removal: %q", got)
	}
}

// Without a leader that a majority confirms nobody is renewed, though the key is bound in every View. The control is the
// same request before.
func TestNoRenewalWithoutLeader(t *testing.T) {
	c := newFake(t, 2, 2)
	s, ctx, csr := c.agents["a1"].service, t.Context(), requestOf(t, "eve")
	if _, _, err := s.BindOperator(ctx, operator, csr, policy.Local, false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.IssueOperator(ctx, operator, csr); err != nil {
		t.Fatalf("control: %v", err)
	}
	c.setLeader("")
	if _, err := s.IssueOperator(ctx, operator, csr); codeOf(err) != CodeNoLeader {
		t.Errorf("got %v", err)
	}
	// Who believes to lead and is not confirmed refuses as well.
	o := c.agents["a1"].options()
	o.Local.Leader = func() (string, bool, bool) { return "a1", true, true }
	o.Local.ReadIndex = func(context.Context) (uint64, error) { return 0, Errorf(CodeNotLeader, "nobody confirms it") }
	if _, err := New(o).IssueOperator(ctx, operator, csr); err == nil {
		t.Error("a deposed leader signed")
	}
}

// A binding that was written stays when the certificate cannot be signed, and the error says how to go on.
func TestBoundAndNotSigned(t *testing.T) {
	c := newFake(t, 1, 1)
	o := c.agents["a1"].options()
	o.Local.SignOperator = func(security.OperatorRequest) ([][]byte, time.Time, error) {
		return nil, time.Time{}, errors.New("no issuer")
	}
	_, _, err := New(o).BindOperator(t.Context(), operator, requestOf(t, "eve"), policy.Local, false)
	if err == nil || !strings.Contains(AsError(err).Hint, "parley operator renew --identity DIR") {
		t.Errorf("got %v, hint %q", err, AsError(err).Hint)
	}
	if rows := c.agents["a1"].hub.View().Operators(); len(rows) != 1 {
		t.Errorf("operators: %v", rows)
	}
}

// Where another authority certifies, no key is bound that nobody would certify.
func TestNotBoundWhereNothingIsSigned(t *testing.T) {
	c := newFake(t, 1, 1)
	o := c.agents["a1"].options()
	o.Local.Certifies = func() error { return Errorf(CodeDenied, "another authority certifies") }
	_, _, err := New(o).BindOperator(t.Context(), operator, requestOf(t, "eve"), policy.Local, false)
	if codeOf(err) != CodeDenied {
		t.Errorf("got %v", err)
	}
	if rows := c.agents["a1"].hub.View().Operators(); len(rows) != 0 {
		t.Errorf("operators: %v", rows)
	}
}

// Nobody gives a role above the own: not by the table of actions, not beside it, and not through an agent with less.
func TestNobodyCreatesAboveItself(t *testing.T) {
	for _, have := range policy.Roles() {
		for _, give := range policy.Roles() {
			err := mayGrant(Caller{Role: have}, give)
			if above := policy.Min(have, give) != give; above != (err != nil) {
				t.Errorf("%s gives %s: %v", have, give, err)
			}
		}
	}
	c := newFake(t, 3, 1)
	for _, role := range []policy.Role{policy.None, policy.Discovery, policy.Local} {
		for _, cmd := range []state.Command{state.OperatorBind{Name: "eve", Role: "discovery", KeyHash: [32]byte{1}}, state.OperatorRemove{Name: "eve"}} {
			if _, err := c.agents["a1"].service.Execute(t.Context(), Caller{Role: role}, cmd); codeOf(err) != CodeDenied {
				t.Errorf("role %s, %T: %v", role, cmd, err)
			}
		}
	}
	c.agents["a3"].role = policy.Local
	if _, _, err := c.agents["a3"].service.BindOperator(t.Context(), operator, requestOf(t, "eve"), policy.Discovery, false); codeOf(err) != CodeDenied {
		t.Errorf("through an agent of role local: %v", err)
	}
	if n := len(c.agents["a1"].hub.View().Operators()); n != 0 {
		t.Errorf("%d operators were made", n)
	}
}

// Certificates of one operator are paced where they are signed, and those that one caller asks for where it asks.
func TestIssuePace(t *testing.T) {
	c := newFake(t, 2, 2)
	o := c.agents["a1"].options()
	now := time.Duration(0)
	o.Elapsed = func() time.Duration { return now }
	s, csr := New(o), requestOf(t, "eve")
	if _, _, err := s.BindOperator(t.Context(), operator, csr, policy.Local, false); err != nil { // the first certificate
		t.Fatal(err)
	}
	for i := range int(issueBurst) {
		_, err := s.IssueOperator(t.Context(), operator, csr)
		if want := map[bool]string{true: CodeTooMany}[i == issueBurst-1]; codeOf(err) != want {
			t.Errorf("certificate %d: %v", i+2, err)
		}
	}
	now += 2 * time.Second
	if _, err := s.IssueOperator(t.Context(), operator, csr); err != nil {
		t.Errorf("later: %v", err)
	}
	refused := 0
	for range int(askBurst) + 10 {
		if _, err := s.IssueOperator(t.Context(), Caller{Role: policy.Discovery, Name: "uid:7"}, []byte("junk")); codeOf(err) == CodeTooMany {
			refused++
		}
	}
	if refused != 10 {
		t.Errorf("%d of %d questions were refused for their number", refused, int(askBurst)+10)
	}
}

// What operators are told, and what they are refused.
func TestNativeOperators(t *testing.T) {
	c := newFake(t, 1, 1)
	h := c.agents["a1"].service.Handler(Loopback)
	adam := base64.StdEncoding.EncodeToString(requestOf(t, "adam"))
	body := func(role, csr string) string { return `{"role":"` + role + `","csr":"` + csr + `"}` }
	for _, test := range []struct {
		method, target, body string
		status               int
		want                 string
	}{
		{"GET", "/parley/v1/operators", "", 200, `[]`},
		{"POST", "/parley/v1/operator", body("local", eveCSR), 200,
			`{"spiffe_id":"spiffe://example.org/parley/operator/eve","role":"local","not_after":"2023-11-14T23:13:20Z","chain":["bGVhZiBvZiBldmU=","aXNzdWVy"],"bundle_seq":1,"roots":["AQ=="]}`},
		{"GET", "/parley/v1/operator/eve?stale", "", 200, `{"name":"eve","spiffe_id":"spiffe://example.org/parley/operator/eve","role":"local","key_sha256":"KEY","created_at":"2023-11-14T22:13:20Z","created_by":"","generation":1}`},
		{"POST", "/parley/v1/operator", body("operator", eveCSR), 409, `"code":"exists"`},
		{"POST", "/parley/v1/operator", body("none", adam), 400, `discovery, local or operator`},
		{"POST", "/parley/v1/operator", body("root", adam), 400, `unknown role`},
		{"POST", "/parley/v1/operator", body("local", "AAAA"), 400, `certificate request`},
		{"POST", "/parley/v1/operator", `{"role":"local"}`, 400, `certificate request`},
		{"POST", "/parley/v1/operator", `{"role":"local","csr":"` + adam + `","replace":true}`, 404, `no operator`},
		{"POST", "/parley/v1/identity/renew", `{"csr":"` + adam + `"}`, 403, `not bound`},
		{"GET", "/parley/v1/operator/adam", "", 404, `parley operator list`},
		{"GET", "/parley/v1/operator/", "", 404, `no operator`},
		{"DELETE", "/parley/v1/operator/adam", "", 404, `no operator`},
		{"DELETE", "/parley/v1/operator/..", "", 400, `operator`},
		{"DELETE", "/parley/v1/operator/eve", "", 200, `{"name":"eve","removed":true}`},
		{"GET", "/parley/v1/operator/eve", "", 404, `no operator`},
	} {
		w := do(h, test.method, test.target, test.body)
		hash := mustRequest(t, eveCSR).KeyHash
		want := strings.ReplaceAll(test.want, "KEY", hexOf(hash))
		if w.Code != test.status || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s %s: %d %s, want %d %s", test.method, test.target, w.Code, w.Body, test.status, want)
		}
	}
}

func hexOf(b [32]byte) string {
	const digits = "0123456789abcdef"
	var out []byte
	for _, c := range b {
		out = append(out, digits[c>>4], digits[c&15])
	}
	return string(out)
}

// A caller whose connection ends soon with its certificate is told so between two requests.
func TestEndingConnectionIsClosed(t *testing.T) {
	o := newFake(t, 1, 1).agents["a1"].options()
	ending := false
	o.IdentifyTLS = func(tls.ConnectionState) (Caller, error) {
		return Caller{Role: policy.Local, Name: "spiffe://example.org/parley/operator/eve", Kind: KindMTLS, Ending: ending}, nil
	}
	h := New(o).Handler(HTTPS)
	for _, ending = range []bool{false, true} {
		w := do(h, "GET", "/livez", "", func(r *http.Request) { r.TLS = &tls.ConnectionState{} })
		if got := w.Header().Get("Connection") == "close"; got != ending || w.Code != http.StatusOK {
			t.Errorf("ending %v: %d, Connection %q", ending, w.Code, w.Header().Get("Connection"))
		}
	}
}

// An answer of another agent is read within a limit, and must be one.
func TestIssueAnswerIsChecked(t *testing.T) {
	c := newFake(t, 2, 1)
	s := c.agents["a2"].service
	for name, answer := range map[string][]byte{"junk": []byte("{"), "huge": make([]byte, maxIssueAnswer+1)} {
		c.agents["a2"].call = func(context.Context, string, string, []byte) ([]byte, error) { return answer, nil }
		if _, err := s.IssueOperator(t.Context(), operator, requestOf(t, "eve")); codeOf(err) != CodeInternal {
			t.Errorf("%s: %v", name, err)
		}
	}
	good, err := json.Marshal(OperatorSVID{SPIFFEID: "spiffe://example.org/parley/operator/eve"})
	if err != nil {
		t.Fatal(err)
	}
	c.agents["a2"].call = func(context.Context, string, string, []byte) ([]byte, error) { return good, nil }
	if svid, err := s.IssueOperator(t.Context(), operator, requestOf(t, "eve")); err != nil || svid.SPIFFEID == "" {
		t.Errorf("control: %+v, %v", svid, err)
	}
}
