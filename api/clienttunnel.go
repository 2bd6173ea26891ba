package api

import (
	"bytes"
	"context"
	"net/http"
	"strings"

	"github.com/parley-mesh/parley/api/wire"
)

// maxTunnelled bounds an answer that is carried in one frame.
const maxTunnelled = maxAnswer

// callerKey finds, in a tunnelled request's context, the Caller that the connection's certificate made.
type callerKey struct{}

// tunnelled answers a request to any endpoint, by the handler that serves HTTP: routes, rights, limits and errors are the
// same because the code is. What streams does not fit one answer and says so.
func (s *Service) tunnelled(ctx context.Context, h http.Handler, caller Caller, body []byte) []byte {
	call, err := wire.ParseCall(body)
	if err != nil {
		return s.clientFailure(Errorf(CodeInvalid, "%v", err))
	}
	if len(call.Body) > maxBodyBytes {
		return s.clientFailure(Errorf(CodeTooLarge, "the body has %d bytes, the limit is %d", len(call.Body), maxBodyBytes))
	}
	if !strings.HasPrefix(call.Target, "/") {
		return s.clientFailure(Errorf(CodeInvalid, "the target %.80q is no path", call.Target))
	}
	r, err := http.NewRequestWithContext(context.WithValue(ctx, callerKey{}, caller), call.Method, "rpc://agent"+call.Target, bytes.NewReader(call.Body))
	if err != nil {
		return s.clientFailure(Errorf(CodeInvalid, "the request makes no sense: %v", err))
	}
	if call.ReadOnly {
		r.Header.Set(headerReadOnly, "1")
	}
	if call.RequestID != "" {
		r.Header.Set(headerRequestID, call.RequestID)
	}
	w := &captured{header: http.Header{}, status: http.StatusOK}
	h.ServeHTTP(w, r)
	if w.over {
		return s.clientFailure(Errorf(CodeTooLarge, "the answer does not fit one frame of %d bytes", maxTunnelled).
			WithHint("ask for less, or use the admin socket or https, which stream"))
	}
	return wire.Reply{Status: uint64(w.status), Receipt: w.header.Get(headerReceipt), Body: w.body.Bytes()}.Append(nil) //nolint:gosec // a status
}

// captured keeps a response, as far as it fits. It offers no Flush: an endpoint that streams ends with its first part.
type captured struct {
	header http.Header
	status int
	body   bytes.Buffer
	over   bool
}

// Header implements http.ResponseWriter.
func (w *captured) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *captured) WriteHeader(status int) { w.status = status }

// Write implements http.ResponseWriter.
func (w *captured) Write(b []byte) (int, error) {
	if w.over || w.body.Len()+len(b) > maxTunnelled {
		w.over = true
		return 0, http.ErrContentLength
	}
	return w.body.Write(b)
}
