package api

import (
	"fmt"
	"net/http"
	"runtime/debug"

	"go.uber.org/zap"
)

// recovered is deferred around an endpoint. Without it net/http would end the connection and tell of the panic in its own
// log, which nobody reads. The value goes into the log alone: it may hold what the caller must not see.
func (h *handler) recovered(x *Exchange, route *Route) {
	value := recover()
	if value == nil {
		return
	}
	abort := value == http.ErrAbortHandler //nolint:errorlint // the value itself, by contract of net/http
	if !abort {
		h.service.log.Error("request panicked", zap.String("request_id", x.RequestID), zap.String("path", x.R.URL.Path),
			zap.String("error", fmt.Sprint(value)), zap.String("stack", string(debug.Stack())))
	}
	if abort || x.begun {
		x.status = http.StatusInternalServerError
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
	e := Errorf(CodeInternal, "the agent failed while it served the request")
	if route != nil && route.Method != http.MethodGet {
		e = Errorf(CodeOutcomeUnknown, "the agent failed while it served the write")
	}
	h.answer(x, route, e)
}
