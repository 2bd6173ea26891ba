package api

import (
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// How often one agent may tell where it is. It does so after a start and when it has moved; each time is an entry of the
// log, which it must not be able to fill.
const (
	placeRate  = 0.2
	placeBurst = 5.0
)

// maySetLeft says whether caller may write down that a node has left: an agent may for itself, whatever its role.
func (s *Service) maySetLeft(caller Caller, c state.NodeSetLeft) *Error {
	from := caller.Via
	if from == "" {
		from = s.local.Node
	}
	if c.Left && c.Node == from {
		return nil
	}
	return allow(caller, policy.CoreWrite)
}

// mayPlace says whether caller may tell where a node is: an agent may for itself, whatever its role, by the name in the
// certificate that the request came with.
func (s *Service) mayPlace(caller Caller, p state.NodePlace) *Error {
	from := caller.Via
	if from == "" {
		from = s.local.Node
	}
	if p.Node != from {
		return Errorf(CodeDenied, "agent %s may not tell where %q is", from, p.Node)
	}
	if caller.Via != "" && !s.places.allow(from) {
		return Errorf(CodeBusy, "agent %s tells where it is more often than %g times a second", from, placeRate)
	}
	return nil
}

// mayPublish says whether caller may publish a key of tokens: a core member may its own, and whether it is one is for the
// state to say.
func (s *Service) mayPublish(caller Caller, k state.JWTKeyPublish) *Error {
	from := caller.Via
	if from == "" {
		from = s.local.Node
	}
	if k.Node != from {
		return Errorf(CodeDenied, "agent %s may not publish a key of %q", from, k.Node)
	}
	return allow(caller, commandAction(k))
}

// mayAsCore says whether caller may do what core members alone may: they hold the root.
func (s *Service) mayAsCore(caller Caller, cmd state.Command, what string) *Error {
	from := caller.Via
	if from == "" {
		from = s.local.Node
	}
	for _, m := range s.local.Hub.View().Core() {
		if m.Node == from {
			return allow(caller, commandAction(cmd))
		}
	}
	return Errorf(CodeDenied, "agent %s is no core member, and may not %s", from, what)
}
