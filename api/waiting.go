package api

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// WaitingHandler answers while the agent is not of any cluster yet: it lives, is not ready, and can do nothing else.
// state is one word for that, such as joining, why and hint say more. It needs no identity of its callers, because it
// tells all the same.
func WaitingHandler(state, why, hint string) http.Handler {
	refused := Errorf(CodeUnavailable, "%s", why).WithHint("%s", hint)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 0) // nothing is read
		switch {
		case r.URL.Path == "/livez":
			say(w, http.StatusOK, "ok\n")
		case r.URL.Path == "/readyz":
			say(w, http.StatusServiceUnavailable, state+"\n")
		case strings.HasPrefix(r.URL.Path, "/v1/"):
			say(w, refused.Status(), refused.Message+"\n")
		default:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(refused.Status())
			_ = json.NewEncoder(w).Encode(nativeBody(&Exchange{}, refused)) // strings and numbers always encode
		}
	})
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // a caller that went away
}
