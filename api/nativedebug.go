package api

import (
	"context"
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/security/policy"
)

// Recording is one of GET /parley/v1/debug/recordings: what led to something that must not happen, on this agent's disk. The
// name says what that was.
type Recording struct {
	Name  string    `json:"name"`
	Bytes int64     `json:"bytes"`
	At    time.Time `json:"at"`
}

// Debug is what an agent offers to who looks for a mistake. Nil functions are unsupported.
type Debug struct {
	Bundle     func(ctx context.Context, w io.Writer) error
	Recordings func() []Recording
	Forget     func() ([]Recording, error)
}

// debugRoutes are about this agent alone, and need no leader.
func debugRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/parley/v1/debug/bundle", Action: policy.DebugRead, Own: true, Serve: serveBundle},
		{Method: http.MethodGet, Path: "/parley/v1/debug/recordings", Action: policy.DebugRead, Own: true, Serve: serveRecordings},
		{Method: http.MethodDelete, Path: "/parley/v1/debug/recordings", Action: policy.DebugForget, Own: true, Serve: serveForget},
	}
}

var errNoDebug = Errorf(CodeUnsupported, "this agent has no recorder")

// serveBundle streams a debug bundle, one at a time.
func serveBundle(x *Exchange) error {
	s := x.service
	if s.local.Debug.Bundle == nil {
		return errNoDebug
	}
	if !s.bundles.acquire("") {
		return Errorf(CodeBusy, "a debug bundle of %s is being gathered already", s.local.Node).WithHint("wait for it to end")
	}
	defer s.bundles.release("")
	x.ReceiptHere()
	x.W.Header()["Content-Type"] = []string{"application/gzip"}
	x.W.Header()["X-Content-Type-Options"] = []string{"nosniff"}
	x.Head(http.StatusOK)
	if err := s.local.Debug.Bundle(x.Context(), &stalledWriter{w: x.W, deadline: http.NewResponseController(x.W)}); err != nil {
		s.log.Warn("debug bundle not sent whole", zap.String("request_id", x.RequestID), zap.Error(err))
		panic(http.ErrAbortHandler) // half a bundle must not look like a whole one
	}
	s.log.Info("debug bundle sent", zap.String("request_id", x.RequestID), zap.String("peer", x.Caller.Name))
	return nil
}

func serveRecordings(x *Exchange) error {
	if x.service.local.Debug.Recordings == nil {
		return errNoDebug
	}
	return x.JSON(http.StatusOK, orEmpty(x.service.local.Debug.Recordings()))
}

func serveForget(x *Exchange) error {
	if x.service.local.Debug.Forget == nil {
		return errNoDebug
	}
	forgotten, err := x.service.local.Debug.Forget()
	if err != nil {
		return err
	}
	x.service.log.Info("recordings forgotten", zap.String("request_id", x.RequestID), zap.String("peer", x.Caller.Name), zap.Int("count", len(forgotten)))
	return x.JSON(http.StatusOK, orEmpty(forgotten))
}
