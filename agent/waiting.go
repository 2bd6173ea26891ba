package agent

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/parley-mesh/parley/api"
)

// waitingGrace is how long a request that was begun while the agent waited may take to be answered.
const waitingGrace = 500 * time.Millisecond

// answerMeanwhile answers on the http listener and the admin socket while this agent waits to be let into its cluster,
// which may take for ever: without, they would take connections and never say a word. The returned function stops it
// and leaves the listeners for the agent to come.
func (a *Agent) answerMeanwhile(socks *sockets) (stop func()) {
	handler := api.WaitingHandler("joining",
		"this agent is not of a cluster yet: it is joining by "+strings.Join(a.cfg.Join, ", "),
		"it goes on trying; its log says what it waits for")
	var serving sync.WaitGroup
	var stops []func()
	for _, l := range []net.Listener{socks.http, socks.admin} {
		server := api.NewHTTPServer(handler, a.log.Named("http"))
		server.SetKeepAlivesEnabled(false) // the next request is for somebody else
		serving.Go(func() { _ = server.Serve(lent{l}) })
		stops = append(stops, func() {
			ctx, cancel := context.WithTimeout(context.Background(), waitingGrace)
			defer cancel()
			if server.Shutdown(ctx) != nil {
				_ = server.Close() // somebody connected and said nothing
			}
		})
	}
	return func() {
		for _, stop := range stops {
			serving.Go(stop)
		}
		serving.Wait()
		for _, l := range []net.Listener{socks.http, socks.admin} {
			_ = l.(deadliner).SetDeadline(time.Time{}) // fails for a closed one only, which Accept will say
		}
	}
}

// deadliner is a listener whose Accept can be ended without closing it, as those of package net are.
type deadliner interface{ SetDeadline(time.Time) error }

// lent is a listener whose Close ends a pending Accept, and leaves it open.
type lent struct{ net.Listener }

func (l lent) Close() error { return l.Listener.(deadliner).SetDeadline(time.Unix(1, 0)) }
