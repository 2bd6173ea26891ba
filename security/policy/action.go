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
)

// What a program that keeps its configuration here may ask.
const (
	KVRead       Action = "kv.read"       // GET /parley/v1/kv, its watches, GET /v1/kv
	KVWrite      Action = "kv.write"      // PUT and DELETE /parley/v1/kv, /v1/kv
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
	CoreWrite       Action = "core.write"       // POST /parley/v1/core/allow, size, hold
	NodeRole        Action = "node.role"        // change what an agent may do
	Leave           Action = "leave"            // GET and POST /parley/v1/leave: this agent leaves the cluster
	ApplyQuarantine Action = "apply.quarantine" // POST /parley/v1/apply/quarantine

	Check        Action = "check"         // GET /parley/v1/check
	StorageScrub Action = "storage.scrub" // GET /parley/v1/storage/scrub
	AcceptTail   Action = "storage.tail"  // POST /parley/v1/storage/accept-tail
	DigestDiff   Action = "digest.diff"   // GET /parley/v1/digest/diff: names keys
	DigestAccept Action = "digest.accept" // POST /parley/v1/digest/accept: gives up the states of members
	SnapshotSave Action = "snapshot.save" // GET /parley/v1/snapshot: the whole state, sealed keys included
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

	KVRead:       Local,
	KVWrite:      Local,
	Txn:          Local,
	SessionRead:  Local,
	SessionUse:   Local,
	LockUse:      Local,
	CatalogWrite: Local,
	EventRead:    Local,
	EventFire:    Local,

	TokenCreate:     Operator,
	TokenList:       Operator,
	TokenRevoke:     Operator,
	CoreWrite:       Operator,
	NodeRole:        Operator,
	Leave:           Operator,
	ApplyQuarantine: Operator,

	Check:        Operator,
	StorageScrub: Operator,
	AcceptTail:   Operator,
	DigestDiff:   Operator,
	DigestAccept: Operator,
	SnapshotSave: Operator,
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
