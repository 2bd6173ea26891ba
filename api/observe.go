package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/parley-mesh/parley/state"
)

// An Observer is told what the Service does. Its functions are called in the goroutine that serves, and return at once; each returns
// what is to be called with the end, perhaps by the goroutine that applied a write. A nil one is not called. They read the clock, so that this package need not.
type Observer struct {
	// Request begins when a request was routed. Route is method and path of the endpoint, so it has few values;
	// blocking marks answers that were meant to wait.
	Request func(route string) (answered func(status int, blocking bool))
	// Write begins when a command is to be executed for somebody outside, or is a probe. Abandoned means that the
	// caller went away before the answer.
	Write func(probe bool) (answered func(status int, abandoned bool))
	// Gate ends the wait of a write that found no place among those under way; refused ones were not let in, and did nothing.
	Gate func(waited time.Duration, refused bool)
}

// noRouteName stands for all paths that lead nowhere.
const noRouteName = "none"

func (s *Service) observeRequest(route *Route) func(*Exchange) {
	if s.options.Observe.Request == nil {
		return func(*Exchange) {}
	}
	name := noRouteName
	if route != nil {
		name = route.Method + " " + route.Path
	}
	answered := s.options.Observe.Request(name)
	return func(x *Exchange) { answered(x.status, x.blocks()) }
}

// blocks reports whether the request asked to wait for a change.
func (x *Exchange) blocks() bool {
	q := x.Query()
	return q.Has("index") || q.Has("wait") || q.Has("watch")
}

// observeWrite watches one Execute. What the agents do by themselves is no promise to anybody, but for probes.
func (s *Service) observeWrite(caller Caller, cmd state.Command) func(context.Context, error) {
	_, probe := cmd.(state.Probe)
	if s.options.Observe.Write == nil || caller.Kind == KindInternal && !probe {
		return func(context.Context, error) {}
	}
	answered := s.options.Observe.Write(probe)
	return func(ctx context.Context, err error) {
		status := http.StatusOK
		if err != nil {
			status = AsError(err).Status()
		}
		answered(status, err != nil && errors.Is(ctx.Err(), context.Canceled))
	}
}
