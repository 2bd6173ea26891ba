package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
	methodRenew = "identity.renew"

	// issuerEvery is how often an agent looks whether it has become, or ceased to be, an issuer, beside each change of a seal.
	issuerEvery = 250 * time.Millisecond
	// issuerRetry is the pause after an authority could not be made.
	issuerRetry = time.Second
)

var errNotIssuing = &transport.Error{Code: api.CodeUnavailable, Message: "this agent issues no identities, only core members do"}

// issuer is a core member's part in the certificate authority: its own intermediate, made from the
// root that the replicated state holds sealed for this host. Outside the core it refuses.
type issuer struct {
	agent     *Agent
	td        spiffeid.TrustDomain
	authority atomic.Pointer[security.Authority]
	log       *zap.Logger

	wait func(ctx context.Context) // for the next look; owned by run
}

func newIssuer(a *Agent, td spiffeid.TrustDomain) *issuer {
	return &issuer{agent: a, td: td, log: a.log.Named("issuer")}
}

// run holds an authority exactly while the replicated state holds the root sealed for this host.
func (i *issuer) run(ctx context.Context) error {
	seals, err := i.agent.hub.Subscribe(watch.Selector{Table: state.TableSeal, Prefix: true})
	if err != nil {
		return err
	}
	defer seals.Close()
	look := newBeat(issuerEvery)
	defer look.stop()
	i.wait = func(ctx context.Context) {
		select {
		case <-ctx.Done():
		case <-seals.C():
		case <-look.C:
			look.again()
		}
	}
	for ctx.Err() == nil {
		authority := i.await(ctx)
		if authority == nil {
			continue
		}
		i.serveAs(ctx, authority)
	}
	return nil
}

// await returns this host's authority once it can have one, nil when ctx ended or making it failed.
func (i *issuer) await(ctx context.Context) *security.Authority {
	for ctx.Err() == nil {
		if i.isSealed() {
			authority := i.obtain()
			if authority == nil {
				pause(ctx, issuerRetry)
			}
			return authority
		}
		i.wait(ctx)
	}
	return nil
}

// serveAs offers the authority and keeps it fresh until this agent is outside the core.
func (i *issuer) serveAs(ctx context.Context, authority *security.Authority) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// It returns only because ctx ended.
		_ = authority.Run(ctx, security.AuthorityRun{Open: i.openRoot, Now: i.agent.now, Log: i.log})
	}()
	i.authority.Store(authority)
	for ctx.Err() == nil && (i.agent.core.node() != nil || i.isSealed()) {
		i.wait(ctx)
	}
	i.authority.Store(nil)
	i.agent.generations.look() // which are for this agent to tell no more
	cancel()
	<-done
}

func (i *issuer) isSealed() bool {
	_, sealed := i.agent.hub.View().Seal(i.agent.ids.Node)
	return sealed
}

// obtain loads this host's intermediate, or makes one when there is none or it has expired.
func (i *issuer) obtain() *security.Authority {
	dir, now := i.agent.dir.path, i.agent.now()
	authority, err := security.LoadAuthority(i.td, i.agent.ids.Node, dir)
	if err == nil && authority.NotAfter().After(now) {
		return authority
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		i.log.Warn("the stored issuer cannot be used, making a new one", zap.Error(err))
	}
	root, err := i.openRoot()
	if err == nil {
		authority, err = security.NewAuthority(root, i.td, i.agent.ids.Node, dir, now)
	}
	if err != nil {
		i.log.Error("cannot become an issuer of identities", zap.Error(err))
		return nil
	}
	return authority
}

// openRoot opens the root for the moment of one use, and has it sealed anew if it does not open.
func (i *issuer) openRoot() (*security.Root, error) {
	root, err := i.openSigning(i.agent.keys.OpenRoot)
	if err != nil && i.agent.sealKeeper != nil {
		i.agent.sealKeeper.unopened()
	}
	return root, err
}

// opener is how a seal is opened: by any key of this host, or by one of them.
type opener func(sealed []byte, root *x509.Certificate, info security.SealInfo) (*security.Root, error)

func (i *issuer) openSigning(open opener) (*security.Root, error) {
	v := i.agent.hub.View()
	row, ok := v.Seal(i.agent.ids.Node)
	if !ok {
		return nil, errors.New("the root is not sealed for this host")
	}
	cert, err := rootCert(v)
	if err != nil {
		return nil, err
	}
	return withAbove(v, v.Authority().Signing)(open(row.Sealed, cert, i.sealInfo(i.agent.ids.Node)))
}

// withAbove adds to an opened authority what leads from it to the root, if another one has signed it.
func withAbove(v *state.View, authority state.RootHash) func(*security.Root, error) (*security.Root, error) {
	return func(root *security.Root, err error) (*security.Root, error) {
		if u, ok := v.Upstream(authority); ok && err == nil {
			root.Above = u.Chain[:len(u.Chain)-1]
		}
		return root, err
	}
}

func (i *issuer) sealInfo(node string) security.SealInfo {
	return security.SealInfo{ClusterID: i.agent.ids.ClusterID, Node: node}
}

// rootCert is the root that signs.
func rootCert(v *state.View) (*x509.Certificate, error) {
	root, ok := v.Root(v.Authority().Signing)
	if !ok {
		return nil, errors.New("the replicated bundle holds no root that signs yet")
	}
	return x509.ParseCertificate(root)
}

// openNext opens the root that is about to sign.
func (i *issuer) openNext(open opener) (*security.Root, error) {
	v := i.agent.hub.View()
	row, sealed := v.NextSeal(i.agent.ids.Node)
	der, ok := v.Root(v.Authority().Next)
	if !ok || !sealed {
		return nil, errors.New("the next root is not sealed for this host")
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return withAbove(v, v.Authority().Next)(open(row.Sealed, cert, i.sealInfo(i.agent.ids.Node)))
}

// sealFor wraps the root's key for a new core member.
func (i *issuer) sealFor(v *state.View, node string) ([]byte, error) {
	key, ok := v.SealKey(node)
	if !ok {
		return nil, fmt.Errorf("node %q is not in the replicated state", node)
	}
	root, err := i.openRoot()
	if err != nil {
		return nil, fmt.Errorf("seal the root for %s: %w", node, err)
	}
	return security.SealRoot(root, key, i.sealInfo(node))
}

// prove signs the leader's challenge with the root, which shows that the seal opens on this host.
func (i *issuer) prove(raftID uint64, nonce []byte) ([]byte, error) {
	root, err := i.openRoot()
	if err != nil {
		return nil, &transport.Error{Code: codeUnopened, Message: err.Error()}
	}
	return ecdsa.SignASN1(rand.Reader, root.Key, proofDigest(raftID, nonce))
}

func (i *issuer) checkProof(raftID uint64, nonce, signature []byte) error {
	cert, err := rootCert(i.agent.hub.View())
	if err != nil {
		return err
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(key, proofDigest(raftID, nonce), signature) {
		return errBadProof
	}
	return nil
}

// renewAnswer is what an issuer returns: the chain, leaf first, and the bundle it holds. DER.
type renewAnswer struct {
	Chain     [][]byte `json:"chain"`
	BundleSeq uint64   `json:"bundle_seq"`
	Roots     [][]byte `json:"roots"`
	Recorded  uint64   `json:"recorded,omitempty"` // the host's newest generation in the applied state
}

// serveRenew signs a new certificate for the agent that asks, and for no other.
func (i *issuer) serveRenew(ctx context.Context, peer transport.Peer, body []byte) ([]byte, error) {
	req, err := security.DecodeLeafRequest(body)
	if err != nil {
		return nil, &transport.Error{Code: api.CodeInvalid, Message: err.Error()}
	}
	if req.Node != peer.Node {
		return nil, &transport.Error{Code: api.CodeDenied, Message: fmt.Sprintf("%s may not renew the identity of %s", peer.Node, req.Node)}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err() // who asked has gone, and may have asked another core member since
	}
	answer, err := i.sign(ctx, req)
	if err != nil {
		return nil, err
	}
	return json.Marshal(answer)
}

// sign judges by applied state alone, so that renewal works without a leader. The link of a request is looked at last: one that is too
// old to be signed accuses nobody.
func (i *issuer) sign(ctx context.Context, req security.LeafRequest) (renewAnswer, error) {
	if err := i.agent.certifies(); err != nil {
		return renewAnswer{}, err
	}
	authority := i.authority.Load()
	if authority == nil {
		return renewAnswer{}, errNotIssuing
	}
	v := i.agent.hub.View()
	row, ok := v.Node(req.Node)
	if !ok || row.Left {
		return renewAnswer{}, &transport.Error{Code: api.CodeDenied, Message: fmt.Sprintf("node %q is not a member of this cluster", req.Node)}
	}
	req.HostKey = row.HostKey
	chain, err := authority.SignAgent(req, i.agent.now())
	if err != nil {
		return renewAnswer{}, &transport.Error{Code: api.CodeInvalid, Message: err.Error()}
	}
	recorded, err := i.agent.generations.admit(ctx, row, req.Generation)
	if err != nil {
		return renewAnswer{}, generationWire(err)
	}
	return renewAnswer{Chain: chain, BundleSeq: v.Bundle().Sequence, Roots: v.Bundle().Roots, Recorded: recorded}, nil
}

func (a *Agent) newRenewer() *security.Renewer {
	a.ratchet = security.OpenRatchet(a.dir.path, a.ids.ClusterID, a.ids.Node, a.host)
	return security.NewRenewer(security.RenewerOptions{
		Source: a.source, Renew: a.askRenewal, Rekey: a.askByHostKey, Ratchet: a.ratchet, Stale: a.chainsToCompromised, Shunned: a.shunned,
		TTL: a.cfg.Identity.LeafTTL, Now: a.now, Log: a.log.Named("security"),
	})
}

// generationsErr is what is wrong with the file of this host's generations, which an agent that is certified outside does not need.
func (a *Agent) generationsErr() (unread bool, err error) {
	if a.certifiedOutside() {
		return false, nil
	}
	return a.ratchet.Err()
}

// generationsStuck is 1 while something is wrong with it.
func (a *Agent) generationsStuck() (float64, bool) {
	if _, err := a.generationsErr(); err != nil {
		return 1, true
	}
	return 0, !a.certifiedOutside()
}

// shunned tells whether peers refuse this agent's own certificate.
func (a *Agent) shunned() bool { return a.denials.serial(a.source.Leaf()) }

// renewIdentity keeps this agent's own certificate fresh.
func (a *Agent) renewIdentity(ctx context.Context) error {
	if a.outside.feed != nil {
		return a.outside.feed.Run(ctx, a.source)
	}
	err := a.renewer.Run(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// refusals are the answers of the core members that were asked for one renewal.
type refusals struct{ asked, outdated int }

// add counts one. This agent, if it issues nothing, was not asked.
func (r *refusals) add(err error) {
	if errors.Is(err, errNotIssuing) {
		return
	}
	r.asked++
	if outdated(err) {
		r.outdated++
	}
}

// outdates reports whether all of them say that the host has gone on since. One whose answer did not come may have signed, and one that
// is behind knows less than the others: a secret that it has seen is not to be drawn again.
func (r refusals) outdates() bool { return r.asked > 0 && r.outdated == r.asked }

// askRenewal asks this agent's own authority, else the core members one after the other.
func (a *Agent) askRenewal(ctx context.Context, req security.LeafRequest) ([][]byte, uint64, [][]byte, error) {
	answer, own := a.issuer.sign(ctx, req)
	if own == nil {
		a.ratchet.Recorded(answer.Recorded)
		return answer.Chain, answer.BundleSeq, answer.Roots, nil
	}
	if !a.certified() {
		return nil, 0, nil, errOwnExpired
	}
	body, err := json.Marshal(req)
	if err != nil {
		return nil, 0, nil, err
	}
	failure, refused := errors.New("no core member is known"), refusals{}
	refused.add(own)
	for _, node := range a.book.coreSources() {
		raw, err := a.pool.Call(ctx, node, methodRenew, body)
		var answer renewAnswer
		if err == nil {
			err = json.Unmarshal(raw, &answer)
		}
		if err == nil {
			a.ratchet.Recorded(answer.Recorded)
			return answer.Chain, answer.BundleSeq, answer.Roots, nil
		}
		failure = fmt.Errorf("ask %s: %w", node, err)
		refused.add(err)
	}
	if refused.outdates() {
		failure = errors.Join(failure, a.ratchet.Outdated())
	}
	return nil, 0, nil, failure
}
