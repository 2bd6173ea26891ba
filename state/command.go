package state

import "github.com/parley-mesh/parley/security/policy"

// A Command is one change asked of the state machine. The implementations are the structs of this
// package and no others. A command is refused as a whole or done as a whole.
type Command interface {
	kind() kind
	// append adds the body's bytes; check says why the command could never be done.
	append(b []byte) []byte
	check() error
	apply(a *applying) Result
}

// Put writes a key. With Compare it does so only if the key's mod revision is that number, 0
// meaning that the key must not exist.
type Put struct {
	Key     string
	Value   []byte
	Flags   uint64
	Compare *uint64
}

// Delete removes a key, leaving a tombstone. Compare is as in Put.
type Delete struct {
	Key     string
	Compare *uint64
}

// DeletePrefix removes all keys that begin with Prefix, at most MaxDeletePrefix of them (more is
// CodeLimit, and nothing happens). The result's Number is how many there were; none is no error.
type DeletePrefix struct{ Prefix string }

// Txn does Then if every compare holds, else Else, as one step. If one of the ops cannot be done,
// none is, and the result's code is that of the first such. The result's Body is a TxnAnswer.
type Txn struct {
	Compare []Compare
	Then    []Op
	Else    []Op
}

// A Target is what a Compare looks at.
type Target string

// A missing key has revision, create revision and version 0, and no value.
const (
	TargetRevision       Target = "revision"
	TargetCreateRevision Target = "create_revision"
	TargetVersion        Target = "version"
	TargetValue          Target = "value"
)

// A Relation is how a Compare compares what the key has (left) with what is given (right).
type Relation string

const (
	Equal    Relation = "="
	NotEqual Relation = "!="
	Less     Relation = "<"
	Greater  Relation = ">"
)

// Compare is one condition of a transaction. Value counts for TargetValue, Number for the others.
// A missing key's value is unequal to every value, and neither less nor greater.
type Compare struct {
	Key      string
	Target   Target
	Relation Relation
	Number   uint64
	Value    []byte
}

// An OpKind is what an Op does.
type OpKind string

const (
	OpPut          OpKind = "put"
	OpDelete       OpKind = "delete"
	OpDeletePrefix OpKind = "delete_prefix" // Key is the prefix
	OpGet          OpKind = "get"

	OpLock          OpKind = "lock"           // as the command
	OpUnlock        OpKind = "unlock"         // as the command
	OpGetTree       OpKind = "get_tree"       // Key is the prefix
	OpGetExisting   OpKind = "get_existing"   // a missing key is a failure
	OpCheckRevision OpKind = "check_revision" // fails unless the key exists, at the revision Compare
	OpCheckSession  OpKind = "check_session"  // fails unless the key exists, held by Session; "" for nobody
	OpCheckAbsent   OpKind = "check_absent"   // fails if the key exists
)

// Those of the catalog are beside their code.

// Op is one step of a transaction; later ones see what earlier ones did. Value and Flags count for
// put, lock and unlock, Compare for put, delete and check_revision, Session for lock, unlock and
// check_session and session_destroy, and one of Node, Service and Check for the ops of the catalog. A
// delete of a missing key without Compare is no failure here.
type Op struct {
	Kind    OpKind
	Key     string
	Value   []byte
	Flags   uint64
	Compare *uint64
	Session string
	Node    *CatalogNode
	Service *CatalogService
	Check   *CatalogCheck
}

// TokenCreate adds a join token. Created, Revoked and Redeemed are the machine's to set.
type TokenCreate struct{ Token Token }

// TokenRevoke ends a token. The nodes that joined with it stay.
type TokenRevoke struct{ ID string }

// NodeJoin redeems a token, and binds the name to the host key. The result's Body is the node's
// row (DecodeNode). CSRKeyHash names the attempt: the same hash with the same name and host key
// gets the same answer again until the token expires, without using the token up.
type NodeJoin struct {
	Token      string
	CSRKeyHash [32]byte
	Node       string
	UID        [16]byte
	HostKey    []byte
	SealKey    []byte
	Zone       string
	Address    string
}

// NodeSetRole changes what a node may do.
type NodeSetRole struct {
	Node string
	Role policy.Role
}

// NodeSetLeft records that a node left by request, or is back.
type NodeSetLeft struct {
	Node string
	Left bool
}

// CoreGrant allows a node to become a core member, or no longer.
type CoreGrant struct {
	Node  string
	Allow bool
}

// CoreHold begins, prolongs or ends (Millis 0) the maintenance of a node: it is not replaced in the core while it is away,
// and does not get the lead. It ends by itself, Millis after the command's own stamp.
type CoreHold struct {
	Node   string
	Millis uint64 // at most MaxHoldMillis
}

// CoreAssign gives a granted node a Raft id, the result's Number. A node that has one keeps it.
type CoreAssign struct{ Node string }

// CoreRetire ends a Raft id for ever.
type CoreRetire struct{ RaftID uint64 }

// CoreSeal stores the root key sealed to a node.
type CoreSeal struct {
	Node   string
	Sealed []byte
}

// SetCoreSize sets how many voters the core should have: 1, 3, 5 or 7.
type SetCoreSize struct{ Size int }

// SetClusterVersion raises the cluster's version. It cannot be taken back.
type SetClusterVersion struct{ Version uint32 }

// SetBundle replaces the trust bundle by one with a higher sequence.
type SetBundle struct{ Bundle Bundle }
