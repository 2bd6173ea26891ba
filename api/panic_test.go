package api

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/parley-mesh/parley/security/policy"
)

// An endpoint that panics is an error of ours like any other: answered, counted, logged once where an operator sees it,
// with the request's id and where it was. What a write did before is not known.
func TestPanicsAreAnsweredAndLogged(t *testing.T) {
	c := newFake(t, 1, 1)
	core, logs := observer.New(zap.ErrorLevel)
	var statuses []int
	o := c.agents["a1"].options()
	o.Log = zap.New(core)
	o.Observe.Request = func(string) func(int, bool) { return func(status int, _ bool) { statuses = append(statuses, status) } }
	service := New(o)
	boom := func(*Exchange) error { panic("index out of range, secret") }
	begun := func(x *Exchange) error { x.Head(http.StatusOK); return boom(x) }
	inDialect := func(x *Exchange, e *Error) { _ = x.Write(e.Status(), "text/plain", []byte("dialect: "+e.Code)) }
	service.Mount(
		Route{Method: http.MethodGet, Path: "/boom", Action: policy.Livez, Serve: boom},
		Route{Method: http.MethodPut, Path: "/boom", Action: policy.KVWrite, Serve: boom},
		Route{Method: http.MethodPut, Path: "/dialect", Action: policy.KVWrite, Serve: boom, Fail: inDialect},
		Route{Method: http.MethodGet, Path: "/begun", Action: policy.KVRead, Serve: begun},
		Route{Method: http.MethodGet, Path: "/abort", Action: policy.KVRead, Serve: func(*Exchange) error { panic(http.ErrAbortHandler) }},
	)
	h := service.Handler(Loopback)
	for _, test := range []struct {
		method, path string
		status       int
		text         string
	}{
		{"GET", "/boom", 500, `"code":"internal"`}, {"PUT", "/boom", 504, `"code":"outcome_unknown"`}, {"PUT", "/dialect", 504, "dialect: outcome_unknown"},
	} {
		w := do(h, test.method, test.path, "")
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.text) || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s %s: %d %s, want %d with %s", test.method, test.path, w.Code, w.Body, test.status, test.text)
		}
		lines := logs.TakeAll()
		if len(lines) != 1 || lines[0].ContextMap()["request_id"] != w.Header().Get(headerRequestID) || !strings.Contains(lines[0].ContextMap()["stack"].(string), "panic_test.go") {
			t.Errorf("%s %s: logged %v", test.method, test.path, lines)
		}
	}
	// Half an answer must not look like a whole one: the connection ends. So does it when the endpoint wants that.
	for path, want := range map[string]int{"/begun": 1, "/abort": 0} {
		if got := aborts(func() { do(h, "GET", path, "") }); !errors.Is(got, http.ErrAbortHandler) || len(logs.TakeAll()) != want {
			t.Errorf("%s: got %v, want %v and %d lines", path, got, http.ErrAbortHandler, want)
		}
	}
	if len(statuses) != 5 || statuses[0] != 500 || statuses[1] != 504 || statuses[3]+statuses[4] != 1000 {
		t.Errorf("counted %v", statuses)
	}
	if open := service.concurrent.mu.open; len(open) != 0 {
		t.Errorf("places are not given back: %v", open)
	}
}

// aborts is what f panics with.
func aborts(f func()) (err error) {
	defer func() { err, _ = recover().(error) }()
	f()
	return nil
}
