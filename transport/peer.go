package transport

import "github.com/spiffe/go-spiffe/v2/spiffeid"

// The protocols of the mesh port. The number is the version: two agents that share no version of a
// protocol refuse each other in the handshake.
const (
	ALPNRPC    = "parley-rpc/1"
	ALPNRaft   = "parley-raft/1"
	ALPNJoin   = "parley-join/1"
	ALPNGossip = "parley-gossip/1"
	// ALPNRekey is for an agent whose certificate has ended: one request by its host key, and the answer.
	ALPNRekey = "parley-rekey/1"
)

// Bare tells whether a protocol is for peers that have no certificate, or none that counts any more. Such a peer is asked for
// none, and offers that protocol alone.
func Bare(alpn string) bool { return alpn == ALPNJoin || alpn == ALPNRekey }

// Peer is who is at the other end, as its verified certificate says. It is the zero Peer for a
// joiner, which has no certificate yet and reaches [ALPNJoin] alone, and for a host that reaches [ALPNRekey]. Of Node and Operator one is set: an agent's name,
// or that of a person or program that is none and reaches [ALPNRPC] alone. No right of an agent is an operator's.
type Peer struct {
	ID       spiffeid.ID
	Node     string
	Operator string
}
