package state

import (
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
)

// The rows, as a View returns them. Byte slices belong to the View: do not change them.

// KV is one key and its value. ModRevision is the revision that last wrote it, CreateRevision the
// one that made it, Version how many writes it has had since (1 for the first).
type KV struct {
	Key            string
	Value          []byte
	Flags          uint64 // kept for the client, not interpreted
	CreateRevision uint64
	ModRevision    uint64
	Version        uint64
	ModifiedAt     clock.Stamp
	Session        string // holder of the lock, "" if none
	LockIndex      uint64 // how often the lock was acquired, above what the epoch begins with: lockBase
}

// Node is the binding of a name to a host. It ends only with a replacement.
type Node struct {
	Name         string
	UID          [16]byte
	HostKey      []byte // SubjectPublicKeyInfo DER
	SealKey      []byte // X25519 public key
	BindingEpoch uint64 // one more each time the name is bound again
	Role         policy.Role
	CoreGrant    bool
	Zone         string
	Address      string // as the node itself told last; gossip may know a newer one
	JoinedAt     clock.Stamp
	Left         bool // left by request: not failed
	// HeldUntil is when an operator's maintenance of the node ends, by the stamps of the log; 0 if there is none.
	HeldUntil clock.Stamp
}

// Held reports whether the node is in maintenance at a stamp.
func (n Node) Held(at clock.Stamp) bool { return n.HeldUntil > at }

// EffectiveRole is what the node may do: the core grant implies operator, for as long as it lasts.
func (n Node) EffectiveRole() policy.Role {
	if n.CoreGrant {
		return policy.Operator
	}
	return n.Role
}

// Token allows Uses more joins until Expires. Verify is the key that checks a joiner's proof, not
// the secret; it still never leaves the core.
type Token struct {
	ID        string // 16 hex digits
	Verify    []byte
	Expires   clock.Stamp
	Uses      int
	BoundNode string // the only name that may join with it, "" for any
	Role      policy.Role
	Core      bool   // joiners get the core grant
	Replace   string // the name that may be taken from another host key
	Created   clock.Stamp
	Revoked   bool
	Redeemed  []Redemption // in the order of the joins
}

// Redemption remembers a join, so that its retry gets the same answer.
type Redemption struct {
	CSRKeyHash [32]byte
	Node       string
}

// CoreMember gives a Raft id to a node. An id is never reused.
type CoreMember struct {
	RaftID  uint64
	Node    string
	Retired bool
}

// Epoch tells one life of the cluster from the next, after a recovery that may have lost writes.
type Epoch struct {
	Counter uint64
	ID      [16]byte
}

// Cluster is the one row about the whole.
type Cluster struct {
	ID          string // 32 hex digits
	TrustDomain string
	Epoch       Epoch
	Version     uint32
	NextRaftID  uint64
	CoreSize    int
	AutoGrants  int // how many of the next joiners still get the core grant unasked
}

// Bundle is the set of root certificates that agents trust, DER.
type Bundle struct {
	Sequence uint64
	Roots    [][]byte
}

// Seal is the root key, sealed to one core member.
type Seal struct {
	Node   string
	Sealed []byte
}
