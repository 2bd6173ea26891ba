package agent

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/tpm"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodReseal = "core.reseal"

	// sealLook is how often an agent looks at what is sealed for it when nothing changes, and sealRetry the pause after it
	// could not be put right.
	sealLook  = 10 * time.Second
	sealRetry = 2 * time.Second
	// sealTimeout bounds one look. A TPM may take a second for each key that it derives.
	sealTimeout = 30 * time.Second
)

// sealKeeper sees to it that the root is sealed for this host to the key that the configuration asks for, and that it
// opens. It looks at levels: a file key that is to become one in the TPM, a TPM that was cleared, and a seal that was made
// for an older key are one case. Who can open the root seals it anew by itself, else it asks the other core members.
type sealKeeper struct {
	agent *Agent
	keys  *security.KeyStore
	log   *zap.Logger

	doubt   chan struct{} // the root did not open; capacity 1
	serving chan struct{} // one other agent at a time has the root sealed anew; capacity 1
	settled atomic.Bool   // the state names the key that this host has
	trouble atomic.Value  // string: why the last look failed, "" if it did not
	good    sealsOf       // what opened last; owned by run
	told    []byte        // the key that the log names last; owned by run
}

// sealsOf is what the state holds for a host.
type sealsOf struct{ key, sealed, next []byte }

func (s sealsOf) equal(t sealsOf) bool {
	return s.key != nil && bytes.Equal(s.key, t.key) && bytes.Equal(s.sealed, t.sealed) && bytes.Equal(s.next, t.next)
}

func newSealKeeper(a *Agent) *sealKeeper {
	return &sealKeeper{agent: a, keys: a.keys, log: a.log.Named("seal"), doubt: make(chan struct{}, 1), serving: make(chan struct{}, 1)}
}

// unopened is told that the root did not open.
func (k *sealKeeper) unopened() {
	select {
	case k.doubt <- struct{}{}:
	default:
	}
}

// mayBeSealedFor reports whether the root may be sealed for this host: an agent outside the core first tells its key in
// the TPM, so that the root is never sealed to its file.
func (k *sealKeeper) mayBeSealedFor() bool {
	return k.agent.core.node() != nil || k.settled.Load()
}

func (k *sealKeeper) run(ctx context.Context) error {
	group := k.agent.hub.Group()
	var subs []*watch.Subscription
	defer func() {
		for _, sub := range subs {
			sub.Close()
		}
	}()
	for _, table := range []state.Table{state.TableSealKey, state.TableSeal, state.TableNextSeal} {
		sub, err := group.Subscribe(watch.Selector{Table: table, Prefix: true}, 0)
		if err != nil {
			return err
		}
		subs = append(subs, sub)
	}
	said := ""
	for ctx.Err() == nil {
		wait := sealLook
		err := k.lookWithin(ctx)
		switch text := fmt.Sprint(err); {
		case err == nil:
			said = ""
			k.trouble.Store("")
		case ctx.Err() == nil && text != said:
			k.log.Error("the root cannot be opened on this host, or is not sealed to the key that it should be, trying again", zap.Error(err))
			said = text
		}
		if err != nil {
			wait = sealRetry
			k.trouble.Store(err.Error())
		}
		timer := time.NewTimer(nextBeat(wait))
		select {
		case <-ctx.Done():
		case <-group.C():
			group.Take(nil)
		case <-k.doubt:
			k.good = sealsOf{}
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// troubled says why the root cannot be opened on this host, or is not sealed to the key that it should be; "" if nothing is known.
func (k *sealKeeper) troubled() string {
	text, _ := k.trouble.Load().(string)
	return text
}

func (k *sealKeeper) lookWithin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sealTimeout)
	defer cancel()
	return k.look(ctx)
}

// look compares, and does the one step that is missing.
func (k *sealKeeper) look(ctx context.Context) error {
	v := k.agent.hub.View()
	now := sealsFor(v, k.agent.ids.Node)
	if now.key == nil || k.good.equal(now) {
		return nil // nothing is known yet, or nothing has changed
	}
	want, err := k.keys.Recipient()
	if err != nil {
		return err
	}
	if bytes.Equal(now.key, want) {
		err := k.opens(now)
		if err == nil {
			return k.settle(now)
		}
		if errors.Is(err, tpm.ErrUnavailable) {
			return err
		}
	}
	return k.reseal(ctx, want)
}

// settle takes what the state says for good.
func (k *sealKeeper) settle(now sealsOf) error {
	if err := k.keys.Adopt(now.key); err != nil {
		return err
	}
	k.settled.Store(true)
	if now.sealed != nil && !bytes.Equal(k.told, now.key) { // outside the core there is no seal
		k.told = now.key
		k.log.Info("the root is sealed for this host to the key that it has", zap.String("key", security.SealKeyName(now.key)))
	}
	k.good = now
	return nil
}

func sealsFor(v *state.View, node string) sealsOf {
	out := sealsOf{}
	out.key, _ = v.SealKey(node)
	if s, ok := v.Seal(node); ok {
		out.sealed = s.Sealed
	}
	if s, ok := v.NextSeal(node); ok {
		out.next = s.Sealed
	}
	return out
}

// opens tries what is sealed for this host by the key that it should be sealed to: a leader whose View was a step behind
// may have sealed it to the one before. Outside the core nothing of that is known.
func (k *sealKeeper) opens(s sealsOf) error {
	by := func(sealed []byte, root *x509.Certificate, info security.SealInfo) (*security.Root, error) {
		return k.keys.OpenRootBy(s.key, sealed, root, info)
	}
	if s.sealed != nil {
		if _, err := k.agent.issuer.openSigning(by); err != nil {
			return err
		}
	}
	if s.next != nil {
		if _, err := k.agent.issuer.openNext(by); err != nil {
			return err
		}
	}
	return nil
}

// reseal has the root sealed to a key of this host, by itself if it can, else by whichever core member can.
func (k *sealKeeper) reseal(ctx context.Context, key []byte) error {
	failure := errors.New("no core member is known")
	if k.agent.views.ownLog() {
		if failure = k.agent.sealTo(ctx, k.agent.ids.Node, key); failure == nil {
			return nil
		}
	}
	for _, node := range k.agent.book.coreSources() {
		_, err := k.agent.pool.Call(ctx, node, methodReseal, key)
		if err == nil {
			return nil
		}
		failure = errors.Join(failure, fmt.Errorf("ask %s: %w", node, err))
	}
	return failure
}

// serveReseal seals the root anew for the agent that asks, and for no other, if it is sealed for it at all.
func (a *Agent) serveReseal(ctx context.Context, peer transport.Peer, key []byte) ([]byte, error) {
	if !a.views.ownLog() {
		return nil, errNotIssuing
	}
	select {
	case a.sealKeeper.serving <- struct{}{}:
		defer func() { <-a.sealKeeper.serving }()
	default:
		return nil, &transport.Error{Code: api.CodeBusy, Message: "the root is being sealed for another agent, ask again"}
	}
	return nil, toWire(a.sealTo(ctx, peer.Node, key))
}

// sealTo makes key the one that the root is sealed to for a node, together with the seal. This host has to be able to
// open the root if it is sealed for that node.
func (a *Agent) sealTo(ctx context.Context, node string, key []byte) error {
	if err := security.CheckSealKey(key); err != nil {
		return api.Errorf(api.CodeInvalid, "%v", err)
	}
	v := a.hub.View()
	at := v.Authority()
	cmd := state.SealKeySet{Node: node, Key: key, Signing: at.Signing, Next: at.Next}
	held := sealsFor(v, node)
	var err error
	if held.sealed != nil {
		if cmd.Sealed, err = a.issuer.sealAgain(a.issuer.openSigning, node, key); err != nil {
			return err
		}
	}
	if held.next != nil {
		if cmd.NextSealed, err = a.issuer.sealAgain(a.issuer.openNext, node, key); err != nil {
			return err
		}
	}
	_, err = a.service.Execute(ctx, api.Internal(a.ids.Node), cmd)
	return err
}

// resealByRecoveryKey seals the root to this host's key by the recovery key: for a cluster in which no member can open it.
func (a *Agent) resealByRecoveryKey(ctx context.Context, text []byte) error {
	if !a.views.ownLog() {
		return errNotCore
	}
	key, err := security.ParseRecoveryKey(text)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "%v", err)
	}
	v := a.hub.View()
	if _, ok := v.Recovery(); !ok {
		return api.Errorf(api.CodeNotFound, "this cluster has no recovery key")
	}
	to, err := a.keys.Recipient()
	if err != nil {
		return withoutTPM(err)
	}
	at, held := v.Authority(), sealsFor(v, a.ids.Node)
	if held.sealed == nil && held.next == nil {
		return api.Errorf(api.CodeConflict, "the root was never sealed for %s, so there is nothing to seal anew", a.ids.Node).
			WithHint("the leader seals it for a host that comes into the core; parley ca status says who holds it up")
	}
	cmd := state.SealKeySet{Node: a.ids.Node, Key: to, Signing: at.Signing, Next: at.Next}
	if held.sealed != nil {
		root, err := openByRecoveryKey(v, key)
		if err != nil {
			return api.Errorf(api.CodeInvalid, "%v", err)
		}
		if cmd.Sealed, err = security.SealRoot(root, to, a.issuer.sealInfo(a.ids.Node)); err != nil {
			return err
		}
	}
	if held.next != nil {
		root, err := a.issuer.openNextBy(v, key)
		if err != nil {
			return api.Errorf(api.CodeInvalid, "%v", err)
		}
		if cmd.NextSealed, err = security.SealRoot(root, to, a.issuer.sealInfo(a.ids.Node)); err != nil {
			return err
		}
	}
	_, err = a.service.Execute(ctx, api.Internal(a.ids.Node), cmd)
	return err
}

// openNextBy opens the next root by the recovery key.
func (i *issuer) openNextBy(v *state.View, key *security.RecoveryKey) (*security.Root, error) {
	row, sealed := v.NextSeal(security.RecoveryName)
	der, ok := v.Root(v.Authority().Next)
	if !ok || !sealed {
		return nil, errors.New("the next root is not sealed for the recovery key")
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return key.OpenRoot(row.Sealed, cert, v.Cluster().ID)
}

func (i *issuer) sealAgain(open func(opener) (*security.Root, error), node string, key []byte) ([]byte, error) {
	root, err := open(i.agent.keys.OpenRoot)
	if err != nil {
		return nil, err
	}
	return security.SealRoot(root, key, i.sealInfo(node))
}
