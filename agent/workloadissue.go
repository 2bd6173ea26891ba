package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodWorkload = "identity.workload"
	methodToken    = "identity.token"

	// maxSigning is how many certificates and tokens a core member signs at a time, maxSigningFor how many of them for one
	// agent: what one agent asks for does not keep another from renewing.
	maxSigning    = 256
	maxSigningFor = 64
	// issueTry bounds the question to one core member, so that a dead one does not use up the time for the others.
	issueTry = 2 * time.Second
	// maxTokenRequest bounds a question for a token.
	maxTokenRequest = 16 << 10
)

// workloadIssuer signs for programs on a core member, and asks a core member for this agent's. It judges by applied state
// alone, so it works without a leader for as long as the island lasts.
type workloadIssuer struct {
	issuer *issuer
	tokens *jwtSigner
	island time.Duration
	now    func() time.Time
	turns  signingTurns
	last   struct {
		sync.Mutex
		node string // the core member that answered last
	}
}

func newWorkloadIssuer(a *Agent) *workloadIssuer {
	return &workloadIssuer{issuer: a.issuer, tokens: a.jwtSigner, island: a.cfg.Identity.Island, now: a.now}
}

// signingTurns bounds what is signed at a time.
type signingTurns struct {
	mu   sync.Mutex
	all  int
	each map[string]int
}

func (t *signingTurns) take(node string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all >= maxSigning || t.each[node] >= maxSigningFor {
		return &transport.Error{Code: api.CodeBusy, Message: "this core member signs as many identities at a time as it may", Hint: "ask again"}
	}
	if t.each == nil {
		t.each = make(map[string]int)
	}
	t.all++
	t.each[node]++
	return nil
}

func (t *signingTurns) done(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all--
	if t.each[node]--; t.each[node] == 0 {
		delete(t.each, node)
	}
}

// chainAnswer is a certificate and its intermediate, DER, leaf first.
type chainAnswer struct {
	Chain [][]byte `json:"chain"`
}

// tokenRequest asks for a JWT-SVID of an entry.
type tokenRequest struct {
	Entry    string   `json:"entry"`
	Audience []string `json:"audience"`
}

type tokenAnswer struct {
	Token string `json:"token"`
}

// serveWorkload signs the certificate of a program for the agent that asks.
func (w *workloadIssuer) serveWorkload(_ context.Context, peer transport.Peer, body []byte) ([]byte, error) {
	req, err := security.DecodeWorkloadRequest(body)
	if err != nil {
		return nil, &transport.Error{Code: api.CodeInvalid, Message: err.Error()}
	}
	chain, err := w.sign(peer.Node, req)
	if err != nil {
		return nil, err
	}
	return json.Marshal(chainAnswer{Chain: chain})
}

// sign is for the agent of node, whoever that is.
func (w *workloadIssuer) sign(node string, req security.WorkloadRequest) ([][]byte, error) {
	if err := w.issuer.agent.certifies(); err != nil {
		return nil, err
	}
	authority := w.issuer.authority.Load()
	if authority == nil {
		return nil, errNotIssuing
	}
	if err := w.turns.take(node); err != nil {
		return nil, err
	}
	defer w.turns.done(node)
	e, id, err := w.entry(node, req.Entry)
	if err != nil {
		return nil, err
	}
	chain, err := authority.SignWorkload(req, node, id, time.Duration(e.TTL())*time.Second, w.now())
	switch {
	case errors.Is(err, security.ErrIssuerExpired):
		return nil, &transport.Error{Code: api.CodeUnavailable, Message: err.Error()}
	case err != nil:
		return nil, &transport.Error{Code: api.CodeInvalid, Message: err.Error()}
	}
	return chain, nil
}

// entry is what the applied state says of an entry for the agent of node, or why nothing is signed for it.
func (w *workloadIssuer) entry(node, name string) (state.Entry, spiffeid.ID, error) {
	v := w.issuer.agent.hub.View()
	denied := func(format string, args ...any) error {
		return &transport.Error{Code: api.CodeDenied, Message: fmt.Sprintf(format, args...)}
	}
	if row, ok := v.Node(node); !ok || row.Left {
		return state.Entry{}, spiffeid.ID{}, denied("node %q is not a member of this cluster", node)
	}
	if alone := w.now().Sub(v.Stamp().Wall()); alone > w.island {
		return state.Entry{}, spiffeid.ID{}, &transport.Error{Code: api.CodeUnavailable,
			Message: fmt.Sprintf("this core member has heard nothing of a majority for %s, and signs for programs at most %s without", alone.Round(time.Second), w.island),
			Hint:    "bring a majority of the core back: parley core shows who is missing; identity.island is the bound"}
	}
	e, ok := v.Entry(name)
	if !ok {
		return e, spiffeid.ID{}, denied("there is no entry %q", name)
	}
	if !v.EntryAllows(e, node) {
		return e, spiffeid.ID{}, denied("the entry %q does not count on %s", name, node)
	}
	if _, yes := w.issuer.agent.denials.idUntil(e.SPIFFEID); yes {
		return e, spiffeid.ID{}, denied("%s is denied", e.SPIFFEID)
	}
	id, err := spiffeid.FromString(e.SPIFFEID)
	if err != nil {
		return e, id, &transport.Error{Code: api.CodeInternal, Message: err.Error()}
	}
	return e, id, nil
}

func (w *workloadIssuer) serveToken(_ context.Context, peer transport.Peer, body []byte) ([]byte, error) {
	var req tokenRequest
	if len(body) > maxTokenRequest {
		return nil, &transport.Error{Code: api.CodeTooLarge, Message: fmt.Sprintf("a question for a token of %d bytes, at most %d are read", len(body), maxTokenRequest)}
	}
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, &transport.Error{Code: api.CodeInvalid, Message: "question for a token: " + err.Error()}
	}
	token, err := w.mint(peer.Node, req)
	if err != nil {
		return nil, err
	}
	return json.Marshal(tokenAnswer{Token: token})
}

func (w *workloadIssuer) mint(node string, req tokenRequest) (string, error) {
	if err := w.issuer.agent.certifies(); err != nil {
		return "", err
	}
	if w.issuer.authority.Load() == nil {
		return "", errNotIssuing
	}
	if err := security.CheckAudience(req.Audience); err != nil {
		return "", &transport.Error{Code: api.CodeInvalid, Message: err.Error()}
	}
	if err := w.turns.take(node); err != nil {
		return "", err
	}
	defer w.turns.done(node)
	e, id, err := w.entry(node, req.Entry)
	if err != nil {
		return "", err
	}
	return w.tokens.sign(id, req.Audience, time.Duration(e.JWTTTL())*time.Second)
}

// askWorkload gets a certificate for this agent: from itself if it is an issuer, else from the core members, the one that
// answered last before the others.
func (w *workloadIssuer) askWorkload(ctx context.Context, req security.WorkloadRequest) ([][]byte, error) {
	self := w.issuer.agent.ids.Node
	chain, err := w.sign(self, req)
	if err == nil {
		return chain, nil
	}
	if !errors.Is(err, errNotIssuing) && !outOfService(err) {
		return nil, err
	}
	var answer chainAnswer
	if err := w.ask(ctx, methodWorkload, req, &answer); err != nil {
		return nil, err
	}
	return answer.Chain, nil
}

func (w *workloadIssuer) askToken(ctx context.Context, req tokenRequest) (string, error) {
	token, err := w.mint(w.issuer.agent.ids.Node, req)
	if err == nil || !errors.Is(err, errNotIssuing) && !outOfService(err) {
		return token, err
	}
	var answer tokenAnswer
	err = w.ask(ctx, methodToken, req, &answer)
	return answer.Token, err
}

// outOfService reports whether another core member may do what this one cannot.
func outOfService(err error) bool {
	var refused *transport.Error
	return !errors.As(err, &refused) || refused.Code == api.CodeUnavailable || refused.Code == api.CodeBusy
}

// ask puts a question to the core members one after the other, until one answers. A refusal by one that is behind the
// others is no answer.
func (w *workloadIssuer) ask(ctx context.Context, method string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	failure := errors.New("no core member is known")
	for _, node := range w.sources() {
		raw, err := w.askOne(ctx, node, method, body)
		if err == nil {
			err = json.Unmarshal(raw, answer)
		}
		if err == nil {
			w.last.Lock()
			w.last.node = node
			w.last.Unlock()
			return nil
		}
		failure = fmt.Errorf("ask %s: %w", node, err)
		if ctx.Err() != nil {
			break
		}
	}
	return failure
}

func (w *workloadIssuer) askOne(ctx context.Context, node, method string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, issueTry)
	defer cancel()
	return w.issuer.agent.pool.Call(ctx, node, method, body)
}

func (w *workloadIssuer) sources() []string {
	nodes := slices.Clone(w.issuer.agent.book.coreSources())
	w.last.Lock()
	defer w.last.Unlock()
	if i := slices.Index(nodes, w.last.node); i > 0 {
		nodes[0], nodes[i] = nodes[i], nodes[0]
	}
	return nodes
}

// newIdentities is this agent's source of identities for the programs of its host.
func (a *Agent) newIdentities() *identities {
	s := newIdentities(identitiesOptions{
		node: a.ids.Node, td: a.source.ID().TrustDomain(), hub: a.hub, now: a.now, ready: a.certified,
		denials: a.denials, issue: a.workloads.askWorkload, mint: a.workloads.askToken, ownRoots: a.source.Bundle, log: a.log.Named("identity"),
	})
	a.denials.wake = s.hurry
	return s
}
