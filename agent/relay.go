package agent

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/consensus"
	"github.com/parley-mesh/parley/ops"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/transport"
)

// relayKeys has a key for each pair of this host and another core member. What they say to each other by way of a third
// member bears a MAC by it, so that the third can lose it and cannot change or invent it. The key is derived from the seal
// keys that the cluster has bound to the two names, the cluster's id and its epoch: a host that took over a name, or a
// cluster that was recovered, has other keys.
type relayKeys struct {
	host   *security.Host
	self   string
	view   func() *state.View
	nodeOf func(id uint64) (string, bool)
	mu     struct {
		sync.Mutex
		keys map[string]pairKey // by node; at most maxPairKeys
	}
}

type pairKey struct {
	sealKey []byte
	epoch   state.Epoch
	key     []byte
}

// maxPairKeys is more than a core has members; beyond it all are derived anew.
const maxPairKeys = 64

func newRelayKeys(host *security.Host, self string, view func() *state.View, nodeOf func(uint64) (string, bool)) *relayKeys {
	k := &relayKeys{host: host, self: self, view: view, nodeOf: nodeOf}
	k.mu.keys = make(map[string]pairKey)
	return k
}

// key returns the key for the owner of a Raft id.
func (k *relayKeys) key(id uint64) ([]byte, error) {
	node, ok := k.nodeOf(id)
	if !ok {
		return nil, fmt.Errorf("no node is known for Raft id %x", id)
	}
	v := k.view()
	row, ok := v.Node(node)
	if !ok || row.Left {
		return nil, fmt.Errorf("node %q is not known, or has left", node)
	}
	cluster := v.Cluster()
	k.mu.Lock()
	defer k.mu.Unlock()
	if held, ok := k.mu.keys[node]; ok && held.epoch == cluster.Epoch && bytes.Equal(held.sealKey, row.SealKey) {
		return held.key, nil
	}
	key, err := k.host.PairKey(row.SealKey, "parley relay v1", []byte(cluster.ID), cluster.Epoch.ID[:],
		binary.BigEndian.AppendUint64(nil, cluster.Epoch.Counter), []byte(min(k.self, node)), []byte(max(k.self, node)))
	if err != nil {
		return nil, err
	}
	if len(k.mu.keys) >= maxPairKeys {
		clear(k.mu.keys)
	}
	k.mu.keys[node] = pairKey{sealKey: row.SealKey, epoch: cluster.Epoch, key: key}
	return key, nil
}

// seal and verify are what consensus.PeerOptions asks for.
func (k *relayKeys) seal(to uint64, data []byte) (mac [32]byte, ok bool) {
	key, err := k.key(to)
	if err != nil {
		return mac, false
	}
	h := hmac.New(sha256.New, key)
	_, _ = h.Write(data) // never fails
	h.Sum(mac[:0])
	return mac, true
}

func (k *relayKeys) verify(from uint64, data, mac []byte) bool {
	want, ok := k.seal(from, data)
	return ok && hmac.Equal(want[:], mac)
}

// peerOptions connects the consensus node with the others.
func (c *coreRunner) peerOptions() consensus.PeerOptions {
	o := consensus.PeerOptions{Dial: c.dialPeer, NodeOf: c.nodeOf}
	if c.cfg.Relay && c.host != nil {
		keys := newRelayKeys(c.host, c.self, c.views.hub.View, c.nodeOf)
		o.Seal, o.Verify = keys.seal, keys.verify
	}
	return o
}

// relays names the core members that this agent reaches by way of another, and by which. Nil when there are none.
func (c *coreRunner) relays() map[string]string {
	n := c.node()
	if n == nil {
		return nil
	}
	var names map[string]string
	for id, via := range n.Status().Relays {
		to, known := c.nodeOf(id)
		hub, hubKnown := c.nodeOf(via)
		if !known || !hubKnown {
			continue
		}
		if names == nil {
			names = make(map[string]string)
		}
		names[to] = hub
	}
	return names
}

// relayReadings adds what there is to know of relays, nothing outside the core.
func (c *coreRunner) relayReadings(r ops.Readings) {
	n := c.node()
	if n == nil {
		return
	}
	st := n.Status()
	r[ops.RelayLinks] = float64(len(st.Relays))
	r[ops.RelaySent], r[ops.RelayPassed] = float64(st.Relayed.Sent), float64(st.Relayed.Passed)
	r[ops.RelayBytes], r[ops.RelayDropped] = float64(st.Relayed.PassedBytes), float64(st.Relayed.Dropped)
	r[ops.RelayRefused], r[ops.RelayLeads] = float64(st.Relayed.Refused), float64(st.Relayed.Leads)
}

// methodChunkVia asks a core member for a chunk that another one has, and that the asker does not reach. The chunk is
// named by its hash, so nobody needs to be believed.
const methodChunkVia = "snapshot.chunk.via"

// serveChunkVia asks in turn. What it asks is snapshot.chunk, which asks nobody, so there is no loop.
func (a *Agent) serveChunkVia(ctx context.Context, peer transport.Peer, body []byte) ([]byte, error) {
	if len(body) != 8+sha256.Size {
		return nil, &transport.Error{Code: api.CodeInvalid, Message: "a chunk of another is asked for by a Raft id and a SHA-256"}
	}
	node, ok := a.core.nodeOf(binary.BigEndian.Uint64(body))
	if !ok || node == a.ids.Node || node == peer.Node {
		return nil, &transport.Error{Code: api.CodeInvalid, Message: "a chunk of another is asked for by the Raft id of a third member"}
	}
	if !a.core.viaTurns.take(peer.Node) {
		return nil, &transport.Error{Code: api.CodeBusy, Message: "another member is fetching a snapshot, ask again"}
	}
	return a.pool.Call(ctx, node, methodChunk, body[8:])
}

// chunkRoute says whom to ask, and what, for a chunk that the member with a Raft id has.
func (c *coreRunner) chunkRoute(id uint64, node string, name [32]byte) (ask, method string, body []byte) {
	if n := c.node(); n != nil {
		if hub, ok := c.nodeOf(n.Status().Relays[id]); ok {
			return hub, methodChunkVia, append(binary.BigEndian.AppendUint64(nil, id), name[:]...)
		}
	}
	return node, methodChunk, name[:]
}
