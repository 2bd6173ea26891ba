package api

import (
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// The ways in which a caller came to be known.
const (
	KindAnonymous = "anonymous" // loopback HTTP, no credentials
	KindSocket    = "socket"    // the admin socket, by SO_PEERCRED
	KindMTLS      = "mtls"      // the SVID of an agent or an operator, on https or the mesh's RPC
	KindForwarded = "forwarded" // another agent asks for its own caller
	KindInternal  = "internal"  // a part of this agent
)

// Caller is who asks and what the request may do. It is made where the request enters and never changed.
type Caller struct {
	Role policy.Role // already capped where the request was forwarded
	Name string      // a SPIFFE ID, "uid:1000", or "" for nobody known
	Kind string
	Via  string // the agent that forwarded the request, or ""
	// Ending says that the connection is going to end with its certificate soon, and that the caller may make a new one
	// with the next: it is told to.
	Ending bool
}

// Internal is the caller for what the agent does by itself: it may execute the commands that have no endpoint. When
// such a command is forwarded, the leader still caps it at the agent's own role.
func Internal(node string) Caller {
	return Caller{Role: policy.Operator, Name: "agent:" + node, Kind: KindInternal}
}

// identity is whom limits count against.
func (c Caller) identity() string {
	if c.Name == "" {
		return c.Kind
	}
	return c.Name
}

// allow refuses an action beyond the caller's role.
func allow(c Caller, action policy.Action) *Error {
	if policy.Allowed(c.Role, action) {
		return nil
	}
	if c.Via != "" {
		return Errorf(CodeDenied, "%s needs more than role %q, and agent %s may not forward more than its own role", action, c.Role, c.Via).
			WithHint("run the command on an agent of the core, or have an operator run: parley agent role %s ROLE", c.Via)
	}
	if c.Kind == KindAnonymous {
		return Errorf(CodeDenied, "%s is not allowed for anonymous callers here (role %q)", action, c.Role).
			WithHint("use the admin socket (--addr unix:///DATA_DIR/admin.sock), or raise http.anonymous_role on this agent")
	}
	return Errorf(CodeDenied, "%s is not allowed for role %q", action, c.Role)
}

// commandAction is the right that each command needs. What is not listed has no endpoint: only an agent's own parts
// propose it, and between agents it needs the operator's rights.
func commandAction(cmd state.Command) policy.Action {
	switch cmd.(type) {
	case state.Put, state.Delete, state.DeletePrefix, state.KVUndo:
		return policy.KVWrite
	case state.KVPurge:
		return policy.KVPurge
	case state.Txn:
		return policy.Txn
	case state.SessionCreate, state.SessionDestroy:
		return policy.SessionUse
	case state.Lock, state.Unlock:
		return policy.LockUse
	case state.CatalogRegister, state.CatalogDeregister:
		return policy.CatalogWrite
	case state.TokenCreate:
		return policy.TokenCreate
	case state.TokenRevoke:
		return policy.TokenRevoke
	case state.AdmissionSet, state.AdmissionDelete:
		return policy.AdmissionWrite
	case state.NodeSetRole:
		return policy.NodeRole
	case state.OperatorBind, state.OperatorRemove:
		return policy.OperatorWrite
	case state.CARotate, state.UpstreamLeave:
		return policy.CARotate
	case state.NodeEvict:
		return policy.Evict
	case state.DenySet, state.DenyRemove:
		return policy.DenyWrite
	case state.NodeTrust:
		return policy.NodeTrust
	case state.EntrySet, state.EntryDelete, state.JWTKeyRevoke:
		return policy.EntryWrite
	case state.Probe:
		return policy.Probe
	default:
		return policy.CoreWrite
	}
}

// internalOnly reports whether callers from outside must not send cmd whatever their role.
func internalOnly(cmd state.Command) bool {
	switch c := cmd.(type) {
	case state.Put, state.Delete, state.DeletePrefix, state.KVUndo, state.KVPurge, state.Txn, state.TokenCreate, state.TokenRevoke,
		state.NodeSetRole, state.CoreGrant, state.CoreHold, state.SetCoreSize,
		state.SessionCreate, state.SessionDestroy, state.Lock, state.Unlock,
		state.CatalogRegister, state.CatalogDeregister, state.OperatorBind, state.OperatorRemove, state.CARotate, state.UpstreamLeave, state.NodeEvict, state.NodeTrust,
		state.EntrySet, state.EntryDelete, state.JWTKeyRevoke, state.AdmissionSet, state.AdmissionDelete,
		state.DenySet, state.DenyRemove:
		return false
	case state.EventAppend:
		return c.Kind != state.EventNote
	default:
		return true
	}
}
