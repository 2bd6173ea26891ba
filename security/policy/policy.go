// Package policy decides what a role may do. It is pure: it holds two fixed tables, reads no clock,
// file or network, and every function is safe for concurrent use.
//
// A caller is given a [Role] where it enters the cluster (by its certificate, its Unix user or the
// listener it used). Every endpoint and every replicated command names one [Action], and
//
//	if !policy.Allowed(caller.Role, policy.KVWrite) { ... }
//
// is asked before anything is proposed. A request that travels through another agent carries the
// lower of the two rights: policy.Min(claimed, roleOfTheForwardingAgent).
//
// What is not in a table is denied: an unknown role may do nothing at all, and an action that the
// table does not list is refused to everybody, the operator included, so that a new endpoint cannot
// be served before someone decided who may call it.
package policy

import (
	"fmt"
	"strings"
)

// Role is what a caller may do, from nothing to everything. The zero value is not a role and is
// allowed nothing.
type Role string

// The roles, each allowed everything that the one before it is allowed.
const (
	None      Role = "none"      // liveness and readiness only
	Discovery Role = "discovery" // read what is needed to find and watch services
	Local     Role = "local"     // also key/value, transactions, sessions, locks, events
	Operator  Role = "operator"  // everything
)

// order lists the roles from the weakest to the strongest.
var order = [...]Role{None, Discovery, Local, Operator}

// rank is the place of r in order counted from 1; 0 means that r is no role.
func (r Role) rank() int {
	for i, known := range order {
		if r == known {
			return i + 1
		}
	}
	return 0
}

// Valid tells whether r is one of the four roles.
func (r Role) Valid() bool { return r.rank() > 0 }

// Roles returns the roles from the weakest to the strongest. The slice is the caller's own.
func Roles() []Role { return append([]Role(nil), order[:]...) }

// ParseRole returns the role that s names. The error lists the roles, and asks about case and space
// when that is all that is wrong.
func ParseRole(s string) (Role, error) {
	if r := Role(s); r.Valid() {
		return r, nil
	}
	if r := Role(strings.ToLower(strings.TrimSpace(s))); r.Valid() {
		return "", fmt.Errorf("unknown role %q: did you mean %q?", s, r)
	}
	return "", fmt.Errorf("unknown role %q: use none, discovery, local or operator", s)
}

// Min returns the weaker of two roles. It is None when either is no role, so a forged or missing
// role never raises what the other one allows.
func Min(a, b Role) Role {
	ra, rb := a.rank(), b.rank()
	switch {
	case ra == 0 || rb == 0:
		return None
	case ra < rb:
		return a
	default:
		return b
	}
}

// Allowed tells whether a caller with role r may do a.
func Allowed(r Role, a Action) bool {
	need, ok := needs[a]
	return ok && r.rank() >= need.rank()
}
