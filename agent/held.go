package agent

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// heldRoles is how many callers' roles are remembered.
const heldRoles = 64

// held keeps what is read from the applied state for every request, and seldom changes, as of the state that it was read
// from: a row is decoded once for each state and not for each request. Nothing is answered from an older state than the
// one that is asked. The zero value is ready; safe for concurrent use.
type held struct {
	roles   [heldRoles]atomic.Pointer[heldRole] // by a hash of the caller; who shares a place with another reads each time
	version atomic.Pointer[heldVersion]
}

// heldRole is a caller's role, of the state at a position. Positions and not views: a view kept would keep its state.
type heldRole struct {
	at       state.Position
	operator bool
	name     string
	role     policy.Role
	known    bool
}

type heldVersion struct {
	at      state.Position
	version uint32
}

var heldSeed = maphash.MakeSeed()

// roleOf is what read says of an agent or an operator in the view.
func (h *held) roleOf(v *state.View, operator bool, name string, read func() (policy.Role, bool)) (policy.Role, bool) {
	place := &h.roles[maphash.String(heldSeed, name)%heldRoles]
	at := v.Position()
	if r := place.Load(); r != nil && r.at == at && r.operator == operator && r.name == name {
		return r.role, r.known
	}
	r := &heldRole{at: at, operator: operator, name: name}
	r.role, r.known = read()
	place.Store(r)
	return r.role, r.known
}

// clusterVersion is the cluster's in the view.
func (h *held) clusterVersion(v *state.View) uint32 {
	at := v.Position()
	if c := h.version.Load(); c != nil && c.at == at {
		return c.version
	}
	c := &heldVersion{at: at, version: v.Cluster().Version}
	h.version.Store(c)
	return c.version
}
