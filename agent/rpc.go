package agent

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/state/watch"
	"github.com/parley-mesh/parley/transport"
)

const methodChunk = "snapshot.chunk"

// registerRPC puts on the mesh's RPC server what one agent may ask of another. The peer is always
// the identity of its certificate; each handler says who may call it.
func (a *Agent) registerRPC(server *transport.Server) {
	a.registerClientRPC(server)
	s := agentsOnly{server, a.knownAgent}
	for _, method := range a.service.Methods() {
		s.Handle(method, func(ctx context.Context, peer transport.Peer, body []byte) ([]byte, error) {
			a.sessions.contact(peer.Node)
			// Any agent may forward; the service caps the caller at the peer's own role.
			out, err := a.service.HandleRPC(ctx, peer.Node, method, body)
			return out, toWire(err)
		})
	}
	s.HandleStream(methodStream, a.serveStream)
	s.Handle(methodChunk, a.coreOnly(a.serveChunk))
	s.Handle(methodChunkVia, a.coreOnly(a.serveChunkVia))
	s.Handle(methodLatest, a.coreOnly(a.serveLatest))
	s.Handle(methodRoom, a.coreOnly(a.serveRoom))
	s.Handle(methodPace, a.coreOnly(a.servePace))
	s.Handle(methodProve, a.coreOnly(func(_ context.Context, _ transport.Peer, body []byte) ([]byte, error) {
		return a.core.prove(a.issuer, body)
	}))
	s.Handle(methodWilling, a.coreOnly(a.serveWilling))
	s.Handle(methodScrub, a.serveScrub)
	s.Handle(methodLeave, a.serveLeave) // any agent, about itself
	s.Handle(methodEntries, a.coreOnly(a.serveEntries))
	s.Handle(methodGone, a.coreOnly(a.serveGone))
	s.Handle(methodStanding, a.serveStanding)
	s.Handle(methodCoreStatus, a.serveCoreStatus)
	s.Handle(methodDigest, a.serveDigest)
	s.Handle(methodSums, a.coreOnly(a.serveSums))
	s.Handle(methodRows, a.coreOnly(a.serveRows))
	s.Handle(methodApply, a.serveApplyStatus)
	s.Handle(methodAccept, a.coreOnly(a.serveAccept))
	s.Handle(methodPing, a.servePing)
	s.Handle(methodLinks, a.serveLinks)
	s.Handle(methodLinksVia, a.serveLinksVia)
	s.Handle(methodTrust, a.coreOnly(a.serveTrust))
	s.Handle(methodCAStatus, a.serveCAStatus)
	s.Handle(methodRenew, a.issuer.serveRenew)
	s.Handle(methodReseal, a.serveReseal) // any agent, about itself
	s.Handle(methodWorkload, a.workloads.serveWorkload)
	s.Handle(methodToken, a.workloads.serveToken)
	s.Handle(methodJoin, a.issuer.serveForwardedJoin)
	s.Handle(methodAttest, a.issuer.serveForwardedAttest)
	s.Handle(methodRekey, a.issuer.serveForwardedRekey)
}

// coreOnly lets only agents with a Raft id through.
func (a *Agent) coreOnly(h func(context.Context, transport.Peer, []byte) ([]byte, error)) func(context.Context, transport.Peer, []byte) ([]byte, error) {
	return func(ctx context.Context, peer transport.Peer, body []byte) ([]byte, error) {
		for _, m := range a.hub.View().Core() {
			if m.Node == peer.Node {
				return h(ctx, peer, body)
			}
		}
		return nil, &transport.Error{Code: api.CodeDenied, Message: fmt.Sprintf("%s is not a core member", peer.Node)}
	}
}

// serveStream lets any agent follow the public classes from a core member.
func (a *Agent) serveStream(ctx context.Context, peer transport.Peer, body []byte, send func([]byte) error) error {
	if !a.views.ownLog() {
		refusal := &transport.Error{Code: api.CodeUnavailable, Message: "this agent is outside the core and serves no change stream"}
		if core := a.toldCore(); core.Leader != nil {
			refusal.Leader = *core.Leader // whom to ask instead, for one that was away for long
		}
		return refusal
	}
	if len(body) != 8 {
		return &transport.Error{Code: api.CodeInvalid, Message: "a stream is asked for by a revision of 8 bytes"}
	}
	from := watch.Cursor{Revision: binary.BigEndian.Uint64(body)}
	return toWire(a.hub.Stream(ctx, from, publicOnly, send))
}

// serveChunk gives a core member one chunk of a snapshot by its hash.
func (a *Agent) serveChunk(_ context.Context, peer transport.Peer, body []byte) ([]byte, error) {
	n := a.core.running()
	if n == nil {
		return nil, &transport.Error{Code: api.CodeUnavailable, Message: "this agent runs no Raft id"}
	}
	var hash [32]byte
	if copy(hash[:], body) != len(hash) || len(body) != len(hash) {
		return nil, &transport.Error{Code: api.CodeInvalid, Message: "a chunk is asked for by a SHA-256 of 32 bytes"}
	}
	if !a.core.turns.take(peer.Node) {
		return nil, &transport.Error{Code: api.CodeBusy, Message: "another member is fetching a snapshot, ask again"}
	}
	chunk, err := n.store.snapshots.Chunk(hash)
	if err != nil {
		return nil, &transport.Error{Code: api.CodeNotFound, Message: "no such chunk: " + hex.EncodeToString(hash[:])}
	}
	return chunk, nil
}

// fetchChunk asks the core member with a Raft id for one chunk.
func (c *coreRunner) fetchChunk(ctx context.Context, id uint64, hash [32]byte) ([]byte, error) {
	node, ok := c.nodeOf(id)
	if !ok {
		return nil, fmt.Errorf("no node is known for Raft id %x", id)
	}
	return c.chunkFrom(ctx, id, node, hash)
}

// toWire turns an API error into one that crosses the mesh with its code and hint.
func toWire(err error) error {
	if err == nil {
		return nil
	}
	var wire *transport.Error
	if errors.As(err, &wire) {
		return wire
	}
	e := api.AsError(err)
	return &transport.Error{Code: e.Code, Message: e.Message, Hint: e.Hint, Leader: e.Leader}
}

// fromWire is the other direction; what the transport itself reports keeps its code.
func fromWire(err error) error {
	var wire *transport.Error
	if err == nil || !errors.As(err, &wire) {
		return err
	}
	return &api.Error{Code: wire.Code, Message: wire.Message, Hint: wire.Hint, Leader: wire.Leader}
}
