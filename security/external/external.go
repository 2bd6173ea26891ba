// Package external brings an agent's identity from the SPIFFE Workload API of its host, which another authority serves: SPIRE,
// most often. It is one Feed:
//
//	feed, err := external.New(external.Options{Addr: "unix:///run/spire/sockets/agent.sock", ID: id, Log: log})
//	first, err := feed.First(ctx)   // waits for an identity that is this agent's
//	err = feed.Run(ctx, source)     // puts each next one into use until ctx ends
//
// The Workload API decides who a process is by what it sees of the process. This package decides whether that is the agent of
// this name: the SPIFFE ID has to be security.AgentID's, to the letter, and no other is ever taken in its place.
package external

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/parley-mesh/parley/security"
)

const (
	// retryMin and retryMax bound the pause between two attempts to reach the Workload API.
	retryMin = 250 * time.Millisecond
	retryMax = 5 * time.Second
)

// Options is what a Feed needs.
type Options struct {
	Addr string      // of the Workload API: unix:///path
	ID   spiffeid.ID // of this agent, see security.AgentID
	Log  *zap.Logger // nil: silent
}

// Feed follows what the Workload API says of this agent. First and Run are called one after the other, Err at any time.
type Feed struct {
	o      Options
	client *workloadapi.Client

	mu  sync.Mutex
	err error // why the newest attempt brought nothing to use
}

// New prepares a Feed. It opens no connection; Close ends it.
func New(ctx context.Context, o Options) (*Feed, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if _, err := security.NodeOf(o.ID); err != nil {
		return nil, err
	}
	reconnect := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: retryMin, Multiplier: 1.6, Jitter: 0.2, MaxDelay: retryMax}}
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(o.Addr), workloadapi.WithBackoffStrategy(pauses{}),
		workloadapi.WithDialOptions(grpc.WithConnectParams(reconnect)))
	if err != nil {
		return nil, fmt.Errorf("identity.workload_api %q: %w", o.Addr, err)
	}
	return &Feed{o: o, client: client}, nil
}

// Close ends the connection.
func (f *Feed) Close() error { return f.client.Close() }

// Err is why the Workload API gave nothing to use when it was last heard, nil while it does. It is an *Error.
func (f *Feed) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// note keeps the outcome of an attempt, and tells the log when it is another one than before.
func (f *Feed) note(err error) {
	f.mu.Lock()
	before := f.err
	f.err = err
	f.mu.Unlock()
	var told *Error
	switch {
	case err == nil && before != nil:
		f.o.Log.Info("the Workload API gives this agent its identity again")
	case errors.As(err, &told) && (before == nil || before.Error() != err.Error()):
		f.o.Log.Warn("no identity by the Workload API, trying again", zap.Error(err), zap.String("hint", told.Hint))
	}
}

// First waits for the first identity that is this agent's. While there is none it says why in the log and goes on asking, until
// ctx ends; then the error is the last reason, an *Error.
func (f *Feed) First(ctx context.Context) (*security.External, error) {
	// Without the deadline of ctx, which gRPC would send to the other side: its end would come back as an answer, and hide the reason.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	var got *security.External
	err := f.watch(inner, func(e security.External) error {
		if got == nil {
			got = &e
		}
		cancel()
		return nil
	})
	if got != nil {
		return got, nil
	}
	if why := f.Err(); why != nil {
		return nil, why
	}
	if ctx.Err() != nil { // it said nothing at all
		return nil, &Error{Addr: f.o.Addr, Reason: "does not answer", Hint: "see that spire-agent runs and that identity.workload_api is its socket", cause: ctx.Err()}
	}
	return nil, err
}

// Run puts what the Workload API pushes into use until ctx ends, and returns nil then. What cannot be used leaves the identity
// in use where it is, to its end: losing the socket, or the registration, is no reason to drop a certificate that peers accept.
func (f *Feed) Run(ctx context.Context, source *security.Source) error {
	return f.watch(ctx, source.SetExternal)
}

// watch calls use with each identity that is this agent's. It returns nil when ctx ends.
func (f *Feed) watch(ctx context.Context, use func(security.External) error) error {
	for ctx.Err() == nil {
		// It returns by itself only for an error that the client holds final: a question that the other side does not understand.
		_ = f.client.WatchX509Context(ctx, &watcher{ctx: ctx, feed: f, use: use})
		select {
		case <-ctx.Done():
		case <-time.After(retryMax):
		}
	}
	return nil
}

// watcher takes what one watch brings.
type watcher struct {
	ctx  context.Context
	feed *Feed
	use  func(security.External) error
}

// OnX509ContextUpdate judges a whole answer: what is not in it is gone.
func (w *watcher) OnX509ContextUpdate(answer *workloadapi.X509Context) {
	e, err := w.feed.pick(answer)
	if err == nil {
		if err = w.use(e); err != nil {
			err = &Error{Addr: w.feed.o.Addr, Reason: "gives an identity that other agents would refuse", cause: err,
				Hint: "see the error: the authority's clock, its bundle, or the kind of its certificates"}
		}
	}
	w.feed.note(err)
}

// OnX509ContextWatchError says why there is no answer.
func (w *watcher) OnX509ContextWatchError(err error) {
	if w.ctx.Err() == nil {
		w.feed.note(w.feed.explain(err))
	}
}

// pick finds this agent's identity among those of an answer, and the roots of its trust domain.
func (f *Feed) pick(answer *workloadapi.X509Context) (security.External, error) {
	for _, s := range answer.SVIDs {
		if s.ID != f.o.ID {
			continue
		}
		roots, ok := answer.Bundles.Get(f.o.ID.TrustDomain())
		if !ok {
			return security.External{}, &Error{Addr: f.o.Addr, Reason: "gives no bundle of " + f.o.ID.TrustDomain().Name(), Hint: "see the log of spire-agent"}
		}
		return security.External{Certs: s.Certificates, Key: s.PrivateKey, Roots: roots.X509Authorities()}, nil
	}
	ids := make([]spiffeid.ID, len(answer.SVIDs))
	for i, s := range answer.SVIDs {
		ids[i] = s.ID
	}
	return security.External{}, f.another(ids)
}

// pauses is the pace of the client's attempts.
type pauses struct{}

// NewBackoff begins with the shortest pause.
func (pauses) NewBackoff() workloadapi.Backoff { return &pause{} }

type pause struct{ next time.Duration }

// Next doubles the pause up to retryMax.
func (p *pause) Next() time.Duration {
	p.next = min(max(2*p.next, retryMin), retryMax)
	return p.next
}

// Reset follows a success.
func (p *pause) Reset() { p.next = 0 }
