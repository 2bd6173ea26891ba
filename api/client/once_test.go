package client

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A write whose answer was lost is sent again under the same id until there is an answer; one that the cluster refuses
// at the second try stays unknown unless the refusal is about the write itself.
func TestRepeatedUnderOneID(t *testing.T) {
	lost := func(w http.ResponseWriter) { panic(http.ErrAbortHandler) }
	refuse := func(code string, status int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, `{"error":{"code":%q,"message":"m","hint":"h","exit_code":1,"request_id":"r"}}`, code)
		}
	}
	done := func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"key":"k","revision":7}`)) }
	for name, test := range map[string]struct {
		answers []func(http.ResponseWriter)
		want    string // the code, "" for an answer
		ids     int
	}{
		"lost once":         {[]func(http.ResponseWriter){lost, done}, "", 1},
		"unknown, busy":     {[]func(http.ResponseWriter){refuse("outcome_unknown", 504), refuse("busy", 429), lost, done}, "", 1},
		"unknown, conflict": {[]func(http.ResponseWriter){lost, refuse("conflict", 409)}, "conflict", 1},
		"busy":              {[]func(http.ResponseWriter){refuse("busy", 429)}, "busy", 1},
		"too old":           {[]func(http.ResponseWriter){refuse("request_forgotten", 410), done}, "", 2},
		"lost, too old":     {[]func(http.ResponseWriter){lost, refuse("request_forgotten", 410)}, CodeOutcomeUnknown, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var ids []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set(headerReceipt, fmt.Sprintf("node=a1;term=1;index=%d;hlc=1.0", 9+len(ids)))
				if r.Method == http.MethodGet {
					return
				}
				id := r.Header.Get(headerRequestID)
				if len(ids) == 0 || ids[len(ids)-1] != id {
					ids = append(ids, id)
				}
				answer := test.answers[0]
				if len(test.answers) > 1 {
					test.answers = test.answers[1:]
				}
				answer(w)
			}))
			server.Config.ErrorLog = nil
			defer server.Close()
			c, err := New(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			written, err := c.Put(ctx, "k", []byte("v"), PutOptions{})
			switch {
			case test.want == "" && (err != nil || written.Revision != 7):
				t.Errorf("%+v, %v", written, err)
			case test.want == CodeOutcomeUnknown:
				if e := asError(t, err, test.want, exitUnknown); e.RequestID != ids[0] || !strings.Contains(e.Hint, ids[0]) {
					t.Errorf("id %s, hint %q, sent %s", e.RequestID, e.Hint, ids)
				}
			case test.want != "":
				_ = asError(t, err, test.want, 1)
			}
			if len(ids) != test.ids || !strings.HasPrefix(ids[0], "0000000000000009") || len(ids[0]) != 32 {
				t.Errorf("sent as %q", ids)
			}
		})
	}
}
