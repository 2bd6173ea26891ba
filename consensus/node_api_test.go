package consensus

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

// The channels of callers are used again. One that gave up may be answered later, and a request may be answered twice by
// mistake: neither answer reaches somebody else.
func TestAnswersReachTheirOwnCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Node{done: make(chan struct{}), waits: newAppliedWaits(0)}
		inbox := make(chan *request, 2)
		late := errors.New("too late")
		for range 100 {
			ctx, cancel := context.WithCancel(t.Context())
			var caller sync.WaitGroup
			caller.Go(func() {
				var unknown *OutcomeUnknownError
				if o := n.ask(ctx, inbox, &asked{}); !errors.As(o.err, &unknown) {
					t.Errorf("a caller that gave up got %+v", o)
				}
			})
			gone := <-inbox
			gone.take()
			cancel()
			caller.Wait()
			gone.reply(outcome{err: late})
			for i := range uint64(2) {
				caller.Go(func() {
					if o := n.ask(t.Context(), inbox, &asked{request: request{target: i}}); o.index != i || o.err != nil {
						t.Errorf("asked for %d, got %+v", i, o)
					}
				})
			}
			var asked [2]*request
			for i := range asked {
				asked[i] = <-inbox
			}
			for _, r := range asked {
				r.reply(outcome{index: r.target})
				r.reply(outcome{err: late})
			}
			caller.Wait()
		}
	})
}
