package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/transport"
)

const methodRekey = "identity.rekey"

// errOwnExpired stands for the core members that were not asked: each would refuse the connection.
var errOwnExpired = errors.New("own certificate has expired, no core member accepts it")

// certified tells whether this agent has a certificate that peers accept. Without one it still serves
// what it knows, but is not ready.
func (a *Agent) certified() bool { return a.now().Before(a.source.NotAfter()) }

// askByHostKey renews this agent's certificate when it is too late to ask with the certificate itself.
// It needs nothing of this agent that runs: the addresses are in the data directory.
func (a *Agent) askByHostKey(ctx context.Context, req security.LeafRequest) ([][]byte, error) {
	return security.Rekey(ctx, security.RekeyOptions{
		Source: a.source, ClusterID: a.ids.ClusterID, Addrs: a.book.helpers(a.cfg.Join),
	}, req)
}

// helpers are the mesh addresses of agents to ask for help, in an order that differs each time: core
// members and others by turns, because either may all have moved or be gone, then the configured ones.
func (b *book) helpers(configured []string) []string {
	core := b.coreNodes()
	var first, rest []string
	for _, s := range b.addKnown(nil) {
		if slices.Contains(core, s.Node) {
			first = append(first, s.Addr.String())
		} else {
			rest = append(rest, s.Addr.String())
		}
	}
	for _, list := range [][]string{first, rest} {
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	n := min(len(first), len(rest))
	rest = slices.Concat(rest[:n], configured, rest[n:]) // which may be the only right ones, before many others
	var out []string
	for i := range max(len(first), len(rest)) {
		for _, list := range [][]string{first, rest} {
			if i < len(list) && !slices.Contains(out, list[i]) && len(out) < security.MaxRekeyAddrs {
				out = append(out, list[i])
			}
		}
	}
	return out
}

// rekeyOrRelay renews a host by its key on a core member and passes the request one hop on elsewhere.
func (i *issuer) rekeyOrRelay(ctx context.Context, req security.RekeyRequest) (security.RekeyResponse, error) {
	return hereOrRelayed[security.RekeyRequest, security.RekeyResponse, security.RekeyError](ctx, i, methodRekey, req, i.rekey)
}

// serveForwardedRekey renews a host for another agent, which may be any.
func (i *issuer) serveForwardedRekey(ctx context.Context, _ transport.Peer, body []byte) ([]byte, error) {
	req, err := security.DecodeRekeyRequest(body)
	if err != nil {
		return nil, malformed(err)
	}
	return answerRelayed[security.RekeyRequest, security.RekeyResponse, security.RekeyError](ctx, i, req, i.rekey)
}

// rekey judges by applied state alone, as an ordinary renewal does.
func (i *issuer) rekey(ctx context.Context, req security.RekeyRequest) (security.RekeyResponse, error) {
	resp, err := i.signByHostKey(ctx, req)
	if err != nil {
		i.log.Warn("did not renew an agent by its host key", zap.String("node", req.Leaf.Node), zap.Error(err))
		return resp, err
	}
	i.log.Info("renewed an agent by its host key", zap.String("node", req.Leaf.Node), zap.Time("not_after", req.Leaf.NotAfter))
	return resp, nil
}

func (i *issuer) signByHostKey(ctx context.Context, req security.RekeyRequest) (security.RekeyResponse, error) {
	if i.agent.certifiedOutside() {
		return security.RekeyResponse{}, security.NewRekeyError(security.RekeyDenied, security.ErrExternal.Error())
	}
	authority := i.authority.Load()
	if authority == nil {
		return security.RekeyResponse{}, security.NewRekeyError(security.RekeyUnavailable, "this agent has just left the core")
	}
	if req.ClusterID != i.agent.ids.ClusterID {
		return security.RekeyResponse{}, security.NewRekeyError(security.RekeyForeign, "the request is for another cluster")
	}
	row, ok := i.agent.hub.View().Node(req.Leaf.Node)
	if !ok || row.Left {
		return security.RekeyResponse{}, security.NewRekeyError(security.RekeyUnknownNode,
			fmt.Sprintf("node %s is not a member of this cluster", req.Leaf.Node))
	}
	leaf, err := i.agent.source.CheckRekey(req, row.HostKey)
	if err != nil {
		return security.RekeyResponse{}, err
	}
	if _, err := i.agent.generations.admit(ctx, row, leaf.Generation); err != nil {
		return security.RekeyResponse{}, err
	}
	chain, err := authority.SignAgent(leaf, i.agent.now())
	if err != nil {
		return security.RekeyResponse{}, err
	}
	return security.RekeyResponse{Chain: chain}, nil
}
