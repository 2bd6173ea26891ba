package agent

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
	"github.com/parley-mesh/parley/transport"
)

const (
	// jwtLook is how often a core member looks at its keys of tokens when nothing changes, and how long it waits after a
	// publication that failed, such as without a leader.
	jwtLook  = 10 * time.Second
	jwtRetry = time.Second
)

// jwtSigner signs JWT-SVIDs on a core member with a key whose public half is in the replicated bundle. It looks at levels:
// the files say which keys there are, the state which of them are known to others. A key is in the state before it signs.
type jwtSigner struct {
	node    string
	keys    security.JWTKeys
	hub     *watch.Hub
	issues  func() bool // this agent is an issuer
	publish func(context.Context, state.Command) error
	holders func(ctx context.Context, kid string) []security.TrustReport // of all agents that count, asked now
	now     func() time.Time
	log     *zap.Logger

	signing atomic.Pointer[signingKey]
	waiting atomic.Pointer[[]string] // for whom, nil while the next key does not wait
	forced  atomic.Pointer[string]   // the next key that is not to wait
	wake    chan struct{}            // capacity 1, a level: an operator has said something
}

type signingKey struct {
	key  *security.JWTKey
	ends time.Time
}

func newJWTSigner(a *Agent) *jwtSigner {
	return &jwtSigner{
		node: a.ids.Node, keys: security.NewJWTKeys(a.dir.path), hub: a.hub, now: a.now, log: a.log.Named("tokens"),
		issues:  func() bool { return a.issuer.authority.Load() != nil },
		holders: a.tokenHolders, wake: make(chan struct{}, 1),
		publish: func(ctx context.Context, c state.Command) error {
			_, err := a.service.Execute(ctx, api.Internal(a.ids.Node), c)
			return err
		},
	}
}

// sign makes a token, or says that this core member cannot yet.
func (s *jwtSigner) sign(id spiffeid.ID, audience []string, ttl time.Duration) (string, error) {
	k := s.signing.Load()
	if k == nil || !k.ends.After(s.now()) {
		return "", &transport.Error{Code: api.CodeUnavailable, Message: "this core member has no key of tokens that the bundle knows", Hint: "ask again in a moment: it publishes one as soon as there is a leader"}
	}
	token, err := k.key.Sign(id, audience, ttl, k.ends, s.now())
	if err != nil {
		return "", &transport.Error{Code: api.CodeInvalid, Message: err.Error()}
	}
	return token, nil
}

// run keeps a key that signs while this agent is an issuer.
func (s *jwtSigner) run(ctx context.Context) error {
	changed, err := s.hub.Subscribe(watch.Selector{Table: state.TableJWTKey, Prefix: true})
	if err != nil {
		return err
	}
	defer changed.Close()
	failing := false
	for ctx.Err() == nil {
		again := jwtLook
		if !s.issues() {
			s.signing.Store(nil)
			again = jwtRetry
		} else if err := s.look(ctx); err != nil {
			again = jwtRetry
			if !failing && ctx.Err() == nil {
				s.log.Warn("the key of tokens cannot be kept, trying again", zap.Error(err))
			}
			failing = true
		} else {
			failing = false
		}
		timer := time.NewTimer(again)
		select {
		case <-ctx.Done():
		case <-changed.C():
		case <-s.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// force has the next key sign without those who do not hold it, and returns who they are.
func (s *jwtSigner) force() (kid string, without []string, err error) {
	_, next, err := s.keys.Load()
	if err != nil {
		return "", nil, err
	}
	waiting := s.waiting.Load()
	if next == nil || waiting == nil {
		return "", nil, api.Errorf(api.CodeConflict, "no key of tokens waits on this host").
			WithHint("parley ca status names the core members whose next key waits, and for whom: run this there")
	}
	kid = next.ID()
	s.forced.Store(&kid)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return kid, *waiting, nil
}

func (a *Agent) useTokenKey() (api.CATokenKeyUsed, error) {
	kid, without, err := a.jwtSigner.force()
	return api.CATokenKeyUsed{Node: a.ids.Node, ID: kid, Without: without}, err
}

// look does the next step towards a key that signs and one that follows it.
func (s *jwtSigner) look(ctx context.Context) error {
	current, next, err := s.keys.Load()
	if err != nil {
		return err
	}
	if next != nil && current != nil && next.ID() == current.ID() {
		next = nil
	}
	row, known := s.known(current)
	if !known {
		if nextRow, ok := s.known(next); ok { // the only one that others know need not wait
			return s.promote(next, nextRow)
		}
		s.signing.Store(nil)
		return s.publishNext(ctx, next)
	}
	s.signing.Store(&signingKey{current, time.Unix(int64(row.NotAfter), 0)}) //nolint:gosec // bounded by the state
	if s.now().Before(row.PublishedAt.Wall().Add(security.JWTKeyTTL / 2)) {
		return nil
	}
	nextRow, ok := s.known(next)
	if !ok {
		return s.publishNext(ctx, next)
	}
	forced := s.forced.Load()
	in := security.JWTRotation{
		Now: s.now(), Published: nextRow.PublishedAt.Wall(), Ends: s.signing.Load().ends, Force: forced != nil && *forced == next.ID(),
	}
	if in.Settled() {
		in.Agents = s.holders(ctx, next.ID())
	}
	step := security.PlanJWTKey(in)
	if step.Sign {
		if len(step.Laggards) > 0 {
			s.log.Warn("tokens will be refused where the next key is not known", zap.String("reason", step.Reason))
		}
		return s.promote(next, nextRow)
	}
	if was := s.waiting.Swap(&step.Laggards); len(step.Laggards) > 0 && (was == nil || !slices.Equal(*was, step.Laggards)) {
		s.log.Warn("the next key of tokens waits", zap.String("reason", step.Reason), zap.String("hint", "run: parley ca status"))
	}
	return nil
}

// known is the row of a key that others know and that has not ended.
func (s *jwtSigner) known(k *security.JWTKey) (state.JWTKey, bool) {
	if k == nil {
		return state.JWTKey{}, false
	}
	row, ok := s.hub.View().JWTKey(k.ID())
	return row, ok && row.Node == s.node && time.Unix(int64(row.NotAfter), 0).After(s.now()) //nolint:gosec // as above
}

func (s *jwtSigner) promote(k *security.JWTKey, row state.JWTKey) error {
	if err := s.keys.Promote(k); err != nil {
		return err
	}
	s.waiting.Store(nil)
	s.signing.Store(&signingKey{k, time.Unix(int64(row.NotAfter), 0)})                                       //nolint:gosec // as above
	s.log.Info("tokens are signed with a new key", zap.Time("not_after", time.Unix(int64(row.NotAfter), 0))) //nolint:gosec // as above
	return nil
}

// publishNext puts the next key into the bundle, and makes it first if there is none that was never published: one that
// has ended is not taken again.
func (s *jwtSigner) publishNext(ctx context.Context, next *security.JWTKey) error {
	if next == nil || !s.fresh(next) {
		made, err := s.keys.Make()
		if err != nil {
			return err
		}
		next = made
	}
	ends := s.now().Add(security.JWTKeyTTL).Unix()
	return s.publish(ctx, state.JWTKeyPublish{ID: next.ID(), Node: s.node, Key: next.Public(), NotAfter: uint64(ends)}) //nolint:gosec // after 1970
}

// fresh reports whether a key was never published, as far as the state remembers.
func (s *jwtSigner) fresh(k *security.JWTKey) bool {
	_, ok := s.hub.View().JWTKey(k.ID())
	return !ok
}
