package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/transport"
)

const methodJoin = "join.relay"

// joinCluster enters the cluster of the configured token and makes the directory this node's.
func (a *Agent) joinCluster(ctx context.Context, socks *sockets) (*clusterIDs, error) {
	token, err := a.obtainToken(ctx, socks)
	if err != nil {
		return nil, err
	}
	name := token.Node
	if !a.attests() {
		if name, err = a.ownName(); err != nil {
			return nil, err
		}
	}
	if err := a.askOutside(ctx, token.TrustDomain, name); err != nil {
		return nil, err
	}
	host, err := loadOrCreateHost(a.dir.path)
	if err != nil {
		return nil, err
	}
	address, err := a.advertise(socks)
	if err != nil {
		return nil, err
	}
	stop := a.answerMeanwhile(socks)
	defer stop()
	a.log.Info("joining the cluster", zap.String("node", name), zap.Strings("addr", a.cfg.Join))
	resp, err := security.Join(ctx, security.JoinOptions{
		Token: token, Addrs: a.cfg.Join, Host: host, Node: name, Zone: a.cfg.Zone, Address: address.String(),
		Dir: a.dir.path, TTL: a.cfg.Identity.LeafTTL, Now: clock.System, External: a.outside.first, Log: a.log.Named("join"),
	})
	if err != nil {
		return nil, err
	}
	known := make([]knownMember, 0, len(resp.Members))
	for _, m := range resp.Members {
		known = append(known, knownMember{Node: m.Name, Addr: m.Address, Core: m.Core})
	}
	if err := a.dir.writeKnown(known); err != nil {
		return nil, err
	}
	ids := &clusterIDs{ClusterID: resp.ClusterID, TrustDomain: token.TrustDomain, Node: name, Zone: a.cfg.Zone, IdentitySource: kept(a.cfg.Identity.Source)}
	a.log.Info("joined the cluster", zap.String("node", ids.Node), zap.String("role", string(resp.Role)))
	return ids, a.dir.writeCluster(*ids)
}

// ownName is the configured node name, else the host's.
func (a *Agent) ownName() (string, error) {
	if a.cfg.Name != "" {
		return a.cfg.Name, nil
	}
	return config.HostName()
}

// readToken takes the token of the flag, or of the file that the configuration names.
func readToken(cfg config.Config) (security.Token, error) {
	text := cfg.Token
	if text == "" && cfg.TokenFile != "" {
		raw, err := os.ReadFile(cfg.TokenFile)
		if err != nil {
			return security.Token{}, withHint(fmt.Errorf("read the join token: %w", err),
				"'parley token create' on an agent of the cluster prints a token; put it into that file with mode 0600")
		}
		text = string(raw)
	}
	if err := canJoin(cfg, strings.TrimSpace(text) != ""); err != nil {
		return security.Token{}, err
	}
	token, err := security.ParseToken(text)
	if err != nil {
		return security.Token{}, withHint(fmt.Errorf("join token: %w", err),
			"run 'parley token create' on an agent of the cluster and copy the whole line that begins with parley1-")
	}
	return token, nil
}

// canJoin says what is missing to join a cluster.
func canJoin(cfg config.Config, haveToken bool) error {
	missing := ""
	switch {
	case haveToken && len(cfg.Join) > 0:
		return nil
	case haveToken:
		missing = "there is a token, but no address to join by (--join)"
	case cfg.TokenFile != "":
		missing = "the token file " + cfg.TokenFile + " is empty"
	case len(cfg.Join) > 0:
		missing = "there is an address to join by, but no token (--token-file)"
	default:
		missing = "there is no address and token to join one"
	}
	return withHint(fmt.Errorf("%s belongs to no cluster yet, and %s", cfg.DataDir, missing),
		"for a new cluster run 'parley init'; to join one run 'parley token create' on one of its agents and paste the command that it prints")
}

// checkToken refuses a token of another cluster in a directory that has joined one. A token of the
// same cluster is ignored, so that units can keep it.
func (a *Agent) checkToken(ids clusterIDs) error {
	if a.cfg.Token == "" && a.cfg.TokenFile == "" {
		return nil
	}
	token, err := readToken(a.cfg)
	if err != nil {
		return nil // not needed any more, so it need not be readable
	}
	if token.ClusterID != ids.ClusterID {
		return withHint(
			fmt.Errorf("%s belongs to cluster %s, the token is for cluster %s", a.dir.path, ids.ClusterID, token.ClusterID),
			"to join the other cluster give this agent an empty --data-dir; to stay, remove the token")
	}
	return nil
}

// loadOrCreateHost keeps the keys of an interrupted join, so that its retry is the same host.
func loadOrCreateHost(dir string) (*security.Host, error) {
	host, err := security.LoadHost(dir)
	if errors.Is(err, fs.ErrNotExist) {
		host, err = security.CreateHost(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("this host's keys: %w", err)
	}
	return host, nil
}

// serveJoin answers a joiner, or an agent that renews by its host key, on the mesh port.
func (i *issuer) serveJoin(ctx context.Context, conn *tls.Conn, peer transport.Peer) {
	server := security.NewJoinServer(i.admitOrRelay)
	server.Rekey, server.Attest = i.rekeyOrRelay, i.attestOrRelay
	if err := server.Serve(ctx, net.Conn(conn), conn.ConnectionState().NegotiatedProtocol, peer); err != nil {
		i.log.Debug("join connection ended without an answer", zap.Error(err))
	}
}

// admitOrRelay admits a host on a core member and passes the request one hop on elsewhere. The
// request's proofs cover all of it, so the relay can neither change nor use it.
func (i *issuer) admitOrRelay(ctx context.Context, req security.JoinRequest) (security.JoinResponse, error) {
	resp, err := hereOrRelayed[security.JoinRequest, security.JoinResponse, security.JoinError](ctx, i, methodJoin, req, i.admit)
	if err != nil {
		i.log.Warn("did not admit an agent", zap.String("node", req.Leaf.Node), zap.String("addr", req.Address), zap.Error(err))
	}
	return resp, err
}

// serveForwardedJoin admits a host for another agent.
func (i *issuer) serveForwardedJoin(ctx context.Context, _ transport.Peer, body []byte) ([]byte, error) {
	req, err := security.DecodeJoinRequest(body)
	if err != nil {
		return nil, malformed(err)
	}
	return answerRelayed[security.JoinRequest, security.JoinResponse, security.JoinError](ctx, i, req, i.admit)
}

// admit checks the proofs, redeems the token by one Raft write, and signs the first certificate.
func (i *issuer) admit(ctx context.Context, req security.JoinRequest) (security.JoinResponse, error) {
	a, authority := i.agent, i.authority.Load()
	if authority == nil {
		return security.JoinResponse{}, security.NewJoinError(security.JoinUnavailable, "this agent has just left the core")
	}
	if req.ClusterID != a.ids.ClusterID {
		return security.JoinResponse{}, security.NewJoinError(security.JoinForeign, "the token is for another cluster")
	}
	token, err := i.freshToken(ctx, req.TokenID)
	if err != nil {
		return security.JoinResponse{}, err
	}
	if err := security.CheckJoin(req, i.td, token.Verify, i.agent.now()); err != nil {
		return security.JoinResponse{}, err
	}
	applied, err := a.service.Execute(ctx, api.Internal(a.ids.Node), state.NodeJoin{
		Token: req.TokenID, CSRKeyHash: req.LeafKeyHash(), Node: req.Leaf.Node, UID: security.HostUID(req.HostKey),
		HostKey: req.HostKey, SealKey: req.SealKey, Zone: req.Zone, Address: req.Address,
	})
	if err != nil {
		return security.JoinResponse{}, joinError(err)
	}
	row, err := state.DecodeNode(applied.Result.Body)
	if err != nil {
		return security.JoinResponse{}, fmt.Errorf("decode the new node's row: %w", err)
	}
	var chain [][]byte // none where the joiner has its certificate already
	if !a.certifiedOutside() {
		if chain, err = authority.SignAgent(req.LeafRequest(), i.agent.now()); err != nil {
			return security.JoinResponse{}, err
		}
	}
	a.log.Info("admitted a new agent", zap.String("node", row.Name), zap.String("addr", row.Address), zap.String("role", string(row.EffectiveRole())))
	v := a.hub.View()
	resp := security.JoinResponse{
		ClusterID: a.ids.ClusterID, Chain: chain, BundleSequence: v.Bundle().Sequence, Roots: v.Bundle().Roots,
		Role: row.EffectiveRole(), CoreGrant: row.CoreGrant, Members: i.firstContacts(row.Name),
	}
	resp.Prove(req, token.Verify)
	return resp, nil
}

// freshToken looks a token up in a View that holds everything acknowledged so far.
func (i *issuer) freshToken(ctx context.Context, id string) (state.Token, error) {
	a := i.agent
	if token, ok := a.hub.View().Token(id); ok {
		return token, nil
	}
	if err := a.service.Barrier(ctx); err != nil {
		return state.Token{}, joinError(err)
	}
	token, ok := a.hub.View().Token(id)
	if !ok {
		return state.Token{}, security.NewJoinError(security.JoinUnknown, "this cluster has no such token")
	}
	return token, nil
}

// firstContacts are the agents that a new one begins with: this one, the core, then others.
func (i *issuer) firstContacts(except string) []security.JoinMember {
	var out []security.JoinMember
	inCore := make(map[string]bool)
	for _, m := range i.agent.hub.View().Core() {
		inCore[m.Node] = true
	}
	seen := map[string]bool{except: true}
	add := func(node string) {
		if seen[node] || len(out) >= security.MaxJoinMembers {
			return
		}
		if addr, err := i.agent.book.address(node); err == nil {
			seen[node] = true
			out = append(out, security.JoinMember{Name: node, Address: addr.String(), Core: inCore[node]})
		}
	}
	add(i.agent.ids.Node)
	for _, node := range i.agent.book.coreNodes() {
		add(node)
	}
	for _, m := range i.agent.memberList() {
		add(m.Name)
	}
	return out
}

// joinError gives the state's refusals the codes of the join protocol. What is not a refusal may pass.
func joinError(err error) error {
	codes := map[string]string{
		api.CodeExpired: security.JoinExpired, api.CodeUsed: security.JoinUsed, api.CodeRevoked: security.JoinRevoked,
		api.CodeNotFound: security.JoinUnknown, api.CodeExists: security.JoinNameTaken, api.CodeConflict: security.JoinNodeBound,
		api.CodeInvalid: security.JoinInvalid, api.CodeDenied: security.JoinDenied, api.CodeBusy: security.JoinBusy,
	}
	e := api.AsError(err)
	code, ok := codes[e.Code]
	if !ok {
		code = security.JoinUnavailable
	}
	return security.NewJoinError(code, e.Message)
}

// createToken makes a join token; only its verification key goes into the replicated state.
func (a *Agent) createToken(ctx context.Context, caller api.Caller, spec api.TokenSpec) (api.TokenAnswer, error) {
	v := a.hub.View()
	spec.Node = cmp.Or(spec.Node, spec.Replace) // who may take over a name comes by that name
	token, err := security.NewToken(a.ids.ClusterID, a.issuer.td, v.Bundle().Roots, spec.Node, spec.Core)
	if err != nil {
		return api.TokenAnswer{}, api.Errorf(api.CodeInvalid, "%v", err)
	}
	role := policy.Discovery
	if spec.Role != "" {
		if role, err = policy.ParseRole(spec.Role); err != nil {
			return api.TokenAnswer{}, api.Errorf(api.CodeInvalid, "%v", err)
		}
	}
	expires := a.now().Add(spec.TTL)
	_, err = a.service.Execute(ctx, caller, state.TokenCreate{Token: state.Token{
		ID: token.ID, Verify: token.VerifyKey(), Expires: stampOf(expires), Uses: spec.Uses, BoundNode: spec.Node,
		Role: role, Core: spec.Core, Replace: spec.Replace,
	}})
	if err != nil {
		return api.TokenAnswer{}, err
	}
	return api.TokenAnswer{
		ID: token.ID, Token: token.String(), ExpiresAt: expires.UTC().Truncate(time.Millisecond), JoinCommand: a.joinCommand(spec),
	}, nil
}

// joinCommand is what to paste on the new host; the token itself goes by file, out of sight of ps.
func (a *Agent) joinCommand(spec api.TokenSpec) string {
	var addrs []string
	for _, c := range a.issuer.firstContacts("") {
		if len(addrs) < maxJoinAddrs {
			addrs = append(addrs, c.Address)
		}
	}
	name := ""
	if node := spec.Node; node != "" {
		name = " --name " + node
	}
	return "parley agent" + name + " --join " + strings.Join(addrs, ",") + " --token-file TOKEN_FILE"
}

// maxJoinAddrs is how many addresses the printed join command names.
const maxJoinAddrs = 3
