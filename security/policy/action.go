package policy

import "slices"

// Action is one thing that a caller can ask for. An endpoint has one action; several endpoints can
// share one.
type Action string

// What anybody may ask, so that a supervisor needs no credentials.
const (
	Livez Action = "livez" // GET /livez
	Ready Action = "ready" // GET /readyz
)

// What a discovering program may ask.
const (
	Metrics     Action = "metrics"      // GET /metrics
	Console     Action = "console"      // GET /
	Runbooks    Action = "runbooks"     // GET /runbooks/
	Members     Action = "members"      // GET /parley/v1/members
	CoreRead    Action = "core.read"    // GET /parley/v1/core, /parley/v1/invariants, /v1/status/*
	Status      Action = "status"       // GET /parley/v1/status
	CatalogRead Action = "catalog.read" // who offers which service
	HealthRead  Action = "health.read"  // GET /parley/v1/health
	SLORead     Action = "slo.read"     // GET /parley/v1/slo
	AlertRead   Action = "alert.read"   // GET /parley/v1/alerts
	DigestRead  Action = "digest.read"  // GET /parley/v1/digest/compare
	ApplyRead   Action = "apply.read"   // GET /parley/v1/apply
	NetRead     Action = "net.read"     // GET /parley/v1/net/matrix
	BundleRead  Action = "bundle.read"  // the root certificates: GET /v1/agent/connect/ca/roots

	// IdentityRead is GET /parley/v1/identity: the identities that this agent holds for programs, without their keys.
	IdentityRead Action = "identity.read"

	// OperatorRenew is POST /parley/v1/identity/renew. The request proves the key that the name is bound to, which is
	// the right; the role only says who may ask at all.
	OperatorRenew Action = "operator.renew"
)

// What a program that keeps its configuration here may ask.
const (
	KVRead       Action = "kv.read"       // GET /parley/v1/kv, its watches, /parley/v1/history, GET /v1/kv
	KVWrite      Action = "kv.write"      // PUT and DELETE /parley/v1/kv, /v1/kv, POST /parley/v1/undo
	Txn          Action = "txn"           // POST /parley/v1/txn
	SessionRead  Action = "session.read"  // look at sessions
	SessionUse   Action = "session.use"   // create, renew and end sessions
	LockUse      Action = "lock.use"      // take and release locks
	CatalogWrite Action = "catalog.write" // PUT /v1/catalog/register and deregister, and those ops in a transaction
	EventRead    Action = "event.read"    // list events
	EventFire    Action = "event.fire"    // send an event
)

// What changes the cluster or who belongs to it.
const (
	TokenCreate     Action = "token.create"     // POST /parley/v1/token
	TokenList       Action = "token.list"       // GET /parley/v1/tokens
	TokenRevoke     Action = "token.revoke"     // DELETE /parley/v1/token/ID
	AdmissionRead   Action = "admission.read"   // GET /parley/v1/admissions
	AdmissionWrite  Action = "admission.write"  // POST and DELETE /parley/v1/admission: which hosts join by whose certificates
	CoreWrite       Action = "core.write"       // POST /parley/v1/core/allow, size, hold
	NodeRole        Action = "node.role"        // change what an agent may do
	NodeTrust       Action = "node.trust"       // POST /parley/v1/agent/trust: an operator decides about a host that was seen twice
	OperatorRead    Action = "operator.read"    // GET /parley/v1/operators
	OperatorWrite   Action = "operator.write"   // POST and DELETE /parley/v1/operator: who else may do what
	Evict           Action = "evict"            // POST /parley/v1/evict: a host is denied for good
	DenyRead        Action = "deny.read"        // GET /parley/v1/denies
	DenyWrite       Action = "deny.write"       // POST and DELETE /parley/v1/deny: an identity or a certificate counts no more
	CARotate        Action = "ca.rotate"        // POST /parley/v1/ca/rotate: another root signs
	EntryRead       Action = "entry.read"       // GET /parley/v1/identity/entries, /parley/v1/identity/explain
	EntryWrite      Action = "entry.write"      // POST and DELETE /parley/v1/identity/entry: which programs get which identity
	Leave           Action = "leave"            // GET and POST /parley/v1/leave: this agent leaves the cluster
	ApplyQuarantine Action = "apply.quarantine" // POST /parley/v1/apply/quarantine

	Check        Action = "check"         // GET /parley/v1/check
	StorageScrub Action = "storage.scrub" // GET /parley/v1/storage/scrub
	AcceptTail   Action = "storage.tail"  // POST /parley/v1/storage/accept-tail
	DigestDiff   Action = "digest.diff"   // GET /parley/v1/digest/diff: names keys
	DigestAccept Action = "digest.accept" // POST /parley/v1/digest/accept: gives up the states of members
	KVPurge      Action = "kv.purge"      // DELETE /parley/v1/history: nobody can undo what it takes away
	SnapshotSave Action = "snapshot.save" // GET /parley/v1/snapshot: the whole state, sealed keys included
	DebugRead    Action = "debug.read"    // GET /parley/v1/debug/: what this agent did, without what was written
	DebugForget  Action = "debug.forget"  // DELETE /parley/v1/debug/recordings
)

// What the agents ask of each other by themselves.
const (
	Probe Action = "probe" // send a write that changes nothing through the log
)

// needs is the table of role by action: the weakest role that may do it.
var needs = map[Action]Role{
	Livez: None,
	Ready: None,

	Metrics:     Discovery,
	Console:     Discovery,
	Runbooks:    Discovery,
	Members:     Discovery,
	CoreRead:    Discovery,
	Status:      Discovery,
	CatalogRead: Discovery,
	HealthRead:  Discovery,
	SLORead:     Discovery,
	AlertRead:   Discovery,
	Probe:       Discovery,
	DigestRead:  Discovery,
	ApplyRead:   Discovery,
	NetRead:     Discovery,
	BundleRead:  Discovery,

	OperatorRenew: Discovery,
	IdentityRead:  Discovery,

	KVRead:       Local,
	KVWrite:      Local,
	Txn:          Local,
	SessionRead:  Local,
	SessionUse:   Local,
	LockUse:      Local,
	CatalogWrite: Local,
	EventRead:    Local,
	EventFire:    Local,

	CARotate:        Operator,
	Evict:           Operator,
	DenyRead:        Operator,
	DenyWrite:       Operator,
	TokenCreate:     Operator,
	TokenList:       Operator,
	TokenRevoke:     Operator,
	AdmissionRead:   Operator,
	AdmissionWrite:  Operator,
	CoreWrite:       Operator,
	NodeRole:        Operator,
	NodeTrust:       Operator,
	OperatorRead:    Operator,
	OperatorWrite:   Operator,
	EntryRead:       Operator,
	EntryWrite:      Operator,
	Leave:           Operator,
	ApplyQuarantine: Operator,

	Check:        Operator,
	StorageScrub: Operator,
	AcceptTail:   Operator,
	DigestDiff:   Operator,
	DigestAccept: Operator,
	KVPurge:      Operator,
	SnapshotSave: Operator,
	DebugRead:    Operator,
	DebugForget:  Operator,
}

// Actions returns every action in a fixed order. The slice is the caller's own. It is what a test
// walks against Roles to see that no endpoint is open to a role that should not have it.
func Actions() []Action {
	all := make([]Action, 0, len(needs))
	for a := range needs {
		all = append(all, a)
	}
	slices.Sort(all)
	return all
}
