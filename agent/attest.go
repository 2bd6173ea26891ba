package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodAttest = "join.attest"

	// maxAttestTokens is how many tokens for one name there may be at a time before a host has to wait for one to end. Each of
	// them is good for two minutes.
	maxAttestTokens = 4
)

// attests reports whether this host joins by a certificate. A token on the command line comes first.
func (a *Agent) attests() bool { return a.cfg.Attest.Kind != config.AttestToken && a.cfg.Token == "" }

// obtainToken takes the token that was configured, or gets one by this host's certificate.
func (a *Agent) obtainToken(ctx context.Context, socks *sockets) (security.Token, error) {
	if !a.attests() {
		return readToken(a.cfg)
	}
	o, err := a.attestOptions()
	if err != nil {
		return security.Token{}, err
	}
	stop := a.answerMeanwhile(socks)
	defer stop()
	a.log.Info("asking the cluster for a token by this host's certificate", zap.String("kind", a.cfg.Attest.Kind), zap.Strings("addr", a.cfg.Join))
	token, err := security.Attest(ctx, o)
	if err != nil {
		return security.Token{}, err
	}
	if a.cfg.Name != "" && a.cfg.Name != token.Node {
		return security.Token{}, withHint(fmt.Errorf("the certificate is for the name %s, and this agent is to be %s", token.Node, a.cfg.Name),
			"leave the name out, or show another certificate")
	}
	return token, nil
}

func (a *Agent) attestOptions() (o security.AttestOptions, err error) {
	cfg := a.cfg.Attest
	if len(a.cfg.Join) == 0 {
		return o, withHint(errors.New("there is a certificate to join by, but no address"), "name agents of the cluster with --join")
	}
	if o.TrustDomain, err = spiffeid.TrustDomainFromString(cfg.TrustDomain); err != nil {
		return o, fmt.Errorf("attest.trust_domain: %w", err)
	}
	for _, text := range cfg.Roots {
		hash, err := security.ParseRootHash(text)
		if err != nil {
			return o, fmt.Errorf("attest.roots: %w", err)
		}
		o.Roots = append(o.Roots, hash)
	}
	load := security.LoadX509Identity
	if cfg.Kind == security.AttestSSH {
		load = security.LoadSSHIdentity
	}
	if o.Identity, err = load(cfg.CertFile, cfg.KeyFile); err != nil {
		return o, withHint(fmt.Errorf("attest.cert_file and attest.key_file: %w", err), "both have to be readable by the user that the agent runs as")
	}
	o.Addrs, o.Now, o.Log = a.cfg.Join, clock.System, a.log.Named("join")
	return o, nil
}

// attestOrRelay gives a host a token on a core member and passes the request one hop on elsewhere. The request is signed as a
// whole and what is secret in the answer is sealed to the host, so the relay can neither change nor use it.
func (i *issuer) attestOrRelay(ctx context.Context, req security.AttestRequest) (security.AttestResponse, error) {
	resp, err := hereOrRelayed[security.AttestRequest, security.AttestResponse, security.JoinError](ctx, i, methodAttest, req, i.attest)
	if err != nil {
		i.log.Warn("gave no token for a certificate", zap.String("kind", req.Kind), zap.Error(err))
	}
	return resp, err
}

// serveForwardedAttest answers a host for another agent, which may be any.
func (i *issuer) serveForwardedAttest(ctx context.Context, _ transport.Peer, body []byte) ([]byte, error) {
	req, err := security.DecodeAttestRequest(body)
	if err != nil {
		return nil, malformed(err)
	}
	return answerRelayed[security.AttestRequest, security.AttestResponse, security.JoinError](ctx, i, req, i.attest)
}

// attest checks what the host shows and makes a token for one join by the name in its certificate, by one Raft write.
func (i *issuer) attest(ctx context.Context, req security.AttestRequest) (security.AttestResponse, error) {
	a, authority := i.agent, i.authority.Load()
	if authority == nil {
		return security.AttestResponse{}, security.NewJoinError(security.JoinUnavailable, "this agent has just left the core")
	}
	if err := a.certifies(); err != nil {
		return security.AttestResponse{}, security.NewJoinError(security.JoinInvalid, "the agents of this cluster are certified by another authority: join by a token")
	}
	if req.TrustDomain != i.td.Name() {
		return security.AttestResponse{}, security.NewJoinError(security.JoinForeign, "this cluster is "+i.td.Name())
	}
	admission, node, err := i.admissionOf(ctx, req)
	if err != nil {
		return security.AttestResponse{}, err
	}
	if err := i.mayHaveToken(node); err != nil {
		return security.AttestResponse{}, err
	}
	token, err := security.NewToken(a.ids.ClusterID, i.td, a.hub.View().Bundle().Roots, node, admission.Core)
	if err != nil {
		return security.AttestResponse{}, err
	}
	_, err = a.service.Execute(ctx, api.Internal(a.ids.Node), state.TokenCreate{Token: state.Token{
		ID: token.ID, Verify: token.VerifyKey(), Expires: stampOf(a.now().Add(security.AttestTokenTTL)), Uses: 1, BoundNode: node,
		Role: admission.Role, Core: admission.Core,
	}})
	if err != nil {
		return security.AttestResponse{}, joinError(err)
	}
	a.log.Info("gave a token for a certificate", zap.String("node", node), zap.String("admission", admission.Name), zap.String("kind", req.Kind))
	return authority.AnswerAttest(req, token, a.hub.View().Bundle().Roots)
}

// admissionOf judges by a View that holds everything acknowledged so far: an admission that was ended admits nobody, and one that
// was just made does.
func (i *issuer) admissionOf(ctx context.Context, req security.AttestRequest) (state.Admission, string, error) {
	if err := i.agent.service.Barrier(ctx); err != nil {
		return state.Admission{}, "", joinError(err)
	}
	v := i.agent.hub.View()
	name, node, err := security.CheckAttest(req, attestRules(v), i.agent.now())
	if err != nil {
		return state.Admission{}, "", err
	}
	admission, _ := v.Admission(name)
	return admission, node, nil
}

func attestRules(v *state.View) []security.AttestRule {
	all := v.Admissions()
	rules := make([]security.AttestRule, len(all))
	for i, a := range all {
		rules[i] = security.AttestRule{Name: a.Name, Kind: string(a.Kind), Authorities: a.Authorities, NodeOf: a.NodeOf}
	}
	return rules
}

// mayHaveToken bounds what one certificate can make of tokens.
func (i *issuer) mayHaveToken(node string) error {
	now, open := stampOf(i.agent.now()), 0
	for _, t := range i.agent.hub.View().Tokens() {
		if t.BoundNode == node && t.Uses > 0 && !t.Revoked && t.Expires > now {
			open++
		}
	}
	if open >= maxAttestTokens {
		return security.NewJoinError(security.JoinBusy, fmt.Sprintf("there are %d tokens for %s that nobody has used: wait until they end", open, node))
	}
	return nil
}
