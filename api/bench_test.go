package api

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/wire"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/ops"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// discard is a ResponseWriter that costs nothing.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

// The handler's own cost, without net/http's connection loop and without consensus.
func BenchmarkHandler(b *testing.B) {
	c := newFake(b, 1, 1)
	h := c.agents["a1"].service.Handler(Loopback)
	body := strings.Repeat("x", 256)
	for _, method := range []string{http.MethodPut, http.MethodGet} {
		b.Run(method, func(b *testing.B) {
			b.ReportAllocs()
			r := httptest.NewRequest(method, "/parley/v1/kv/web/1", nil)
			r.Host, r.ContentLength = "127.0.0.1:8500", int64(len(body))
			for b.Loop() {
				r.Body = io.NopCloser(strings.NewReader(body))
				h.ServeHTTP(&discard{http.Header{}}, r)
			}
		})
	}
}

// What a put and a get cost before and behind the core, which answers at once here: by RPC, and by HTTP without a connection.
func BenchmarkFront(b *testing.B) {
	c := newFake(b, 1, 1)
	a := c.agents["a1"]
	if _, err := a.service.Execute(b.Context(), Internal("a1"), state.Put{Key: "web/1", Value: make([]byte, 256)}); err != nil {
		b.Fatal(err)
	}
	v := a.hub.View()
	a.propose = func(context.Context, []byte) (Proposed, error) {
		return Proposed{Index: v.Index(), Term: v.Term(), Stamp: v.Stamp(), Data: putResult}, nil
	}
	o := a.options()
	registry := ops.NewRegistry(ops.RegistryOptions{Board: &ops.Board{}, Elapsed: clock.Awake})
	o.OpTimeout = 10 * time.Second
	o.Observe = Observer{Request: registry.Request, Write: func(bool) func(int, bool) { return func(int, bool) {} }}
	s := New(o)
	answer, caller := s.ClientHandler(), Caller{Role: policy.Operator, Name: "spiffe://example.org/parley/agent/a2", Kind: KindMTLS}
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	put := wire.Put{Key: "web/1", Value: make([]byte, 256)}.Append(nil)
	get := wire.Get{Key: "web/1"}.Append(nil)
	for _, call := range []struct {
		method string
		body   []byte
	}{{wire.MethodPut, put}, {wire.MethodGet, get}} {
		b.Run("rpc="+call.method, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				answer(ctx, caller, call.method, call.body)
			}
		})
	}
	h := s.Handler(Loopback)
	body := strings.Repeat("x", 256)
	for _, method := range []string{http.MethodPut, http.MethodGet} {
		b.Run("http="+method, func(b *testing.B) {
			b.ReportAllocs()
			r := httptest.NewRequest(method, "/parley/v1/kv/web/1", nil).WithContext(ctx)
			r.Host, r.ContentLength = "127.0.0.1:8500", int64(len(body))
			w := &discard{http.Header{}}
			for b.Loop() {
				clear(w.header)
				r.Body = io.NopCloser(strings.NewReader(body))
				h.ServeHTTP(w, r)
			}
		})
	}
}

// putResult is the result of a put at revision 7.
var putResult = []byte{0, 7, 0}
