package command

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/security"
)

// denyAgent answers deny add; it knows the operators eve and adam, and counts what it denies.
func denyAgent(t *testing.T, denied *int, list string) string {
	t.Helper()
	operators := []string{}
	for name, role := range map[string]string{"eve": "operator", "adam": "operator", "ci": "local"} {
		operators = append(operators, fmt.Sprintf(`{"name":%q,"spiffe_id":"spiffe://td.example/parley/operator/%s","role":%q}`, name, name, role))
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/parley/v1/operators":
			_, _ = io.WriteString(w, "["+strings.Join(operators, ",")+"]")
		case "/parley/v1/denies":
			_, _ = io.WriteString(w, list)
		case "/parley/v1/deny":
			if body, _ := io.ReadAll(r.Body); !strings.Contains(string(body), `"dry_run":true`) {
				*denied++
			}
			_, _ = io.WriteString(w, `{"kind":"id","subject":"spiffe://td.example/svc/web","at":"2026-01-02T03:04:05Z","by":"b","reason":""}`)
		default:
			_, _ = io.WriteString(w, fakeAnswers[r.URL.Path])
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// TestDenyAsksBeforeItLocksOut: who would deny the own identity, or the last operator that may take it back, is asked; nobody else is.
func TestDenyAsksBeforeItLocksOut(t *testing.T) {
	const adamDenied = `[{"kind":"id","subject":"spiffe://td.example/parley/operator/adam","at":"2026-01-02T03:04:05Z","by":"b","reason":""}]`
	for name, k := range map[string]struct {
		what, list, in string
		flags          []string
		code, denied   int
		says           string
	}{
		"a program":                  {what: "/svc/web", list: adamDenied, denied: 1},
		"a program of such a name":   {what: "/svc/parley/operator/eve", list: adamDenied, denied: 1},
		"a certificate":              {what: "4f0c6e5d1b7a9e3f2d4c8b6a0f1e2d3c", list: adamDenied, denied: 1},
		"one of two":                 {what: "/parley/operator/eve", list: "[]", denied: 1},
		"who may not deny":           {what: "/parley/operator/ci", list: adamDenied, denied: 1},
		"the last":                   {what: "/parley/operator/eve", list: adamDenied, in: "other\n", code: exitDenied, says: "eve is the last operator"},
		"the last, by the whole ID":  {what: "spiffe://td.example/parley/operator/eve", list: adamDenied, code: exitDenied, says: "eve is the last operator"},
		"the last, confirmed":        {what: "/parley/operator/eve", list: adamDenied, in: "td.example\n", denied: 1, says: "eve is the last operator"},
		"the last, with --yes":       {what: "/parley/operator/eve", list: adamDenied, flags: []string{"--yes"}, denied: 1},
		"the last, only to see":      {what: "/parley/operator/eve", list: adamDenied, flags: []string{"--dry-run", "-o", "json", "--expect", ".locks_out and .dry_run"}},
		"one of two, only to see":    {what: "/parley/operator/eve", list: "[]", flags: []string{"--dry-run", "-o", "json", "--expect", ".locks_out==false"}},
		"the last of those not last": {what: "/parley/operator/adam", list: adamDenied, denied: 1},
	} {
		denied := 0
		args := append([]string{"deny", "add", k.what, "--addr", denyAgent(t, &denied, k.list)}, k.flags...)
		code, out, errs := snapshotRun(t, k.in, args...)
		if code != k.code || denied != k.denied || !strings.Contains(errs, k.says) || k.says == "" && strings.Contains(errs, "type the cluster's name") {
			t.Errorf("%s: exit %d, %d denied, want %d and %d: %s%s", name, code, denied, k.code, k.denied, out, errs)
		}
	}
}

// TestDenyAsksBeforeItDeniesWhoAsks: the identity that the command itself uses.
func TestDenyAsksBeforeItDeniesWhoAsks(t *testing.T) {
	denied, dir := 0, filepath.Join(t.TempDir(), "eve")
	td := spiffeid.RequireTrustDomainFromString("td.example")
	genesis, err := security.InitIdentity(t.TempDir(), td, "a1", security.InitKeys{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	id, err := client.NewIdentity(dir, td.Name(), "eve")
	if err == nil {
		err = id.Renew(t.Context(), func(_ context.Context, csr []byte) (client.SVIDAnswer, error) {
			req, err := security.ParseOperatorRequest(td, csr)
			if err != nil {
				return client.SVIDAnswer{}, err
			}
			chain, err := genesis.Authority.SignOperator(req, time.Now())
			return client.SVIDAnswer{Chain: chain, Roots: genesis.Roots}, err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	addr := denyAgent(t, &denied, "[]")
	for what, want := range map[string]int{"/parley/operator/eve": exitDenied, "/parley/operator/adam": exitOK} {
		denied = 0
		code, out, errs := snapshotRun(t, "", "deny", "add", what, "--addr", addr, "--identity", dir)
		if code != want || (denied == 0) != (want == exitDenied) || strings.Contains(errs, "is the identity that this command uses") != (want == exitDenied) {
			t.Errorf("%s: exit %d, %d denied: %s%s", what, code, denied, out, errs)
		}
	}
}
