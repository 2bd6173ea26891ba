package api

import (
	"context"
	"crypto/rand"
	"sync"

	"github.com/parley-mesh/parley/api/wire"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// noticeBytes is when an item of notices is full enough to be sent.
const noticeBytes = 64 << 10

// watchSession is one stream of watches: any number of them, one goroutine, which belongs to whoever serves the stream.
type watchSession struct {
	who   string
	group *watch.Group
	mu    struct { // nothing is called under it
		sync.Mutex
		subs   map[uint64]watched // by the client's id
		closed bool
	}
}

type watched struct {
	sub    *watch.Subscription
	values bool
}

// watchSessions finds the stream that a client means. As many as there are streams, which the limit on open requests
// bounds.
type watchSessions struct {
	mu struct { // nothing is called under it
		sync.Mutex
		byToken map[wire.Token]*watchSession
	}
}

func (all *watchSessions) open(s *watchSession) (token wire.Token) {
	_, _ = rand.Read(token[:]) // never fails: it ends the process instead
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.mu.byToken == nil {
		all.mu.byToken = map[wire.Token]*watchSession{}
	}
	all.mu.byToken[token] = s
	return token
}

func (all *watchSessions) forget(token wire.Token) {
	all.mu.Lock()
	defer all.mu.Unlock()
	delete(all.mu.byToken, token)
}

// find returns the stream if it is who's own.
func (all *watchSessions) find(token wire.Token, who string) (*watchSession, *Error) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if s := all.mu.byToken[token]; s != nil && s.who == who {
		return s, nil
	}
	return nil, Errorf(CodeNotFound, "there is no such stream of watches").WithHint("it has ended: open another one on this agent")
}

// ServeWatches serves one stream of watches until ctx ends, the client may not watch any more, or send fails. identify says
// who calls and what the caller may do, as the applied state has it at that moment.
//
// The stream is level-triggered. While send waits for a reader, what changes is only marked; the next notice tells the
// newest revision, and that there was more. So a reader that stands still costs one mark a watch.
func (s *Service) ServeWatches(ctx context.Context, identify func() (Caller, error), send func([]byte) error) error {
	caller, err := identify()
	if err != nil {
		return err
	}
	if failed := allow(caller, policy.KVRead); failed != nil {
		return failed
	}
	if !s.local.HoldsKV() {
		return s.noWatches()
	}
	who := caller.identity()
	if !s.concurrent.acquire(who) {
		return Errorf(CodeTooMany, "%d requests are open for this caller", s.concurrent.each)
	}
	defer s.concurrent.release(who)
	session := &watchSession{who: who, group: s.local.Hub.Group()}
	session.mu.subs = map[uint64]watched{}
	token := s.sessions.open(session)
	defer s.closeWatches(session, token)
	if err := send(wire.Hello{Token: token}.Append(nil)); err != nil {
		return err
	}
	return s.followWatches(ctx, session, identify, send)
}

// noWatches is the answer of an agent outside the core, which has no keys to look at.
func (s *Service) noWatches() *Error {
	return Errorf(CodeUnsupported, "agent %s is outside the core, holds no keys and serves no stream of watches", s.local.Node).
		WithHint("open it on an agent of the core, parley core lists them; one watch at a time is passed on by blocking reads")
}

func (s *Service) followWatches(ctx context.Context, session *watchSession, identify func() (Caller, error), send func([]byte) error) error {
	var woken []watch.Woken
	item := make([]byte, 0, 1024)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.local.Hub.Stopped():
			return Errorf(CodeUnavailable, "the agent is stopping")
		case <-session.group.C():
		}
		caller, err := identify()
		if err != nil {
			return err
		}
		if failed := allow(caller, policy.KVRead); failed != nil {
			return failed
		}
		woken = session.group.Take(woken)
		view := s.local.Hub.View()
		if !view.Holds(state.ClassKV) {
			return s.noWatches()
		}
		item = wire.AppendNotices(item[:0], view.Revision())
		head := len(item)
		for _, w := range woken {
			if item = session.notice(item, view, w); len(item) >= noticeBytes {
				if err := send(item); err != nil {
					return err
				}
				item = wire.AppendNotices(item[:0], view.Revision())
			}
		}
		if len(item) > head {
			if err := send(item); err != nil {
				return err
			}
		}
		if cap(item) > 4*noticeBytes || cap(woken) > 4096 && len(woken) < cap(woken)/4 {
			item, woken = nil, nil // what a flood needed is not kept for ever
		}
	}
}

// notice appends what there is to say of one woken watch: nothing when the client has ended it.
func (w *watchSession) notice(item []byte, view *state.View, woken watch.Woken) []byte {
	id := woken.Sub.Tag()
	w.mu.Lock()
	one, there := w.mu.subs[id]
	w.mu.Unlock()
	if !there || one.sub != woken.Sub {
		return item
	}
	n := wire.Notice{ID: id, More: woken.More}
	if one.values {
		n.Kind = wire.NoticeGone
		if row, ok := view.Get(woken.Sub.Selector().Key); ok {
			n.Kind, n.Row = wire.NoticeRow, wireRow(row)
		}
	}
	return n.Append(item)
}

func (s *Service) closeWatches(session *watchSession, token wire.Token) {
	s.sessions.forget(token)
	session.mu.Lock()
	session.mu.closed = true
	subs := session.mu.subs
	session.mu.subs = nil
	session.mu.Unlock()
	for _, one := range subs {
		one.sub.Close()
		s.watches.release(session.who)
	}
}

func clientWatchAdd(ctx context.Context, s *Service, caller Caller, body []byte) ([]byte, error) {
	req, err := wire.ParseWatchAdd(body)
	if err != nil {
		return nil, Errorf(CodeInvalid, "%v", err)
	}
	session, failed := s.sessions.find(req.Token, caller.identity())
	if failed != nil {
		return nil, failed
	}
	for _, w := range req.Watches {
		if err := checkWatch(w); err != nil {
			return nil, err
		}
	}
	// What was acknowledged before is in the View that the first notices are made from.
	if err := s.CatchUp(ctx); err != nil {
		return nil, err
	}
	for i, w := range req.Watches {
		if failed := s.addWatch(session, w); failed != nil {
			for _, added := range req.Watches[:i] {
				s.removeWatch(session, added.ID)
			}
			return nil, failed
		}
	}
	return s.watchAnswer(), nil
}

func checkWatch(w wire.Watch) error {
	if w.Values && w.Prefix {
		return Errorf(CodeInvalid, "a prefix is watched without values").WithHint("list it when it has changed")
	}
	if err := checkQuery(&KVQuery{Key: w.Key, Prefix: w.Prefix}); err != nil {
		return err
	}
	return nil
}

// watchAnswer says as of when things are.
func (s *Service) watchAnswer() []byte {
	v := s.local.Hub.View()
	return wire.Written{
		Place: wire.Place{Node: s.local.Node, Term: v.Term(), Index: v.Index(), Stamp: uint64(v.Stamp())}, Revision: v.Revision(),
	}.Append(nil)
}

func (s *Service) addWatch(session *watchSession, w wire.Watch) *Error {
	if !s.watches.acquire(session.who) {
		return Errorf(CodeTooMany, "%d watches are open for this caller", s.watches.each)
	}
	sel := watch.Selector{Key: w.Key, Prefix: w.Prefix}
	sub, err := session.group.Subscribe(sel, w.ID)
	if err != nil {
		s.watches.release(session.who)
		return AsError(hubError(err))
	}
	if failed := session.keep(w, sub); failed != nil {
		sub.Close()
		s.watches.release(session.who)
		return failed
	}
	// Looked at after subscribing: a change in between is seen here, a later one wakes.
	if w.After == 0 || sel.Changed(s.local.Hub.View()) > w.After {
		session.group.Wake(sub)
	}
	return nil
}

func (w *watchSession) keep(req wire.Watch, sub *watch.Subscription) *Error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.closed {
		return Errorf(CodeNotFound, "the stream of watches has ended").WithHint("open another one")
	}
	if _, taken := w.mu.subs[req.ID]; taken {
		return Errorf(CodeExists, "watch %d is there already", req.ID).WithHint("number the watches of a stream")
	}
	w.mu.subs[req.ID] = watched{sub: sub, values: req.Values}
	return nil
}

func (s *Service) removeWatch(session *watchSession, id uint64) {
	session.mu.Lock()
	one, there := session.mu.subs[id]
	delete(session.mu.subs, id)
	session.mu.Unlock()
	if there {
		one.sub.Close()
		s.watches.release(session.who)
	}
}

func clientWatchRemove(_ context.Context, s *Service, caller Caller, body []byte) ([]byte, error) {
	req, err := wire.ParseWatchRemove(body)
	if err != nil {
		return nil, Errorf(CodeInvalid, "%v", err)
	}
	session, failed := s.sessions.find(req.Token, caller.identity())
	if failed != nil {
		return nil, failed
	}
	for _, id := range req.IDs {
		s.removeWatch(session, id)
	}
	return s.watchAnswer(), nil
}
