package api

import (
	"io"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

const (
	// maxSnapshotStreams is how many backups are read from an agent at once: each holds a View, and reads all of it.
	maxSnapshotStreams = 1

	// snapshotStall ends a stream whose reader takes nothing for so long. The whole may take as long as it has to.
	snapshotStall = time.Minute
)

// snapshotRoutes are exempt from the limits of bodies and times: a backup is as large as the state.
func snapshotRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/parley/v1/snapshot", Action: policy.SnapshotSave, Takes: []string{"stale"}, Serve: serveSnapshot},
	}
}

// serveSnapshot streams a backup file of the whole state, with every write that was acknowledged before the request, or
// with ?stale whatever this agent has.
func serveSnapshot(x *Exchange) error {
	s := x.service
	if !s.local.HoldsKV() || s.local.WriteSnapshot == nil {
		return Errorf(CodeUnavailable, "%s is outside the core and does not hold the whole state", s.local.Node).
			WithHint("ask a member of the core: %s", strings.Join(s.local.CoreNodes(), ", "))
	}
	if !s.snapshots.acquire("") {
		return Errorf(CodeBusy, "a backup is being read from %s already", s.local.Node).WithHint("wait for it to end, or ask another member of the core")
	}
	defer s.snapshots.release("")
	if !x.Flag("stale") {
		if err := s.CatchUp(x.Context()); err != nil {
			return err
		}
	}
	v := s.local.Hub.View()
	if v.Classes() != state.AllClasses {
		return Errorf(CodeUnavailable, "%s has just left the core", s.local.Node)
	}
	x.Receipt(s.local.Node, v.Term(), v.Index(), v.Stamp())
	x.W.Header()["Content-Type"] = []string{"application/octet-stream"}
	x.W.Header()["X-Content-Type-Options"] = []string{"nosniff"}
	x.Head(http.StatusOK)
	if err := s.local.WriteSnapshot(v, &stalledWriter{w: x.W, deadline: http.NewResponseController(x.W)}); err != nil {
		s.log.Warn("backup not sent whole", zap.String("request_id", x.RequestID), zap.Error(err))
		panic(http.ErrAbortHandler) // half a backup must not look like a whole one
	}
	s.log.Info("backup of the whole state sent", zap.String("request_id", x.RequestID), zap.String("peer", x.Caller.Name), zap.Uint64("index", v.Index()))
	return nil
}

// stalledWriter gives each write its own time instead of one for the whole.
type stalledWriter struct {
	w        io.Writer
	deadline *http.ResponseController
}

// Write implements io.Writer.
func (s *stalledWriter) Write(p []byte) (int, error) {
	_ = s.deadline.SetWriteDeadline(time.Now().Add(snapshotStall)) // unsupported outside a real connection
	return s.w.Write(p)
}
