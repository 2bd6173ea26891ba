package state

import "slices"

// Who relies on a check is in two places: the session names its checks, and TableSessionCheck, ordered
// by node and check, finds the sessions of a check without looking at the others. Every session also
// has a row there without a check, which finds the sessions of a node.

// sessionCheckPrefix begins the keys of those who rely on a check, or with "" are bound to the node.
func sessionCheckPrefix(node, check string) string {
	return catalogKey(node, check) + catalogSeparator
}

// rely writes the session's rows, or deletes them when row is nil.
func (a *applying) rely(s Session, row []byte) {
	names := slices.Concat([]string{""}, s.NodeChecks, s.ServiceChecks)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		a.set(TableSessionCheck, sessionCheckPrefix(s.Node, name)+sessionKey(s.ID), row)
	}
}

// mayRely refuses checks that do not exist or are critical. AgentCheck of an agent's node is gossip's.
func (a *applying) mayRely(s Session) Result {
	_, hasAgent := a.s.node(s.Node)
	for _, name := range s.NodeChecks {
		if name == AgentCheck && hasAgent {
			continue
		}
		if res := a.mayRelyOn(s.Node, name); res.Code != CodeOK {
			return res
		}
	}
	for _, name := range s.ServiceChecks {
		if c, ok := a.s.check(s.Node, name); ok && c.ServiceID == "" {
			return refuse(CodeInvalid, "check %q on node %q is not that of a service", name, s.Node)
		}
		if res := a.mayRelyOn(s.Node, name); res.Code != CodeOK {
			return res
		}
	}
	return Result{}
}

func (a *applying) mayRelyOn(node, name string) Result {
	switch c, ok := a.s.check(node, name); {
	case !ok:
		return refuse(CodeInvalid, "there is no check %q on node %q: register it first", name, node)
	case c.Status == CheckCritical:
		return refuse(CodeConflict, "check %q on node %q is critical", name, node)
	}
	return Result{}
}

// endSessionsOf ends the sessions that rely on a check, or with "" all that are bound to the node. What
// that writes is bounded by MaxNodeSessions and MaxHolds.
func (a *applying) endSessionsOf(node, check string) {
	var ids []SessionID
	prefix := sessionCheckPrefix(node, check)
	a.s.scan(TableSessionCheck, prefix, "", func(r *record) bool {
		if id := r.key[len(prefix):]; len(id) == len(SessionID{}) {
			ids = append(ids, SessionID([]byte(id)))
		}
		return true
	})
	for _, id := range ids {
		if s, ok := a.s.session(id); ok {
			a.endSession(s)
		}
	}
}
