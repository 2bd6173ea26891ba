package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/parley-mesh/parley/api/wire"
	"github.com/parley-mesh/parley/transport"
)

// Subscription is one watched key, or with Prefix all keys that begin with Key. ID is the caller's own name for it, unlike
// that of any other of its Watches. It tells of what changed after the revision After, at once if it has already; 0 begins
// with how things are. With Values a notice of a key carries its row; a prefix is listed by whoever hears of a change.
type Subscription struct {
	ID             uint64
	Key            string
	Prefix, Values bool
	After          uint64
}

// Notice says that what a Subscription names has changed. All changes up to Revision are in what it tells, so that a
// subscription resumes with that as After. More says that it was more than one change since the last notice: whoever is
// slow is told the newest and not each.
type Notice struct {
	ID       uint64
	Revision uint64
	More     bool
	Pair     *Pair // the row now, if it was asked for and is there
	Gone     bool  // there is no such key now, and Values asked for it
}

// Watches is one stream that carries up to 1,000 subscriptions. It takes one goroutine here, and at the agent one for all
// of them together. It does not reconnect: open another one, with the revisions heard of last as After.
type Watches struct {
	client *Client
	link   string // the connection: where its name resolves to several agents, another one may lead to another agent
	token  wire.Token
	cancel context.CancelFunc
	done   chan struct{}
	err    error // why it ended; read after done is closed
}

// OpenWatches begins a stream, over an rpc address alone. It calls each with every notice, one after the other, until
// ctx ends, Close is called or the stream is lost: then Done is closed and Err says why. While each does not return, the
// agent marks what changes and tells it afterwards.
func (c *Client) OpenWatches(ctx context.Context, each func(Notice)) (*Watches, error) {
	if c.rpc == nil {
		return nil, &Error{
			Code: codeUnsupported, exit: exitFailed, Message: "many watches over one stream need an rpc address",
			Hint: "use rpc://host:8310 with WithTLS, or Watch for each key",
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &Watches{client: c, link: c.rpc.link(), cancel: cancel, done: make(chan struct{})}
	begun := make(chan struct{})
	go w.run(ctx, sync.OnceFunc(func() { close(begun) }), each)
	select {
	case <-begun:
		return w, nil
	case <-w.done:
		return nil, w.err
	}
}

func (w *Watches) run(ctx context.Context, begun func(), each func(Notice)) {
	defer close(w.done)
	defer w.cancel()
	first := true
	ctx = transport.WithPriority(ctx, transport.PriorityBulk)
	err := w.client.rpc.pool.Stream(ctx, w.link, wire.MethodWatch, nil, func(item []byte) error {
		if first {
			hello, err := wire.ParseHello(item)
			if err != nil {
				return w.client.unreadable(0, err)
			}
			w.token, first = hello.Token, false
			begun()
			return nil
		}
		notices, err := wire.ParseNotices(item)
		if err != nil {
			return w.client.unreadable(0, err)
		}
		for _, n := range notices.Notices {
			notice := Notice{ID: n.ID, Revision: notices.Revision, More: n.More, Gone: n.Kind == wire.NoticeGone}
			if n.Kind == wire.NoticeRow {
				pair := pairOf(n.Row)
				notice.Pair = &pair
			}
			each(notice)
		}
		return nil
	})
	var ours *Error
	switch {
	case errors.As(err, &ours):
		w.err = ours
	case err != nil:
		w.err = w.client.uncalled(false, err)
	default:
		w.err = w.client.unanswered(false, errAgentStopped)
	}
}

// Add begins subscriptions, all or none; if it fails some may have been there for a moment. What was acknowledged before
// the call is in their first notices.
func (w *Watches) Add(ctx context.Context, subs ...Subscription) error {
	for added := 0; added < len(subs); {
		part := subs[added:min(len(subs), added+wire.MaxWatches)]
		req := wire.WatchAdd{Token: w.token, Watches: make([]wire.Watch, len(part))}
		for i, s := range part {
			req.Watches[i] = wire.Watch(s)
		}
		if err := w.call(ctx, wire.MethodWatchAdd, req.Append(nil)); err != nil {
			w.takeBack(ctx, subs[:added])
			return err
		}
		added += len(part)
	}
	return nil
}

// takeBackLimit bounds what is done for a caller who may have given up.
const takeBackLimit = 5 * time.Second

// takeBack ends the subscriptions that were begun before one of the same call could not be.
func (w *Watches) takeBack(ctx context.Context, subs []Subscription) {
	ids := make([]uint64, len(subs))
	for i, s := range subs {
		ids[i] = s.ID
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackLimit)
	defer cancel()
	_ = w.Remove(ctx, ids...) // if the agent does not hear of it the stream is as good as lost
}

// Remove ends subscriptions. A notice that is under way may still come.
func (w *Watches) Remove(ctx context.Context, ids ...uint64) error {
	for len(ids) > 0 {
		part := ids[:min(len(ids), wire.MaxWatches)]
		if err := w.call(ctx, wire.MethodWatchRemove, wire.WatchRemove{Token: w.token, IDs: part}.Append(nil)); err != nil {
			return err
		}
		ids = ids[len(part):]
	}
	return nil
}

func (w *Watches) call(ctx context.Context, method string, body []byte) error {
	c := w.client
	raw, err := c.invokeOver(ctx, w.link, transport.PriorityBulk, method, false, body)
	if err != nil {
		return err
	}
	_, failed, err := wire.ParseWritten(raw)
	switch {
	case err != nil:
		return c.unreadable(0, err)
	case failed != nil:
		return c.failed(failed)
	}
	return nil
}

// Close ends the stream and all its subscriptions, and waits for each to return.
func (w *Watches) Close() {
	w.cancel()
	<-w.done
}

// Done is closed when the stream has ended.
func (w *Watches) Done() <-chan struct{} { return w.done }

// Err says why the stream has ended, once Done is closed.
func (w *Watches) Err() error {
	select {
	case <-w.done:
		return w.err
	default:
		return nil
	}
}
