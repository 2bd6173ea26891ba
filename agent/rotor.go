package agent

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodTrust    = "identity.trust"
	methodCAStatus = "ca.status"

	// rotateEvery is how often the leader looks at the roots, and while one is being replaced asks the agents.
	rotateEvery = time.Second
	// maxTrustAsked is how many agents are asked at once.
	maxTrustAsked = 64
	// maxTrustAnswer bounds an agent's answer; one has at most nine hashes, and the names of a few laggards.
	maxTrustAnswer = 8 << 10
	maxTokenWait   = 32
)

// rotor is the leader's part in replacing roots: it asks the agents what they hold, and takes the step that
// security.PlanRotation names.
type rotor struct {
	agent *Agent
	td    spiffeid.TrustDomain
	log   *zap.Logger

	reports map[string]security.TrustReport // owned by run
	last    atomic.Pointer[rotorLook]       // nil unless this agent leads
}

// rotorLook is what the rotor saw last.
type rotorLook struct {
	in   security.RotationInput
	step security.RotationStep
}

// run looks until ctx ends, while this agent leads.
func (r *rotor) run(ctx context.Context) error {
	ticker := newBeat(rotateEvery)
	defer ticker.stop()
	for {
		if _, self, known := r.agent.leader(); self && known && !r.agent.safe.quiet() {
			stepCtx, cancel := context.WithTimeout(ctx, controlTimeout)
			if err := r.look(stepCtx); err != nil && ctx.Err() == nil {
				r.log.Warn("a step of the root's rotation did not succeed, trying again", zap.Error(err))
			}
			cancel()
		} else {
			clear(r.reports)
			r.last.Store(nil)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			ticker.again()
		}
	}
}

func (r *rotor) look(ctx context.Context) error {
	v, now := r.agent.hub.View(), r.agent.now()
	if v.Index() == 0 {
		return nil
	}
	agents := counted(v.Nodes(), r.agent.memberList(), now)
	if a := v.Authority(); a.Next != (state.RootHash{}) || len(v.Bundle().Roots) > 1 {
		r.ask(ctx, agents)
	}
	in := rotationInput(v, agents, r.reports, now)
	step := security.PlanRotation(in)
	r.last.Store(&rotorLook{in, step})
	if in.Next != ([32]byte{}) {
		if err := r.sealMissing(ctx, v); err != nil {
			return err
		}
	}
	return r.take(ctx, v, step)
}

// take does one step, and tells the timeline.
func (r *rotor) take(ctx context.Context, v *state.View, step security.RotationStep) error {
	var cmd state.Command
	switch step.Kind {
	case security.RotationPrepare:
		prepared, err := r.prepare(v)
		if err != nil {
			return err
		}
		cmd, step.Root = prepared, security.RootHash(prepared.Root)
	case security.RotationActivate:
		cmd = state.RootActivate{Root: step.Root}
	case security.RotationRetire:
		cmd = state.RootRetire{Root: step.Root}
	default:
		return nil
	}
	if _, err := r.agent.service.Execute(ctx, api.Internal(r.agent.ids.Node), cmd); err != nil {
		return fmt.Errorf("%s root: %w", step.Kind, err)
	}
	r.log.Info("a step of the root's rotation", zap.String("step", string(step.Kind)), zap.String("reason", step.Reason))
	r.agent.tellTimeline(api.EventRoot, hex.EncodeToString(step.Root[:8]), truncate(string(step.Kind)+": "+step.Reason))
	return nil
}

// prepare makes the next root, and seals its key to all who hold the signing one. The key is dropped on return.
func (r *rotor) prepare(v *state.View) (state.RootPrepare, error) {
	root, err := security.NewRoot(r.td, r.agent.now())
	if err != nil {
		return state.RootPrepare{}, err
	}
	out := state.RootPrepare{Root: root.Cert.Raw}
	out.Seals, out.RecoverySealed, err = r.agent.issuer.sealForAll(v, root)
	return out, err
}

// sealForAll seals the key of the next authority for everybody who holds the signing one, and for the recovery key.
func (i *issuer) sealForAll(v *state.View, root *security.Root) (seals []state.Seal, recovery []byte, err error) {
	for _, node := range v.Seals() {
		key, ok := v.SealKey(node)
		if !ok {
			return nil, nil, fmt.Errorf("node %q is not in the replicated state", node)
		}
		sealed, err := security.SealRoot(root, key, i.sealInfo(node))
		if err != nil {
			return nil, nil, err
		}
		seals = append(seals, state.Seal{Node: node, Sealed: sealed})
	}
	if to, ok := v.Recovery(); ok {
		recovery, err = security.SealRoot(root, to.SealKey, i.sealInfo(security.RecoveryName))
	}
	return seals, recovery, err
}

// sealMissing gives the next root to members that came into the core after it was made.
func (r *rotor) sealMissing(ctx context.Context, v *state.View) error {
	for _, node := range v.Seals() {
		if _, ok := v.NextSeal(node); ok {
			continue
		}
		key, _ := v.SealKey(node)
		root, err := r.agent.issuer.openNext(r.agent.keys.OpenRoot)
		if err != nil {
			return err
		}
		sealed, err := security.SealRoot(root, key, r.agent.issuer.sealInfo(node))
		if err != nil {
			return err
		}
		if _, err := r.agent.service.Execute(ctx, api.Internal(r.agent.ids.Node), state.RootSeal{Node: node, Sealed: sealed}); err != nil {
			return err
		}
	}
	return nil
}

// ask hears all agents at once. What one said before counts until it says otherwise.
func (r *rotor) ask(ctx context.Context, agents []string) {
	for _, report := range r.agent.askTrust(ctx, agents, "") {
		if report.Heard {
			r.reports[report.Node] = report
		}
	}
}

// askTrust asks agents at once what they hold, and whether a key of tokens is among it. It returns a report for each, of
// those who did not answer an empty one.
func (a *Agent) askTrust(ctx context.Context, agents []string, kid string) []security.TrustReport {
	reports := make([]security.TrustReport, len(agents))
	var asking errgroup.Group
	asking.SetLimit(maxTrustAsked)
	for i, node := range agents {
		reports[i].Node = node
		asking.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			if report, err := a.askTrustOf(ctx, node, kid); err == nil {
				report.Node, report.Heard = node, true
				reports[i] = report
			}
			return nil // who did not answer lags behind
		})
	}
	_ = asking.Wait()
	return reports
}

func (a *Agent) askTrustOf(ctx context.Context, node, kid string) (report security.TrustReport, err error) {
	if node == a.ids.Node {
		return a.trust(kid), nil
	}
	raw, err := a.pool.Call(ctx, node, methodTrust, []byte(kid))
	if err == nil && len(raw) > maxTrustAnswer {
		err = fmt.Errorf("an answer of %d bytes", len(raw))
	}
	if err == nil {
		err = json.Unmarshal(raw, &report)
	}
	return report, err
}

// tokenHolders asks everybody who counts whether a key of tokens has come to them.
func (a *Agent) tokenHolders(ctx context.Context, kid string) []security.TrustReport {
	return a.askTrust(ctx, counted(a.hub.View().Nodes(), a.memberList(), a.now()), kid)
}

// trust is what this agent reports: what it holds, a key of tokens among it, and the roots of its certificate and of its issuer.
func (a *Agent) trust(kid string) security.TrustReport {
	holds, chains := a.source.Trust()
	if authority := a.issuer.authority.Load(); authority != nil {
		_, roots := a.source.Bundle()
		chains = append(chains, authority.Chains(roots)...)
	}
	out := security.TrustReport{Node: a.ids.Node, Heard: true, Holds: holds, Chains: chains}
	if kid != "" {
		_, out.Token = a.hub.View().JWTKey(kid)
	}
	if waiting := a.jwtSigner.waiting.Load(); waiting != nil {
		out.TokenWait = (*waiting)[:min(len(*waiting), maxTokenWait)]
	}
	return out
}

func (a *Agent) serveTrust(_ context.Context, _ transport.Peer, body []byte) ([]byte, error) {
	return json.Marshal(a.trust(string(body)))
}

// caStatus asks the leader, who alone measures.
func (a *Agent) caStatus(ctx context.Context) (api.CAStatus, error) {
	node, self, known := a.leader()
	if !known || self {
		return a.caStatusHere(ctx), nil
	}
	raw, err := a.call(ctx, node, methodCAStatus, nil)
	if err != nil && ctx.Err() == nil {
		return a.caStatusHere(ctx), nil // whom this agent takes for the leader is gone: nothing was measured
	}
	if err != nil {
		return api.CAStatus{}, err
	}
	var out api.CAStatus
	return out, json.Unmarshal(raw, &out)
}

func (a *Agent) serveCAStatus(ctx context.Context, _ transport.Peer, _ []byte) ([]byte, error) {
	return json.Marshal(a.caStatusHere(ctx))
}

// caStatusHere is what this agent's View says, and if it leads what it has measured.
func (a *Agent) caStatusHere(ctx context.Context) api.CAStatus {
	v := a.hub.View()
	at := v.Authority()
	out := api.CAStatus{
		BundleSequence: v.Bundle().Sequence, Roots: []api.CARoot{}, WaitingFor: []string{}, Wanted: at.Wanted, Force: at.Force,
		Compromised: at.Compromised, Measured: false,
	}
	in := rotationInput(v, nil, nil, a.now())
	if due, ok := in.Due(); ok {
		out.RotatesAt = due.UTC()
	}
	for _, der := range v.Bundle().Roots {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			continue
		}
		hash := security.RootHash(der)
		root := api.CARoot{Hash: hex.EncodeToString(hash[:]), Subject: cert.Subject.CommonName, NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(), Role: "old"}
		switch state.RootHash(hash) {
		case v.RootOf(at.Signing):
			root.Role = "signing"
		case v.RootOf(at.Next):
			root.Role = "next"
		}
		out.Roots = append(out.Roots, root)
	}
	out.Authority, out.NextAuthority = caAuthority(v, at.Signing), caAuthority(v, at.Next)
	if look := a.rotor.last.Load(); look != nil {
		out.Measured, out.Step, out.Reason = true, string(look.step.Kind), look.step.Reason
		out.WaitingFor = append(out.WaitingFor, look.step.Laggards...)
	}
	out.TokenKeys = a.tokenKeys(ctx, v, out.Measured)
	return out
}

// tokenKeys lists the keys of tokens; whom the newest of a core member waits for is asked of it by the leader.
func (a *Agent) tokenKeys(ctx context.Context, v *state.View, leads bool) []api.CATokenKey {
	keys := v.JWTKeys()
	newest := map[string]int{}
	out := make([]api.CATokenKey, len(keys))
	for i, k := range keys {
		out[i] = api.CATokenKey{Node: k.Node, ID: k.ID, PublishedAt: k.PublishedAt.Wall().UTC(), NotAfter: time.Unix(int64(k.NotAfter), 0).UTC()} //nolint:gosec // bounded by the state
		if at, ok := newest[k.Node]; !ok || k.PublishedAt > keys[at].PublishedAt {
			newest[k.Node] = i
		}
	}
	if !leads {
		return out
	}
	for _, report := range a.askTrust(ctx, slices.Sorted(maps.Keys(newest)), "") {
		out[newest[report.Node]].WaitingFor = report.TokenWait
	}
	return out
}

// followTrust puts the bundle of the applied state into use as soon as it changes, and has a core member's own issuer
// signed again when another root signs.
func (a *Agent) followTrust(ctx context.Context) error {
	bundles, err := a.hub.Subscribe(watch.Selector{Table: state.TableBundle, Prefix: true})
	if err != nil {
		return err
	}
	defer bundles.Close()
	signing, err := a.hub.Subscribe(watch.Selector{Table: state.TableAuthority, Prefix: true})
	if err != nil {
		return err
	}
	defer signing.Close()
	again := newBeat(rotateEvery) // what failed
	defer again.stop()
	var said string
	for ctx.Err() == nil {
		if err := a.takeTrust(); err == nil {
			said = ""
		} else if text := err.Error(); text != said {
			a.log.Warn("the trust bundle or the issuer could not be replaced, trying again", zap.Error(err))
			said = text
		}
		select {
		case <-bundles.C():
		case <-signing.C():
		case <-again.C:
			again.again()
		case <-ctx.Done():
		}
	}
	return nil
}

func (a *Agent) takeTrust() error {
	v := a.hub.View()
	bundle := v.Bundle()
	if len(bundle.Roots) == 0 {
		return nil
	}
	if sequence, _ := a.source.Bundle(); sequence < bundle.Sequence {
		if err := a.source.SetBundle(bundle.Sequence, bundle.Roots); err != nil {
			return err
		}
	}
	authority := a.issuer.authority.Load()
	if authority == nil {
		return nil
	}
	signing, _ := v.Root(v.Authority().Signing)
	if _, ok := authority.SignedBy([][]byte{signing}); ok {
		return nil
	}
	root, err := a.issuer.openRoot()
	if err != nil {
		return err
	}
	return authority.Renew(root, clock.System())
}

// chainsToCompromised tells the renewer that the certificate in use is not to stay: its root, or its issuer, is not.
func (a *Agent) chainsToCompromised() bool {
	if a.issuerEnds() {
		return true
	}
	at := a.hub.View().Authority()
	if !at.Compromised || at.Next != (state.RootHash{}) {
		return false
	}
	_, chains := a.source.Trust()
	return !slices.Contains(chains, [32]byte(at.Signing))
}
