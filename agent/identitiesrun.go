package agent

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/workload"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

const (
	// identitiesNap is the longest sleep between two looks at the clock, which goes on while a host is suspended.
	identitiesNap = 10 * time.Second
	// renewLimit bounds one attempt to renew.
	renewLimit = 15 * time.Second
)

// run follows the entries and the bundle, and renews what is due.
func (s *identities) run(ctx context.Context) error {
	group := s.hub.Group()
	var subs []*watch.Subscription
	defer func() {
		for _, sub := range subs {
			sub.Close()
		}
	}()
	for _, table := range []state.Table{state.TableEntry, state.TableService, state.TableDeny, state.TableBundle, state.TableJWTKey} {
		sub, err := group.Subscribe(watch.Selector{Table: table, Prefix: true}, uint64(table))
		if err != nil {
			return err
		}
		subs = append(subs, sub)
	}
	var taken []watch.Woken
	var renewing sync.WaitGroup
	defer renewing.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-group.C():
			taken = group.Take(taken)
		case <-s.wake:
		case <-timer.C:
		}
		s.follow()
		next := s.renewDue(ctx, &renewing)
		timer.Reset(min(max(next, time.Millisecond), identitiesNap))
	}
}

// follow tells those who wait what has changed.
func (s *identities) follow() {
	s.mu.Lock()
	s.refresh()
	s.mu.Unlock()
	s.trust.refresh(s)
}

// renewDue begins to renew what is due, forgets what nobody asks for any more, and says when something is due next.
func (s *identities) renewDue(ctx context.Context, renewing *sync.WaitGroup) time.Duration {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	next := identitiesNap
	for name, h := range s.mu.held {
		switch {
		case h.making != nil || h.due.IsZero():
		case now.Before(h.due):
			next = min(next, h.due.Sub(now))
		case h.identity != nil && !h.asked || h.identity == nil && now.Sub(h.wanted) > time.Duration(h.entry.TTL())*time.Second: //nolint:gosec // a few hours
			delete(s.mu.held, name) // nobody has asked since it was renewed; who still waits asks again
			s.changedOne(name)
		default:
			tried := h.attempts
			renewing.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, renewLimit)
				defer cancel()
				_ = s.attempt(ctx, h, tried) // noted beside the identity
			})
		}
	}
	return next
}

// roots are those of the applied state, or before there is one those of this agent's own files.
func (s *identities) roots() (sequence uint64, roots [][]byte) {
	v := s.hub.View()
	if b := v.Bundle(); len(b.Roots) > 0 {
		return max(v.TableRevision(state.TableBundle), v.TableRevision(state.TableJWTKey)), b.Roots
	}
	_, roots = s.ownRoots()
	return 0, roots
}

// trusted is the bundle that programs of this host get.
type trusted struct {
	mu       sync.Mutex // a View is read under it, nothing else
	made     bool
	sequence uint64
	bundle   *spiffebundle.Bundle
	changed  chan struct{}
}

// refresh makes the bundle of the newest View, if that is another one.
func (t *trusted) refresh(s *identities) {
	t.mu.Lock()
	defer t.mu.Unlock()
	sequence, roots := s.roots()
	if t.made && sequence == t.sequence {
		return
	}
	keys := make(map[string][]byte)
	for _, k := range s.hub.View().JWTKeys() {
		keys[k.ID] = k.Key
	}
	next, err := security.TrustBundle(s.td, sequence, roots, keys)
	if err != nil {
		s.log.Error("the replicated trust bundle cannot be read", zap.Error(err))
		return
	}
	t.made, t.sequence, t.bundle = true, sequence, next
	close(t.changed)
	t.changed = make(chan struct{})
}

// Bundles is that of workload.Source. Trust domains that this one is federated with have none here yet.
func (s *identities) Bundles() (workload.Bundles, <-chan struct{}, error) {
	s.trust.refresh(s)
	s.trust.mu.Lock()
	defer s.trust.mu.Unlock()
	if s.trust.bundle == nil || s.hub.View().Index() == 0 {
		return workload.Bundles{}, s.trust.changed, workload.ErrNotReady
	}
	return workload.Bundles{Own: s.trust.bundle.Clone(), Federated: map[spiffeid.TrustDomain]*spiffebundle.Bundle{}}, s.trust.changed, nil
}

// inUse are the identities that programs of this host have, by SPIFFE ID and hint.
func (s *identities) inUse() []workload.Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []workload.Identity
	for _, h := range s.mu.held {
		if h.identity != nil {
			all = append(all, *h.identity)
		}
	}
	slices.SortFunc(all, func(a, b workload.Identity) int {
		return cmp.Or(cmp.Compare(a.ID.String(), b.ID.String()), cmp.Compare(a.Hint, b.Hint))
	})
	return all
}
