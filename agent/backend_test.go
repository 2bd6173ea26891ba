package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api"
)

// A write whose time is over before it was proposed is told so, since it may be sent again; who goes away by himself asked
// for no deadline.
func TestProposeTooLate(t *testing.T) {
	a1 := start(t, single(t), 0)
	put(t, a1.Client, "before") // an agent is ready before its core is
	late, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	gone, leave := context.WithCancel(t.Context())
	leave()
	for name, c := range map[string]struct {
		ctx  context.Context
		want string
	}{"late": {late, api.CodeDeadline}, "gone": {gone, api.CodeCanceled}} {
		_, err := a1.agent.propose(c.ctx, []byte("x"))
		var e *api.Error
		if err = asAPI(err); !errors.As(err, &e) || e.Code != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

func asAPI(err error) error {
	if err == nil {
		return nil
	}
	return api.AsError(err)
}
