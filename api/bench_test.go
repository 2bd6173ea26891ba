package api

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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
